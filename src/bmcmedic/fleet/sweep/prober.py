"""Asks many BMCs at once whether they answer: one round trip or a full session each.

A dead BMC never holds back a live one. Only BMCs that may still answer soon count against the
window; the silent ones wait beside it until their deadline.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bmcmedic.errors import NameNotResolved
from bmcmedic.fleet.inventory import Target, literal_address
from bmcmedic.fleet.sweep.bmc_probe import BmcProbe, Sweep
from bmcmedic.fleet.sweep.questions import POWER_QUESTION, Question
from bmcmedic.fleet.sweep.resolver import Resolver
from bmcmedic.ipmi.cipher_suites import DEFAULT_CIPHER_SUITES
from bmcmedic.ipmi.console_options import ConsoleOptions
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.model.probe import ProbeResult
from bmcmedic.transport.aes import aes_cbc
from bmcmedic.transport.lan_engine import Address, LanEngine

SILENT_PER_WINDOW_MAX = 16
"""How many silent targets may wait for their deadline, as a multiple of the window."""
STEP_WAIT_MAX_S = 0.25
"""Longest wait for datagrams and timers before `on_step` is called again, in seconds."""


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


class Prober:
    """Probes targets and hands every target's result to `on_result`, exactly one a round.

    `on_step` is called after each batch of datagrams and timers, at most `STEP_WAIT_MAX_S` apart;
    the caller may flush buffered results there.
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
        self._on_step = on_step
        self._monotonic = monotonic
        questions: tuple[Question, ...] = (POWER_QUESTION,)
        if options.detail:
            # A plain sweep starts faster without these four command modules.
            from bmcmedic.fleet.sweep.detail_questions import DETAIL_QUESTIONS

            questions += DETAIL_QUESTIONS
        self._engine = LanEngine(window=options.concurrency, monotonic=monotonic)
        self._sweep = Sweep(
            self._engine,
            ConsoleOptions(
                credentials,
                os.urandom,
                aes_cbc,
                cipher_suites=options.cipher_suites,
                may_reopen=options.keep_sessions,
            ),
            questions,
            on_result,
            timeout_s=options.timeout_s,
            keep_sessions=options.keep_sessions,
        )
        self._resolver: Resolver[BmcProbe] | None = None
        self._queue: deque[BmcProbe | Target] = deque()
        self._resolving: deque[BmcProbe] = deque()

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
        sweep = self._sweep
        sweep.unreported_count = sum(
            1 + len(item.aliases) if isinstance(item, BmcProbe) else 1 for item in self._queue
        )
        while sweep.unreported_count or len(sweep.open_probes) > len(sweep.idle_probes):
            self._admit()
            self._engine.step(self._wait_s())
            if self._resolving:
                self._expire_look_ups()
            self._on_step()

    def _prepare_next_round(self, starts_at: float) -> None:
        while (wait_s := starts_at - self._monotonic()) > 0:
            self._engine.step(min(wait_s, STEP_WAIT_MAX_S))
        idle, self._sweep.idle_probes = self._sweep.idle_probes, []
        known = {name.name for probe in idle for name in (probe.target, *probe.aliases)}
        self._queue.extend(idle)
        self._queue.extend(target for target in self._targets if target.name not in known)

    def _close_kept_sessions(self) -> None:
        sweep = self._sweep
        idle, sweep.idle_probes = sweep.idle_probes, []
        for probe in idle:
            while sweep.awaited_count >= self._engine.window:
                self._engine.step(STEP_WAIT_MAX_S)
            probe.await_answer()
            probe.close_session(self._monotonic())
        while sweep.open_probes:
            self._engine.step(STEP_WAIT_MAX_S)

    def _admit(self) -> None:
        """Start queued probes while the window has room for them."""
        engine, sweep = self._engine, self._sweep
        while (
            self._queue
            and sweep.awaited_count < engine.window
            and len(sweep.open_probes) + len(self._resolving)
            < engine.window * SILENT_PER_WINDOW_MAX
        ):
            item = self._queue.popleft()
            if isinstance(item, BmcProbe):
                item.ask_again(self._monotonic())
                continue
            probe = BmcProbe(sweep, item, self._monotonic())
            try:
                address = literal_address(item)
            except NameNotResolved as error:
                probe.finish(error)
                continue
            if address is None:
                self._look_up(probe)
            else:
                self._start(probe, address)

    def _start(self, probe: BmcProbe, address: Address) -> None:
        """Probe an address, unless another name of the same BMC is being probed there already."""
        first = self._sweep.open_probes.get(address)
        if first is None:
            probe.open_session(address, self._monotonic())
        else:
            first.add_alias(probe.target)

    def _wait_s(self) -> float:
        if not self._resolving:
            return STEP_WAIT_MAX_S
        first = self._resolving[0].deadline - self._monotonic()
        return min(STEP_WAIT_MAX_S, max(0.0, first))

    # -- names -----------------------------------------------------------------------------

    def _look_up(self, probe: BmcProbe) -> None:
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
                probe.finish(found)
            else:
                self._start(probe, found)

    def _expire_look_ups(self) -> None:
        now = self._monotonic()
        while self._resolving and self._resolving[0].deadline <= now:
            probe = self._resolving.popleft()
            reason = f"not resolved in {self._options.timeout_s:g} s; check the name and DNS"
            probe.finish(NameNotResolved(f"host name {probe.target.host!r} {reason}"))
