"""Proves that the BMC came back, that it really restarted, and that it stays well.

Silence is an outcome here, not an error. `host_marks` shows what happened to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from bmcmedic.errors import (
    BmcmedicError,
    BmcRefusal,
    NoAnswer,
    RemoteProtocolError,
    TransportError,
)
from bmcmedic.fleet.act import TimerReading, read_timer, was_patted
from bmcmedic.fleet.link import SESSION_TIMEOUT_S, BmcLink, BmcSession, Timekeeper
from bmcmedic.fleet.observe import ask, power_word
from bmcmedic.fleet.plan import IDLE_SESSION_S_MAX, ResetTimes
from bmcmedic.ipmi.commands.chassis import GetChassisStatusReq
from bmcmedic.ipmi.commands.device import (
    GetDeviceIdReq,
    GetSelfTestResultsReq,
    GetSelfTestResultsRsp,
    SelfTestResult,
)
from bmcmedic.ipmi.commands.session import GetChannelAuthenticationCapabilitiesReq
from bmcmedic.ipmi.commands.watchdog import GetWatchdogTimerRsp
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.model.heal import AnswerKind, BmcQuestion, Observation

POLL_TIMEOUT_S = 3.0
"""Time for one poll without a session, in seconds.

It includes retransmissions, so that a single lost datagram does not count as a gap.
"""

OLD_SESSION_ASKED_S_MAX = 45.0
"""The old session is asked at the latest so many seconds after the reset.

Later its silence proves nothing, because the BMC ends idle sessions by itself.
"""

_OLD_SESSION_TIMEOUT_S_MIN = 2.0
"""Shortest time for the answer of the old session, in seconds."""
_SLOWNESS_FACTOR = 3.0
"""How many times its slowest answer a BMC gets for the answer of the old session."""

Waiting = Callable[[float, str], None]
"""Called with the seconds that a wait still takes, and with its purpose."""


class OldSession(Enum):
    """How the session from before the reset answered after it."""

    ANSWERED = "answered"
    SILENT = "silent"
    TOO_OLD = "silent, but idle for too long for that to prove anything"


async def ask_old_session(
    session: BmcSession, time: Timekeeper, *, last_used_s: float, slowest_answer_s: float
) -> OldSession:
    """Ask a question in the session from before the reset.

    An answer proves that the BMC did not restart, whenever it comes. Silence counts as soon as a
    new session works, unless the BMC may have ended the old session because it was idle.
    """
    too_old = time.monotonic() - last_used_s >= IDLE_SESSION_S_MAX
    timeout_s = max(_OLD_SESSION_TIMEOUT_S_MIN, slowest_answer_s * _SLOWNESS_FACTOR)
    answer, _ = await ask(
        session, time, BmcQuestion.OLD_SESSION, GetDeviceIdReq(), timeout_s, retry_s=0.0
    )
    if answer.kind is not AnswerKind.UNANSWERED:
        return OldSession.ANSWERED
    return OldSession.TOO_OLD if too_old else OldSession.SILENT


@dataclass(frozen=True, slots=True)
class ReturnOutcome:
    """How the polling for the BMC ended."""

    session: BmcSession | None
    """An open session that the caller closes; None if the BMC did not come back in time."""
    polls: int
    missed: int
    """How many polls got no answer at all."""
    after_s: float
    """Seconds from the reset until the BMC answered, or until the polling gave up."""
    last_detail: str = ""
    power_seen_off: bool = False


async def wait_until_back(
    link: BmcLink,
    time: Timekeeper,
    times: ResetTimes,
    *,
    sent_at_s: float,
    waiting: Waiting,
    before: Observation | None = None,
) -> ReturnOutcome:
    """Poll without a session, then with one, until the BMC answers or the time is up.

    A Get Device ID that was refused or malformed `before` the reset may be so after it.
    """
    usual = before.kind_of(BmcQuestion.DEVICE_ID) if before is not None else None
    give_up_s = sent_at_s + times.return_s
    polls = missed = 0
    power_seen_off = False
    detail = ""
    while True:
        polls += 1
        started_s = time.monotonic()
        waiting(give_up_s - started_s, "until it must answer")
        session, detail, was_missed = await _poll(link, time, give_up_s, usual)
        missed += was_missed
        now_s = time.monotonic()
        if session is not None:
            power_seen_off |= await _reads_power_off(session, time)
            return ReturnOutcome(session, polls, missed, now_s - sent_at_s, detail, power_seen_off)
        if now_s >= give_up_s:
            return ReturnOutcome(None, polls, missed, now_s - sent_at_s, detail, power_seen_off)
        next_s = min(give_up_s, started_s + times.poll_s)
        await time.sleep(max(0.0, next_s - now_s))


async def _poll(
    link: BmcLink, time: Timekeeper, give_up_s: float, usual: AnswerKind | None
) -> tuple[BmcSession | None, str, bool]:
    """Poll once; return a session that works, what went wrong, and whether all was silent."""
    now_s = time.monotonic()
    deadline_s = max(min(now_s + POLL_TIMEOUT_S, give_up_s), now_s + _LAST_POLL_S)
    try:
        await link.ask_sessionless(GetChannelAuthenticationCapabilitiesReq(), deadline_s)
    except NoAnswer:
        is_silent = True  # some BMCs never answer this question
    except TransportError as error:
        return None, str(error), True
    except (BmcRefusal, RemoteProtocolError):
        is_silent = False  # any answer shows that the BMC is alive
    else:
        is_silent = False
    timeout_s = BLIND_POLL_TIMEOUT_S if is_silent else SESSION_TIMEOUT_S
    try:
        session = await link.open_session(PrivilegeLevel.USER, time.monotonic() + timeout_s)
    except TransportError as error:
        return None, str(error), is_silent
    except (BmcRefusal, RemoteProtocolError) as error:
        return None, str(error), False
    answer, device = await ask(session, time, BmcQuestion.DEVICE_ID, GetDeviceIdReq())
    if device is not None and device.available:
        return session, "", False
    if answer.kind is usual and usual in _USUAL_KINDS:
        return session, "", False
    await close_quietly(session)
    return None, answer.detail or "it reports that it is still initializing or updating", False


BLIND_POLL_TIMEOUT_S = 2.0
"""Time to set up a session in a poll whose question without a session got no answer, in seconds."""

_USUAL_KINDS = frozenset({AnswerKind.UNSUPPORTED, AnswerKind.REFUSED, AnswerKind.GARBLED})
"""Answers that are no worse after the reset than the same ones before it."""

_LAST_POLL_S = 0.5
"""Shortest time for a poll, also for one at the end of the return time, in seconds."""


async def _reads_power_off(session: BmcSession, time: Timekeeper) -> bool:
    _, status = await ask(session, time, BmcQuestion.POWER, GetChassisStatusReq())
    return status is not None and not status.power_on


async def close_quietly(session: BmcSession | None) -> None:
    """Close a session, whether or not the BMC still knows it."""
    if session is not None:
        with suppress(BmcmedicError):
            await session.close()


class Restart(Enum):
    """Whether the BMC restarted."""

    PROVEN = "proven"
    DISPROVEN = "disproven"
    NOT_PROVEN = "not proven"


@dataclass(frozen=True, slots=True)
class RestartFacts:
    """The evidence for or against a restart."""

    old_session: tuple[OldSession, ...]
    missed_polls: int
    timer_before: GetWatchdogTimerRsp | None
    """The timer right before the reset, with our settings where we had set them."""
    timer_after: GetWatchdogTimerRsp | None
    asked_warm: bool = False
    """Whether the reset was warm.

    It may keep sessions, so an old session that answers does not disprove the restart.
    """


def judge_restart(facts: RestartFacts) -> tuple[Restart, tuple[str, ...]]:
    """Judge the evidence; this function is pure.

    A session that survived the reset outweighs everything. Each other sign is enough by itself.
    """
    if OldSession.ANSWERED in facts.old_session and not facts.asked_warm:
        line = "the session from before the reset still answers: the BMC did not restart"
        return Restart.DISPROVEN, (line,)
    lines = []
    if OldSession.SILENT in facts.old_session:
        lines.append("the session from before the reset is gone, and a new one works")
    if facts.missed_polls:
        lines.append(f"it was silent for {facts.missed_polls} polls, then answered again")
    if _is_cleared(facts.timer_before, facts.timer_after):
        lines.append("its watchdog timer has lost its settings")
    if lines:
        return Restart.PROVEN, tuple(lines)
    line = "nothing shows that it restarted: no gap was seen, and no old session was forgotten"
    if facts.asked_warm:
        line += "; a warm reset may leave no trace, a cold one does"
    return Restart.NOT_PROVEN, (line,)


def _is_cleared(before: GetWatchdogTimerRsp | None, after: GetWatchdogTimerRsp | None) -> bool:
    if before is None or after is None or not before.initial_countdown_s:
        return False
    return not after.running and after.initial_countdown_s == 0


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Whether the self-test allows a good verdict."""

    passed: bool
    detail: str


async def check_self_test(
    session: BmcSession,
    time: Timekeeper,
    before: Observation | None,
    *,
    give_up_s: float,
    period_s: float,
) -> SelfTest:
    """Ask for the result of the self-test, and again while the BMC is still initializing.

    A BMC without a self-test (0xC1, 0x56) is not sick. A flaw in its data that was there before the
    reset, such as an empty SDR repository, is noted, but does not fail the test.
    """
    while True:
        answer, result = await ask(session, time, BmcQuestion.SELF_TEST, GetSelfTestResultsReq())
        if result is not None:
            return judge_self_test(result, before)
        if answer.kind is AnswerKind.UNSUPPORTED:
            return SelfTest(True, "the BMC has no self-test")
        usual = before.kind_of(BmcQuestion.SELF_TEST) if before is not None else None
        if answer.kind is usual and usual in _USUAL_KINDS:
            return SelfTest(True, f"{answer.detail}, as before the reset")
        if time.monotonic() >= give_up_s:
            return SelfTest(False, answer.detail)
        await time.sleep(period_s)


def judge_self_test(result: GetSelfTestResultsRsp, before: Observation | None) -> SelfTest:
    """Judge the result of the self-test; this function is pure."""
    if result.passed or not result.implemented:
        return SelfTest(True, result.text)
    known = (
        before is not None
        and (before.self_test, before.self_test_detail) == (result.result, result.detail)
        and result.result != SelfTestResult.FATAL_HARDWARE_ERROR
    )
    if known:
        return SelfTest(True, f"{result.text}, as before the reset")
    return SelfTest(False, result.text)


@dataclass(frozen=True, slots=True)
class Steady:
    """How the BMC behaved during the steady time."""

    held: bool
    detail: str
    patted: bool
    """Whether a pat of the watchdog timer was seen."""
    power_seen_off: bool


async def watch_steady(
    session: BmcSession,
    time: Timekeeper,
    times: ResetTimes,
    *,
    power_before: str | None,
    watch_timer: bool,
    waiting: Waiting,
    before: Observation | None = None,
) -> Steady:
    """Ask repeatedly during the steady time whether the BMC answers and the power is unchanged."""
    end_s = time.monotonic() + times.steady_s
    usual = before.kind_of(BmcQuestion.DEVICE_ID) if before is not None else None
    asked = 0
    patted = False
    earlier: TimerReading | None = None
    while True:
        waiting(end_s - time.monotonic(), "until it counts as steady")
        asked += 1
        answer, _ = await ask(session, time, BmcQuestion.DEVICE_ID, GetDeviceIdReq())
        is_usual = answer.kind is usual and usual in _USUAL_KINDS
        if answer.kind is not AnswerKind.ANSWERED and not is_usual:
            detail = f"at question {asked}: {answer.kind.value}: {answer.detail}"
            return Steady(False, detail, patted, power_seen_off=False)
        _, status = await ask(session, time, BmcQuestion.POWER, GetChassisStatusReq())
        if status is not None and power_before is not None and power_word(status) != power_before:
            detail = f"the host's power turned {power_word(status)}"
            return Steady(False, detail, patted, power_seen_off=not status.power_on)
        if watch_timer:
            reading = await read_timer(session, time)
            if reading is not None and earlier is not None:
                patted = patted or was_patted(earlier, reading)
            earlier = reading or earlier
        now_s = time.monotonic()
        if now_s >= end_s:
            detail = f"{asked} of {asked} questions answered in {times.steady_s:g} s"
            return Steady(True, detail, patted, power_seen_off=False)
        await time.sleep(min(times.poll_s, end_s - now_s))
