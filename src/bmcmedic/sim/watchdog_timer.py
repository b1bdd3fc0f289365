"""The BMC's watchdog timer (chapter 27), sans-I/O: it counts down in the time it is handed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

COUNTDOWN_TICK_S = 0.1


class WatchdogEvent(Enum):
    """What the timer does by itself."""

    PRETIMEOUT = "pretimeout"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class SimTimerSettings:
    """What Set Watchdog Timer sets (27.6), as numbers of the specification's tables."""

    timer_use: int
    timeout_action: int
    pretimeout_interrupt: int
    pretimeout_interval_s: int
    initial_countdown_s: float
    dont_log: bool = False


class WatchdogTimer:
    """One timer. It exists from the first Set Watchdog Timer on; a restart of the BMC loses it."""

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
        """Whether it was started and has not ended; a frozen timer still says so."""
        return self._ends_at is not None

    def set(
        self, settings: SimTimerSettings, *, dont_stop: bool, clear_flags: int, now: float
    ) -> None:
        """Set Watchdog Timer (27.6): stops the timer unless `dont_stop`."""
        keep_running = dont_stop and self.running
        self.settings = settings
        self.expiration_flags &= ~clear_flags
        self.stop()
        if keep_running:
            self.reset(now)

    def reset(self, now: float) -> None:
        """Reset Watchdog Timer (27.5): load the initial countdown and run."""
        self._left_s = self.settings.initial_countdown_s
        self._ends_at = now + self._left_s
        self._pretimeout_done = False

    def stop(self) -> None:
        """Stop it; what Get Watchdog Timer then shows is the initial countdown."""
        self._ends_at = None
        self._left_s = self.settings.initial_countdown_s
        self._pretimeout_done = False

    def present_countdown_s(self, now: float) -> float:
        """What is left."""
        if self._ends_at is None or self._frozen:
            return self._left_s
        return max(0.0, self._ends_at - now)

    def freeze(self, frozen: bool, now: float) -> None:
        """Stand still while the firmware that counts is hung, and go on from there."""
        if frozen == self._frozen:
            return
        if frozen:
            self._left_s = self.present_countdown_s(now)
        elif self._ends_at is not None:
            self._ends_at = now + self._left_s
        self._frozen = frozen

    def next_event_at(self) -> float | None:
        """When `handle_timer` has something to do."""
        if self._ends_at is None or self._frozen:
            return None
        if self._pretimeout_pending:
            return self._ends_at - self.settings.pretimeout_interval_s
        return self._ends_at

    def handle_timer(self, now: float) -> WatchdogEvent | None:
        """Do what is due; call it again until it gives None."""
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
