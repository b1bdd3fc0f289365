"""Diagnoses a BMC from what LAN and host show: pure, no I/O, no clock."""

from __future__ import annotations

from bmcmedic.fleet.host_evidence.triage_document import (
    BUSY_SYMPTOMS,
    HUNG_SYMPTOMS,
    KIPMI_AT_REST_PERCENT,
    SLOW_SYMPTOMS,
    are_left_over,
    complaints,
)
from bmcmedic.host import symptoms
from bmcmedic.ipmi.commands.device import GetSelfTestResultsRsp, SelfTestResult
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.model.heal import (
    AnswerKind,
    BmcDiagnosis,
    BmcQuestion,
    DiagnosisKind,
    HostReport,
    Observation,
    ObservedAnswer,
    Reach,
)

MANDATORY_QUESTIONS = frozenset({BmcQuestion.DEVICE_ID, BmcQuestion.POWER})
"""The questions whose commands every BMC must answer (appendix G)."""

_SICK_CODES = frozenset(
    {
        CompletionCode.NODE_BUSY,
        CompletionCode.TIMEOUT,
        CompletionCode.OUT_OF_SPACE,
        CompletionCode.RESPONSE_UNAVAILABLE,
        CompletionCode.FIRMWARE_UPDATING,
        CompletionCode.INITIALIZING,
        CompletionCode.DESTINATION_UNAVAILABLE,
        CompletionCode.UNSPECIFIED,
    }
)
"""A BMC that keeps answering a mandatory command with one of these codes is not well.

OpenBMC answers everything with 0xFF while its IPMI daemon is down.
"""

SLOW_ANSWER_S = 2.0
"""A slower answer over LAN becomes a line of evidence, in seconds; alone it is no sickness."""


def diagnose(
    observation: Observation, report: HostReport | None, *, in_band_hung: bool = False
) -> BmcDiagnosis:
    """Return what is wrong with the BMC.

    `in_band_hung` is the operator's own statement. Over LAN alone, a BMC that hangs towards its
    host looks well. So without a report and that statement, a BMC that answers everything is
    healthy as far as LAN shows.
    """
    if observation.reach is not Reach.SESSION:
        return _unreachable(observation)
    if _is_refused_for_its_user(observation):
        line = "the BMC lets this user ask nothing: the privilege does not suffice"
        return BmcDiagnosis(DiagnosisKind.CREDENTIALS_REFUSED, (line,))
    sick = _sick_over_lan(observation)
    host = _sick_towards_host(report, in_band_hung=in_band_hung)
    well = _well_over_lan(observation)
    if host is not None:
        kind, evidence = host
        return BmcDiagnosis(kind, evidence + sick, rules_out=well)
    if sick:
        return BmcDiagnosis(DiagnosisKind.LAN_SICK, sick, rules_out=well)
    if report is not None and report.undecided:
        why = "; ".join(report.undecided)
        line = f"it is not known whether it hangs towards its host: triage could not judge: {why}"
        return BmcDiagnosis(DiagnosisKind.UNCLEAR, (line,), rules_out=well)
    return BmcDiagnosis(DiagnosisKind.HEALTHY, well, rules_out=_healthy_rules_out(report))


_UNREACHABLE: dict[Reach, tuple[DiagnosisKind, str]] = {
    Reach.CREDENTIALS_REFUSED: (
        DiagnosisKind.CREDENTIALS_REFUSED,
        "the BMC answers, but refuses user, password, K_g, cipher suite or privilege",
    ),
    Reach.NO_SESSION: (
        DiagnosisKind.NO_SESSION,
        "the BMC answers, but sets up no session",
    ),
    Reach.PORT_CLOSED: (
        DiagnosisKind.LAN_SILENT,
        "nothing listens at the BMC's address and port, though the address is alive",
    ),
    Reach.SILENT: (
        DiagnosisKind.LAN_SILENT,
        "the BMC does not answer over LAN",
    ),
    Reach.NO_WAY: (
        DiagnosisKind.NO_WAY,
        "the network has no route to the BMC, which says nothing about the BMC itself",
    ),
}


def _unreachable(observation: Observation) -> BmcDiagnosis:
    kind, line = _UNREACHABLE[observation.reach]
    evidence = (line, observation.reach_detail) if observation.reach_detail else (line,)
    return BmcDiagnosis(kind, evidence)


def _sick_over_lan(observation: Observation) -> tuple[str, ...]:
    lines = [
        f"it did not answer the question for its {answer.question}: {answer.detail}"
        for answer in observation.answers_of(AnswerKind.UNANSWERED)
    ]
    lines += [
        f"it could not answer the mandatory question for its {answer.question}: {answer.detail}"
        for answer in _mandatory(observation)
        if answer.code in _SICK_CODES
    ]
    if not lines and all(code is not None for code in _mandatory_codes(observation)):
        details = "; ".join(answer.detail for answer in _mandatory(observation))
        lines.append(f"it refused every mandatory question: {details}")
    if observation.self_test == SelfTestResult.FATAL_HARDWARE_ERROR:
        lines.append(f"its self-test reports: {self_test_text(observation)}")
    return tuple(lines)


def _mandatory(observation: Observation) -> tuple[ObservedAnswer, ...]:
    return tuple(a for a in observation.answers if a.question in MANDATORY_QUESTIONS)


def _mandatory_codes(observation: Observation) -> tuple[int | None, ...]:
    """Return the completion codes of the mandatory questions; one None where none was asked."""
    return tuple(answer.code for answer in _mandatory(observation)) or (None,)


def initializing(observation: Observation) -> str | None:
    """Return how the BMC reports that it is still initializing (0xD2); None if it does not."""
    refusals = (a for a in _mandatory(observation) if a.code == CompletionCode.INITIALIZING)
    return next((answer.detail for answer in refusals), None)


def _is_refused_for_its_user(observation: Observation) -> bool:
    """Whether our own user's privilege does not even suffice for the mandatory questions."""
    return set(_mandatory_codes(observation)) == {CompletionCode.INSUFFICIENT_PRIVILEGE}


def _sick_towards_host(
    report: HostReport | None, *, in_band_hung: bool
) -> tuple[DiagnosisKind, tuple[str, ...]] | None:
    statement = ("the operator says that the in-band side hangs",) if in_band_hung else ()
    if report is None:
        return (DiagnosisKind.IN_BAND_HUNG, statement) if in_band_hung else None
    if not report.symptoms and not in_band_hung:
        return None
    evidence = statement + complaints(report)
    if in_band_hung and not report.symptoms:
        return DiagnosisKind.IN_BAND_HUNG, (*statement, "although the host reports no symptom")
    if not in_band_hung and symptoms.NO_INTERFACE in report.symptoms:
        line = (
            "clients are stuck on the host, which has no interface to its BMC, so the host does "
            "not know whether the BMC hangs; `bmcmedic relieve` on the host ends them"
        )
        return DiagnosisKind.UNCLEAR, (line,)
    if not in_band_hung and are_left_over(report):
        line = (
            "clients are stuck on the host, but nothing waits for the BMC any more: they are left "
            "over from an earlier hang, and `bmcmedic relieve` on the host ends them"
        )
        return DiagnosisKind.UNCLEAR, (line,)
    if in_band_hung or _reports(report, HUNG_SYMPTOMS) or _is_stuck(report):
        return DiagnosisKind.IN_BAND_HUNG, evidence
    if _reports(report, SLOW_SYMPTOMS):
        return DiagnosisKind.IN_BAND_SLOW, evidence
    if _reports(report, BUSY_SYMPTOMS) or report.kipmi_percent_max >= KIPMI_AT_REST_PERCENT:
        return DiagnosisKind.IN_BAND_HUNG, evidence
    named = ", ".join(report.symptoms)
    line = f"the host reports {named}: nothing there points to the BMC's in-band side"
    return DiagnosisKind.UNCLEAR, (line,)


def _reports(report: HostReport, names: frozenset[str]) -> bool:
    return not names.isdisjoint(report.symptoms)


def _is_stuck(report: HostReport) -> bool:
    """Whether the report's facts show a hang, whatever the names of its symptoms are."""
    return report.stuck_clients > 0 or report.hung_since is not None


def _well_over_lan(observation: Observation) -> tuple[str, ...]:
    asked = len(observation.answers)
    failed = len(observation.answers_of(AnswerKind.UNANSWERED))
    failed += sum(answer.code in _SICK_CODES for answer in observation.answers)
    lines = [f"over LAN it answers {asked - failed} of {asked} questions"]
    unsupported = observation.answers_of(AnswerKind.UNSUPPORTED)
    if unsupported:
        named = ", ".join(answer.question for answer in unsupported)
        lines.append(f"it does not support: {named}; that is no sickness")
    garbled = observation.answers_of(AnswerKind.GARBLED)
    lines += [
        f"its answer cannot be decoded: {answer.question}: {answer.detail}" for answer in garbled
    ]
    refused = observation.answers_of(AnswerKind.REFUSED, AnswerKind.UPDATING)
    lines += [f"it refused: {answer.detail}" for answer in refused]
    if observation.self_test is not None:
        lines.append(f"its self-test: {self_test_text(observation)}")
    if observation.power is not None:
        lines.append(f"the host's power is {observation.power}")
    slowest = max((a.latency_s for a in observation.answers if a.latency_s), default=0.0)
    if slowest >= SLOW_ANSWER_S:
        lines.append(f"its slowest answer took {slowest:.1f} s")
    return tuple(lines)


def _healthy_rules_out(report: HostReport | None) -> tuple[str, ...]:
    if report is not None:
        return ("a hang towards the host: the host reports no symptom",)
    return ()


def self_test_text(observation: Observation) -> str:
    """Return the result of the self-test in words; `unsupported` where the BMC has none."""
    if observation.self_test is None:
        kind = observation.kind_of(BmcQuestion.SELF_TEST)
        return "unsupported" if kind is AnswerKind.UNSUPPORTED else "unknown"
    return GetSelfTestResultsRsp(observation.self_test, observation.self_test_detail or 0).text


def describe(diagnosis: BmcDiagnosis) -> str:
    """Return the evidence for the diagnosis in one line."""
    return "; ".join(diagnosis.evidence)
