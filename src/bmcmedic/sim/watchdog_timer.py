"""The BMC's watchdog timer (chapter 27), sans-I/O: time is an argument.

The commands that set, reset and read it are in `handlers.watchdog`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

COUNTDOWN_TICK_S = 0.1


class WatchdogEvent(Enum):
    """An event of the timer."""

    PRETIMEOUT = "pretimeout"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class SimTimerSettings:
    """The settings of Set Watchdog Timer (27.6), as numbers of the specification's tables."""

    timer_use: int
    timeout_action: int
    pretimeout_interrupt: int
    pretimeout_interval_s: int
    initial_countdown_s: float
    dont_log: bool = False


class WatchdogTimer:
    """One timer. The first Set Watchdog Timer creates it; a cold restart of the BMC loses it."""

    __slots__ = (
        "_ends_at",
        "_frozen",
        "_left_s",
        "_pretimeout_done",
        "expiration_flags",
        "settings",
    )

    def __init__(self, settings: SimTimerSettings, *, frozen: bool = False) -> None:
        self.settings = settings
        self.expiration_flags = 0
        self._ends_at: float | None = None  # None: stopped
        self._left_s = settings.initial_countdown_s  # while stopped or frozen
        self._frozen = frozen
        self._pretimeout_done = False

    @property
    def running(self) -> bool:
        """Whether the timer was started and has not ended; a frozen timer counts as running."""
        return self._ends_at is not None

    def set(
        self, settings: SimTimerSettings, *, dont_stop: bool, clear_flags: int, now: float
    ) -> None:
        """Apply a Set Watchdog Timer (27.6); it stops the timer unless `dont_stop` is set."""
        keep_running = dont_stop and self.running
        self.settings = settings
        self.expiration_flags &= ~clear_flags
        self.stop()
        if keep_running:
            self.reset(now)

    def reset(self, now: float) -> None:
        """Apply a Reset Watchdog Timer (27.5): load the initial countdown and run."""
        self._left_s = self.settings.initial_countdown_s
        self._ends_at = now + self._left_s
        self._pretimeout_done = False

    def stop(self) -> None:
        """Stop the timer; Get Watchdog Timer then shows the initial countdown."""
        self._ends_at = None
        self._left_s = self.settings.initial_countdown_s
        self._pretimeout_done = False

    def present_countdown_s(self, now: float) -> float:
        """Return the time that is left, in seconds."""
        if self._ends_at is None or self._frozen:
            return self._left_s
        return max(0.0, self._ends_at - now)

    def freeze(self, frozen: bool, now: float) -> None:
        """Freeze the countdown while the firmware hangs, or let it go on from where it stopped."""
        if frozen == self._frozen:
            return
        if frozen:
            self._left_s = self.present_countdown_s(now)
        elif self._ends_at is not None:
            self._ends_at = now + self._left_s
        self._frozen = frozen

    def next_event_at(self) -> float | None:
        """Return when `handle_timer` is next due; None: the timer is stopped or frozen."""
        if self._ends_at is None or self._frozen:
            return None
        if self._pretimeout_pending:
            return self._ends_at - self.settings.pretimeout_interval_s
        return self._ends_at

    def handle_timer(self, now: float) -> WatchdogEvent | None:
        """Return the event that is due, or None; call it again until it returns None."""
        due = self.next_event_at()
        if due is None or now < due:
            return None
        if self._pretimeout_pending:
            self._pretimeout_done = True
            return WatchdogEvent.PRETIMEOUT
        self.expiration_flags |= 1 << self.settings.timer_use
        self._ends_at = None
        self._left_s = 0.0
        return WatchdogEvent.EXPIRED

    @property
    def _pretimeout_pending(self) -> bool:
        return not self._pretimeout_done and self.settings.pretimeout_interrupt != 0
