"""The same three designs on real threads and in real time, each in a process of its own.

The BMC is simulated behind KCS registers, which the host reaches through `transport.port_io`.
Threads sleep between two polls of the registers in all designs. Python's threads share one
interpreter, so a thread that spins would block all others, unlike on a real host.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from random import Random
from typing import Any

from bmcmedic.errors import BmcmedicError
from bmcmedic.lab.starvation.designs import Direct, InterfaceUnderTest, Queued, Served
from bmcmedic.lab.starvation.host import Flood, Observed, StarvedHost, client
from bmcmedic.lab.starvation.pats import Shipped, Watchdogd
from bmcmedic.lab.starvation.scenario import (
    REAL_LIMITS,
    Design,
    StarvationRecord,
    StarvationScenario,
    VirtualBmcSample,
)
from bmcmedic.service.runtime import Signal, ThreadRuntime
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.front_ends.kcs import ServedRegisters
from bmcmedic.transport.in_band import InBand, InterfaceClaim, Ipmb
from bmcmedic.transport.port_io import PortIo

SLICE_S_MAX = 0.1
"""Longest wait before a thread checks whether the run is over, in seconds."""
END_S_MAX = 5.0
"""Longest time that the threads take to end after the run, in seconds."""
SAMPLE_S = 0.05
PROGRESS_S = 0.25


def run_real(
    designs: Sequence[Design],
    scenario: StarvationScenario,
    progress: Callable[[float], None] | None,
) -> list[StarvationRecord]:
    """Run the scenario with all these designs at once."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(designs), mp_context=context) as pool:
        futures = [pool.submit(play, design, scenario) for design in designs]
        started_at = time.monotonic()
        while progress is not None and not all(future.done() for future in futures):
            progress(min(1.0, (time.monotonic() - started_at) / scenario.duration_s))
            time.sleep(PROGRESS_S)
        return [future.result() for future in futures]


def play(design: Design, scenario: StarvationScenario) -> StarvationRecord:
    """Run the scenario with one design, in this process."""
    run = _RealRun(design, scenario)
    run.play()
    return run.record


class RunOver(BaseException):
    """Ends a thread of the run wherever it waits; `except Exception` does not catch it."""


class _RunRuntime:
    """Real threads, whose waits end with the run; in a stopped driver they end only then."""

    def __init__(self, duration_s: float) -> None:
        threads = ThreadRuntime()
        self.lock = threads.lock
        self.thread_id = threads.thread_id
        self._signal = threads.signal
        self._zero = time.monotonic()
        self._duration_s = duration_s
        self.driver_threads: set[int] = set()
        self.is_driver_stopped = False

    def monotonic(self) -> float:
        """Return the seconds since the start of the run."""
        return time.monotonic() - self._zero

    def sleep(self, seconds: float) -> None:
        """Sleep for that many seconds."""
        until = self.monotonic() + seconds
        while (left_s := until - self.monotonic()) > 0:
            time.sleep(min(left_s, SLICE_S_MAX))
            self.check_over()
        self.check_over()

    def signal(self) -> Signal:
        """Return a new signal, which is not set."""
        return _RunSignal(self, self._signal())

    def check_over(self) -> None:
        """Raise RunOver if the run is over; block a thread of a stopped driver until then."""
        while True:
            if self.monotonic() >= self._duration_s:
                raise RunOver
            if not (self.is_driver_stopped and self.thread_id() in self.driver_threads):
                return
            time.sleep(SLICE_S_MAX)


class _RunSignal:
    def __init__(self, runtime: _RunRuntime, signal: Signal) -> None:
        self._runtime = runtime
        self._signal = signal
        self.set = signal.set

    def wait(self, timeout_s: float | None = None) -> bool:
        runtime = self._runtime
        until = float("inf") if timeout_s is None else runtime.monotonic() + timeout_s
        while True:
            left_s = until - runtime.monotonic()
            is_set = self._signal.wait(min(left_s, SLICE_S_MAX))
            runtime.check_over()
            if is_set or left_s <= 0:
                return is_set


class _ObservedInterface:
    """An interface that calls back when an attempt begins."""

    def __init__(
        self, interface: InBand, runtime: _RunRuntime, begins: Callable[[bytes], None]
    ) -> None:
        self._interface = interface
        self._runtime = runtime
        self._begins = begins
        self.name = interface.name
        self.exchange_s_max = interface.exchange_s_max
        self.take_over = interface.take_over
        self.close = interface.close

    @property
    def missing(self) -> str | None:
        return self._interface.missing

    def attempt(
        self, request: bytes, deadline: float, claim: InterfaceClaim, *, idempotent: bool
    ) -> bytes:
        self._runtime.check_over()
        self._begins(request)
        return self._interface.attempt(request, deadline, claim, idempotent=idempotent)

    def send_bridged(
        self,
        request: bytes,
        target: Ipmb,
        deadline: float,
        claim: InterfaceClaim,
        done: Callable[[bytes | BmcmedicError], None],
    ) -> None:
        self._interface.send_bridged(request, target, deadline, claim, done)


class _Timers:
    """Timers: calls functions when they are due, in a thread of its own."""

    def __init__(self, runtime: _RunRuntime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._heap: list[tuple[float, int, Callable[[Any], None], object]] = []
        self._sequence = itertools.count()
        self._wakeup = runtime.signal()

    def at(self, when: float, call: Callable[[Any], None], argument: object = None) -> None:
        with self._lock:
            heapq.heappush(self._heap, (when, next(self._sequence), call, argument))
        self._wakeup.set()

    def run(self) -> None:
        while True:
            with self._lock:
                now = self._runtime.monotonic()
                left_s = self._heap[0][0] - now if self._heap else None
                due = heapq.heappop(self._heap) if left_s is not None and left_s <= 0 else None
            if due is not None:
                due[2](due[3])
            else:
                self._wakeup.wait(left_s)


class _RealRun:
    def __init__(self, design: Design, scenario: StarvationScenario) -> None:
        self.record = record = StarvationRecord(design, scenario)
        self._scenario = scenario
        self._runtime = runtime = _RunRuntime(scenario.duration_s)
        self._bmc = scenario.bmc()
        self._registers = ServedRegisters(self._bmc, runtime.monotonic)
        self._timers = _Timers(runtime)
        self._flood = Flood(scenario, runtime.monotonic, self._timers.at)
        self._bmc.host.machine = StarvedHost(
            runtime.monotonic, record, lambda: self._flood.plan(self._apply)
        )
        observed = Observed(scenario, record, runtime)
        port_io = PortIo(
            self._registers,
            limits=REAL_LIMITS,
            monotonic=runtime.monotonic,
            sleep=runtime.sleep,
        )
        interface = _ObservedInterface(port_io, runtime, observed.attempt_begins)
        self._driver_bodies: list[Callable[[], None]] = []
        self._ask: InterfaceUnderTest
        if design is Design.PRIORITY:
            self._put_shipped(interface, observed)
        else:
            self._put_freebsd(Direct if design is Design.DIRECT else Queued, interface, observed)

    def _put_freebsd(
        self, design: type[Direct | Queued], interface: InBand, observed: Observed
    ) -> None:
        driver = design(interface, self._runtime, _RunLock(self._runtime))
        self._ask = driver.ask
        if driver.worker is not None:
            self._driver_bodies.append(driver.worker)
        self._driver_bodies.append(Watchdogd(observed, driver.ask, self._timers.at).run)

    def _put_shipped(self, interface: InBand, observed: Observed) -> None:
        served = Served(interface, self._runtime, self._scenario.times.patience)
        shipped = Shipped(observed, served.driver, self._timers.at)
        self._ask = served.ask
        self._driver_bodies += [served.driver.kcs_loop, shipped.watchdog.run, shipped.checks.run]
        self._timers.at(0.0, shipped.poll_pretimeout)

    def play(self) -> None:
        """Run all threads to their end."""
        scenario = self._scenario
        firmware = threading.Thread(target=self._registers.serve, name="firmware", daemon=True)
        firmware.start()
        self._flood.plan(self._apply)
        self._timers.at(0.0, self._sample)
        if scenario.stop_driver_at is not None:
            self._timers.at(scenario.stop_driver_at, self._stop_driver)
        bodies = [
            self._timers.run,
            *(partial(self._as_driver, body) for body in self._driver_bodies),
            *(
                partial(self._client, scenario.random(f"client {number}"))
                for number in range(scenario.load)
            ),
        ]
        threads = [threading.Thread(target=_until_over, args=(b,), daemon=True) for b in bodies]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + scenario.duration_s + END_S_MAX
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._registers.stop()
        firmware.join(END_S_MAX)

    def _as_driver(self, body: Callable[[], None]) -> None:
        self._runtime.driver_threads.add(self._runtime.thread_id())
        body()

    def _client(self, random: Random) -> None:
        for _ in client(self._ask, self._runtime, self._scenario, random):
            self._runtime.check_over()

    def _apply(self, faults: FaultSet) -> None:
        with self._registers.lock:
            self._bmc.set_faults(faults, self._runtime.monotonic())
            self._registers.changed()

    def _sample(self, _: object) -> None:
        now = self._runtime.monotonic()
        with self._registers.lock:
            sample = VirtualBmcSample.of(self._bmc, now)
        self.record.bmc_samples.append(sample)
        self._timers.at(now + SAMPLE_S, self._sample)

    def _stop_driver(self, _: object) -> None:
        self.record.trouble_at = self._runtime.monotonic()
        self._runtime.is_driver_stopped = True


def _until_over(body: Callable[[], None]) -> None:
    with contextlib.suppress(RunOver):
        body()


class _RunLock:
    """A real lock: a woken thread competes with running ones, as it does for an adaptive lock."""

    def __init__(self, runtime: _RunRuntime) -> None:
        self._runtime = runtime
        self._lock = runtime.lock()
        self.release = self._lock.release

    def acquire(self) -> object:
        while not self._lock.acquire(SLICE_S_MAX):
            self._runtime.check_over()
        return True
