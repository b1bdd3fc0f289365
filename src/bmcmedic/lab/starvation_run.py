"""One run in virtual time: the world, the BMC, the host's threads, and what is written down."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from bmcmedic.lab.starvation import (
    BURST_REQUESTS_MAX,
    CLIENT_PATIENCE_S,
    CPUS,
    HOGS,
    NEIGHBOUR_EVERY_S,
    REQUESTS,
    SLICE_S,
    THINK_S,
    Design,
    Record,
    Scenario,
)
from bmcmedic.lab.starvation_designs import Asked, Direct, Queued, Served
from bmcmedic.lab.starvation_pats import Observed, Shipped, Watchdogd
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.world import Priority, Task, World
from bmcmedic.sim.world_kcs import WorldKcs
from bmcmedic.sim.world_runtime import WorldRuntime

NEIGHBOUR_PAUSE_S_MIN = 1.0
SYSTEM_CALL_S = (2e-6, 20e-6)
"""From one request's return to the next one's start, in the same thread."""
SAMPLES = 1200
PROGRESS_STEPS = 100


def simulate(
    design: Design,
    scenario: Scenario,
    *,
    samples_memory: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Record:
    """Let one design go through one scenario; `progress` is told how far it is, 0 to 1."""
    run = _Run(design, scenario)
    if samples_memory:
        run.each(scenario.duration_s / SAMPLES, run.sample_memory)
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


class _Run:
    def __init__(self, design: Design, scenario: Scenario) -> None:
        self.world = world = World(cpus=CPUS, hogs=HOGS, slice_s=SLICE_S)
        self.record = record = Record(design, scenario)
        self._scenario = scenario
        self._bmc = scenario.bmc()
        self._bmc.host.machine = _Machine(world, record, self._plan_flood)
        self._floods = scenario.floods()
        observed = Observed(scenario, record, WorldRuntime(world))
        spins = design is not Design.PRIORITY
        self._kcs = WorldKcs(world, self._bmc, spins=spins, on_attempt=observed.attempt_begins)
        self._driver_tasks: list[Task] = []
        self._ask: Asked
        if spins:
            self._start_freebsd(Direct if design is Design.DIRECT else Queued, observed)
        else:
            self._start_shipped(observed)
        self._start_others()
        self._plan_flood()
        if scenario.stop_driver_at is not None:
            world.at(scenario.stop_driver_at, self._stop_driver)

    def each(self, period_s: float, call: Callable[[], None]) -> None:
        """Call something every so often."""

        def again(_: object) -> None:
            call()
            self.world.at(self.world.now + period_s, again)

        self.world.at(self.world.now, again)

    def sample_memory(self) -> None:
        """Write down what is left of the BMC's memory."""
        now = self.world.now
        self.record.free_memory.append((now, self._bmc.memory_free_fraction(now)))

    # --------------------------------------------------------------------------- the driver

    def _start_freebsd(self, design: type[Direct | Queued], observed: Observed) -> None:
        driver = design(self.world, self._kcs, self._scenario.random("lock"))
        watchdogd = Watchdogd(observed, driver.ask, self.world.at)
        self._ask = driver.ask
        self._driver_tasks = [
            *driver.tasks,
            self.world.spawn(watchdogd.run, "pat", Priority.REAL_TIME),
        ]

    def _start_shipped(self, observed: Observed) -> None:
        world = self.world
        served = Served(world, self._kcs, CLIENT_PATIENCE_S)
        shipped = Shipped(observed, served.driver, world.at)
        self._ask = served.ask
        self._driver_tasks = [
            *served.tasks,
            world.spawn(shipped.watchdog.run, "pat", Priority.REAL_TIME),
            world.spawn(shipped.checks.run, "check"),
        ]
        world.at(0.0, shipped.look)

    def _stop_driver(self, _: object) -> None:
        self.record.trouble_at = self.world.now
        for task in self._driver_tasks:
            self.world.freeze(task)

    # --------------------------------------------------------------- the others on the host

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
        """Another real-time thread, which computes now and then."""
        world = self.world
        for at, burst_s in bursts:
            world.sleep(at - world.now)
            world.spin_until(world.now + burst_s)

    def _client(self, random: Random) -> None:
        """A monitoring script: a pause, a few questions, and again."""
        world, record = self.world, self.record
        think_s = random.uniform(*THINK_S)
        while True:
            world.sleep(random.expovariate(1 / think_s))
            for _ in range(random.randint(1, BURST_REQUESTS_MAX)):
                if self._ask(random.choice(REQUESTS)) is None:
                    record.requests_failed += 1
                else:
                    record.requests_answered += 1
                world.spin_until(world.now + random.uniform(*SYSTEM_CALL_S))

    # ----------------------------------------------------------------------------- the BMC

    def _plan_flood(self) -> None:
        """A torrent and a trickle; nothing floods a BMC that boots."""
        torrent_in_s, torrent = next(self._floods)
        trickle_in_s, trickle = next(self._floods)
        torrent_at = self.world.now + torrent_in_s
        self.world.at(torrent_at, self._flood, torrent)
        self.world.at(torrent_at + trickle_in_s, self._flood, trickle)

    def _flood(self, faults: FaultSet) -> None:
        self._bmc.set_faults(faults, self.world.now)
        self._kcs.arm_timer()


class _Machine:
    """The host, as its BMC sees it; only what can happen in these scenarios does anything."""

    def __init__(self, world: World, record: Record, bmc_is_back: Callable[[], None]) -> None:
        self._world = world
        self._record = record
        self._bmc_is_back = bmc_is_back
        self._bmc_is_away = False

    def reset(self) -> None:
        """The BMC's timer ran out."""
        self._record.host_resets.append(self._world.now)

    def bmc_answers(self, answers: bool) -> None:
        """The BMC went away or came back."""
        if not answers and not self._bmc_is_away:
            self._record.bmc_reboots.append(self._world.now)
        elif answers and self._bmc_is_away:
            self._bmc_is_back()
        self._bmc_is_away = not answers

    def power_off(self, *, comes_back: bool) -> None:
        """Nobody switches it off."""

    def shut_down(self) -> None:
        """Nobody shuts it down."""

    def interrupt(self) -> None:
        """Nobody interrupts it."""

    def pretimeout(self) -> None:
        """The BMC's own warning is off."""
