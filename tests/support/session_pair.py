"""Remote console and managed system, joined in memory by a network that a test can disturb."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from bmcmedic.ipmi.bridge import Bridge
from bmcmedic.ipmi.console_options import ConsoleOptions
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.events import SessionEvent
from bmcmedic.ipmi.managed_system import IncomingRequest, ManagedSystem, User
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.ipmi.remote_console import RemoteConsole
from bmcmedic.transport.aes import aes_cbc

GUID = bytes(range(16))
PASSWORD = b"sixteen-byte-pw!"
PEER = "console"
LATENCY_S = 0.001
"""How long a datagram takes in each direction, in seconds."""
STEPS_MAX = 20_000
"""Most events that one test may need; more of them mean a loop."""

TO_BMC = "to the BMC"
TO_CONSOLE = "to the console"

Filter = Callable[[str, bytes], list[bytes]]
"""Returns what arrives of one datagram: itself, nothing, something else, or several."""
Executor = Callable[[ManagedSystem, IncomingRequest, float], list[bytes | None]]


def echo(managed: ManagedSystem, incoming: IncomingRequest, now: float) -> list[bytes | None]:
    """Answer every command with its own data."""
    return [managed.respond(incoming, 0, incoming.message.data, now)]


def silent(managed: ManagedSystem, incoming: IncomingRequest, now: float) -> list[bytes | None]:
    """Take a command and never answer."""
    del managed, incoming, now
    return []


@dataclass
class Pair:
    """Both ends, a clock, and the datagrams in flight between them."""

    console: RemoteConsole
    managed: ManagedSystem
    rng: random.Random
    now: float = 1.0
    loss: float = 0.0
    duplicates: float = 0.0
    jitter_s: float = 0.0
    change: Filter | None = None
    execute: Executor = echo
    executed: list[RequestMessage] = field(default_factory=list)
    events: list[SessionEvent] = field(default_factory=list)
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    """Every datagram that was put on the wire, with its direction."""
    in_flight: list[tuple[float, int, str, bytes]] = field(default_factory=list)
    _count: int = 0

    def put(self, direction: str, datagram: bytes) -> None:
        """Put a datagram on the wire."""
        self.sent.append((direction, datagram))
        arriving = [datagram] if self.change is None else self.change(direction, datagram)
        for data in arriving:
            copies = 2 if self.rng.random() < self.duplicates else 1
            for _ in range(copies):
                if self.rng.random() >= self.loss:
                    self._count += 1
                    arrives_at = self.now + LATENCY_S + self.rng.random() * self.jitter_s
                    heapq.heappush(self.in_flight, (arrives_at, self._count, direction, data))

    def step(self) -> bool:
        """Process the next event; False if no datagram is in flight and no timer runs."""
        for datagram in self.console.datagrams_to_send():
            self.put(TO_BMC, datagram)
        timer = self.console.get_timer()
        if self.in_flight and (timer is None or self.in_flight[0][0] <= timer):
            arrives_at, _, direction, data = heapq.heappop(self.in_flight)
            self.now = max(self.now, arrives_at)
            if direction == TO_BMC:
                self._arrive_at_bmc(data)
            else:
                self._note(self.console.receive_datagram(data, self.now))
            return True
        if timer is None:
            return False
        assert timer >= self.now
        self.now = timer
        self._note(self.console.handle_timer(timer))
        return True

    def settle(self) -> None:
        """Process events until none is left."""
        for _ in range(STEPS_MAX):
            if not self.step():
                return
        raise AssertionError(f"events are still left after {STEPS_MAX} steps")

    def run(self) -> SessionEvent:
        """Process events until the console reports one, and return it."""
        count = len(self.events)
        for _ in range(STEPS_MAX):
            if len(self.events) > count:
                return self.events[-1]
            assert self.step(), "no event is left, and the console reported none"
        raise AssertionError(f"the console reported nothing in {STEPS_MAX} steps")

    def open(self, timeout_s: float = 5.0) -> SessionEvent:
        self.console.open(self.now, self.now + timeout_s)
        return self.run()

    def ask(
        self,
        data: bytes = b"\x01\x02",
        *,
        idempotent: bool = True,
        timeout_s: float = 5.0,
        bridge: Bridge | None = None,
    ) -> SessionEvent:
        self.console.request(
            RequestMessage(0x30, 0x42, data),
            self.now,
            self.now + timeout_s,
            idempotent=idempotent,
            bridge=bridge,
        )
        return self.run()

    def request(self, message: RequestMessage) -> SessionEvent:
        self.console.request(message, self.now, self.now + 5)
        return self.run()

    def close(self) -> SessionEvent:
        self.console.close(self.now, self.now + 1)
        return self.run()

    def count_sent(self, direction: str = TO_BMC) -> int:
        return sum(direction == sent_direction for sent_direction, _ in self.sent)

    def _note(self, event: SessionEvent | None) -> None:
        if event is not None:
            self.events.append(event)

    def _arrive_at_bmc(self, data: bytes) -> None:
        answer = self.managed.receive_datagram(data, PEER, self.now)
        answers: list[bytes | None] = [answer] if isinstance(answer, bytes) else []
        if isinstance(answer, IncomingRequest):
            self.executed.append(answer.message)
            answers = self.execute(self.managed, answer, self.now)
        for datagram in answers:
            if datagram is not None:
                self.put(TO_CONSOLE, datagram)


def make_pair(
    *,
    suites: tuple[int, ...] = (17, 3),
    bmc_suites: tuple[int, ...] = (3, 17),
    password: bytes = PASSWORD,
    kg: bytes = b"",
    bmc_kg: bytes = b"",
    user: str = "admin",
    privilege: PrivilegeLevel = PrivilegeLevel.USER,
    users: tuple[User, ...] = (User(2, b"admin", PASSWORD),),
    slots: int = 4,
    may_reopen: bool = False,
    name_only_lookup: bool = True,
    seed: int = 1,
    loss: float = 0.0,
) -> Pair:
    rng = random.Random(seed)
    console = RemoteConsole(
        ConsoleOptions(
            Credentials(user, password, kg),
            rng.randbytes,
            aes_cbc,
            privilege=privilege,
            cipher_suites=suites,
            name_only_lookup=name_only_lookup,
            may_reopen=may_reopen,
        )
    )
    managed = ManagedSystem(
        guid=GUID,
        users=users,
        random_bytes=rng.randbytes,
        aes=aes_cbc,
        kg=bmc_kg,
        cipher_suites=bmc_suites,
        session_slots=slots,
    )
    return Pair(console, managed, rng, loss=loss)


def opened_pair(*, suite: int = 17, seed: int = 1, may_reopen: bool = False) -> Pair:
    """Return a pair with an active session and no datagram in flight."""
    pair = make_pair(suites=(suite,), bmc_suites=(suite,), seed=seed, may_reopen=may_reopen)
    event = pair.open()
    assert type(event).__name__ == "SessionOpened", event
    pair.settle()
    pair.sent.clear()
    return pair
