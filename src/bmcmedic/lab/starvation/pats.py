"""The thread that pats, and the software pretimeout: FreeBSD's, and bmcmedic's as it ships."""

from __future__ import annotations

from typing import Final

from bmcmedic.driver.driver import Driver
from bmcmedic.driver.watchdog.check import CheckLoop, CheckResult
from bmcmedic.driver.watchdog.pat_paths import BmcPats, Waiting
from bmcmedic.driver.watchdog.pretimeout import (
    STAMPS_BYTES,
    PretimeoutCallout,
    PretimeoutRule,
    Stamps,
)
from bmcmedic.driver.watchdog.pretimeout_watcher import CHECK_PERIOD_S
from bmcmedic.driver.watchdog.watchdog import Watchdog
from bmcmedic.ipmi.commands.watchdog import UNINITIALIZED
from bmcmedic.lab.starvation.designs import InterfaceUnderTest
from bmcmedic.lab.starvation.host import At, Observed
from bmcmedic.lab.starvation.scenario import StarvationPat

_SET: Final = b"\x18\x24"
_PAT: Final = b"\x18\x22"
_COMPLETION_CODE_AT: Final = 2


class Watchdogd:
    """FreeBSD's watchdogd: one thread checks, pats, re-arms the pretimeout, and sleeps.

    The pretimeout is a callout of the kernel, and fires whatever the thread does.
    """

    def __init__(self, observed: Observed, pat: InterfaceUnderTest, at: At) -> None:
        self._observed = observed
        self._ask = pat
        self._at = at
        self._callout_id = 0

    def run(self) -> None:
        """Run the thread."""
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
    """bmcmedic's watchdog, its checks, its callout and the watcher's rule, all as they ship.

    It is between watchdog and driver, to record how long a pat's request waits.
    """

    def __init__(self, observed: Observed, driver: Driver, at: At) -> None:
        settings, runtime = observed.settings, observed.runtime
        assert settings.check is not None
        self._observed = observed
        self._driver = driver
        self._at = at
        self._stamps = Stamps(bytearray(STAMPS_BYTES))
        self._rule = PretimeoutRule()
        self.checks = CheckLoop(settings.check, _Check(observed), runtime, _discard)
        interface = driver.interface
        self.watchdog = Watchdog(
            settings,
            BmcPats(self, interface.name, interface.exchange_s_max),
            runtime,
            _discard,
            callout=PretimeoutCallout(self._stamps, runtime.monotonic, settings.pretimeout_limit_s),
            check=self.checks,
            observer=self._patted,
        )

    def driver_request(self, data: bytes, deadline: float, waiting: Waiting | None = None) -> bytes:
        """Pass a request to the driver, and record its wait."""
        with self._observed.waits():
            return self._driver.driver_request(data, deadline, waiting)

    def poll_pretimeout(self, _: object = None) -> None:
        """Poll the pretimeout as the watcher does; polls without effect are skipped.

        The poll just before one that may fire is never skipped: the rule compares the two times.
        """
        now = self._observed.runtime.monotonic()
        stamp = self._stamps.driver.last
        if self._rule.should_fire(stamp, now):
            self._observed.pretimeout_fires()
        polls = 1
        if not self._rule.has_fired:
            polls = max(1, int((stamp.due_at - now) / CHECK_PERIOD_S) - 1)
        self._at(now + polls * CHECK_PERIOD_S, self.poll_pretimeout, None)

    def _patted(self, due_at: float, begun_at: float, done_at: float, good: bool) -> None:  # noqa: ARG002 - as Observer
        self._observed.record.pats.append(StarvationPat(due_at, done_at, good))


class _Check:
    """A check command that finds the host healthy, or hangs."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def run(self, deadline_s: float) -> CheckResult:
        """Run the check, as a `CheckCommand`."""
        if self._observed.check_hangs():
            self._observed.runtime.sleep(deadline_s)
            return CheckResult(f"did not end within {deadline_s:g} s")
        self._observed.runtime.sleep(self._observed.check_s)
        return CheckResult(None)


def _discard(_: str) -> None:
    """Discard a line of the log, which nothing reads."""
