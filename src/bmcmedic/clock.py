"""The two readings of time that the I/O layers take; everything below them is handed `now`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time; tests and simulations hand in their own."""

    def monotonic(self) -> float:
        """Seconds that never jump, for deadlines and latencies."""

    def epoch(self) -> float:
        """Seconds since 1970, for what people and other programs read."""


class SystemClock:
    """The machine's own clock."""

    monotonic = staticmethod(time.monotonic)
    epoch = staticmethod(time.time)
