"""The schedule of the reports: how often one is posted, and the back-off after a failure.

A report is posted every period, and at once when a symptom has changed, but never sooner than
`GAP_S_MIN` after the one before. While the controller is away the wait grows, up to a limit. The
module is pure: time and random numbers are arguments.
"""

from __future__ import annotations

import random

GAP_S_MIN = 1.0
"""Shortest time between two reports, however fast symptoms change, in seconds."""
BACK_OFF_FACTOR = 2.0
"""Factor by which the wait grows after each further failure."""
JITTER = 0.2
"""Greatest random extension of a wait, as a share of it.

It spreads the reports of many hosts when a controller comes back.
"""


class ReportSchedule:
    """The time at which the next report is due."""

    def __init__(self, now: float, rng: random.Random) -> None:
        self._rng = rng
        self._due_at = now
        self._last_at: float | None = None
        self._wait_s = 0.0
        self.failures = 0
        """Number of failures in a row."""

    def due_in_s(self, now: float) -> float:
        """Return how long to wait for the next report, in seconds; 0 if it is due."""
        return max(0.0, self._due_at - now)

    def expedite(self) -> None:
        """Make the next report due as soon as the gap allows, unless the controller is away."""
        if self.failures == 0:
            self._due_at = 0.0 if self._last_at is None else self._last_at + GAP_S_MIN

    def succeeded(self, now: float, period_s: float) -> None:
        """Schedule the next report after the controller accepted one."""
        self.failures = 0
        self._last_at = now
        self._due_at = now + max(GAP_S_MIN, period_s)

    def failed(
        self, now: float, period_s: float, back_off_s_max: float, retry_after_s: float | None
    ) -> None:
        """Schedule the next attempt after a failure.

        `retry_after_s` is the wait that the controller asked for, in seconds.
        """
        most_s = max(period_s, back_off_s_max)
        self._wait_s = (
            max(GAP_S_MIN, period_s) if self.failures == 0 else self._wait_s * BACK_OFF_FACTOR
        )
        self._wait_s = min(self._wait_s, most_s)
        self.failures += 1
        self._last_at = now
        wait_s = max(self._wait_s, min(retry_after_s or 0.0, most_s))
        self._due_at = now + wait_s * (1 + JITTER * self._rng.random())
