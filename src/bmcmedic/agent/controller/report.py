"""The contents of a report. The module is pure: state and time are arguments.

Only the newest state is ever sent. While the controller is away, the agent remembers a bounded
number of symptom changes, and how many reports were never sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bmcmedic import __version__
from bmcmedic.agent.controller.orders import Acknowledgement
from bmcmedic.agent.state import HostState

REPORT_VERSION = 1
CHANGES_MAX = 64
"""Symptom changes that are remembered; the oldest is forgotten first."""


@dataclass(frozen=True, slots=True)
class About:
    """The facts about the agent itself that every report has."""

    host_id: dict[str, str | None]
    started_at: float
    mode: str
    why_not: str | None
    """Why nothing may be changed on this host, whatever the mode; None if it may."""
    orders_allowed: tuple[str, ...]


class History:
    """The newest symptom changes that the controller has not received, up to a limit."""

    def __init__(self) -> None:
        self._changes: deque[dict[str, Any]] = deque(maxlen=CHANGES_MAX)
        self.lost = 0
        """Number of changes that were forgotten."""
        self._symptoms: tuple[str, ...] | None = None

    def note(self, state: HostState) -> bool:
        """Take a new state, and return whether its symptoms differ from the last ones."""
        if state.symptoms == self._symptoms:
            return False
        is_first = self._symptoms is None
        self._symptoms = state.symptoms
        self.lost += len(self._changes) == CHANGES_MAX
        self._changes.append({"at": round(state.at, 3), "symptoms": list(state.symptoms)})
        return not is_first or bool(state.symptoms)

    @property
    def changes(self) -> list[dict[str, Any]]:
        """The remembered changes, oldest first."""
        return list(self._changes)

    def delivered(self, changes: Sequence[dict[str, Any]]) -> None:
        """Forget changes that a report has delivered."""
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
    """Return the report. Its keys are explained in docs/reference/agent.md."""
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
        "odd": state.anomaly,
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
