"""What flows through a remediation, from the host's report to the verdict."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from bmcmedic.model.probe import WatchdogFacts


@dataclass(frozen=True, slots=True)
class KipmiThread:
    """One `kipmiN` kernel thread and its CPU share, in percent of a core."""

    name: str
    cpu_percent: float


@dataclass(frozen=True, slots=True)
class HostReport:
    """What the host itself reports: the part of `bmcmedic triage --json` that healing needs."""

    captured_at: float
    """When triage ran, in epoch seconds of the host's clock."""
    symptoms: tuple[str, ...]
    hostname: str | None = None
    product_uuid: str | None = None
    bmc_guid: str | None = None
    boot_id: str | None = None
    kipmi: tuple[KipmiThread, ...] = ()
    stuck_clients: int = 0
    hung_since: float | None = None
    """Since when the BMC has not answered its host, in epoch seconds."""
    undecided: tuple[str, ...] = ()
    """Why triage could not judge. If it is not empty, no symptom does not prove the host well."""

    @property
    def kipmi_percent_max(self) -> float:
        """Return the highest CPU share of any kipmi thread, in percent of a core; 0 without one."""
        return max((thread.cpu_percent for thread in self.kipmi), default=0.0)


class Reach(Enum):
    """How far an attempt to open a session over LAN got."""

    SESSION = "session"
    CREDENTIALS_REFUSED = "credentials refused"
    NO_SESSION = "answers without a session, but opens none"
    PORT_CLOSED = "port closed"
    SILENT = "silent"
    NO_WAY = "no way to the address"


class BmcQuestion(StrEnum):
    """One question to a BMC; the value is its name in messages."""

    DEVICE_ID = "device id"
    POWER = "power"
    SELF_TEST = "self-test"
    SYSTEM_GUID = "system GUID"
    DEVICE_GUID = "device GUID"
    WATCHDOG_TIMER = "watchdog timer"
    SET_WATCHDOG_TIMER = "setting the watchdog timer"
    START_WATCHDOG_TIMER = "starting the watchdog timer"
    RESTART_CAUSE = "restart cause"
    EVENT_LOG = "event log"
    LAST_EVENT = "last event"
    KNOWN_EVENT = "known event"
    NEW_EVENT = "new event"
    OLD_SESSION = "old session"


class AnswerKind(Enum):
    """How the BMC answered one question."""

    ANSWERED = "answered"
    UNSUPPORTED = "not supported"
    REFUSED = "refused"
    UPDATING = "updating"
    UNANSWERED = "no answer"
    GARBLED = "answer garbled"


@dataclass(frozen=True, slots=True)
class ObservedAnswer:
    """One question to a BMC and its answer, or the lack of one."""

    question: BmcQuestion
    kind: AnswerKind
    detail: str
    latency_s: float | None = None
    code: int | None = None
    """The completion code of a refusal (section 5.2)."""
    raw: bytes = b""
    """The data of a garbled answer, without its completion code."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a BMC answered over LAN; asking changed nothing. An unknown field is None."""

    target: str
    reach: Reach
    reach_detail: str = ""
    answers: tuple[ObservedAnswer, ...] = ()
    available: bool | None = None
    """False while the BMC reports that it is updating itself (section 20.1)."""
    firmware: str | None = None
    system_guid: bytes | None = None
    """16 bytes in the order of the wire; None also where they are all 00 or all FF."""
    device_guid: bytes | None = None
    self_test: int | None = None
    """The first byte of Get Self Test Results (section 20.4), 0x55 when all is well."""
    self_test_detail: int | None = None
    power: str | None = None
    watchdog: WatchdogFacts | None = None

    def answers_of(self, *kinds: AnswerKind) -> tuple[ObservedAnswer, ...]:
        """Return the answers of these kinds."""
        return tuple(answer for answer in self.answers if answer.kind in kinds)

    def kind_of(self, question: BmcQuestion) -> AnswerKind | None:
        """Return how the BMC answered a question; None where it was not asked."""
        return next((a.kind for a in self.answers if a.question is question), None)


class DiagnosisKind(StrEnum):
    """What is wrong with a BMC, as far as LAN and host show it."""

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
    """An operator ordered the restart (`bmcmedic reset`), so no diagnosis is needed."""


@dataclass(frozen=True, slots=True)
class BmcDiagnosis:
    """The kind, the evidence for it, and what is ruled out."""

    kind: DiagnosisKind
    evidence: tuple[str, ...]
    rules_out: tuple[str, ...] = ()


class IdentityCheck(StrEnum):
    """Whether the host that reported symptoms and the BMC at the target belong together."""

    PROVEN = "proven"
    MISMATCH = "mismatch"
    NOT_PROVEN = "not-proven"
    NOT_ASKED = "not-asked"
    """No host report was given, so there is no host to compare with."""


class Remedy(StrEnum):
    """The action that a plan chooses."""

    NOTHING = "nothing"
    COLD_RESET = "cold-reset"
    WARM_RESET = "warm-reset"
    REPAIR = "repair"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class RemedyPlan:
    """The remedy, the reason, and the ordered steps that an operator reads before a yes."""

    remedy: Remedy
    reason: str
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a remediation and its outcome."""

    name: str
    outcome: str
    at: float
    """When the step ended, in epoch seconds."""
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the step's object under `steps` in the documented JSON."""
        return {"name": self.name, "outcome": self.outcome, "at": self.at, "detail": self.detail}


class VerdictName(StrEnum):
    """The verdicts of `heal` and `reset`, as they stand in the documented JSON."""

    HEALTHY = "healthy"
    HEALTHY_LAN_ONLY = "healthy-lan-only"
    HEALED = "healed"
    HEALED_LAN_ONLY = "healed-lan-only"
    NEEDS_REPAIR = "needs-repair"
    BACK = "back"
    BACK_HOST_CHANGED = "back-host-changed"
    NOT_BACK = "not-back"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Which run a verdict is from, who ordered it, and which BMC it reached."""

    run_id: str
    version: str
    began_at: float
    """In epoch seconds, as `ended_at`."""
    ended_at: float
    operator: str | None = None
    reference: str | None = None
    """The operator's ticket or other reference."""
    diagnosis: DiagnosisKind | None = None
    """What the BMC showed; None if it was not diagnosed."""
    rule: str | None = None
    """The guard-rail that refused."""
    firmware: str | None = None
    manufacturer_id: int | None = None
    """The IANA number from Get Device ID; with `product_id` it is the BMC's model."""
    product_id: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields by their documented keys."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class HealVerdict:
    """How a `heal` or `reset` ended, with its steps and its evidence."""

    target: str
    verdict: VerdictName
    reason: str
    steps: tuple[Step, ...]
    power_before: str | None = None
    power_after: str | None = None
    host_untouched: bool | None = None
    evidence: tuple[str, ...] = ()
    resets_sent: int = 0
    """How many reset requests left. More than one: the BMC answered the others with "busy"."""
    watchdog_note: str = ""
    """The line of the evidence about the host's watchdog timer; empty if it was not changed."""
    run: RunFacts = RunFacts("", "", 0.0, 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the line of `bmcmedic heal --json` and `bmcmedic reset --json`."""
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
            **self.run.to_json(),
        }
