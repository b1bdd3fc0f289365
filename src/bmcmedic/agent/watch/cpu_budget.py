"""What looks out of turn may cost, however many clients there are to be looked for."""

from __future__ import annotations

SHARE = 50
"""They take 2 per cent of a core in the long run,"""
SAVED_S_MAX = 1.0
"""but CPU time that was not used is there for those that get stuck together."""
GAP_S = 1.0
"""From one to the next, at the least."""
GAP_S_MAX = 3.0
"""With this, and the time that ending takes, a client is gone 5 s after it may be proven stuck."""


class CpuBudget:
    """CPU time that is saved up, and spent on looks out of turn."""

    def __init__(self, now: float) -> None:
        """All of it is there."""
        self._saved_s = SAVED_S_MAX
        self._at = now

    def gap_s(self, cost_s: float, now: float) -> float:
        """To the next look at the least, when one costs that much."""
        self._save(now)
        if cost_s <= self._saved_s:
            return GAP_S
        return min(GAP_S_MAX, max(GAP_S, SHARE * cost_s))

    def spend(self, cost_s: float, now: float) -> None:
        """A look out of turn was made."""
        self._save(now)
        self._saved_s = max(0.0, self._saved_s - cost_s)

    def _save(self, now: float) -> None:
        self._saved_s = min(SAVED_S_MAX, self._saved_s + (now - self._at) / SHARE)
        self._at = now
