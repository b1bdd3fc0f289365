"""What a report says, and when the next one leaves. Pure: state and time come in.

Only the newest state is ever sent. What is kept while the controller is away is bounded: the last
changes of the symptoms, and how many reports were never sent.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bmcmedic import __version__
from bmcmedic.agent.controller.orders import Acknowledgement
from bmcmedic.agent.state import HostState

REPORT_VERSION = 1
CHANGES_MAX = 64
GAP_S_MIN = 1.0
"""Between two reports, however fast symptoms change."""
BACK_OFF_FACTOR = 2.0
JITTER = 0.2
"""Of the wait: so that a controller that comes back is not asked by everybody at once."""


@dataclass(frozen=True, slots=True)
class About:
    """Which agent this is."""

    host_id: dict[str, str | None]
    started_at: float
    mode: str
    why_not: str | None
    """Why nothing is changed here, whatever the mode."""
    orders_allowed: tuple[str, ...]


class History:
    """What a controller that was away has missed: bounded, the newest kept."""

    def __init__(self) -> None:
        self._changes: deque[dict[str, Any]] = deque(maxlen=CHANGES_MAX)
        self.lost = 0
        """Changes that were forgotten."""
        self._symptoms: tuple[str, ...] | None = None

    def note(self, state: HostState) -> bool:
        """Take a new state; whether its symptoms differ from those before."""
        if state.symptoms == self._symptoms:
            return False
        is_first = self._symptoms is None
        self._symptoms = state.symptoms
        self.lost += len(self._changes) == CHANGES_MAX
        self._changes.append({"at": round(state.at, 3), "symptoms": list(state.symptoms)})
        return not is_first or bool(state.symptoms)

    @property
    def changes(self) -> list[dict[str, Any]]:
        """Oldest first."""
        return list(self._changes)

    def delivered(self, changes: Sequence[dict[str, Any]]) -> None:
        """These have arrived."""
        for each in changes:
            if self._changes and self._changes[0] is each:
                self._changes.popleft()
        self.lost = 0


def document(
    about: About,
    state: HostState,
    *,
    sequence: int,
    sent_at: float,
    missed: int,
    history: History,
    orders: Sequence[Acknowledgement],
) -> dict[str, Any]:
    """The report; docs/reference/agent.md explains each key."""
    driver, relief = state.driver, state.relief
    return {
        "version": REPORT_VERSION,
        "host_id": about.host_id,
        "sequence": sequence,
        "sent_at": round(sent_at, 3),
        "seen_at": round(state.at, 3),
        "agent": {
            "version": __version__,
            "started_at": round(about.started_at, 3),
            "mode": about.mode,
            "why_not": about.why_not,
            "orders_allowed": list(about.orders_allowed),
        },
        "symptoms": list(state.symptoms),
        "changes": history.changes,
        "changes_lost": history.lost,
        "reports_missed": missed,
        "odd": state.odd,
        "driver": driver.status,
        "driver_error": driver.error,
        "relief": {
            "mode": relief.mode,
            "why_not": relief.why_not,
            "stuck": relief.stuck,
            "throttled": relief.throttled,
            "actions": dict(relief.actions),
            "last": relief.last,
        },
        "triage": state.triage,
        "orders": [each.to_json() for each in orders],
    }


class Pace:
    """When the next report is due."""

    def __init__(self, now: float, rng: random.Random) -> None:
        self._rng = rng
        self._due_at = now
        self._last_at: float | None = None
        self._wait_s = 0.0
        self.failures = 0
        """In a row."""

    def due_in_s(self, now: float) -> float:
        """How long until the next report; 0: now."""
        return max(0.0, self._due_at - now)

    def news(self) -> None:
        """A symptom has changed: at once, unless the controller is away."""
        if self.failures == 0:
            self._due_at = 0.0 if self._last_at is None else self._last_at + GAP_S_MIN

    def succeeded(self, now: float, period_s: float) -> None:
        """It took the report."""
        self.failures = 0
        self._last_at = now
        self._due_at = now + max(GAP_S_MIN, period_s)

    def failed(
        self, now: float, period_s: float, back_off_s_max: float, asked_s: float | None
    ) -> None:
        """It did not; `asked_s` is how long it asked to be left alone."""
        most_s = max(period_s, back_off_s_max)
        self._wait_s = (
            max(GAP_S_MIN, period_s) if self.failures == 0 else self._wait_s * BACK_OFF_FACTOR
        )
        self._wait_s = min(self._wait_s, most_s)
        self.failures += 1
        self._last_at = now
        wait_s = max(self._wait_s, min(asked_s or 0.0, most_s))
        self._due_at = now + wait_s * (1 + JITTER * self._rng.random())
