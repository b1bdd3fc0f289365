"""Asks one BMC over LAN everything that a diagnosis needs; nothing here changes any state.

This is the thorough examination of one suspect. `sweep` asks many BMCs a single question.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from bmcmedic.errors import (
    AuthenticationFailed,
    BmcmedicError,
    BmcRefusal,
    CompletionCodeError,
    NameNotResolved,
    NoAnswer,
    PortClosed,
    RemoteProtocolError,
    RmcpPlusStatusError,
    TransportError,
    Unreachable,
)
from bmcmedic.fleet.answers import (
    RETRY_PAUSE_FACTOR,
    RETRY_PAUSE_FIRST_S,
    RETRY_S_MAX,
    retry_limit_s,
    salvaged_facts,
    watchdog_facts,
)
from bmcmedic.fleet.link import (
    BLIND_SESSION_TIMEOUT_S,
    QUESTION_TIMEOUT_S,
    SESSION_TIMEOUT_S,
    SESSIONLESS_TIMEOUT_S,
    BmcLink,
    BmcSession,
    Timekeeper,
)
from bmcmedic.ipmi.commands.chassis import GetChassisStatusReq, GetChassisStatusRsp
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.device import (
    GetDeviceGuidReq,
    GetDeviceIdReq,
    GetSelfTestResultsReq,
)
from bmcmedic.ipmi.commands.messaging import GetSystemGuidReq
from bmcmedic.ipmi.commands.session import GetChannelAuthenticationCapabilitiesReq
from bmcmedic.ipmi.commands.watchdog import GetWatchdogTimerReq
from bmcmedic.ipmi.constants import CompletionCode, PrivilegeLevel, RmcpPlusStatus
from bmcmedic.ipmi.guid import is_known_guid
from bmcmedic.model.heal import AnswerKind, BmcQuestion, Observation, ObservedAnswer, Reach

R = TypeVar("R")

_UNSUPPORTED_CODES = frozenset({CompletionCode.INVALID_COMMAND, CompletionCode.INVALID_FOR_LUN})
_WRONG_SECRET_STATUSES = frozenset(
    {
        RmcpPlusStatus.INVALID_ROLE,
        RmcpPlusStatus.UNAUTHORIZED_ROLE,
        RmcpPlusStatus.INVALID_NAME_LENGTH,
        RmcpPlusStatus.UNAUTHORIZED_NAME,
        RmcpPlusStatus.INVALID_INTEGRITY_CHECK_VALUE,
        RmcpPlusStatus.NO_CIPHER_SUITE_MATCH,
        RmcpPlusStatus.INVALID_AUTHENTICATION_ALGORITHM,
        RmcpPlusStatus.INVALID_INTEGRITY_ALGORITHM,
        RmcpPlusStatus.INVALID_CONFIDENTIALITY_ALGORITHM,
    }
)
"""These refusals are about our credentials and cipher suite, not about the BMC's health."""


def reach_of(error: BmcmedicError) -> Reach:
    """Return how far the set-up of a session got when it ended with `error`."""
    if isinstance(error, AuthenticationFailed):
        return Reach.CREDENTIALS_REFUSED
    if isinstance(error, RmcpPlusStatusError):
        wrong_secret = error.status in _WRONG_SECRET_STATUSES
        return Reach.CREDENTIALS_REFUSED if wrong_secret else Reach.NO_SESSION
    if isinstance(error, CompletionCodeError):
        wrong_privilege = error.code in (CompletionCode.INSUFFICIENT_PRIVILEGE, 0x80, 0x81)
        return Reach.CREDENTIALS_REFUSED if wrong_privilege else Reach.NO_SESSION
    if isinstance(error, PortClosed):
        return Reach.PORT_CLOSED
    if isinstance(error, NameNotResolved | Unreachable):
        return Reach.NO_WAY
    if isinstance(error, NoAnswer):
        return Reach.SILENT
    return Reach.NO_SESSION


def answer_of(question: BmcQuestion, error: BmcmedicError) -> ObservedAnswer:
    """Return the observation that an error stands for; no other place converts errors."""
    if isinstance(error, CompletionCodeError):
        kind = AnswerKind.REFUSED
        if error.code in _UNSUPPORTED_CODES:
            kind = AnswerKind.UNSUPPORTED
        elif error.code == CompletionCode.FIRMWARE_UPDATING:
            kind = AnswerKind.UPDATING
        return ObservedAnswer(question, kind, str(error), code=error.code)
    if isinstance(error, RemoteProtocolError):
        return ObservedAnswer(question, AnswerKind.GARBLED, str(error), raw=error.raw)
    return ObservedAnswer(question, AnswerKind.UNANSWERED, str(error))


async def ask(
    session: BmcSession,
    time: Timekeeper,
    question: BmcQuestion,
    request: Command[R],
    timeout_s: float = QUESTION_TIMEOUT_S,
    *,
    retry_s: float = RETRY_S_MAX,
) -> tuple[ObservedAnswer, R | None]:
    """Ask one question; a refusal and silence are answers here, not exceptions.

    A question that the BMC refuses for the moment is asked again, for `retry_s` seconds at most.
    """
    started = time.monotonic()
    pause_s = RETRY_PAUSE_FIRST_S
    while True:
        left_s = started + timeout_s - time.monotonic()
        answer, response = await _ask_once(session, time, question, request, left_s)
        limit_s = min(retry_s, timeout_s, retry_limit_s(answer.code))
        if time.monotonic() + pause_s > started + limit_s:
            return answer, response
        await time.sleep(pause_s)
        pause_s *= RETRY_PAUSE_FACTOR


async def _ask_once(
    session: BmcSession,
    time: Timekeeper,
    question: BmcQuestion,
    request: Command[R],
    timeout_s: float,
) -> tuple[ObservedAnswer, R | None]:
    started = time.monotonic()
    try:
        response = await session.exchange(request, started + timeout_s)
    except (TransportError, BmcRefusal, RemoteProtocolError) as error:
        return answer_of(question, error), None
    latency_s = time.monotonic() - started
    return ObservedAnswer(question, AnswerKind.ANSWERED, "", latency_s), response


async def observe(link: BmcLink, time: Timekeeper) -> Observation:
    """Ask one BMC as a plain user: first without a session, then every question in a session."""
    silence = await ask_without_session(link, time)
    timeout_s = SESSION_TIMEOUT_S if silence is None else BLIND_SESSION_TIMEOUT_S
    try:
        session = await link.open_session(PrivilegeLevel.USER, time.monotonic() + timeout_s)
    except (TransportError, BmcRefusal, RemoteProtocolError) as error:
        return _no_session(link.target, silence, error)
    try:
        return await question_all(session, time, link.target)
    finally:
        with suppress(BmcmedicError):
            await session.close()


async def ask_without_session(link: BmcLink, time: Timekeeper) -> BmcmedicError | None:
    """Ask one question that needs no session; None when the BMC answers, even by a refusal."""
    request = GetChannelAuthenticationCapabilitiesReq()
    try:
        await link.ask_sessionless(request, time.monotonic() + SESSIONLESS_TIMEOUT_S)
    except TransportError as error:
        return error
    except (BmcRefusal, RemoteProtocolError):
        return None
    return None


def _no_session(target: str, silence: BmcmedicError | None, error: BmcmedicError) -> Observation:
    reach = reach_of(error)
    if reach is Reach.SILENT and silence is None:
        reach = Reach.NO_SESSION  # it answers what needs no session: a sick BMC, not a dead one
    sessionless = "answered" if silence is None else str(silence)
    detail = f"tried a question without a session: {sessionless}; tried a session: {error}"
    return Observation(target, reach, detail)


@dataclass
class _Examination:
    """Questions over one session, and the answers so far."""

    session: BmcSession
    time: Timekeeper
    answers: list[ObservedAnswer] = field(default_factory=list)

    async def ask(self, question: BmcQuestion, request: Command[R]) -> R | None:
        """Ask one question and note the answer; None where there is no usable one."""
        answer, response = await ask(self.session, self.time, question, request)
        self.answers.append(answer)
        return response


async def question_all(session: BmcSession, time: Timekeeper, target: str) -> Observation:
    """Ask every question of a diagnosis over one session."""
    examination = _Examination(session, time)
    device = await examination.ask(BmcQuestion.DEVICE_ID, GetDeviceIdReq())
    status = await examination.ask(BmcQuestion.POWER, GetChassisStatusReq())
    self_test = await examination.ask(BmcQuestion.SELF_TEST, GetSelfTestResultsReq())
    system = await examination.ask(BmcQuestion.SYSTEM_GUID, GetSystemGuidReq())
    board = await examination.ask(BmcQuestion.DEVICE_GUID, GetDeviceGuidReq())
    timer = await examination.ask(BmcQuestion.WATCHDOG_TIMER, GetWatchdogTimerReq())
    watchdog = watchdog_facts(timer) if timer else salvaged_facts(examination.answers[-1].raw)
    return Observation(
        target,
        Reach.SESSION,
        answers=tuple(examination.answers),
        available=device.available if device else None,
        firmware=device.firmware if device else None,
        system_guid=system.guid if system and is_known_guid(system.guid) else None,
        device_guid=board.guid if board and is_known_guid(board.guid) else None,
        self_test=self_test.result if self_test else None,
        self_test_detail=self_test.detail if self_test else None,
        power=power_word(status) if status else None,
        watchdog=watchdog,
    )


def power_word(status: GetChassisStatusRsp) -> str:
    """Return the host's power state: `on` or `off`."""
    return "on" if status.power_on else "off"
