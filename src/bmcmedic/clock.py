"""The two clocks that the I/O layers read; everything below them is handed `now`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time; tests and simulations pass their own."""

    def monotonic(self) -> float:
        """Return seconds that never jump, for deadlines and latencies."""

    def epoch(self) -> float:
        """Return seconds since 1970, for people and other programs."""


class SystemClock:
    """The machine's own clocks."""

    monotonic = staticmethod(time.monotonic)
    epoch = staticmethod(time.time)
