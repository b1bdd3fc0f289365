from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from bmcmedic.errors import (
    AuthenticationFailed,
    BmcmedicError,
    NameNotResolved,
    NoAnswer,
    PortClosed,
    RmcpPlusStatusError,
    Unreachable,
)
from bmcmedic.fleet.diagnose import diagnose
from bmcmedic.fleet.host_evidence.host_verdict import HostCondition
from bmcmedic.fleet.observe import answer_of, reach_of
from bmcmedic.fleet.plan import ResetTimes, plan
from bmcmedic.ipmi.commands.chassis import GetChassisStatusReq
from bmcmedic.model.heal import (
    AnswerKind,
    BmcQuestion,
    DiagnosisKind,
    HostReport,
    KipmiThread,
    Observation,
    ObservedAnswer,
    Reach,
    Remedy,
)

UUID_TEXT = "00112233-4455-6677-8899-aabbccddeeff"
WELL = Observation(
    "bmc1",
    Reach.SESSION,
    answers=(
        ObservedAnswer(BmcQuestion.DEVICE_ID, AnswerKind.ANSWERED, "", 0.01),
        ObservedAnswer(BmcQuestion.POWER, AnswerKind.ANSWERED, "", 0.01),
        ObservedAnswer(BmcQuestion.WATCHDOG_TIMER, AnswerKind.UNSUPPORTED, "completion code 0xc1"),
    ),
    available=True,
    system_guid=UUID(UUID_TEXT).bytes_le,
    self_test=0x55,
    power="on",
)
CALM = HostReport(captured_at=0.0, symptoms=(), product_uuid=UUID_TEXT)


def with_answer(kind: AnswerKind) -> Observation:
    return replace(
        WELL, answers=(*WELL.answers, ObservedAnswer(BmcQuestion.SELF_TEST, kind, "why"))
    )


def test_a_bmc_that_answers_everything_is_healthy() -> None:
    assert diagnose(WELL, None).kind is DiagnosisKind.HEALTHY
    assert diagnose(WELL, CALM).kind is DiagnosisKind.HEALTHY


@pytest.mark.parametrize(
    "kind",
    [AnswerKind.UNSUPPORTED, AnswerKind.REFUSED, AnswerKind.UPDATING, AnswerKind.GARBLED],
)
def test_a_refusal_is_no_sickness(kind: AnswerKind) -> None:
    assert diagnose(with_answer(kind), None).kind is DiagnosisKind.HEALTHY


def test_an_unanswered_question_is_a_sickness() -> None:
    diagnosis = diagnose(with_answer(AnswerKind.UNANSWERED), None)
    assert diagnosis.kind is DiagnosisKind.LAN_SICK
    assert "self-test" in diagnosis.evidence[0]


def test_only_a_fatal_self_test_is_a_sickness() -> None:
    flawed = replace(WELL, self_test=0x57, self_test_detail=0x08)
    fatal = replace(WELL, self_test=0x58, self_test_detail=0)
    assert diagnose(flawed, None).kind is DiagnosisKind.HEALTHY
    assert diagnose(fatal, None).kind is DiagnosisKind.LAN_SICK


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"symptoms": ("bmc-not-answering",)}, DiagnosisKind.IN_BAND_HUNG),
        ({"symptoms": ("anything",), "hung_since": 5.0}, DiagnosisKind.IN_BAND_HUNG),
        ({"symptoms": ("anything",), "stuck_clients": 3}, DiagnosisKind.IN_BAND_HUNG),
        ({"symptoms": ("kipmi-busy", "bmc-slow")}, DiagnosisKind.IN_BAND_SLOW),
        (
            {"symptoms": ("kipmi-busy",), "kipmi": (KipmiThread("kipmi0", 99.0),)},
            DiagnosisKind.IN_BAND_HUNG,
        ),
        ({"symptoms": ("stuck-clients",), "kipmi": ()}, DiagnosisKind.IN_BAND_HUNG),
        (
            {"symptoms": ("stuck-clients",), "kipmi": (KipmiThread("kipmi0", 12.0),)},
            DiagnosisKind.IN_BAND_HUNG,
        ),
        # The kernel waits for nothing: the clients are left over, and a reset ends none of them.
        (
            {"symptoms": ("stuck-clients",), "kipmi": (KipmiThread("kipmi0", 0.0),)},
            DiagnosisKind.UNCLEAR,
        ),
        (
            {
                "symptoms": ("stuck-clients",),
                "kipmi": (KipmiThread("kipmi0", 0.0),),
                "hung_since": 5.0,
            },
            DiagnosisKind.IN_BAND_HUNG,
        ),
        # Without an interface there is nothing that the clients could wait for.
        (
            {"symptoms": ("stuck-clients", "no-interface"), "stuck_clients": 3, "kipmi": ()},
            DiagnosisKind.UNCLEAR,
        ),
        ({"symptoms": ("disk-full",)}, DiagnosisKind.UNCLEAR),
        ({"symptoms": (), "kipmi": (KipmiThread("kipmi0", 5.0),)}, DiagnosisKind.HEALTHY),
    ],
)
def test_what_the_host_saw_decides(changes: dict[str, object], kind: DiagnosisKind) -> None:
    report = replace(CALM, **changes)  # type: ignore[arg-type]
    assert diagnose(WELL, report).kind is kind


def test_a_host_that_could_not_judge_makes_no_bmc_healthy() -> None:
    blind = replace(CALM, undecided=("it could not see whether 3 IPMI clients hang",))
    diagnosis = diagnose(WELL, blind)
    assert diagnosis.kind is DiagnosisKind.UNCLEAR
    assert "could not judge: it could not see whether 3 IPMI clients hang" in diagnosis.evidence[0]
    assert plan(diagnosis, ResetTimes()).remedy is Remedy.REFUSE
    assert diagnose(with_answer(AnswerKind.UNANSWERED), blind).kind is DiagnosisKind.LAN_SICK
    assert diagnose(WELL, blind, in_band_hung=True).kind is DiagnosisKind.IN_BAND_HUNG
    seen = replace(blind, symptoms=("bmc-not-answering",))
    assert diagnose(WELL, seen).kind is DiagnosisKind.IN_BAND_HUNG
    assert not HostCondition.of(blind).is_well


def test_the_operators_word_is_enough() -> None:
    assert diagnose(WELL, None, in_band_hung=True).kind is DiagnosisKind.IN_BAND_HUNG
    assert diagnose(WELL, CALM, in_band_hung=True).kind is DiagnosisKind.IN_BAND_HUNG


@pytest.mark.parametrize(
    ("error", "reach", "kind", "remedy"),
    [
        (NoAnswer(""), Reach.SILENT, DiagnosisKind.LAN_SILENT, Remedy.REPAIR),
        (PortClosed(""), Reach.PORT_CLOSED, DiagnosisKind.LAN_SILENT, Remedy.REPAIR),
        (Unreachable(""), Reach.NO_WAY, DiagnosisKind.NO_WAY, Remedy.REFUSE),
        (NameNotResolved(""), Reach.NO_WAY, DiagnosisKind.NO_WAY, Remedy.REFUSE),
        (
            AuthenticationFailed(""),
            Reach.CREDENTIALS_REFUSED,
            DiagnosisKind.CREDENTIALS_REFUSED,
            Remedy.REFUSE,
        ),
        (
            RmcpPlusStatusError("RAKP 2", 0x0D, ""),
            Reach.CREDENTIALS_REFUSED,
            DiagnosisKind.CREDENTIALS_REFUSED,
            Remedy.REFUSE,
        ),
        (
            RmcpPlusStatusError("Open Session", 0x01, ""),
            Reach.NO_SESSION,
            DiagnosisKind.NO_SESSION,
            Remedy.REPAIR,
        ),
    ],
)
def test_an_unreachable_bmc_gets_no_reset(
    error: BmcmedicError, reach: Reach, kind: DiagnosisKind, remedy: Remedy
) -> None:
    assert reach_of(error) is reach
    diagnosis = diagnose(Observation("bmc1", reach), None, in_band_hung=True)
    assert diagnosis.kind is kind
    chosen = plan(diagnosis, ResetTimes(), remedy=Remedy.COLD_RESET)
    assert chosen.remedy is remedy
    assert chosen.steps == ()


def test_the_advice_fits_what_was_seen() -> None:
    def advice(reach: Reach) -> str:
        return plan(diagnose(Observation("bmc1", reach), None), ResetTimes(), reach=reach).reason

    closed = advice(Reach.PORT_CLOSED)
    assert closed.startswith("nothing listens at this port: check the port")
    assert "IPMI over LAN is enabled" in closed
    assert "reseat" not in closed
    silent = advice(Reach.SILENT)
    assert "check the address" in silent
    assert "power reseat" in silent
    assert "session slots" in advice(Reach.NO_SESSION)
    assert "check user, password" in advice(Reach.CREDENTIALS_REFUSED)


def test_errors_become_answers_in_one_place() -> None:
    error = GetChassisStatusReq.completion_code_error
    assert answer_of(BmcQuestion.POWER, error(0xC1)).kind is AnswerKind.UNSUPPORTED
    assert answer_of(BmcQuestion.POWER, error(0xD1)).kind is AnswerKind.UPDATING
    assert answer_of(BmcQuestion.POWER, error(0xC0)).kind is AnswerKind.REFUSED
    assert answer_of(BmcQuestion.POWER, NoAnswer("")).kind is AnswerKind.UNANSWERED


def test_a_plan_names_the_times_and_the_one_reset() -> None:
    report = replace(CALM, symptoms=("bmc-not-answering",))
    chosen = plan(diagnose(WELL, report), ResetTimes(quiet_s=45, return_s=300, steady_s=30))
    assert chosen.remedy is Remedy.COLD_RESET
    text = "\n".join(chosen.steps)
    assert "one cold reset" in text
    assert "45 s" in text
    assert "300 s" in text


def test_polls_are_five_seconds_apart_unless_the_quiet_time_is_short() -> None:
    assert ResetTimes().poll_s == 5.0
    assert ResetTimes(quiet_s=90).poll_s == 5.0
    assert ResetTimes(quiet_s=9).poll_s == 1.0
    assert ResetTimes(quiet_s=0).poll_s == 0.5
