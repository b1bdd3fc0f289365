"""The thread that pats and the software pretimeout behind it: FreeBSD's, and ours as it ships."""

from __future__ import annotations

from typing import Final

from bmcmedic.driver.driver import Driver
from bmcmedic.driver.watchdog.check import CheckResult, Checks
from bmcmedic.driver.watchdog.pat_paths import BmcPats, Waiting
from bmcmedic.driver.watchdog.pretimeout import (
    STAMPS_BYTES,
    PretimeoutCallout,
    PretimeoutRule,
    Stamps,
)
from bmcmedic.driver.watchdog.pretimeout_watcher import LOOK_S
from bmcmedic.driver.watchdog.watchdog import Watchdog
from bmcmedic.ipmi.commands.watchdog import UNINITIALIZED
from bmcmedic.lab.starvation.designs import InterfaceUnderTest
from bmcmedic.lab.starvation.host import At, Observed
from bmcmedic.lab.starvation.scenario import StarvationPat

_SET: Final = b"\x18\x24"
_PAT: Final = b"\x18\x22"
_COMPLETION_CODE_AT: Final = 2


class Watchdogd:
    """FreeBSD's: check, pat, re-arm the pretimeout when the pat returns, sleep, in one thread.

    The callout belongs to the kernel and fires whatever the thread does.
    """

    def __init__(self, observed: Observed, pat: InterfaceUnderTest, at: At) -> None:
        self._observed = observed
        self._ask = pat
        self._at = at
        self._callout_id = 0

    def run(self) -> None:
        """The body of the thread."""
        observed, runtime = self._observed, self._observed.runtime
        settings = observed.settings
        set_timer = _SET + settings.set_request.encode()
        needs_set = True
        self._callout_reset()
        while True:
            runtime.sleep(observed.check_s)
            while observed.check_hangs():
                runtime.sleep(settings.timeout_s)
            pat = StarvationPat(runtime.monotonic())
            observed.record.pats.append(pat)
            if needs_set:
                needs_set = self._request(set_timer) is None
            response = None if needs_set else self._request(_PAT)
            if response is not None and response[_COMPLETION_CODE_AT] == UNINITIALIZED:
                needs_set = True  # the next pat sets it again
            elif response is not None:
                pat.answered = True
            pat.done_at = runtime.monotonic()
            self._callout_reset()
            runtime.sleep(settings.pat_period_s)

    def _request(self, data: bytes) -> bytes | None:
        with self._observed.waits():
            return self._ask(data)

    def _callout_reset(self) -> None:
        self._callout_id += 1
        limit_s = self._observed.settings.pretimeout_limit_s
        self._at(self._observed.runtime.monotonic() + limit_s, self._callout, self._callout_id)

    def _callout(self, callout_id: object) -> None:
        if callout_id == self._callout_id:
            self._observed.pretimeout_fires()


class Shipped:
    """Ours: the watchdog, its checks, its callout and the watcher's rule, all of them as they ship.

    It stands between watchdog and driver, to see how long a pat's request waits.
    """

    def __init__(self, observed: Observed, driver: Driver, at: At) -> None:
        settings, runtime = observed.settings, observed.runtime
        assert settings.check is not None
        self._observed = observed
        self._driver = driver
        self._at = at
        self._stamps = Stamps(bytearray(STAMPS_BYTES))
        self._rule = PretimeoutRule()
        self.checks = Checks(settings.check, _Check(observed), runtime, _unsaid)
        interface = driver.interface
        self.watchdog = Watchdog(
            settings,
            BmcPats(self, interface.name, interface.exchange_s_max),
            runtime,
            _unsaid,
            callout=PretimeoutCallout(self._stamps, runtime.monotonic, settings.pretimeout_limit_s),
            check=self.checks,
            observer=self._patted,
        )

    def driver_request(self, data: bytes, deadline: float, waiting: Waiting | None = None) -> bytes:
        """The driver's own."""
        with self._observed.waits():
            return self._driver.driver_request(data, deadline, waiting)

    def look(self, _: object = None) -> None:
        """What the watcher does each `LOOK_S`; looks that can see nothing are left out.

        The rule is told of a look just before the one that may fire, as it would have been.
        """
        now = self._observed.runtime.monotonic()
        stamp = self._stamps.driver.last
        if self._rule.look(stamp, now):
            self._observed.pretimeout_fires()
        looks = 1
        if not self._rule.has_fired:
            looks = max(1, int((stamp.due_at - now) / LOOK_S) - 1)
        self._at(now + looks * LOOK_S, self.look, None)

    def _patted(self, due_at: float, begun_at: float, done_at: float, good: bool) -> None:  # noqa: ARG002 - Observer's
        self._observed.record.pats.append(StarvationPat(due_at, done_at, good))


class _Check:
    """A check command that finds the host well, or hangs."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def run(self, deadline_s: float) -> CheckResult:
        """Do it (a `CheckCommand`)."""
        if self._observed.check_hangs():
            self._observed.runtime.sleep(deadline_s)
            return CheckResult(f"did not end within {deadline_s:g} s")
        self._observed.runtime.sleep(self._observed.check_s)
        return CheckResult(None)


def _unsaid(_: str) -> None:
    """Nobody reads this log."""
