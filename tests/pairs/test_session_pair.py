"""Remote console and managed system connected in memory."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from bmcmedic.ipmi.cipher_suites import CIPHER_SUITES
from bmcmedic.ipmi.console_options import ConsoleOptions
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.events import (
    Event,
    ResponseReceived,
    SessionClosed,
    SessionOpened,
)
from bmcmedic.ipmi.managed_system import IncomingRequest, ManagedSystem, User
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.ipmi.remote_console import RemoteConsole
from bmcmedic.ipmi.states import State
from bmcmedic.transport.aes import aes_cbc

GUID = bytes(range(16))
PASSWORD = b"sixteen-byte-pw!"


@dataclass
class Pair:
    """Both ends, a clock, and a network that a test can bend."""

    console: RemoteConsole
    managed: ManagedSystem
    rng: random.Random
    loss: float = 0.0
    now: float = 1.0
    executed: list[RequestMessage] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    answers: bool = True

    def deliver(self) -> None:
        """Carry datagrams in both directions until nobody has one left."""
        while datagrams := self.console.datagrams_to_send():
            for datagram in datagrams:
                if self.rng.random() < self.loss:
                    continue
                answer = self.managed.receive_datagram(datagram, "console", self.now)
                if isinstance(answer, IncomingRequest):
                    self.executed.append(answer.message)
                    if not self.answers:
                        continue
                    answer = self.managed.respond(answer, 0, answer.message.data, self.now)
                if answer is not None and self.rng.random() >= self.loss:
                    event = self.console.receive_datagram(answer, self.now)
                    if event is not None:
                        self.events.append(event)

    def run(self) -> Event:
        """Deliver and let time pass until the console reports something."""
        count = len(self.events)
        self.deliver()
        while len(self.events) == count:
            timer = self.console.get_timer()
            assert timer is not None
            assert timer >= self.now
            self.now = timer
            event = self.console.handle_timer(self.now)
            if event is not None:
                self.events.append(event)
            self.deliver()
        return self.events[-1]


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
) -> Pair:
    rng = random.Random(seed)
    return Pair(
        RemoteConsole(
            ConsoleOptions(
                Credentials(user, password, kg),
                rng.randbytes,
                aes_cbc,
                privilege=privilege,
                cipher_suites=suites,
                name_only_lookup=name_only_lookup,
                may_reopen=may_reopen,
            )
        ),
        ManagedSystem(
            guid=GUID,
            users=users,
            random_bytes=rng.randbytes,
            aes=aes_cbc,
            kg=bmc_kg,
            cipher_suites=bmc_suites,
            session_slots=slots,
        ),
        rng,
    )


def open_session(pair: Pair) -> Event:
    pair.console.open(pair.now, pair.now + 5)
    return pair.run()


def ask(pair: Pair, data: bytes = b"\x01\x02", *, idempotent: bool = True) -> Event:
    pair.console.request(
        RequestMessage(0x30, 0x42, data), pair.now, pair.now + 5, idempotent=idempotent
    )
    return pair.run()


@pytest.mark.parametrize("suite", sorted(CIPHER_SUITES))
@pytest.mark.parametrize("kg", [b"", b"a-k_g-of-20-bytes..."])
def test_every_suite_opens_exchanges_and_closes(suite: int, kg: bytes) -> None:
    pair = make_pair(suites=(suite,), bmc_suites=(suite,), kg=kg, bmc_kg=kg)
    assert open_session(pair) == SessionOpened(CIPHER_SUITES[suite])
    for length in range(40):
        event = ask(pair, bytes(range(length)))
        assert isinstance(event, ResponseReceived)
        assert event.response.data == bytes(range(length))
    assert pair.managed.session_count == 1
    pair.console.close(pair.now, pair.now + 1)
    assert pair.run() == SessionClosed()
    assert pair.managed.session_count == 0
    assert pair.console.state is State.CLOSED
