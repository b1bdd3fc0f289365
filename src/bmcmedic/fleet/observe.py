"""Asking one BMC over LAN everything a diagnosis needs; nothing here changes any state.

It is the thorough look at one suspect. The sweep over many is the prober's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

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
from bmcmedic.fleet.link import (
    BLIND_SESSION_TIMEOUT_S,
    KNOCK_TIMEOUT_S,
    QUESTION_TIMEOUT_S,
    SESSION_TIMEOUT_S,
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
from bmcmedic.ipmi.commands.watchdog import GetWatchdogTimerReq, GetWatchdogTimerRsp
from bmcmedic.ipmi.constants import CompletionCode, PrivilegeLevel, RmcpPlusStatus
from bmcmedic.ipmi.guid import is_known_guid
from bmcmedic.model.heal import AnswerKind, Observation, ObservedAnswer, Reach
from bmcmedic.model.probe import WatchdogFacts

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
"""Refusals that are about what we brought along, not about the BMC's health."""


def reach_of(error: BmcmedicError) -> Reach:
    """How far the way goes when setting up a session ended with `error`."""
    if isinstance(error, AuthenticationFailed):
        return Reach.CREDENTIALS_REFUSED
    if isinstance(error, RmcpPlusStatusError):
        wrong_secret = error.status in _WRONG_SECRET_STATUSES
        return Reach.CREDENTIALS_REFUSED if wrong_secret else Reach.NO_SESSION
    if isinstance(error, CompletionCodeError):
        wrong_right = error.code in (CompletionCode.INSUFFICIENT_PRIVILEGE, 0x80, 0x81)
        return Reach.CREDENTIALS_REFUSED if wrong_right else Reach.NO_SESSION
    if isinstance(error, PortClosed):
        return Reach.PORT_CLOSED
    if isinstance(error, NameNotResolved | Unreachable):
        return Reach.NO_WAY
    if isinstance(error, NoAnswer):
        return Reach.SILENT
    return Reach.NO_SESSION


def answer_of(question: str, error: BmcmedicError) -> ObservedAnswer:
    """The one place where an error becomes an observation."""
    if isinstance(error, CompletionCodeError):
        if error.code in _UNSUPPORTED_CODES:
            return ObservedAnswer(question, AnswerKind.UNSUPPORTED, str(error))
        if error.code == CompletionCode.FIRMWARE_UPDATING:
            return ObservedAnswer(question, AnswerKind.UPDATING, str(error))
        return ObservedAnswer(question, AnswerKind.SAID_NO, str(error))
    if isinstance(error, RemoteProtocolError):
        return ObservedAnswer(question, AnswerKind.GARBLED, str(error))
    return ObservedAnswer(question, AnswerKind.UNANSWERED, str(error))


async def ask(
    session: BmcSession,
    time: Timekeeper,
    question: str,
    request: Command[R],
    timeout_s: float = QUESTION_TIMEOUT_S,
) -> tuple[ObservedAnswer, R | None]:
    """Ask one question; whatever becomes of it is an answer, not an exception."""
    started = time.monotonic()
    try:
        response = await session.exchange(request, started + timeout_s)
    except (TransportError, BmcRefusal, RemoteProtocolError) as error:
        return answer_of(question, error), None
    latency_s = time.monotonic() - started
    return ObservedAnswer(question, AnswerKind.ANSWERED, "", latency_s), response


async def observe(link: BmcLink, time: Timekeeper) -> Observation:
    """Look at one BMC as a plain user: without a session, then with one, question by question."""
    silence = await knock(link, time)
    timeout_s = SESSION_TIMEOUT_S if silence is None else BLIND_SESSION_TIMEOUT_S
    try:
        session = await link.open_session(PrivilegeLevel.USER, time.monotonic() + timeout_s)
    except (TransportError, BmcRefusal, RemoteProtocolError) as error:
        return _without_session(link.target, silence, error)
    try:
        return await question_all(session, time, link.target)
    finally:
        with suppress(BmcmedicError):
            await session.close()


async def knock(link: BmcLink, time: Timekeeper) -> BmcmedicError | None:
    """Ask what needs no session; None when it was answered, by a refusal too."""
    request = GetChannelAuthenticationCapabilitiesReq()
    try:
        await link.ask_sessionless(request, time.monotonic() + KNOCK_TIMEOUT_S)
    except TransportError as error:
        return error
    except (BmcRefusal, RemoteProtocolError):
        return None
    return None


def _without_session(
    target: str, silence: BmcmedicError | None, error: BmcmedicError
) -> Observation:
    reach = reach_of(error)
    if reach is Reach.SILENT and silence is None:
        reach = Reach.NO_SESSION  # it answers what needs no session: a sick BMC, not a dead one
    said = "answered" if silence is None else str(silence)
    detail = f"tried a question without a session: {said}; tried a session: {error}"
    return Observation(target, reach, detail)


@dataclass
class _Notes:
    answers: list[ObservedAnswer] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


_QUESTIONS: tuple[tuple[str, Callable[[], Command[Any]]], ...] = (
    ("device id", GetDeviceIdReq),
    ("power", GetChassisStatusReq),
    ("self-test", GetSelfTestResultsReq),
    ("system GUID", GetSystemGuidReq),
    ("device GUID", GetDeviceGuidReq),
    ("watchdog timer", GetWatchdogTimerReq),
)


async def question_all(session: BmcSession, time: Timekeeper, target: str) -> Observation:
    """Ask every question of a diagnosis over one session."""
    notes = _Notes()
    for question, request in _QUESTIONS:
        answer, response = await ask(session, time, question, request())
        notes.answers.append(answer)
        if response is not None:
            notes.facts |= _facts(question, response)
    observation = Observation(target, Reach.SESSION, answers=tuple(notes.answers))
    return replace(observation, **notes.facts)


def _facts(question: str, response: Any) -> dict[str, Any]:  # noqa: ANN401 - one of six types
    match question:
        case "device id":
            return {"available": response.available, "firmware": response.firmware}
        case "power":
            return {"power": power_word(response)}
        case "self-test":
            return {"self_test": response.result, "self_test_detail": response.detail}
        case "system GUID":
            return {"system_guid": response.guid if is_known_guid(response.guid) else None}
        case "device GUID":
            return {"device_guid": response.guid if is_known_guid(response.guid) else None}
        case _:
            return {"watchdog": watchdog_facts(response)}


def power_word(status: GetChassisStatusRsp) -> str:
    """`on` or `off`."""
    return "on" if status.power_on else "off"


def watchdog_facts(timer: GetWatchdogTimerRsp) -> WatchdogFacts:
    """The documented part of a timer."""
    return WatchdogFacts(timer.running, timer.present_countdown_s, timer.action.text)
