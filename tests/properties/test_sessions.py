"""A console and a BMC through any history: calls, losses, damage, replays, restarts, time.

Whatever hypothesis generates, every event belongs to a call, and each response to its request. Each
deadline is kept, and a command that is not idempotent runs at most once. In the end an undisturbed
network always gives a session again.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from bmcmedic.errors import NoAnswer, RmcpPlusStatusError
from bmcmedic.ipmi.events import (
    RequestUnanswered,
    ResponseReceived,
    SessionClosed,
    SessionEvent,
    SessionFailed,
    SessionOpened,
)
from bmcmedic.ipmi.managed_system import IncomingRequest, ManagedSystem
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.ipmi.states import SessionState
from tests.support.session_pair import PEER, TO_BMC, TO_CONSOLE, make_pair

WAITING = (
    SessionState.OPENING,
    SessionState.AUTHENTICATING,
    SessionState.ACTIVATING,
    SessionState.REQUESTING,
    SessionState.CLOSING,
)
TIMEOUT_S = 5.0
SLACK_S = 1e-6


class SessionMachine(RuleBasedStateMachine):
    """The two real ends, and a network that hypothesis controls."""

    @initialize(
        seed=st.integers(0, 10_000),
        suites=st.sampled_from([(17,), (3,), (17, 3), (2,), (16,)]),
        may_reopen=st.booleans(),
        is_open=st.sampled_from([True, True, True, False]),
    )
    def start(self, seed: int, suites: tuple[int, ...], may_reopen: bool, is_open: bool) -> None:
        self.pair = make_pair(
            suites=suites,
            bmc_suites=(2, 3, 16, 17) if seed % 2 else suites[-1:],
            may_reopen=may_reopen,
            seed=seed,
            slots=16,
        )
        self.pair.execute = self.execute
        self.may_reopen = may_reopen
        self.flying: list[tuple[str, bytes]] = []
        self.heard: list[tuple[str, bytes]] = []
        self.deadline = 0.0
        self.question = b""
        self.number = 0
        self.once: dict[bytes, int] = {}
        self.late: list[IncomingRequest] = []
        if is_open:
            self.open()
            while self.flying:
                self.deliver(0)
            assert self.pair.console.state is SessionState.ACTIVE

    def execute(
        self, managed: ManagedSystem, incoming: IncomingRequest, now: float
    ) -> list[bytes | None]:
        data = incoming.message.data
        if data in self.once:
            self.once[data] += 1
        if data.endswith(b"slow"):
            self.late.append(incoming)
            return []
        return [managed.respond(incoming, 0, data, now)]

    # -- what the caller does --------------------------------------------------------------

    @precondition(lambda self: self.pair.console.state is SessionState.IDLE)
    @rule()
    def open(self) -> None:
        self.deadline = self.pair.now + TIMEOUT_S
        self.pair.console.open(self.pair.now, self.deadline)
        self.collect()

    @precondition(lambda self: self.pair.console.state is SessionState.ACTIVE)
    @rule(idempotent=st.booleans(), slow=st.booleans())
    def request(self, idempotent: bool, slow: bool) -> None:
        self.number += 1
        self.question = b"%d %s" % (self.number, b"slow" if slow else b"fast")
        if not idempotent:
            self.once[self.question] = 0
        self.deadline = self.pair.now + TIMEOUT_S
        self.pair.console.request(
            RequestMessage(0x30, 0x42, self.question),
            self.pair.now,
            self.deadline,
            idempotent=idempotent,
        )
        self.collect()

    @precondition(lambda self: self.pair.console.state is SessionState.REQUESTING)
    @rule()
    def give_up(self) -> None:
        self.pair.console.give_up_request()

    @precondition(lambda self: self.pair.console.state is SessionState.ACTIVE)
    @rule()
    def close(self) -> None:
        self.deadline = self.pair.now + 1
        self.pair.console.close(self.pair.now, self.deadline)
        self.collect()

    # -- what the network and the BMC do ---------------------------------------------------

    @precondition(lambda self: self.flying)
    @rule(position=st.integers(0, 7))
    def deliver(self, position: int) -> None:
        datagram = self.flying.pop(position % len(self.flying))
        self.heard.append(datagram)
        self.arrive(*datagram)

    @precondition(lambda self: self.flying)
    @rule(count=st.integers(2, 12))
    def deliver_in_order(self, count: int) -> None:
        for _ in range(count):
            if self.flying:
                self.deliver(0)

    @precondition(lambda self: self.flying)
    @rule(position=st.integers(0, 7))
    def lose(self, position: int) -> None:
        self.flying.pop(position % len(self.flying))

    @precondition(lambda self: self.heard)
    @rule(position=st.integers(0, 200))
    def replay(self, position: int) -> None:
        # The newest one is number 0.
        self.arrive(*self.heard[-1 - position % len(self.heard)])

    @precondition(lambda self: self.heard)
    @rule(position=st.integers(0, 200), cut=st.integers(0, 80))
    def truncate(self, position: int, cut: int) -> None:
        way, data = self.heard[position % len(self.heard)]
        self.arrive(way, data[: cut % (len(data) + 1)])

    @rule(way=st.sampled_from([TO_BMC, TO_CONSOLE]), data=st.binary(max_size=60))
    def garbage(self, way: str, data: bytes) -> None:
        self.arrive(way, b"\x06\x00\xff\x07" + data)

    @rule()
    def restart_bmc(self) -> None:
        self.pair.managed.forget_sessions()
        self.late.clear()

    @precondition(lambda self: self.late)
    @rule()
    def finish_slow_work(self) -> None:
        incoming = self.late.pop(0)
        answer = self.pair.managed.respond(incoming, 0, incoming.message.data, self.pair.now)
        if answer is not None:
            self.flying.append((TO_CONSOLE, answer))

    @precondition(lambda self: self.pair.console.get_timer() is not None)
    @rule()
    def wait_for_timer(self) -> None:
        timer = self.pair.console.get_timer()
        assert timer is not None
        self.pair.now = max(self.pair.now, timer)
        self.take(self.pair.console.handle_timer(self.pair.now))

    @rule(seconds=st.sampled_from([0.001, 0.1, 1.0, 70.0]))
    def wait(self, seconds: float) -> None:
        timer = self.pair.console.get_timer()
        self.pair.now += seconds if timer is None else min(seconds, max(0.0, timer - self.pair.now))

    # -- how it is seen --------------------------------------------------------------------

    def collect(self) -> None:
        self.flying += [(TO_BMC, data) for data in self.pair.console.datagrams_to_send()]

    def arrive(self, way: str, data: bytes) -> None:
        if way == TO_CONSOLE:
            self.take(self.pair.console.receive_datagram(data, self.pair.now))
            return
        answer = self.pair.managed.receive_datagram(data, PEER, self.pair.now)
        answers: list[bytes | None] = [answer] if isinstance(answer, bytes) else []
        if isinstance(answer, IncomingRequest):
            answers = self.execute(self.pair.managed, answer, self.pair.now)
        self.flying += [(TO_CONSOLE, part) for part in answers if part is not None]

    def take(self, event: SessionEvent | None) -> None:
        self.collect()
        if event is None:
            return
        state = self.pair.console.state
        assert self.pair.console.get_timer() is None
        if isinstance(event, SessionOpened | ResponseReceived | RequestUnanswered):
            assert state is SessionState.ACTIVE
        if isinstance(event, ResponseReceived):
            assert event.response.data == self.question
        elif isinstance(event, SessionFailed):
            assert state is SessionState.FAILED
            assert isinstance(event.error, NoAnswer | RmcpPlusStatusError), event.error
        elif isinstance(event, SessionClosed):
            assert state is SessionState.CLOSED
        if isinstance(event, RequestUnanswered):
            assert self.pair.now >= self.deadline - SLACK_S

    @invariant()
    def whoever_waits_has_a_timer_by_the_deadline(self) -> None:
        if not hasattr(self, "pair"):
            return
        timer = self.pair.console.get_timer()
        assert (timer is not None) is (self.pair.console.state in WAITING)
        assert timer is None or timer <= self.deadline

    @invariant()
    def what_must_run_once_ran_once_at_most(self) -> None:
        assert all(count <= 1 for count in getattr(self, "once", {}).values())

    @invariant()
    def slots_are_not_exceeded(self) -> None:
        assert not hasattr(self, "pair") or self.pair.managed.session_count <= 16

    def teardown(self) -> None:
        """From here on nothing is lost: pending calls end, and a new console gets a session."""
        if not hasattr(self, "pair"):
            return
        pair = self.pair
        for _ in range(1000):
            while self.flying:
                self.arrive(*self.flying.pop(0))
            timer = pair.console.get_timer()
            if timer is None:
                break
            pair.now = max(pair.now, timer)
            self.take(pair.console.handle_timer(pair.now))
        assert pair.console.get_timer() is None
        fresh = make_pair(suites=(17, 3, 16, 2), seed=77)
        fresh.managed, fresh.now = pair.managed, pair.now + 100
        assert isinstance(fresh.open(), SessionOpened)
        assert isinstance(fresh.ask(), ResponseReceived)
        assert fresh.close() == SessionClosed()


TestSessions = SessionMachine.TestCase
TestSessions.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
