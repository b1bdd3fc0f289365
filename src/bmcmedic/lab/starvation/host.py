"""The host around the driver: what is written down, its clients, its BMC and the flood."""

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
"""From one request's return to the next one's start, in the same thread."""

_WATCHDOG_REQUESTS: Final = (b"\x18\x22", b"\x18\x24", b"\x18\x25")

At = Callable[[float, Callable[[Any], None], object], None]
"""Calls something at a point in time, and hands it what is given last."""


class Observed:
    """What is written down of pats and pretimeouts, and what the host suffers meanwhile."""

    def __init__(
        self, scenario: StarvationScenario, record: StarvationRecord, runtime: Runtime
    ) -> None:
        self.settings = scenario.watchdog()
        self.record = record
        self.runtime = runtime
        self.check_s = scenario.times.check
        self._hangs_from = scenario.hang_check_at
        self._wait: Wait | None = None
        """Of the request that has not had the interface yet."""

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """A pat's request is queued in here, or competes for the lock."""
        self._wait = Wait(self.runtime.monotonic())
        self.record.waits.append(self._wait)
        try:
            yield
        finally:
            self._wait_over()

    def attempt_begins(self, request: bytes) -> None:
        """Some request has the interface."""
        if request[:2] in _WATCHDOG_REQUESTS:
            self._wait_over()

    def _wait_over(self) -> None:
        if self._wait is not None:
            self._wait.over_at = self.runtime.monotonic()
            self._wait = None

    def check_hangs(self) -> bool:
        """Whether the check command that is started now will hang."""
        now = self.runtime.monotonic()
        hangs = self._hangs_from is not None and now >= self._hangs_from
        if hangs and self.record.trouble_at is None:
            self.record.trouble_at = now
        return hangs

    def pretimeout_fires(self) -> None:
        """The host would go down now."""
        is_false = self.record.trouble_at is None
        self.record.pretimeouts.append(Pretimeout(self.runtime.monotonic(), is_false))


class StarvedHost:
    """The host, as its BMC sees it; only what can happen in these scenarios does anything."""

    def __init__(
        self, now: Callable[[], float], record: StarvationRecord, bmc_is_back: Callable[[], None]
    ) -> None:
        self._now = now
        self._record = record
        self._bmc_is_back = bmc_is_back
        self._bmc_is_away = False

    def reset(self) -> None:
        """The BMC's timer ran out."""
        self._record.host_resets.append(self._now())

    def bmc_answers(self, answers: bool) -> None:
        """The BMC went away or came back."""
        away, now = self._record.bmc_away, self._now()
        if not answers and not self._bmc_is_away:
            away.append((now, self._record.scenario.duration_s))
        elif answers and self._bmc_is_away:
            away[-1] = (away[-1][0], now)
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


class Flood:
    """The writes to port 0x80: a torrent and a trickle each time that the BMC is up."""

    def __init__(self, scenario: StarvationScenario, now: Callable[[], float], at: At) -> None:
        self._floods = scenario.floods()
        self._now = now
        self._at = at

    def plan(self, apply: Callable[[FaultSet], None]) -> None:
        """The BMC is up now; nothing floods it while it boots."""
        at = self._now()
        for _ in ("torrent", "trickle"):
            after_s, faults = next(self._floods)
            at += after_s
            self._at(at, apply, faults)


def client(
    ask: InterfaceUnderTest, runtime: Runtime, scenario: StarvationScenario, random: Random
) -> Iterator[float]:
    """A monitoring script: a pause, a few questions, and again.

    Yields how long it computes between two questions: the caller knows how to spend that.
    """
    think_s = random.uniform(*scenario.times.think)
    while True:
        runtime.sleep(random.expovariate(1 / think_s))
        for _ in range(random.randint(1, BURST_REQUESTS_MAX)):
            ask(random.choice(REQUESTS))
            yield random.uniform(*SYSTEM_CALL_S)
