"""One run in virtual time: the world, the BMC, the host's threads, and the record."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from bmcmedic.lab.starvation.designs import Direct, InterfaceUnderTest, Queued, Served
from bmcmedic.lab.starvation.host import Flood, Observed, StarvedHost, client
from bmcmedic.lab.starvation.pats import Shipped, Watchdogd
from bmcmedic.lab.starvation.scenario import (
    CPUS,
    HOGS,
    NEIGHBOUR_EVERY_S,
    SLICE_S,
    Design,
    StarvationRecord,
    StarvationScenario,
    VirtualBmcSample,
)
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.virtual_time.kcs import WorldKcs
from bmcmedic.sim.virtual_time.lock import AdaptiveLock
from bmcmedic.sim.virtual_time.runtime import WorldRuntime
from bmcmedic.sim.virtual_time.tasks import Priority, Task
from bmcmedic.sim.virtual_time.world import World

NEIGHBOUR_PAUSE_S_MIN = 1.0
SAMPLES = 1200
PROGRESS_STEPS = 100


def simulate(
    design: Design,
    scenario: StarvationScenario,
    *,
    samples_bmc: bool = False,
    progress: Callable[[float], None] | None = None,
) -> StarvationRecord:
    """Run a scenario with one design; `progress` is called with the share done, 0 to 1."""
    run = _VirtualRun(design, scenario)
    if samples_bmc:
        run.each(scenario.duration_s / SAMPLES, run.sample_bmc)
    if progress is not None:
        world = run.world
        run.each(
            scenario.duration_s / PROGRESS_STEPS, lambda: progress(world.now / scenario.duration_s)
        )
    try:
        run.world.run(scenario.duration_s)
    finally:
        run.world.close()
    return run.record


class _VirtualRun:
    def __init__(self, design: Design, scenario: StarvationScenario) -> None:
        self.world = world = World(cpus=CPUS, hogs=HOGS, slice_s=SLICE_S)
        self.record = record = StarvationRecord(design, scenario)
        self._scenario = scenario
        self._bmc = scenario.bmc()
        self._runtime = WorldRuntime(world)
        now = self._runtime.monotonic
        flood = Flood(scenario, now, world.at)
        self._bmc.host.machine = StarvedHost(now, record, lambda: flood.plan(self._flood))
        observed = Observed(scenario, record, self._runtime)
        spins = design is not Design.PRIORITY
        self._kcs = WorldKcs(world, self._bmc, spins=spins, on_attempt=observed.attempt_begins)
        self._driver_tasks: list[Task] = []
        self._ask: InterfaceUnderTest
        if spins:
            self._start_freebsd(Direct if design is Design.DIRECT else Queued, observed)
        else:
            self._start_shipped(observed)
        self._start_others()
        flood.plan(self._flood)
        if scenario.stop_driver_at is not None:
            world.at(scenario.stop_driver_at, self._stop_driver)

    def each(self, period_s: float, call: Callable[[], None]) -> None:
        """Call a function once every period."""

        def again(_: object) -> None:
            call()
            self.world.at(self.world.now + period_s, again)

        self.world.at(self.world.now, again)

    def sample_bmc(self) -> None:
        """Record a sample of the BMC."""
        self.record.bmc_samples.append(VirtualBmcSample.of(self._bmc, self.world.now))

    # --------------------------------------------------------------------------- the driver

    def _start_freebsd(self, design: type[Direct | Queued], observed: Observed) -> None:
        world = self.world
        io_lock = AdaptiveLock(world, self._scenario.random("lock"))
        driver = design(self._kcs, observed.runtime, io_lock)
        self._ask = driver.ask
        if driver.worker is not None:
            self._driver_tasks.append(world.spawn(driver.worker, "worker"))
        watchdogd = Watchdogd(observed, driver.ask, world.at)
        self._driver_tasks.append(world.spawn(watchdogd.run, "pat", Priority.REAL_TIME))

    def _start_shipped(self, observed: Observed) -> None:
        world = self.world
        served = Served(self._kcs, observed.runtime, self._scenario.times.patience)
        shipped = Shipped(observed, served.driver, world.at)
        self._ask = served.ask
        self._driver_tasks += [
            world.spawn(served.driver.kcs_loop, "worker", Priority.REAL_TIME),
            world.spawn(shipped.watchdog.run, "pat", Priority.REAL_TIME),
            world.spawn(shipped.checks.run, "check"),
        ]
        world.at(0.0, shipped.poll_pretimeout)

    def _stop_driver(self, _: object) -> None:
        self.record.trouble_at = self.world.now
        for task in self._driver_tasks:
            self.world.freeze(task)

    # ---------------------------------------------------------- the other threads of the host

    def _start_others(self) -> None:
        world, scenario = self.world, self._scenario
        random = scenario.random("neighbours")
        bursts = []
        at = 0.0
        while at < scenario.duration_s:
            at += NEIGHBOUR_PAUSE_S_MIN + random.expovariate(1 / NEIGHBOUR_EVERY_S)
            bursts.append((at, random.uniform(0.1, 1.0) * SLICE_S))
        for cpu in range(CPUS):
            name = f"neighbour {cpu}"
            world.spawn(partial(self._neighbour, bursts), name, Priority.REAL_TIME)
        for number in range(scenario.load):
            name = f"client {number}"
            world.spawn(partial(self._client, scenario.random(name)), name)

    def _neighbour(self, bursts: list[tuple[float, float]]) -> None:
        """Run another real-time thread, which computes now and then."""
        world = self.world
        for at, burst_s in bursts:
            world.sleep(at - world.now)
            world.spin_until(world.now + burst_s)

    def _client(self, random: Random) -> None:
        world = self.world
        for computes_s in client(self._ask, self._runtime, self._scenario, random):
            world.spin_until(world.now + computes_s)

    def _flood(self, faults: FaultSet) -> None:
        self._bmc.set_faults(faults, self.world.now)
        self._kcs.arm_timer()
