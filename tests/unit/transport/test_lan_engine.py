"""The engine of the sweeps: errors go to the right link, strays to none, timers to their time."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.errors import PortClosed, TransportError, Unreachable
from bmcmedic.ipmi.console_options import ConsoleOptions
from bmcmedic.ipmi.events import ResponseReceived, SessionEvent, SessionFailed, SessionOpened
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.ipmi.remote_console import RemoteConsole
from bmcmedic.transport.aes import aes_cbc
from bmcmedic.transport.lan_engine import (
    DRAIN_DATAGRAMS_MAX,
    RECEIVE_BYTES_PER_LINK,
    TIMER_GRID_S,
    Address,
    LanEngine,
    LanPeer,
)
from tests.support.udp_bmc import CREDENTIALS, closed_address, silent_address, udp_bmcs

OPTIONS = ConsoleOptions(CREDENTIALS, os.urandom, aes_cbc)
GIVE_UP_S = 30.0


class Recorder(LanPeer):
    """A link that writes down what it is told."""

    __slots__ = ("answers", "errors", "events", "silences")

    def __init__(self, address: Address) -> None:
        super().__init__(address, RemoteConsole(OPTIONS))
        self.events: list[SessionEvent] = []
        self.errors: list[TransportError] = []
        self.silences = 0
        self.answers = 0

    def on_event(self, event: SessionEvent, now: float) -> None:
        self.events.append(event)
        if isinstance(event, SessionOpened):
            self.console.request(RequestMessage(0, 1), now, now + GIVE_UP_S)

    def on_transport_error(self, error: TransportError, now: float) -> None:
        del now
        self.errors.append(error)

    def on_silence(self) -> None:
        self.silences += 1

    def on_answer(self) -> None:
        self.answers += 1


@pytest.fixture
def engine() -> Iterator[LanEngine]:
    made = LanEngine(window=64, monotonic=time.monotonic)
    yield made
    made.close()


def opening(engine: LanEngine, address: Address, timeout_s: float = GIVE_UP_S) -> Recorder:
    link = Recorder(address)
    engine.attach(link)
    now = time.monotonic()
    link.console.open(now, now + timeout_s)
    engine.flush(link, now)
    return link


def step_until(engine: LanEngine, condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < give_up_at
        engine.step(0.1)


def test_links_of_both_families_are_served_side_by_side(engine: LanEngine) -> None:
    with udp_bmcs() as server:
        bmcs = [server.add(host) for host in ("127.0.0.1", "127.0.0.1", "127.0.0.2", "::1")]
        links = [opening(engine, bmc.address) for bmc in bmcs]
        step_until(engine, lambda: all(len(link.events) == 2 for link in links))
    for link in links:
        assert isinstance(link.events[1], ResponseReceived)
        assert not link.errors
    assert engine.stray_count == 0


def test_closed_ports_are_told_to_their_own_links_only(engine: LanEngine) -> None:
    with udp_bmcs() as server:
        good, bad = [], []
        for _ in range(30):
            bad.append(opening(engine, closed_address()))
            good.append(opening(engine, server.add().address))
            bad.append(opening(engine, closed_address("::1")))
        step_until(
            engine,
            lambda: (
                all(len(link.events) == 2 for link in good) and all(link.errors for link in bad)
            ),
        )
    for link in good:
        assert not link.errors
    for link in bad:
        assert all(isinstance(error, PortClosed) for error in link.errors)
        assert not link.events


class BusySocket:
    """A socket on which, for a while, each `sendto` reports an error about somebody else."""

    def __init__(self, sock: socket.socket, numbers: list[int], queue: list[Any]) -> None:
        self.sock = sock
        self.numbers = numbers
        self.queue = queue
        self.sent: list[Address] = []

    def sendto(self, data: bytes, address: Address) -> int:
        if self.numbers:
            number = self.numbers.pop(0)
            raise OSError(number, os.strerror(number))
        self.sent.append(address)
        return len(data)

    def recvmsg(self, *_sizes: int) -> Any:  # noqa: ANN401
        if not self.queue or self.queue[0] is None:
            del self.queue[:1]
            raise BlockingIOError
        return self.queue.pop(0)


def queued_error(number: int, address: Address) -> Any:  # noqa: ANN401
    data = number.to_bytes(4, "little") + bytes(12)
    return b"", [(socket.IPPROTO_IP, 11, data)], 0, address


def test_an_error_that_comes_between_two_attempts_is_not_blamed_on_the_sender(
    engine: LanEngine,
) -> None:
    other, sender = Recorder(("127.0.0.1", 9)), Recorder(("127.0.0.1", 10))
    for link in (other, sender):
        engine.attach(link)
    busy = BusySocket(
        sender.sock,
        [errno.ECONNREFUSED, errno.ECONNREFUSED],
        [queued_error(errno.ECONNREFUSED, other.address), None] * 2,
    )
    sender.sock = busy  # type: ignore[assignment]
    sender.console.open(1.0, 6.0)
    engine.flush(sender, 1.0)
    assert not sender.errors
    assert [type(error) for error in other.errors] == [PortClosed, PortClosed]
    assert busy.sent == [sender.address]


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENETUNREACH, Unreachable), (errno.EPERM, Unreachable)]
)
def test_an_error_of_sending_itself_is_the_links_own(
    engine: LanEngine, number: int, kind: type[TransportError]
) -> None:
    link = Recorder(("127.0.0.1", 9))
    engine.attach(link)
    link.sock = BusySocket(link.sock, [number] * 3, [])  # type: ignore[assignment]
    link.console.open(1.0, 6.0)
    engine.flush(link, 1.0)
    assert [type(error) for error in link.errors] == [kind]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
def test_no_room_to_send_is_a_loss_and_no_verdict(engine: LanEngine, number: int) -> None:
    link = Recorder(("127.0.0.1", 9))
    engine.attach(link)
    link.sock = BusySocket(link.sock, [number], [])  # type: ignore[assignment]
    link.console.open(1.0, 6.0)
    engine.flush(link, 1.0)
    assert not link.errors


def test_what_comes_from_elsewhere_is_a_stray(engine: LanEngine) -> None:
    with silent_address() as address:
        link = opening(engine, address)
        port = link.sock.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for _ in range(5):
                stranger.sendto(b"\x06\x00\xff\x07noise", ("127.0.0.1", port))
            step_until(engine, lambda: engine.stray_count == 5)
    assert not link.events
    assert not link.answers


def test_a_detached_link_is_told_nothing_more(engine: LanEngine) -> None:
    link = opening(engine, closed_address())
    engine.detach(link)
    give_up_at = time.monotonic() + 0.4
    while time.monotonic() < give_up_at:
        engine.step(0.1)
    assert not link.errors
    assert not link.events
    assert not link.silences


def test_silence_is_told_once_and_the_deadline_kept(engine: LanEngine) -> None:
    with silent_address() as address:
        started_at = time.monotonic()
        link = opening(engine, address, timeout_s=1.0)
        step_until(engine, lambda: bool(link.events))
        waited_s = time.monotonic() - started_at
    assert isinstance(link.events[0], SessionFailed)
    assert link.silences == 1
    assert 1.0 <= waited_s < 1.0 + TIMER_GRID_S + GIVE_UP_S / 2


def test_the_window_is_no_larger_than_the_buffer_that_was_granted() -> None:
    asked = 1_000_000
    engine = LanEngine(window=asked, monotonic=time.monotonic)
    try:
        link = Recorder(("127.0.0.1", 9))
        engine.attach(link)
        granted = link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert engine.window == max(1, min(asked, granted // RECEIVE_BYTES_PER_LINK))
        assert engine.window < asked
    finally:
        engine.close()


def test_a_small_window_is_granted_in_full() -> None:
    engine = LanEngine(window=16, monotonic=time.monotonic)
    try:
        engine.attach(Recorder(("127.0.0.1", 9)))
        assert engine.window == 16
    finally:
        engine.close()


def test_a_flood_leaves_the_timers_their_turn(engine: LanEngine) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flooder:
        flooder.bind(("127.0.0.1", 0))
        link = opening(engine, flooder.getsockname(), timeout_s=0.5)
        peer = ("127.0.0.1", link.sock.getsockname()[1])
        give_up_at = time.monotonic() + GIVE_UP_S
        while not link.events:
            assert time.monotonic() < give_up_at
            for _ in range(DRAIN_DATAGRAMS_MAX + 50):
                flooder.sendto(b"\x06\x00\xff\x07noise", peer)
            engine.step(0.0)
    assert isinstance(link.events[0], SessionFailed)


def test_closing_gives_every_descriptor_back() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        engine = LanEngine(window=4, monotonic=time.monotonic)
        engine.attach(Recorder(("127.0.0.1", 9)))
        engine.attach(Recorder(("::1", 9, 0, 0)))
        engine.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
