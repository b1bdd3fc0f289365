"""The probe of one BMC: its session, its questions one after another, and its result."""

from __future__ import annotations

import math
from collections.abc import Callable

from bmcmedic.errors import (
    BmcmedicError,
    BmcRefusal,
    CompletionCodeError,
    NoAnswer,
    RemoteProtocolError,
    TransportError,
)
from bmcmedic.fleet.answers import RETRY_PAUSE_FACTOR, RETRY_PAUSE_FIRST_S, retry_limit_s
from bmcmedic.fleet.inventory import Target
from bmcmedic.fleet.sweep.questions import ProbeFacts, Question
from bmcmedic.ipmi.console_options import ConsoleOptions
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.events import (
    RequestUnanswered,
    ResponseReceived,
    SessionEvent,
    SessionFailed,
    SessionOpened,
)
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage
from bmcmedic.ipmi.remote_console import RemoteConsole
from bmcmedic.ipmi.states import SessionState
from bmcmedic.model.probe import ProbeResult
from bmcmedic.transport.lan_engine import Address, LanEngine, LanPeer

CLOSE_TIMEOUT_S = 1.0
"""Time for the end of a session, in seconds; after that the BMC's own timer ends it."""


class Sweep:
    """What all probes of one sweep share."""

    def __init__(
        self,
        engine: LanEngine,
        console_options: ConsoleOptions,
        questions: tuple[Question, ...],
        on_result: Callable[[ProbeResult], None],
        *,
        timeout_s: float,
        keep_sessions: bool,
    ) -> None:
        self.engine = engine
        self.console_options = console_options
        self.questions = questions
        self.messages = tuple(RequestMessage(q.request.netfn, q.request.command) for q in questions)
        """The request of each question, in the same order."""
        self.on_result = on_result
        self.timeout_s = timeout_s
        """The whole deadline of one target, name look-up included."""
        self.keep_sessions = keep_sessions
        self.unreported_count = 0
        """Targets whose result of this round is still to come."""
        self.awaited_count = 0
        """Probes whose answer may come soon; the engine's window limits them."""
        self.open_probes: dict[Address, BmcProbe] = {}
        """Every probe with a session or on the way to one, idle ones included."""
        self.idle_probes: list[BmcProbe] = []
        """Probes that keep their session for the next round."""


class BmcProbe(LanPeer):
    """One BMC under probe."""

    __slots__ = (
        "_sweep",
        "aliases",
        "deadline",
        "facts",
        "is_awaited",
        "latency_s",
        "pause_s",
        "position",
        "question_at",
        "question_deadline",
        "result",
        "started_at",
        "target",
    )

    console: RemoteConsole

    def __init__(self, sweep: Sweep, target: Target, now: float) -> None:
        self._sweep = sweep
        self.target = target
        self.address: Address = ()
        self.aliases: list[Target] = []
        """Other names of the same BMC."""
        self.is_silent = False
        self.is_awaited = False
        self.timer_at = math.inf
        self.wake_at = math.inf
        self._begin_round(now)

    def _begin_round(self, now: float) -> None:
        self.result: ProbeResult | None = None
        self.started_at = now
        self.deadline = now + self._sweep.timeout_s
        self.position = 0
        self.question_at = now
        self.question_deadline = self.deadline
        self.pause_s = RETRY_PAUSE_FIRST_S
        self.facts = ProbeFacts()
        self.latency_s: float | None = None

    # -- the session -----------------------------------------------------------------------

    def open_session(self, address: Address, now: float) -> None:
        """Set a session up at `address`; the questions follow once it is active."""
        sweep = self._sweep
        self.address = address
        sweep.open_probes[address] = self
        self.console = RemoteConsole(sweep.console_options)
        self.await_answer()
        try:
            sweep.engine.attach(self)
        except OSError as error:
            self.on_transport_error(TransportError(f"no socket: {error.strerror}"), now)
            return
        self.console.open(now, self.deadline)
        sweep.engine.flush(self, now)

    def ask_again(self, now: float) -> None:
        """Ask every question once more over the session that was kept."""
        self._begin_round(now)
        self.await_answer()
        self._ask(now)
        self._sweep.engine.flush(self, now)

    def close_session(self, now: float) -> None:
        """End the session; the probe is released when that is confirmed, or times out."""
        self.console.close(now, now + CLOSE_TIMEOUT_S)
        self._sweep.engine.flush(self, now)

    def _leave_session(self, now: float) -> None:
        """Keep the session for the next round, end it, or forget one that never opened."""
        if self.console.state is not SessionState.ACTIVE:
            self._release()
        elif self._sweep.keep_sessions:
            self._sweep.idle_probes.append(self)
            self._await_no_answer()
        else:
            self.close_session(now)

    def _release(self) -> None:
        """Give up the probe's place: it neither sends nor receives any more."""
        sweep = self._sweep
        sweep.engine.detach(self)
        if sweep.open_probes.get(self.address) is self:
            del sweep.open_probes[self.address]
        self._await_no_answer()

    # -- the place in the window -----------------------------------------------------------

    def await_answer(self) -> None:
        """Take a place in the window: an answer may come soon."""
        if not self.is_awaited:
            self.is_awaited = True
            self._sweep.awaited_count += 1

    def _await_no_answer(self) -> None:
        """Give the place in the window back: the BMC is silent, idle or gone."""
        if self.is_awaited:
            self.is_awaited = False
            self._sweep.awaited_count -= 1

    on_silence = _await_no_answer
    on_answer = await_answer

    # -- questions and answers -------------------------------------------------------------

    def on_event(self, event: SessionEvent, now: float) -> None:
        """Go on with the next question, or end, after what the session reports."""
        if isinstance(event, ResponseReceived):
            self._take_answer(event.response, now)
        elif isinstance(event, SessionOpened):
            self._ask(now)
        elif isinstance(event, RequestUnanswered) and self._is_optional():
            self._note(event.error)
            self._go_on(now)
        elif isinstance(event, SessionFailed | RequestUnanswered):
            self.finish(event.error)
            self._leave_session(now)
        else:
            self._release()

    def on_transport_error(self, error: TransportError, now: float) -> None:
        """End at once: the network reports that nobody is there, so waiting is of no use."""
        del now
        if self.result is None:
            self.finish(error)
        elif self.console.state is SessionState.ACTIVE:
            # The error is about a datagram whose answer came: the next round asks again.
            return
        self._release()

    def on_wake(self, now: float) -> None:
        """Ask again what the BMC refused for the moment."""
        self.await_answer()
        self._send(now)

    def _ask(self, now: float) -> None:
        """Ask the next question; an optional one gets its share of the time that is left."""
        self.question_at = now
        self.pause_s = RETRY_PAUSE_FIRST_S
        self.question_deadline = self.deadline
        if self._is_optional():
            left_s = self.deadline - now
            self.question_deadline = now + left_s / (len(self._sweep.questions) - self.position)
        self._send(now)

    def _send(self, now: float) -> None:
        self.console.request(self._sweep.messages[self.position], now, self.question_deadline)

    def _is_optional(self) -> bool:
        return bool(self._sweep.questions[self.position].optional)

    def _note(self, error: BmcmedicError) -> None:
        """Note that the BMC did not answer an optional question as it should."""
        name = self._sweep.questions[self.position].optional
        self.facts.notes += (f"{name}: {error}",)

    def _may_ask_again(self, error: BmcmedicError, now: float) -> bool:
        """Plan to ask again after a refusal that may pass, if there is the time."""
        code = error.code if isinstance(error, CompletionCodeError) else None
        until = min(self.question_deadline, self.question_at + retry_limit_s(code))
        wake_at = now + self.pause_s
        if wake_at >= until:
            return False
        self.pause_s *= RETRY_PAUSE_FACTOR
        self._await_no_answer()
        self._sweep.engine.wake(self, wake_at)
        return True

    def _take_answer(self, response: ResponseMessage, now: float) -> None:
        if self.latency_s is None:
            self.latency_s = now - self.started_at
        question = self._sweep.questions[self.position]
        try:
            question.take(response.completion_code, response.data, self.facts)
        except (CompletionCodeError, RemoteProtocolError) as error:
            if self._may_ask_again(error, now):
                return
            if not question.optional:
                self.finish(error)
                self._leave_session(now)
                return
            self._note(error)
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        """Ask the next question, or end with the result."""
        questions, facts = self._sweep.questions, self.facts
        position = self.position + 1
        while position < len(questions):
            question = questions[position]
            if question.optional and now >= self.deadline:
                facts.notes += (f"{question.optional}: not asked, because no time was left",)
            elif not question.is_known(facts):
                break
            position += 1
        self.position = position
        if position < len(questions):
            self._ask(now)
            return
        self.finish(None)
        self._leave_session(now)

    # -- the result ------------------------------------------------------------------------

    def finish(self, error: BmcmedicError | None) -> None:
        """Report the result of this round, under every name of the BMC."""
        sweep, facts = self._sweep, self.facts
        result = self.result = facts.to_result(
            self.target.name,
            reachable=error is None
            or isinstance(error, BmcRefusal | RemoteProtocolError)
            or facts.power is not None,
            latency_s=self.latency_s,
            error=None if error is None else _advice(error, sweep.timeout_s),
        )
        sweep.unreported_count -= 1
        sweep.on_result(result)
        for alias in self.aliases:
            self._report_to_alias(result, alias)

    def add_alias(self, alias: Target) -> None:
        """Report this BMC's result under another name too, at once where it is there already."""
        self.aliases.append(alias)
        if self.result is not None:
            self._report_to_alias(self.result, alias)

    def _report_to_alias(self, result: ProbeResult, alias: Target) -> None:
        self._sweep.unreported_count -= 1
        self._sweep.on_result(result._replace(target=alias.name))


def _advice(error: BmcmedicError, timeout_s: float) -> str:
    """Return one line that says what happened and what to try."""
    text = str(error)
    if isinstance(error, NoAnswer):
        advice = error.advice or "check address, port and firewall, or raise --timeout"
        return f"{error.args[0]} in {timeout_s:g} s; {advice}"
    if isinstance(error, CompletionCodeError) and error.code == CompletionCode.NODE_BUSY:
        return f"{text}; no free resources: try again later"
    return text
