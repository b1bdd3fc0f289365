"""The CPU budget for early process scans, however many clients there are to be scanned for."""

from __future__ import annotations

SHARE = 50
"""Early scans take one part in this many of a core in the long run: 2 per cent."""
SAVED_S_MAX = 1.0
"""Unused CPU time that is saved up at most, in seconds, for clients that get stuck together."""
GAP_S = 1.0
"""Shortest time between two early scans, in seconds."""
GAP_S_MAX = 3.0
"""Longest time that the budget puts between two early scans, in seconds.

With this, and the time that ending takes, a client is gone 5 s after it can be proven stuck.
"""


class CpuBudget:
    """CPU time that is saved up, and spent on early scans."""

    def __init__(self, now: float) -> None:
        """The budget starts full; `now` is a monotonic time in seconds."""
        self._saved_s = SAVED_S_MAX
        self._at = now

    def gap_s(self, cost_s: float, now: float) -> float:
        """Return the shortest time to the next early scan if one costs `cost_s`, in seconds."""
        self._save(now)
        if cost_s <= self._saved_s:
            return GAP_S
        return min(GAP_S_MAX, max(GAP_S, SHARE * cost_s))

    def spend(self, cost_s: float, now: float) -> None:
        """Take the cost of an early scan out of the budget."""
        self._save(now)
        self._saved_s = max(0.0, self._saved_s - cost_s)

    def _save(self, now: float) -> None:
        self._saved_s = min(SAVED_S_MAX, self._saved_s + (now - self._at) / SHARE)
        self._at = now
