"""From what was seen over LAN and on the host to what ails the BMC: pure, no I/O, no clock."""

from __future__ import annotations

from bmcmedic.fleet.host_evidence.symptoms import (
    BUSY_SYMPTOMS,
    HUNG_SYMPTOMS,
    KIPMI_AT_REST_PERCENT,
    SLOW_SYMPTOMS,
    are_left_over,
    unrest,
)
from bmcmedic.host import symptoms
from bmcmedic.ipmi.commands.device import GetSelfTestResultsRsp, SelfTestResult
from bmcmedic.ipmi.guid import guid_candidates, guid_matches
from bmcmedic.model.heal import (
    AnswerKind,
    BmcDiagnosis,
    DiagnosisKind,
    HostReport,
    IdentityCheck,
    Observation,
    Reach,
)

SLOW_ANSWER_S = 2.0
"""An answer over LAN that takes longer is worth a line of evidence; it is no illness by itself."""


def identity(observation: Observation, report: HostReport | None) -> IdentityCheck:
    """Whether host and BMC belong together, by every pair of ids that can be compared.

    One pair that agrees, in any order of bytes in use, proves it: two machines never share one.
    """
    if report is None:
        return IdentityCheck.NOT_ASKED
    guids = [g for g in (observation.system_guid, observation.device_guid) if g is not None]
    names = [n for n in (report.product_uuid, report.bmc_guid) if n is not None]
    readable = [name for name in names if _is_id(name)]
    if not guids or not readable:
        return IdentityCheck.NOT_PROVEN
    if any(guid_matches(guid, name) for guid in guids for name in readable):
        return IdentityCheck.PROVEN
    return IdentityCheck.MISMATCH


def _is_id(name: str) -> bool:
    """Whether a host's id is a GUID that identifies anything."""
    try:
        raw = bytes.fromhex(name.replace("-", "").strip())
    except ValueError:
        return False
    return bool(guid_candidates(raw))


def diagnose(
    observation: Observation, report: HostReport | None, *, in_band_hung: bool = False
) -> BmcDiagnosis:
    """What ails the BMC.

    `in_band_hung` is the operator's own word. Over LAN alone a BMC that is hung towards its host
    looks well, so without a report and without that word one that answers everything is healthy.
    """
    if observation.reach is not Reach.SESSION:
        return _out_of_reach(observation)
    sick = _sick_over_lan(observation)
    host = _sick_by_the_host(report, in_band_hung=in_band_hung)
    well = _well_over_lan(observation)
    if host is not None:
        kind, evidence = host
        return BmcDiagnosis(kind, evidence + sick, rules_out=well)
    if sick:
        return BmcDiagnosis(DiagnosisKind.LAN_SICK, sick, rules_out=well)
    if report is not None and report.undecided:
        why = "; ".join(report.undecided)
        line = f"whether it hangs towards its host is not known: the triage could not judge: {why}"
        return BmcDiagnosis(DiagnosisKind.UNCLEAR, (line,), rules_out=well)
    return BmcDiagnosis(DiagnosisKind.HEALTHY, well, rules_out=_healthy_rules_out(report))


_OUT_OF_REACH: dict[Reach, tuple[DiagnosisKind, str]] = {
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
        "the network has no way to the BMC, which says nothing about the BMC itself",
    ),
}


def _out_of_reach(observation: Observation) -> BmcDiagnosis:
    kind, line = _OUT_OF_REACH[observation.reach]
    evidence = (line, observation.reach_detail) if observation.reach_detail else (line,)
    return BmcDiagnosis(kind, evidence)


def _sick_over_lan(observation: Observation) -> tuple[str, ...]:
    lines = [
        f"left the question for its {answer.question} unanswered: {answer.detail}"
        for answer in observation.answers_of(AnswerKind.UNANSWERED)
    ]
    if observation.self_test == SelfTestResult.FATAL_HARDWARE_ERROR:
        lines.append(f"its self-test says: {self_test_text(observation)}")
    return tuple(lines)


def _sick_by_the_host(
    report: HostReport | None, *, in_band_hung: bool
) -> tuple[DiagnosisKind, tuple[str, ...]] | None:
    word = ("the operator says that the in-band side hangs",) if in_band_hung else ()
    if report is None:
        return (DiagnosisKind.IN_BAND_HUNG, word) if in_band_hung else None
    if not report.symptoms and not in_band_hung:
        return None
    evidence = word + unrest(report)
    if in_band_hung and not report.symptoms:
        return DiagnosisKind.IN_BAND_HUNG, (*word, "though the host reports no symptom")
    if not in_band_hung and symptoms.NO_INTERFACE in report.symptoms:
        line = (
            "clients are stuck on the host, which has no interface to its BMC: whether the BMC "
            "hangs is not known there, and `bmcmedic relieve` on the host ends them"
        )
        return DiagnosisKind.UNCLEAR, (line,)
    if not in_band_hung and are_left_over(report):
        line = (
            "clients are stuck on the host, but nothing waits for the BMC any more: they are left "
            "over from an earlier hang, and `bmcmedic relieve` on the host ends them"
        )
        return DiagnosisKind.UNCLEAR, (line,)
    if in_band_hung or _says(report, HUNG_SYMPTOMS) or _is_stuck(report):
        return DiagnosisKind.IN_BAND_HUNG, evidence
    if _says(report, SLOW_SYMPTOMS):
        return DiagnosisKind.IN_BAND_SLOW, evidence
    if _says(report, BUSY_SYMPTOMS) or report.kipmi_percent_max >= KIPMI_AT_REST_PERCENT:
        return DiagnosisKind.IN_BAND_HUNG, evidence
    named = ", ".join(report.symptoms)
    line = f"the host reports {named}: nothing there points to the BMC's in-band side"
    return DiagnosisKind.UNCLEAR, (line,)


def _says(report: HostReport, names: frozenset[str]) -> bool:
    return not names.isdisjoint(report.symptoms)


def _is_stuck(report: HostReport) -> bool:
    """Whether the report's facts show a hang, whatever its symptoms are called."""
    return report.stuck_clients > 0 or report.hung_since is not None


def _well_over_lan(observation: Observation) -> tuple[str, ...]:
    asked = len(observation.answers)
    silent = len(observation.answers_of(AnswerKind.UNANSWERED))
    lines = [f"over LAN it answers {asked - silent} of {asked} questions"]
    unsupported = observation.answers_of(AnswerKind.UNSUPPORTED)
    if unsupported:
        named = ", ".join(answer.question for answer in unsupported)
        lines.append(f"it does not support: {named}; that is no illness")
    garbled = observation.answers_of(AnswerKind.GARBLED)
    lines += [f"it answers oddly: {answer.question}: {answer.detail}" for answer in garbled]
    said_no = observation.answers_of(AnswerKind.SAID_NO, AnswerKind.UPDATING)
    lines += [f"it said no: {answer.detail}" for answer in said_no]
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
    """The self-test's result in words; `unsupported` where the BMC has none."""
    if observation.self_test is None:
        unsupported = observation.answers_of(AnswerKind.UNSUPPORTED)
        return "unsupported" if any(a.question == "self-test" for a in unsupported) else "unknown"
    return GetSelfTestResultsRsp(observation.self_test, observation.self_test_detail or 0).text


def describe(diagnosis: BmcDiagnosis) -> str:
    """What speaks for the diagnosis, in one line."""
    return "; ".join(diagnosis.evidence)
