"""The watchdog: the thread that pats, and how it handles everything that can go wrong.

A failed pat, a restarted BMC and a timer that another program stopped are counted and reported, and
the patting goes on. Only the check command and an order stop the pats.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from bmcmedic.driver.watchdog.check import HostCheck, NoCheck
from bmcmedic.driver.watchdog.pat_paths import PatPath, TimerNotSet
from bmcmedic.driver.watchdog.pretimeout import PretimeoutCallout
from bmcmedic.driver.watchdog.settings import PAT_EXCHANGE_S, ShutdownKind, WatchdogSettings
from bmcmedic.errors import BmcmedicError
from bmcmedic.ipmi.commands.watchdog import GetWatchdogTimerRsp
from bmcmedic.service.runtime import Runtime

RETRY_S = 5.0
"""Time from a failed pat to the next attempt, in seconds, unless the period is shorter."""
UNWELL_PAUSE_S = 0.5
"""How often a failing check command is polled, in seconds."""
ORDERS_MAX = 16
_READ_SHARE_MAX = 0.25
"""Largest share of the time between two pats that reading the timer may take, as expected from the
last pat."""
_WAITING_S_MIN = 0.1
"""Shortest time between two signs of life while a request waits, in seconds."""

Observer = Callable[[float, float, float, bool], None]
"""Gets for each pat when it was due, begun and answered, and whether it succeeded."""


class WatchdogOrder(Enum):
    """What others may order the watchdog to do."""

    LENGTHEN = "lengthen"
    DISARM = "disarm"
    RESUME = "resume"


class _TimerAnomaly(NamedTuple):
    """How the BMC's timer differs from what was set."""

    is_stopped: bool
    text: str


class Watchdog:
    """Sets the BMC's timer, pats it, and verifies it.

    `run` is the body of the pat thread. Only that thread, or code that runs before or after it,
    calls `set`, `pat`, `get` and `disarm`. Any thread may call the orders, `stop` and `status`,
    which never block.
    """

    def __init__(
        self,
        settings: WatchdogSettings,
        path: PatPath,
        runtime: Runtime,
        report: Callable[[str], None],
        *,
        callout: PretimeoutCallout | None = None,
        check: HostCheck | None = None,
        observer: Observer | None = None,
    ) -> None:
        """`report` takes a line for the log when something changes, and must not block.

        Raises: ConfigurationError when the settings leave a pat too little time on this path.
        """
        settings.require_room(path.exchange_s_max)
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self._configured = settings
        self._path = path
        self._runtime = runtime
        self._report = report
        self._callout = callout
        self._check: HostCheck = check or NoCheck()
        self.observer = observer
        self._wakeup = runtime.signal()
        self._orders: deque[tuple[WatchdogOrder, WatchdogSettings]] = deque(maxlen=ORDERS_MAX)
        self._carrying_out = False
        self._stopping = False
        self._needs_set = True
        self._in_charge = True
        self._stop_timer = False
        """Whether the timer is still to be stopped, by order."""
        self._unwell: str | None = None
        self._failure: str | None = None
        self._anomaly: _TimerAnomaly | None = None
        self._last_good_at: float | None = None
        self._latency_s = 0.0
        self._latency_s_max = 0.0
        self._due_at = runtime.monotonic()
        self._verify_at: float | None = None
        self._pats_unverified = 0
        self._waiting_at = self._due_at

    # ------------------------------------------------------------------------- the pat thread

    def run(self) -> None:
        """Pat until `stop`, then apply the shutdown policy; the pat thread runs this."""
        monotonic = self._runtime.monotonic
        self._due_at = monotonic()
        if self._callout is not None:
            self._callout.arm()
        while not self._stopping:
            while self._orders:
                self._carrying_out = True
                self._carry_out(*self._orders.popleft())
                self._carrying_out = False
            now = monotonic()
            if not self._in_charge:
                wake_at = self._stay_disarmed(now)
            elif self._is_unwell(now):
                wake_at = now + UNWELL_PAUSE_S
            elif now >= self._due_at:
                self._pat_in_turn(now)
                continue
            elif self._verify_at is not None and now >= self._verify_at:
                self._verify()
                continue
            else:
                wake_at = self._due_at if self._verify_at is None else self._verify_at
            self._wakeup.wait(None if wake_at is None else wake_at - now)
        self._shut_down()

    def set(self, deadline: float) -> None:
        """Set the timer as configured; the next pat starts it."""
        self._path.set(self.settings, deadline, self._waiting)
        self._needs_set = False
        self.counts["sets"] += 1

    def pat(self, deadline: float) -> None:
        """Restart the timer's countdown.

        Set it first where it never was, or where the BMC lost it.
        """
        if self._needs_set:
            self.set(deadline)
        try:
            self._path.pat(deadline, self._waiting)
        except TimerNotSet as lost:
            self.counts["lost"] += 1
            self._needs_set = True
            self._report(f"{lost}; the timer is set again")
            self.set(deadline)
            self._path.pat(deadline, self._waiting)

    def get(self, deadline: float) -> GetWatchdogTimerRsp | None:
        """Return the timer as the BMC has it; None where the path cannot read it."""
        return self._path.get(deadline, self._waiting)

    def disarm(self, deadline: float) -> None:
        """Stop the timer."""
        self._path.disarm(self.settings, deadline, self._waiting)
        self._needs_set = True

    # ----------------------------------------------------------------------- from other threads

    def order_lengthen(self, timeout_s: float) -> None:
        """Give the timer a longer time-out until `order_resume`; raises ConfigurationError."""
        self._order(WatchdogOrder.LENGTHEN, self._configured.lengthened(timeout_s))

    def order_disarm(self) -> None:
        """Stop the timer and send no pats until `order_resume`."""
        self._order(WatchdogOrder.DISARM, self._configured)

    def order_resume(self) -> None:
        """Return to the configured settings."""
        self._order(WatchdogOrder.RESUME, self._configured)

    def stop(self) -> None:
        """Let `run` apply the shutdown policy and return."""
        self._stopping = True
        self._wakeup.set()

    def status(self) -> dict[str, Any]:
        """Return the watchdog's state as JSON data; durations are in seconds."""
        now = self._runtime.monotonic()
        last_good_at = self._last_good_at
        return {
            "path": self._path.name,
            "in_charge": self._in_charge,
            "settled": not (
                self._orders or self._stop_timer or (self._in_charge and self._needs_set)
            ),
            "timeout_s": self.settings.timeout_s,
            "pat_period_s": self.settings.pat_period_s,
            "last_pat_age_s": None if last_good_at is None else now - last_good_at,
            "pat_latency_s": self._latency_s,
            "pat_latency_max_s": self._latency_s_max,
            "failure": self._failure,
            "check_failure": self._unwell,
            "counts": dict(self.counts),
        }

    @property
    def is_at_rest(self) -> bool:
        """Whether it is disarmed by order, and sends nothing until the next order."""
        # Read in the order in which they change, because the pat thread may be changing them.
        return not (self._orders or self._carrying_out or self._stop_timer or self._in_charge)

    @property
    def request_s_max(self) -> float:
        """Longest time of one request, in seconds: an exchange in flight and the request's own."""
        return 2 * self._path.exchange_s_max + PAT_EXCHANGE_S

    # ------------------------------------------------------------------------------------ inside

    def _order(self, order: WatchdogOrder, settings: WatchdogSettings) -> None:
        self._orders.append((order, settings))
        self._wakeup.set()

    def _carry_out(self, order: WatchdogOrder, settings: WatchdogSettings) -> None:
        self._report(f"ordered to {order.value} the watchdog")
        self.counts["orders"] += 1
        self._stop_timer = order is WatchdogOrder.DISARM
        was_in_charge, self._in_charge = self._in_charge, order is not WatchdogOrder.DISARM
        self.settings = settings
        self._needs_set = True
        self._verify_at = None
        self._due_at = self._runtime.monotonic()
        if self._callout is None:
            return
        if not self._in_charge:
            self._callout.disarm()
        elif not was_in_charge:
            self._callout.arm()

    def _stay_disarmed(self, now: float) -> float | None:
        """Stop the timer, retrying until it works; return when to try again."""
        if not self._stop_timer:
            return None
        try:
            self.disarm(now + self.request_s_max)
        except (BmcmedicError, OSError) as error:
            self._note_failure("the watchdog timer could not be stopped", error)
            return self._runtime.monotonic() + RETRY_S
        self._stop_timer = False
        self._note_recovery()
        return None

    def _is_unwell(self, now: float) -> bool:
        self._unwell = self._check.failure(now)
        if self._unwell is not None:
            self.counts["pats_withheld"] += now >= self._due_at
            self._due_at = max(self._due_at, now)
        return self._unwell is not None

    def _pat_in_turn(self, now: float) -> None:
        settings = self.settings
        due_at = self._due_at
        good = False
        try:
            self.pat(now + self.request_s_max)
            good = True
        except (BmcmedicError, OSError) as error:
            self._note_failure("a pat failed", error)
        done_at = self._runtime.monotonic()
        self._stamp_alive()
        if good:
            self._note_success(due_at, now, done_at)
        pause_s = settings.pat_period_s if good else min(settings.pat_period_s, RETRY_S)
        self._due_at = max(due_at + pause_s, done_at) if good else done_at + pause_s
        self._pats_unverified += good
        self._verify_at = None
        pause_s = self._due_at - done_at
        # The timer of a slow BMC is not read: the answer might not come before the next pat.
        has_time = self._latency_s < pause_s * _READ_SHARE_MAX
        if good and has_time and self._pats_unverified >= settings.verify_every_pats:
            self._verify_at = done_at + pause_s / 2
        if self.observer is not None:
            self.observer(due_at, now, done_at, good)

    def _note_success(self, due_at: float, begun_at: float, done_at: float) -> None:
        self.counts["pats"] += 1
        self._last_good_at = done_at
        self._latency_s = done_at - begun_at
        self._latency_s_max = max(self._latency_s_max, done_at - due_at)
        self._note_recovery()

    def _verify(self) -> None:
        """Check between two pats whether the timer is still as it was set."""
        self._verify_at = None
        self._pats_unverified = 0
        try:
            timer = self.get(self._due_at)  # the next pat does not wait for it
        except (BmcmedicError, OSError):
            self.counts["looks_failed"] += 1
            return
        anomaly = None if timer is None else self._find_anomaly(timer)
        if anomaly is not None:
            self.counts["found_stopped" if anomaly.is_stopped else "found_changed"] += 1
            self._needs_set = True
            self._due_at = self._runtime.monotonic()
            if anomaly != self._anomaly:
                self._report(f"{anomaly.text}; it is set again and started")
        self._anomaly = anomaly

    def _find_anomaly(self, timer: GetWatchdogTimerRsp) -> _TimerAnomaly | None:
        if not timer.running:
            return _TimerAnomaly(True, "another program has stopped the watchdog timer")
        wanted = self.settings.set_request
        for name, found, set_to in (
            ("use", timer.use.name, wanted.use.name),
            ("action", timer.action.name, wanted.action.name),
            ("countdown", timer.initial_countdown_s, round(wanted.initial_countdown_s, 1)),
            ("pretimeout", timer.pretimeout_interval_s, wanted.pretimeout_interval_s),
            (
                "pretimeout interrupt",
                timer.pretimeout_interrupt.name,
                wanted.pretimeout_interrupt.name,
            ),
        ):
            if found != set_to:
                return _TimerAnomaly(
                    False,
                    f"the watchdog timer's {name} is {found}, not {set_to}: "
                    "another program has set it, or the BMC did not take it",
                )
        return None

    def _stamp_alive(self) -> None:
        """Stamp a sign of life, as far as the check command confirms it."""
        if self._callout is not None:
            self._callout.reset(self._check.good_until(self._runtime.monotonic()))

    def _waiting(self) -> None:
        """Stamp a sign of life while a request waits for the BMC; may be called at any rate."""
        now = self._runtime.monotonic()
        if now - self._waiting_at >= _WAITING_S_MIN:
            self._waiting_at = now
            self._stamp_alive()

    def _note_failure(self, what: str, error: Exception) -> None:
        self.counts["failures"] += 1
        if self._failure is None:
            self._report(f"{what}: {error}")
        self._failure = str(error)

    def _note_recovery(self) -> None:
        if self._failure is not None:
            self._report("the watchdog timer can be reached again")
            self._failure = None

    def _shut_down(self) -> None:
        policy = self.settings.shutdown
        deadline = self._runtime.monotonic() + self.request_s_max
        try:
            if not self._in_charge and not self._stop_timer:
                pass  # it was stopped by order, and stays stopped
            elif policy.kind is ShutdownKind.DISARM or not self._in_charge:
                self.disarm(deadline)
                self._report("the watchdog timer is stopped")
            elif policy.kind is ShutdownKind.REARM:
                self._path.rearm(self.settings, deadline, self._waiting)
                self._report(f"the watchdog timer keeps running for {policy.countdown_s:g} s")
            else:
                if not self._is_unwell(self._runtime.monotonic()):
                    self.pat(deadline)  # the next program gets the whole countdown
                self._report(
                    f"the watchdog timer keeps running for up to {self.settings.timeout_s:g} s"
                )
        except (BmcmedicError, OSError) as error:
            self._report(
                f"at shutdown ({policy.kind.value}) the watchdog timer could not be reached; it "
                f"runs out in {self.settings.timeout_s:g} s or sooner if it runs: {error}"
            )
        if self._callout is not None:
            self._callout.end()
