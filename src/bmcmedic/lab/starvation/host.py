"""The host around the driver: its record, its clients, its BMC's events, and the flood."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

from bmcmedic.lab.starvation.designs import InterfaceUnderTest
from bmcmedic.lab.starvation.scenario import (
    BURST_REQUESTS_MAX,
    REQUESTS,
    Pretimeout,
    StarvationRecord,
    StarvationScenario,
    Wait,
)
from bmcmedic.service.runtime import Runtime
from bmcmedic.sim.faults import FaultSet

SYSTEM_CALL_S = (2e-6, 20e-6)
"""Shortest and longest time between two requests of the same thread, in seconds."""

_WATCHDOG_REQUESTS: Final = (b"\x18\x22", b"\x18\x24", b"\x18\x25")

At = Callable[[float, Callable[[Any], None], object], None]
"""`at(when, call, argument)` calls `call(argument)` at a point in time."""


class Observed:
    """Records pats and pretimeouts, and decides when the check command hangs."""

    def __init__(
        self, scenario: StarvationScenario, record: StarvationRecord, runtime: Runtime
    ) -> None:
        self.settings = scenario.watchdog()
        self.record = record
        self.runtime = runtime
        self.check_s = scenario.times.check
        self._hangs_from = scenario.hang_check_at
        self._wait: Wait | None = None
        """The wait of the request that has not got the interface yet."""

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """Record the wait of a pat's request, which the block queues or sends."""
        self._wait = Wait(self.runtime.monotonic())
        self.record.waits.append(self._wait)
        try:
            yield
        finally:
            self._wait_over()

    def attempt_begins(self, request: bytes) -> None:
        """Note that a request has got the interface."""
        if request[:2] in _WATCHDOG_REQUESTS:
            self._wait_over()

    def _wait_over(self) -> None:
        if self._wait is not None:
            self._wait.over_at = self.runtime.monotonic()
            self._wait = None

    def check_hangs(self) -> bool:
        """Return whether the check command that starts now hangs."""
        now = self.runtime.monotonic()
        hangs = self._hangs_from is not None and now >= self._hangs_from
        if hangs and self.record.trouble_at is None:
            self.record.trouble_at = now
        return hangs

    def pretimeout_fires(self) -> None:
        """Record that the pretimeout fires: the host would go down now."""
        is_false = self.record.trouble_at is None
        self.record.pretimeouts.append(Pretimeout(self.runtime.monotonic(), is_false))


class StarvedHost:
    """The host, as its BMC sees it; it only handles the events that happen in these scenarios."""

    def __init__(
        self, now: Callable[[], float], record: StarvationRecord, bmc_is_back: Callable[[], None]
    ) -> None:
        self._now = now
        self._record = record
        self._bmc_is_back = bmc_is_back
        self._bmc_is_away = False

    def reset(self) -> None:
        """Record that the BMC's timer ran out."""
        self._record.host_resets.append(self._now())

    def bmc_answers(self, answers: bool) -> None:
        """Record that the BMC stopped or started answering."""
        away, now = self._record.bmc_away, self._now()
        if not answers and not self._bmc_is_away:
            away.append((now, self._record.scenario.duration_s))
        elif answers and self._bmc_is_away:
            away[-1] = (away[-1][0], now)
            self._bmc_is_back()
        self._bmc_is_away = not answers

    def power_off(self, *, comes_back: bool) -> None:
        """Do nothing: the power is never turned off."""

    def shut_down(self) -> None:
        """Do nothing: the system is never shut down."""

    def interrupt(self) -> None:
        """Do nothing: no NMI is sent."""

    def pretimeout(self) -> None:
        """Do nothing: the BMC's own pretimeout is turned off."""


class Flood:
    """The writes to port 0x80: a torrent and then a trickle, after each boot of the BMC."""

    def __init__(self, scenario: StarvationScenario, now: Callable[[], float], at: At) -> None:
        self._floods = scenario.floods()
        self._now = now
        self._at = at

    def plan(self, apply: Callable[[FaultSet], None]) -> None:
        """Plan the flood of a BMC that is up now; it is not flooded while it boots."""
        at = self._now()
        for _ in ("torrent", "trickle"):
            after_s, faults = next(self._floods)
            at += after_s
            self._at(at, apply, faults)


def client(
    ask: InterfaceUnderTest, runtime: Runtime, scenario: StarvationScenario, random: Random
) -> Iterator[float]:
    """Run a monitoring script: it pauses, sends a few requests, and starts again.

    Yields how long it computes between two requests; the caller lets that time pass.
    """
    think_s = random.uniform(*scenario.times.think)
    while True:
        runtime.sleep(random.expovariate(1 / think_s))
        for _ in range(random.randint(1, BURST_REQUESTS_MAX)):
            ask(random.choice(REQUESTS))
            yield random.uniform(*SYSTEM_CALL_S)
