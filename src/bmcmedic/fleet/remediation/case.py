"""What a remediation is given, and the words it ends in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from bmcmedic.fleet.journal import Journal
from bmcmedic.fleet.link import BmcLink, Timekeeper
from bmcmedic.fleet.plan import ResetTimes
from bmcmedic.model.heal import BmcDiagnosis, HostReport, RemedyPlan


class HostSource(Protocol):
    """Where the host's own report comes from, each time it is asked."""

    async def run(self) -> HostReport:
        """The host as it is now; raises TriageFailed."""


Confirm = Callable[[BmcDiagnosis, RemedyPlan], Awaitable[str | None]]
"""Asks for leave to act: None is yes, a text is why not."""


@dataclass(frozen=True, slots=True)
class RemediationCase:
    """One BMC, and everything that a remediation of it is given."""

    link: BmcLink
    time: Timekeeper
    journal: Journal
    confirm: Confirm
    times: ResetTimes = field(default_factory=ResetTimes)
    report: HostReport | None = None
    """What the host saw, from a file or a pipe."""
    host: HostSource | None = None
    """Asked before and after."""
    in_band_hung: bool = False
    """The operator's own word."""


class RemediationEnding(Enum):
    """How a remediation ends, before `heal` and `reset` put it into their own words."""

    HEALTHY = "healthy"
    DONE = "done"
    DONE_LAN_ONLY = "done, as far as LAN shows"
    HOST_CHANGED = "host changed"
    NOT_DONE = "not done"
    REFUSED = "refused"


HEAL_VERDICTS: dict[RemediationEnding, str] = {
    RemediationEnding.HEALTHY: "healthy",
    RemediationEnding.DONE: "healed",
    RemediationEnding.DONE_LAN_ONLY: "healed-lan-only",
    RemediationEnding.HOST_CHANGED: "needs-repair",
    RemediationEnding.NOT_DONE: "needs-repair",
    RemediationEnding.REFUSED: "refused",
}

RESET_VERDICTS: dict[RemediationEnding, str] = {
    RemediationEnding.HEALTHY: "back",
    RemediationEnding.DONE: "back",
    RemediationEnding.DONE_LAN_ONLY: "back",
    RemediationEnding.HOST_CHANGED: "back-host-changed",
    RemediationEnding.NOT_DONE: "not-back",
    RemediationEnding.REFUSED: "refused",
}


class Ended(Exception):
    """Nothing more is to be done; carries the ending and why."""

    def __init__(self, ending: RemediationEnding, reason: str) -> None:
        super().__init__(reason)
        self.ending = ending
        self.reason = reason


class FellSilent(Ended):
    """The BMC answered, then no more, before anything was sent: it may be restarting by itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(RemediationEnding.NOT_DONE, reason)
