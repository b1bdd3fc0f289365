"""The input of a remediation, its possible endings, and the verdict of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from bmcmedic.fleet.journal import Journal
from bmcmedic.fleet.link import BmcLink, Timekeeper
from bmcmedic.fleet.plan import ResetTimes
from bmcmedic.model.heal import BmcDiagnosis, HostReport, RemedyPlan, VerdictName


class HostSource(Protocol):
    """Where the host's own report comes from; each call asks the host anew."""

    async def run(self) -> HostReport:
        """Return the host's report as of now; raises TriageFailed."""


Confirm = Callable[[BmcDiagnosis, RemedyPlan], Awaitable[str | None]]
"""Asks the operator for permission to act: None is yes, a text is the reason of a no."""


@dataclass(frozen=True, slots=True)
class RemediationCase:
    """One BMC, and everything that its remediation needs."""

    link: BmcLink
    time: Timekeeper
    journal: Journal
    confirm: Confirm
    times: ResetTimes = field(default_factory=ResetTimes)
    report: HostReport | None = None
    """The host's report from a file or a pipe."""
    host: HostSource | None = None
    """The host itself, asked before the reset and after it."""
    in_band_hung: bool = False
    """Whether the operator says that the BMC hangs towards its host."""
    watchdog_unknown_ok: bool = False
    """Whether the operator accepts that nobody knows if the watchdog timer runs."""
    run_id: str = ""
    operator: str | None = None
    """Who ordered the run."""
    reference: str | None = None
    """The operator's ticket or other reference."""


class RemediationEnding(Enum):
    """How a remediation ends; `heal` and `reset` have different verdicts for it."""

    HEALTHY = "healthy"
    HEALTHY_LAN_ONLY = "healthy, as far as LAN shows"
    DONE = "done"
    DONE_LAN_ONLY = "done, as far as LAN shows"
    HOST_CHANGED = "host changed"
    NOT_DONE = "not done"
    REFUSED = "refused"


HEAL_VERDICTS: dict[RemediationEnding, VerdictName] = {
    RemediationEnding.HEALTHY: VerdictName.HEALTHY,
    RemediationEnding.HEALTHY_LAN_ONLY: VerdictName.HEALTHY_LAN_ONLY,
    RemediationEnding.DONE: VerdictName.HEALED,
    RemediationEnding.DONE_LAN_ONLY: VerdictName.HEALED_LAN_ONLY,
    RemediationEnding.HOST_CHANGED: VerdictName.NEEDS_REPAIR,
    RemediationEnding.NOT_DONE: VerdictName.NEEDS_REPAIR,
    RemediationEnding.REFUSED: VerdictName.REFUSED,
}

RESET_VERDICTS: dict[RemediationEnding, VerdictName] = {
    RemediationEnding.HEALTHY: VerdictName.BACK,
    RemediationEnding.HEALTHY_LAN_ONLY: VerdictName.BACK,
    RemediationEnding.DONE: VerdictName.BACK,
    RemediationEnding.DONE_LAN_ONLY: VerdictName.BACK,
    RemediationEnding.HOST_CHANGED: VerdictName.BACK_HOST_CHANGED,
    RemediationEnding.NOT_DONE: VerdictName.NOT_BACK,
    RemediationEnding.REFUSED: VerdictName.REFUSED,
}


class Ended(Exception):
    """Ends a remediation early, with its ending and the reason."""

    def __init__(self, ending: RemediationEnding, reason: str) -> None:
        super().__init__(reason)
        self.ending = ending
        self.reason = reason


class FellSilent(Ended):
    """The BMC stopped answering before the reset was sent: it may be restarting by itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(RemediationEnding.NOT_DONE, reason)
