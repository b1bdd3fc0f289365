"""Asks many BMCs at once whether they answer: one round trip or a full session each.

A dead BMC never holds back a live one: only those that may still answer soon count against the
window, the silent ones wait beside it until their deadline.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bmcmedic.errors import (
    BmcmedicError,
    BmcRefusal,
    CompletionCodeError,
    NameNotResolved,
    NoAnswer,
    RemoteProtocolError,
    TransportError,
)
from bmcmedic.fleet.inventory import Target, literal_address
from bmcmedic.fleet.sweep.questions import POWER_QUESTION, Question
from bmcmedic.fleet.sweep.resolver import Resolver
from bmcmedic.ipmi.cipher_suites import DEFAULT_CIPHER_SUITES
from bmcmedic.ipmi.console_options import ConsoleOptions
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.credentials import Credentials
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
from bmcmedic.transport.aes import aes_cbc
from bmcmedic.transport.lan_engine import Address, LanEngine, LanPeer

CLOSE_TIMEOUT_S = 1.0
"""How long a session's end is asked for; after that the BMC's own timer ends it."""
SILENT_PER_WINDOW_MAX = 16
"""How many silent targets may wait for their deadline, as a multiple of the window."""
STEP_WAIT_MAX_S = 0.25


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """How to probe.

    `timeout_s` is the whole deadline of one target, name look-up included. With `keep_sessions`
    the `count` rounds, `period_s` apart, go over the same sessions.
    """

    timeout_s: float = 5.0
    concurrency: int = 1024
    cipher_suites: Sequence[int] = DEFAULT_CIPHER_SUITES
    detail: bool = False
    keep_sessions: bool = False
    count: int = 1
    period_s: float = 5.0


class _Probe(LanPeer):
    """One BMC under probe."""

    __slots__ = (
        "_prober",
        "aliases",
        "deadline",
        "facts",
        "is_counted",
        "latency_s",
        "position",
        "result",
        "started_at",
        "target",
    )

    console: RemoteConsole

    def __init__(self, prober: Prober, target: Target) -> None:
        self._prober = prober
        self.target = target
        self.address: Address = ()
        self.aliases: list[Target] = []
        self.is_silent = False
        self.is_counted = False
        self.result: ProbeResult | None = None
        self.timer_at = math.inf
        self.started_at = 0.0
        self.deadline = 0.0
        self.position = 0
        self.facts: dict[str, Any] = {}
        self.latency_s: float | None = None

    def on_event(self, event: SessionEvent, now: float) -> None:
        if isinstance(event, ResponseReceived):
            self._prober.answered(self, event.response, now)
        elif isinstance(event, SessionOpened):
            self._prober.ask(self, now)
        elif isinstance(event, SessionFailed | RequestUnanswered):
            self._prober.failed(self, event.error, now)
        else:
            self._prober.release(self)

    def on_transport_error(self, error: TransportError, now: float) -> None:
        self._prober.unreachable(self, error, now)

    def on_silence(self) -> None:
        self._prober.uncount(self)

    def on_answer(self) -> None:
        self._prober.count(self)


class Prober:
    """Probes targets and hands each result to `on_result`: one a target and round, always.

    `on_step` is called after each round of datagrams and timers, `STEP_WAIT_MAX_S` apart at most,
    such as for handing buffered results on.
    """

    def __init__(
        self,
        targets: Iterable[Target],
        credentials: Credentials,
        options: ProbeOptions,
        on_result: Callable[[ProbeResult], None],
        *,
        on_step: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._targets = list(targets)
        self._options = options
        self._console_options = ConsoleOptions(
            credentials,
            os.urandom,
            aes_cbc,
            cipher_suites=options.cipher_suites,
            may_reopen=options.keep_sessions,
        )
        self._on_result = on_result
        self._on_step = on_step
        self._monotonic = monotonic
        self._questions: tuple[Question, ...] = (POWER_QUESTION,)
        if options.detail:
            # Four chapters that a plain sweep starts without.
            from bmcmedic.fleet.sweep.detail_questions import DETAIL_QUESTIONS

            self._questions += DETAIL_QUESTIONS
        self._messages = tuple(
            RequestMessage(question.request.netfn, question.request.command)
            for question in self._questions
        )
        self._engine = LanEngine(window=options.concurrency, monotonic=monotonic)
        self._resolver: Resolver | None = None
        self._by_address: dict[Address, _Probe] = {}
        self._queue: deque[_Probe | Target] = deque()
        self._resolving: deque[_Probe] = deque()
        self._kept: list[_Probe] = []
        self._answering_count = 0
        self._open_count = 0
        self._outstanding = 0

    def run(self) -> None:
        """Probe every target, `count` times."""
        try:
            self._queue.extend(self._targets)
            for number in range(self._options.count):
                started_at = self._monotonic()
                self._run_round()
                if number + 1 < self._options.count:
                    self._prepare_next_round(started_at + self._options.period_s)
            self._close_kept_sessions()
        finally:
            self._engine.close()
            if self._resolver is not None:
                self._resolver.close()

    # -- rounds ----------------------------------------------------------------------------

    def _run_round(self) -> None:
        self._outstanding = sum(
            1 + len(item.aliases) if isinstance(item, _Probe) else 1 for item in self._queue
        )
        while self._outstanding or self._open_count > len(self._kept):
            self._admit()
            self._engine.step(self._wait_s())
            if self._resolving:
                self._expire_look_ups()
            self._on_step()

    def _prepare_next_round(self, starts_at: float) -> None:
        while (wait_s := starts_at - self._monotonic()) > 0:
            self._engine.step(min(wait_s, STEP_WAIT_MAX_S))
        known = {alias.name for probe in self._kept for alias in (probe.target, *probe.aliases)}
        self._queue.extend(self._kept)
        self._queue.extend(target for target in self._targets if target.name not in known)
        self._kept = []

    def _close_kept_sessions(self) -> None:
        kept, self._kept = self._kept, []
        for probe in kept:
            while self._answering_count >= self._engine.window:
                self._engine.step(STEP_WAIT_MAX_S)
            self.count(probe)
            self._close(probe, self._monotonic())
        while self._open_count:
            self._engine.step(STEP_WAIT_MAX_S)

    def _admit(self) -> None:
        engine = self._engine
        while (
            self._queue
            and self._answering_count < engine.window
            and self._open_count + len(self._resolving) < engine.window * SILENT_PER_WINDOW_MAX
        ):
            item = self._queue.popleft()
            if isinstance(item, _Probe):
                self._ask_again(item)
                continue
            probe = _Probe(self, item)
            probe.started_at = self._monotonic()
            probe.deadline = probe.started_at + self._options.timeout_s
            try:
                address = literal_address(item)
            except NameNotResolved as error:
                self._finish(probe, error)
                continue
            if address is None:
                self._look_up(probe)
            else:
                self._start(probe, address)

    def _wait_s(self) -> float:
        if not self._resolving:
            return STEP_WAIT_MAX_S
        first = self._resolving[0].deadline - self._monotonic()
        return min(STEP_WAIT_MAX_S, max(0.0, first))

    # -- names -----------------------------------------------------------------------------

    def _look_up(self, probe: _Probe) -> None:
        if self._resolver is None:
            self._resolver = Resolver()
            self._engine.watch(self._resolver.fileno(), self._take_addresses)
        self._resolving.append(probe)
        self._resolver.submit(probe, probe.target)

    def _take_addresses(self) -> None:
        assert self._resolver is not None
        for probe, _, found in self._resolver.take():
            if probe.result is not None:
                continue
            self._resolving.remove(probe)
            if isinstance(found, NameNotResolved):
                self._finish(probe, found)
            else:
                self._start(probe, found)

    def _expire_look_ups(self) -> None:
        now = self._monotonic()
        while self._resolving and self._resolving[0].deadline <= now:
            probe = self._resolving.popleft()
            reason = f"not resolved in {self._options.timeout_s:g} s; check the name and DNS"
            self._finish(probe, NameNotResolved(f"host name {probe.target.host!r} {reason}"))

    # -- one probe -------------------------------------------------------------------------

    def _start(self, probe: _Probe, address: Address) -> None:
        first = self._by_address.get(address)
        if first is not None:
            # Two names of one BMC: it is asked once, and both get the answer.
            first.aliases.append(probe.target)
            if first.result is not None:
                self._report(first.result, probe.target)
            return
        probe.address = address
        self._by_address[address] = probe
        self._open_session(probe, self._monotonic())

    def _open_session(self, probe: _Probe, now: float) -> None:
        probe.console = RemoteConsole(self._console_options)
        self._open_count += 1
        self.count(probe)
        try:
            self._engine.attach(probe)
        except OSError as error:
            self.unreachable(probe, TransportError(f"no socket: {error.strerror}"), now)
            return
        probe.console.open(now, probe.deadline)
        self._engine.flush(probe, now)

    def _ask_again(self, probe: _Probe) -> None:
        now = self._monotonic()
        probe.result = None
        probe.position = 0
        probe.facts = {}
        probe.latency_s = None
        probe.started_at = now
        probe.deadline = now + self._options.timeout_s
        self.count(probe)
        self.ask(probe, now)
        self._engine.flush(probe, now)

    def ask(self, probe: _Probe, now: float) -> None:
        """Send the next question of a probe whose session is active."""
        probe.console.request(self._messages[probe.position], now, probe.deadline)

    def answered(self, probe: _Probe, response: ResponseMessage, now: float) -> None:
        """Take an answer; go on to the next question or finish."""
        position = probe.position
        if position == 0:
            probe.latency_s = now - probe.started_at
        try:
            facts = self._questions[position].take(response.completion_code, response.data)
        except (CompletionCodeError, RemoteProtocolError) as error:
            self.failed(probe, error, now)
            return
        probe.facts = {**probe.facts, **facts} if position else facts
        position += 1
        while position < len(self._questions) and self._questions[position].fact in probe.facts:
            position += 1
        probe.position = position
        if position < len(self._questions):
            self.ask(probe, now)
            return
        self._finish(probe, None)
        self._end_session(probe, now)

    def failed(self, probe: _Probe, error: BmcmedicError, now: float) -> None:
        """No session, or no answer in it."""
        self._finish(probe, error)
        self._end_session(probe, now)

    def unreachable(self, probe: _Probe, error: TransportError, now: float) -> None:
        """The network itself says no: waiting longer is of no use."""
        del now
        if probe.result is None:
            self._finish(probe, error)
        elif probe.console.state is SessionState.ACTIVE:
            # About a datagram whose answer came: the kept session is asked again in its turn.
            return
        self.release(probe)

    def _end_session(self, probe: _Probe, now: float) -> None:
        if probe.console.state is not SessionState.ACTIVE:
            self.release(probe)
        elif self._options.keep_sessions:
            self._kept.append(probe)
            self.uncount(probe)
        else:
            self._close(probe, now)

    def _close(self, probe: _Probe, now: float) -> None:
        probe.console.close(now, now + CLOSE_TIMEOUT_S)
        self._engine.flush(probe, now)

    def release(self, probe: _Probe) -> None:
        """The probe needs its place no more."""
        self._engine.detach(probe)
        if self._by_address.get(probe.address) is probe:
            del self._by_address[probe.address]
            self._open_count -= 1
        self.uncount(probe)

    def count(self, probe: _Probe) -> None:
        """An answer may come soon: the probe takes a place in the window."""
        if not probe.is_counted:
            probe.is_counted = True
            self._answering_count += 1

    def uncount(self, probe: _Probe) -> None:
        """Silent, idle or gone: the place in the window is free."""
        if probe.is_counted:
            probe.is_counted = False
            self._answering_count -= 1

    def _finish(self, probe: _Probe, error: BmcmedicError | None) -> None:
        facts = probe.facts
        if error is not None:
            facts = {**facts, "error": _advice(error, self._options.timeout_s)}
        probe.result = ProbeResult(
            target=probe.target.name,
            reachable=error is None
            or isinstance(error, BmcRefusal | RemoteProtocolError)
            or bool(probe.facts),
            latency_s=probe.latency_s,
            **facts,
        )
        self._outstanding -= 1
        self._on_result(probe.result)
        for target in probe.aliases:
            self._report(probe.result, target)

    def _report(self, result: ProbeResult, alias: Target) -> None:
        self._outstanding -= 1
        self._on_result(result._replace(target=alias.name))


def _advice(error: BmcmedicError, timeout_s: float) -> str:
    """One line: what happened, and what to try."""
    text = str(error)
    if isinstance(error, NoAnswer):
        advice = error.advice or "check address, port and firewall, or raise --timeout"
        return f"{error.args[0]} in {timeout_s:g} s; {advice}"
    if isinstance(error, CompletionCodeError) and error.code == CompletionCode.NODE_BUSY:
        return f"{text}; no free resources: try again later"
    return text
