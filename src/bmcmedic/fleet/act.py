"""Everything that changes state: the watchdog timer held and put back, and the one reset.

Before the reset. While the BMC hangs towards its host, the host cannot pat its watchdog timer, and
a timer that keeps running reboots a healthy host. So a running timer is stopped over LAN. Set
Watchdog Timer without "don't stop" (27.6) stops it and keeps use, action and pretimeout. The same
message sets a countdown longer than the whole remediation. If a host that hangs only in part pats
the timer meanwhile, it starts this long countdown and not the short one. Stopping is safer than
lengthening alone: a BMC that ignores the reset must not reboot the host hours later. A host that
really hangs is without its watchdog for minutes, but a healthy one stays up. The result is read
back, never assumed.

After the reset. The settings are put back once the BMC has proven to be healed. A BMC loses them in
its restart, and the program that patted the timer may be gone: FreeIPMI's bmc-watchdog exits when
it finds the timer stopped, while Linux's ipmi_watchdog sets it again after 0x80. A timer that is
started for a host without pats would reboot that host. So:

- A timer that the host has set again by itself is not changed.
- Otherwise the settings go back with the timer stopped, and the host's next pat starts it.
- Only where the host is proven healthy in-band, the timer is started on trial, with the action
  "none". If a pat is seen in the steady time, the real action is set and the timer keeps running.
  If none is seen, the timer is stopped again, and the verdict reports it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from bmcmedic.errors import BmcRefusal, CompletionCodeError, RemoteProtocolError, TransportError
from bmcmedic.fleet.answers import RETRY_S_MAX
from bmcmedic.fleet.link import QUESTION_TIMEOUT_S, BmcSession, Timekeeper
from bmcmedic.fleet.observe import ask
from bmcmedic.fleet.plan import ResetTimes
from bmcmedic.ipmi.commands.device import ColdResetReq, WarmResetReq
from bmcmedic.ipmi.commands.watchdog import (
    COUNTDOWN_S_MAX,
    GetWatchdogTimerReq,
    GetWatchdogTimerRsp,
    PretimeoutInterrupt,
    ResetWatchdogTimerReq,
    TimeoutAction,
    TimerUse,
    salvage_timer,
)
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.model.heal import AnswerKind, BmcQuestion, ObservedAnswer, Remedy

RESET_TIMEOUT_S = 5.0
"""Time for the answer to the one reset, in seconds; a lost answer is an outcome, not an error."""

RESET_ATTEMPTS_MAX = 4
"""How often a reset is sent at most; again only after 0xC0, since a busy BMC has not done it."""
_RESET_PAUSE_FIRST_S = 1.0
"""Time after the first answer "busy" until the reset is sent again, in seconds."""

_AMBIGUOUS_CODES = frozenset(
    {
        CompletionCode.TIMEOUT,
        CompletionCode.RESPONSE_UNAVAILABLE,
        CompletionCode.UNSPECIFIED,
    }
)
"""A reset that is answered with one of these codes may have happened or not."""

HELD_MARGIN_S = 120.0
"""Added to the longest time that the remediation can take, for the gaps between its steps."""

TIMER_KNOWN_S_MAX = 10.0
"""Longest time for which a timer that cannot be read is asked for again, in seconds."""

_TIMER_ANSWER_S = 4.0
"""Time for one answer about the timer, in seconds; a slow BMC gets more."""
_SLOWNESS_FACTOR = 3.0
"""How many times its slowest answer a BMC gets for one answer about the timer."""
_TIMER_PAUSE_FIRST_S = 0.2
"""Time before the timer is asked for again, in seconds: it may have only seconds left."""
_TIMER_PAUSE_S_MAX = 1.0
"""Longest time between two questions for the timer, in seconds."""
_ODD_ANSWERS_MAX = 3
"""After so many malformed answers the BMC counts as one that always answers so."""

_TOLERANCE_S = 1.0
"""A countdown that is higher than expected by more than this was patted, in seconds."""


@dataclass(frozen=True, slots=True)
class WatchdogHold:
    """The state of the timer before the reset."""

    timer: GetWatchdogTimerRsp | None
    """The timer as it was found; None where it could not be read or the BMC has none."""
    changed: bool
    armed: bool
    """Whether it may still act on the host before the remediation ends."""
    detail: str
    unknown: bool = False
    """Whether nothing shows if the timer runs."""
    settings_known: bool = True
    """Whether the settings were read, so that they can be put back."""
    ran_out: bool = False
    """Whether the timer may have expired before the BMC stopped it."""


@dataclass(frozen=True, slots=True)
class TimerAnswer:
    """One answer to Get Watchdog Timer, well formed or not."""

    answer: ObservedAnswer
    timer: GetWatchdogTimerRsp | None = None
    """The timer as far as it was read; None where the answer shows nothing."""
    settings_known: bool = True

    @property
    def is_conclusive(self) -> bool:
        """Whether asking again would show nothing new."""
        return self.answer.kind in (AnswerKind.ANSWERED, AnswerKind.UNSUPPORTED)

    @property
    def shows_running(self) -> bool:
        """Whether the answer shows that the timer runs."""
        return self.timer is not None and self.timer.running


async def ask_timer(
    session: BmcSession,
    time: Timekeeper,
    timeout_s: float = QUESTION_TIMEOUT_S,
    *,
    retry_s: float = RETRY_S_MAX,
) -> TimerAnswer:
    """Read the timer once, and as far as possible from a malformed answer too."""
    answer, timer = await ask(
        session,
        time,
        BmcQuestion.WATCHDOG_TIMER,
        GetWatchdogTimerReq(),
        timeout_s,
        retry_s=retry_s,
    )
    salvaged = salvage_timer(answer.raw) if timer is None else None
    if salvaged is None:
        return TimerAnswer(answer, timer)
    return TimerAnswer(answer, salvaged.timer, salvaged.settings_known)


async def ask_timer_until_known(
    session: BmcSession, time: Timekeeper, slowest_answer_s: float
) -> TimerAnswer:
    """Ask until the answer is well formed, or the time is up; return the most telling answer.

    One failure proves nothing: many BMCs answer 0xC0, 0xFF, an empty message or nothing for once.
    """
    give_up_s = time.monotonic() + TIMER_KNOWN_S_MAX
    timeout_s = min(QUESTION_TIMEOUT_S, max(_TIMER_ANSWER_S, slowest_answer_s * _SLOWNESS_FACTOR))
    pause_s = _TIMER_PAUSE_FIRST_S
    best: TimerAnswer | None = None
    oddities = 0
    while True:
        read = await ask_timer(session, time, timeout_s, retry_s=0.0)
        if read.is_conclusive:
            return read
        if best is None or _telling(read) >= _telling(best):
            best = read
        oddities += read.timer is not None
        if oddities >= _ODD_ANSWERS_MAX or time.monotonic() + pause_s >= give_up_s:
            return best
        await time.sleep(pause_s)
        pause_s = min(_TIMER_PAUSE_S_MAX, pause_s * 2)


def _telling(read: TimerAnswer) -> tuple[bool, bool, bool]:
    """Return the order of answers by how much they show: above all, that the timer runs."""
    return read.shows_running, read.timer is not None, read.settings_known


def timer_text(timer: GetWatchdogTimerRsp) -> str:
    """Return the timer's state in an operator's words."""
    if not timer.running:
        return "the timer does not run"
    return (
        f"the timer runs: {timer.present_countdown_s:g} s of {timer.initial_countdown_s:g} s"
        f" left until {timer.action.text}"
    )


def is_harmless(timer: GetWatchdogTimerRsp) -> bool:
    """Whether the timer, as it is now, cannot act on the host."""
    return not timer.running or has_no_action(timer)


def has_no_action(timer: GetWatchdogTimerRsp) -> bool:
    """Whether the timer does nothing when it expires; a pretimeout interrupt counts as action."""
    return (
        timer.action is TimeoutAction.NONE
        and timer.pretimeout_interrupt is PretimeoutInterrupt.NONE
    )


def settings_of_interest(timer: GetWatchdogTimerRsp) -> tuple[object, ...]:
    """Return the settings that must be as found for the timer to count as put back."""
    return (timer.action, timer.pretimeout_interrupt, timer.initial_countdown_s)


def held_countdown_s(timer: GetWatchdogTimerRsp, times: ResetTimes) -> float:
    """Return the countdown, in seconds, that a late pat may start without harm."""
    return min(COUNTDOWN_S_MAX, max(timer.initial_countdown_s, times.total_s + HELD_MARGIN_S))


async def hold_watchdog(
    session: BmcSession,
    time: Timekeeper,
    times: ResetTimes,
    about_to: Callable[[WatchdogHold], None],
    *,
    seen_running: bool = False,
    slowest_answer_s: float = 0.0,
) -> WatchdogHold:
    """Stop a running timer over LAN, and read back that it stopped.

    `about_to` is called right before the timer is changed. So an interrupt in between leaves a
    record of the hold. `seen_running` is what an earlier answer showed; it counts where the timer
    cannot be read any more.
    """
    read = await ask_timer_until_known(session, time, slowest_answer_s)
    timer = read.timer
    if timer is None or not (timer.running or read.settings_known):
        return _unreadable(read, seen_running=seen_running)
    if read.settings_known and is_harmless(timer):
        return WatchdogHold(timer, False, False, timer_text(timer))
    held_s = held_countdown_s(timer, times)
    text = timer_text(timer)
    if not read.settings_known:
        text = f"the timer runs, but its settings could not be read: {read.answer.detail}"

    def held(detail: str, *, changed: bool = True, armed: bool = False) -> WatchdogHold:
        return WatchdogHold(
            timer, changed, armed, f"{text}; {detail}", settings_known=read.settings_known
        )

    about_to(held("stopping it was requested, the result is not known", armed=True))
    asked_at_s = time.monotonic()
    set_answer = await _stop(session, time, timer, held_s)
    now = await ask_timer_until_known(session, time, slowest_answer_s)
    if now.timer is None:
        return held("stopping it was requested, but it could not be read back", armed=True)
    if not now.timer.running or (now.settings_known and is_harmless(now.timer)):
        took_s = time.monotonic() - asked_at_s
        if set_answer.kind is not AnswerKind.ANSWERED and took_s >= timer.present_countdown_s:
            return replace(held("it stopped or ran out meanwhile"), ran_out=True)
        return held("stopped over LAN")
    if now.settings_known and now.timer.present_countdown_s >= times.total_s:
        return held(f"patted meanwhile, so it runs on, now for {held_s:g} s")
    why = set_answer.detail or "it keeps running nevertheless"
    return held(why, changed=set_answer.kind is not AnswerKind.REFUSED, armed=True)


def _unreadable(read: TimerAnswer, *, seen_running: bool) -> WatchdogHold:
    """Return the state of a timer that cannot be read."""
    if seen_running:
        detail = f"the timer ran when it was last read, and now: {read.answer.detail}"
        return WatchdogHold(None, False, True, detail)
    if read.answer.kind is AnswerKind.UNSUPPORTED:
        return WatchdogHold(None, False, False, "the BMC has no watchdog timer")
    detail = f"the timer could not be read: {read.answer.detail}"
    return WatchdogHold(None, False, False, detail, unknown=True)


async def _stop(
    session: BmcSession, time: Timekeeper, timer: GetWatchdogTimerRsp, held_s: float
) -> ObservedAnswer:
    """Stop the timer with its own settings; with known ones where the BMC refuses those."""
    request = timer.set_request(initial_countdown_s=held_s)
    answer, _ = await ask(session, time, BmcQuestion.SET_WATCHDOG_TIMER, request)
    if answer.kind is not AnswerKind.REFUSED or not timer.has_reserved_values:
        return answer
    known = replace(
        request,
        use=TimerUse.SMS_OS,
        action=TimeoutAction.NONE,
        pretimeout_interrupt=PretimeoutInterrupt.NONE,
        pretimeout_interval_s=0,
    )
    answer, _ = await ask(session, time, BmcQuestion.SET_WATCHDOG_TIMER, known)
    return answer


class ResetOutcome(Enum):
    """What is known about the reset right after it was sent."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    """No readable answer came, so the reset may have happened: observe, never repeat."""
    DENIED = "denied"
    """The BMC refused, so the reset did not happen."""


@dataclass(frozen=True, slots=True)
class ResetSent:
    """The one reset: when it was sent, and how the BMC answered."""

    outcome: ResetOutcome
    detail: str
    sent_at_s: float
    """When it was sent last, in monotonic seconds."""
    code: int | None = None
    """The completion code of a refusal."""


async def send_reset(
    session: BmcSession, time: Timekeeper, remedy: Remedy, about_to: Callable[[], None]
) -> ResetSent:
    """Send the one reset; whatever the answer is, a remediation never calls this twice.

    A BMC that answers "busy" (0xC0) has not restarted, so after that answer alone the reset is sent
    again. `about_to` is called right before each packet.
    """
    pause_s = _RESET_PAUSE_FIRST_S
    for _ in range(RESET_ATTEMPTS_MAX - 1):
        about_to()
        sent = await _send_reset_once(session, time, remedy)
        if sent.code != CompletionCode.NODE_BUSY:
            return sent
        await time.sleep(pause_s)
        pause_s *= 2
    about_to()
    return await _send_reset_once(session, time, remedy)


async def _send_reset_once(session: BmcSession, time: Timekeeper, remedy: Remedy) -> ResetSent:
    request = ColdResetReq() if remedy is Remedy.COLD_RESET else WarmResetReq()
    sent_at_s = time.monotonic()
    try:
        await session.exchange(request, sent_at_s + RESET_TIMEOUT_S)
    except CompletionCodeError as error:
        if error.code not in _AMBIGUOUS_CODES:
            return ResetSent(ResetOutcome.DENIED, str(error), sent_at_s, error.code)
        detail = f"{error}; it may have happened, so it is observed"
        return ResetSent(ResetOutcome.UNKNOWN, detail, sent_at_s)
    except BmcRefusal as error:
        return ResetSent(ResetOutcome.DENIED, str(error), sent_at_s)
    except (TransportError, RemoteProtocolError) as error:
        detail = f"no clear answer ({error}); it may have happened, so it is observed"
        return ResetSent(ResetOutcome.UNKNOWN, detail, sent_at_s)
    return ResetSent(ResetOutcome.ACCEPTED, "the BMC accepted it", sent_at_s)


class RestoreState(Enum):
    """How far the timer is restored."""

    BY_HOST = "armed by the host"
    TRIAL = "trial"
    """It runs with the action "none", until a pat is seen."""
    STOPPED = "stopped"
    """The settings are back, and the host's next pat starts it."""
    RUNNING = "running"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class WatchdogRestore:
    """The state of the timer after the reset."""

    state: RestoreState
    detail: str


_SETTINGS_UNKNOWN = WatchdogRestore(
    RestoreState.FAILED, "its settings could not be read before, so they cannot be put back"
)


def _is_set_by_host(now: GetWatchdogTimerRsp, held: GetWatchdogTimerRsp, held_s: float) -> bool:
    """Whether a running timer has the host's settings: not ours, and not without action."""
    if not now.running or is_harmless(now):
        return False
    return now.initial_countdown_s != held_s or held.initial_countdown_s == held_s


async def begin_restore(
    session: BmcSession,
    time: Timekeeper,
    held: GetWatchdogTimerRsp,
    times: ResetTimes,
    *,
    host_is_well: bool,
    settings_known: bool = True,
) -> WatchdogRestore:
    """Put the settings back with the timer stopped; start a trial if the host is proven well."""
    held_s = held_countdown_s(held, times)
    read = await ask_timer(session, time)
    now = read.timer
    if now is None:
        return WatchdogRestore(RestoreState.FAILED, f"it could not be read: {read.answer.detail}")
    if _is_set_by_host(now, held, held_s):
        return WatchdogRestore(RestoreState.BY_HOST, f"the host armed it again: {timer_text(now)}")
    if not settings_known:
        return _SETTINGS_UNKNOWN
    if now.running and not is_harmless(now):  # ours, started by a pat: the host can pat
        return await _put_back(session, time, held, running=True)
    stopped = await _put_back(session, time, held, running=False)
    if stopped.state is RestoreState.FAILED or not host_is_well:
        return stopped
    return await _start_trial(session, time, held, times)


async def _start_trial(
    session: BmcSession, time: Timekeeper, held: GetWatchdogTimerRsp, times: ResetTimes
) -> WatchdogRestore:
    trial = replace(
        held.set_request(initial_countdown_s=_trial_countdown_s(held, times)),
        action=TimeoutAction.NONE,
        pretimeout_interrupt=PretimeoutInterrupt.NONE,
        pretimeout_interval_s=0,
        dont_log=True,
    )
    answer, done = await ask(session, time, BmcQuestion.SET_WATCHDOG_TIMER, trial)
    now = (await ask_timer(session, time)).timer
    if done is None or now is None or not has_no_action(now):  # started now, it could act
        why = answer.detail or "its action could not be set to none"
        return WatchdogRestore(RestoreState.FAILED, f"it was not started on trial: {why}")
    answer, done = await ask(
        session, time, BmcQuestion.START_WATCHDOG_TIMER, ResetWatchdogTimerReq()
    )
    if done is None:
        detail = f"it could not be started on trial: {answer.detail}"
        return WatchdogRestore(RestoreState.FAILED, detail)
    return WatchdogRestore(RestoreState.TRIAL, "it runs without an action until the host pats it")


def _trial_countdown_s(held: GetWatchdogTimerRsp, times: ResetTimes) -> float:
    return min(COUNTDOWN_S_MAX, max(held.initial_countdown_s, times.steady_s + HELD_MARGIN_S))


@dataclass(frozen=True, slots=True)
class TimerReading:
    """The timer as it was read once, and when, in monotonic seconds."""

    timer: GetWatchdogTimerRsp
    at_s: float


async def read_timer(session: BmcSession, time: Timekeeper) -> TimerReading | None:
    """Read the timer once; None where that fails."""
    read = await ask_timer(session, time)
    if read.timer is None or not read.settings_known:
        return None
    return TimerReading(read.timer, time.monotonic())


def was_patted(before: TimerReading, after: TimerReading) -> bool:
    """Whether the timer was patted between two readings: it is too high, or it was started."""
    if not after.timer.running:
        return False
    if not before.timer.running:
        return True
    expected_s = before.timer.present_countdown_s - (after.at_s - before.at_s)
    return after.timer.present_countdown_s > expected_s + _TOLERANCE_S


async def end_restore(
    session: BmcSession,
    time: Timekeeper,
    held: GetWatchdogTimerRsp,
    begun: WatchdogRestore,
    *,
    patted: bool,
    settings_known: bool = True,
) -> WatchdogRestore:
    """End the trial: set the real action if the host pats the timer, else stop the timer."""
    if begun.state is RestoreState.BY_HOST or begun.state is RestoreState.RUNNING:
        return begun
    read = await ask_timer(session, time)
    now = read.timer
    if now is None:
        return WatchdogRestore(RestoreState.FAILED, f"it could not be read: {read.answer.detail}")
    if now.running and not is_harmless(now):
        return WatchdogRestore(RestoreState.BY_HOST, f"the host armed it again: {timer_text(now)}")
    if not settings_known:
        return _SETTINGS_UNKNOWN
    return await _put_back(session, time, held, running=patted)


async def undo_hold(
    session: BmcSession, time: Timekeeper, hold: WatchdogHold
) -> WatchdogRestore | None:
    """Put the settings back as they were found, where no restart followed the hold.

    A timer that the host patted meanwhile keeps running; any other stays stopped until the next
    pat.
    """
    if hold.timer is None or not hold.changed:
        return None
    if not hold.settings_known:
        return _SETTINGS_UNKNOWN
    return await _put_back(session, time, hold.timer, running=True)


async def _put_back(
    session: BmcSession, time: Timekeeper, held: GetWatchdogTimerRsp, *, running: bool
) -> WatchdogRestore:
    """Set the settings as they were found; with `running`, a running timer keeps running."""
    request = held.set_request(dont_stop=running)
    answer, _ = await ask(session, time, BmcQuestion.SET_WATCHDOG_TIMER, request)
    now = (await ask_timer(session, time)).timer
    if now is None or settings_of_interest(now) != settings_of_interest(held):
        why = answer.detail or "the settings did not stay"
        return WatchdogRestore(RestoreState.FAILED, f"it could not be put back: {why}")
    if now.running:
        return WatchdogRestore(RestoreState.RUNNING, f"put back, the host pats: {timer_text(now)}")
    return WatchdogRestore(
        RestoreState.STOPPED,
        f"put back ({held.initial_countdown_s:g} s, {held.action.text}) but stopped, because no"
        " pat of the host was seen: its next pat starts it; see to the host's watchdog service",
    )
