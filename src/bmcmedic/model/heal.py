"""What flows through a remediation, from the host's report to the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from bmcmedic.model.probe import WatchdogFacts


@dataclass(frozen=True, slots=True)
class KipmiThread:
    """One `kipmiN` kernel thread and the share of a core it burns."""

    name: str
    cpu_percent: float


@dataclass(frozen=True, slots=True)
class HostReport:
    """What the host itself saw: the part of `bmcmedic triage --json` that healing needs."""

    captured_at: float
    """Epoch seconds, by the host's clock."""
    symptoms: tuple[str, ...]
    hostname: str | None = None
    product_uuid: str | None = None
    bmc_guid: str | None = None
    boot_id: str | None = None
    kipmi: tuple[KipmiThread, ...] = ()
    stuck_clients: int = 0
    hung_since: float | None = None
    """Epoch seconds."""
    undecided: tuple[str, ...] = ()
    """Why it could not judge; then no symptom does not mean that there is none."""

    @property
    def kipmi_percent_max(self) -> float:
        """The busiest kipmi thread's share of a core; 0 where there is none."""
        return max((thread.cpu_percent for thread in self.kipmi), default=0.0)


class Reach(Enum):
    """How far the way to a BMC's session over LAN goes."""

    SESSION = "session"
    CREDENTIALS_REFUSED = "credentials refused"
    NO_SESSION = "answers without a session, but opens none"
    PORT_CLOSED = "port closed"
    SILENT = "silent"
    NO_WAY = "no way to the address"


class AnswerKind(Enum):
    """What became of one question."""

    ANSWERED = "answered"
    UNSUPPORTED = "not supported"
    SAID_NO = "said no"
    UPDATING = "updating"
    UNANSWERED = "no answer"
    GARBLED = "answer garbled"


@dataclass(frozen=True, slots=True)
class ObservedAnswer:
    """One question to a BMC and what became of it."""

    question: str
    kind: AnswerKind
    detail: str
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What a BMC told over LAN, nothing changed by asking; unknown is None."""

    target: str
    reach: Reach
    reach_detail: str = ""
    answers: tuple[ObservedAnswer, ...] = ()
    available: bool | None = None
    """False while the BMC says that it is updating itself (section 20.1)."""
    firmware: str | None = None
    system_guid: bytes | None = None
    """16 bytes as they travelled; None too when they are all 00 or all FF."""
    device_guid: bytes | None = None
    self_test: int | None = None
    """The first byte of Get Self Test Results (section 20.4), 0x55 when all is well."""
    self_test_detail: int | None = None
    power: str | None = None
    watchdog: WatchdogFacts | None = None

    def answers_of(self, *kinds: AnswerKind) -> tuple[ObservedAnswer, ...]:
        """The answers of these kinds."""
        return tuple(answer for answer in self.answers if answer.kind in kinds)


class DiagnosisKind(StrEnum):
    """What ails a BMC, as far as it can be told from outside."""

    HEALTHY = "healthy"
    IN_BAND_HUNG = "in-band-hung"
    IN_BAND_SLOW = "in-band-slow"
    LAN_SICK = "lan-sick"
    LAN_SILENT = "lan-silent"
    NO_SESSION = "no-session"
    CREDENTIALS_REFUSED = "credentials-refused"
    NO_WAY = "no-way"
    UNCLEAR = "unclear"
    ORDERED = "ordered"
    """Nobody asks why: an operator ordered the restart (`bmcmedic reset`)."""


@dataclass(frozen=True, slots=True)
class BmcDiagnosis:
    """A kind, what speaks for it, and what is ruled out."""

    kind: DiagnosisKind
    evidence: tuple[str, ...]
    rules_out: tuple[str, ...] = ()


class IdentityCheck(StrEnum):
    """Whether the host that complained and the BMC at the target belong together."""

    PROVEN = "proven"
    MISMATCH = "mismatch"
    NOT_PROVEN = "not-proven"
    NOT_ASKED = "not-asked"
    """No host report was given, so nothing claims to be about another machine."""


class Remedy(StrEnum):
    """What is to be done."""

    NOTHING = "nothing"
    COLD_RESET = "cold-reset"
    WARM_RESET = "warm-reset"
    REPAIR = "repair"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class RemedyPlan:
    """The remedy, why, and the steps in order as an operator reads them before saying yes."""

    remedy: Remedy
    reason: str
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was taken, and what came of it."""

    name: str
    outcome: str
    at: float
    """Epoch seconds when it ended."""
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """One object under `steps` in the documented JSON."""
        return {"name": self.name, "outcome": self.outcome, "at": self.at, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class HealVerdict:
    """How a `heal` or `reset` ended, with everything that leads there."""

    target: str
    verdict: str
    reason: str
    steps: tuple[Step, ...]
    power_before: str | None = None
    power_after: str | None = None
    host_untouched: bool | None = None
    evidence: tuple[str, ...] = ()
    resets_sent: int = 0
    """How many cold or warm resets left this program: 0 or 1."""

    def to_json(self) -> dict[str, Any]:
        """One line of `bmcmedic heal --json` and `bmcmedic reset --json`."""
        return {
            "target": self.target,
            "verdict": self.verdict,
            "reason": self.reason,
            "steps": [step.to_json() for step in self.steps],
            "power_before": self.power_before,
            "power_after": self.power_after,
            "host_untouched": self.host_untouched,
            "evidence": list(self.evidence),
            "resets_sent": self.resets_sent,
        }
