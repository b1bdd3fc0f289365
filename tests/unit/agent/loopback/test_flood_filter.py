"""The kernel drops the datagrams of an address that floods the proxy, and only for a while."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bmcmedic.agent.loopback import flood_filter
from bmcmedic.agent.loopback.flood_filter import (
    DATAGRAMS_A_WINDOW_MAX,
    MUTED_MAX,
    MUTED_S,
    WINDOW_S,
    FloodFilter,
)
from bmcmedic.transport.addresses import bind_udp

WAIT_S = 20.0


class Bench:
    """The socket of a proxy, and the sockets that send to it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.now = 100.0
        self.socket = stack.enter_context(bind_udp(("127.0.0.1", 0)))
        self.in_session: set[object] = set()
        self.filter = FloodFilter(self.socket, self.in_session.__contains__)

    def sender(self, host: str = "127.0.0.1", port: int = 0) -> socket.socket:
        made = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind((host, port))
        made.connect(self.socket.getsockname())
        return made

    def hear(self) -> bytes | None:
        """The next that comes; None: it is dropped."""
        assert select.select([self.socket], [], [], WAIT_S)[0]
        data, peer = self.socket.recvfrom(512)
        return None if self.filter.must_drop(peer, self.now) else data

    def hear_until(self, wanted: bytes) -> None:
        while self.hear() != wanted:
            pass

    def mute(self, sender: socket.socket) -> None:
        for _ in range(DATAGRAMS_A_WINDOW_MAX):
            sender.send(b"noise")
            assert self.hear() == b"noise"
        sender.send(b"noise")
        assert self.hear() is None


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


def test_a_muted_address_takes_no_room_until_its_time_is_over(bench: Bench) -> None:
    loud, other = bench.sender(), bench.sender()
    bench.mute(loud)
    for passed_s in (0.0, MUTED_S - 0.001):
        bench.now += passed_s
        bench.filter.unmute_expired(bench.now)
        loud.send(b"noise")
        other.send(b"other")
        assert bench.hear() == b"other"
        assert bench.filter.dropped == 1  # the kernel has not let the other one in
    bench.now += 0.001
    bench.filter.unmute_expired(bench.now)
    loud.send(b"again")
    bench.hear_until(b"again")


def test_the_same_port_of_another_address_is_another_sender(bench: Bench) -> None:
    other = bench.sender("127.0.0.2")
    one = bench.sender("127.0.0.1", other.getsockname()[1])
    bench.mute(other)
    other.send(b"other")
    one.send(b"one")
    assert bench.hear() == b"one"


def test_datagrams_in_a_session_or_a_later_window_do_not_add_up(bench: Bench) -> None:
    busy = bench.sender()
    for _ in range(2 * DATAGRAMS_A_WINDOW_MAX):
        busy.send(b"x")
        assert bench.hear() == b"x"
        bench.filter.uncount(busy.getsockname())
    for _ in range(2 * DATAGRAMS_A_WINDOW_MAX):
        busy.send(b"x")
        assert bench.hear() == b"x"
        bench.now += 2 * WINDOW_S / DATAGRAMS_A_WINDOW_MAX


def test_an_address_with_a_session_is_never_muted(bench: Bench) -> None:
    tool = bench.sender()
    bench.in_session.add(tool.getsockname())
    for _ in range(3 * DATAGRAMS_A_WINDOW_MAX):
        tool.send(b"x")
        assert bench.hear() == b"x"
    bench.in_session.clear()
    tool.send(b"x")
    assert bench.hear() is None


class RoomForOne:
    """A socket of a kernel that has room for one filter, and none for the next beside it."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.is_full = False

    def setsockopt(self, level: int, option: int, value: bytes | int) -> None:
        is_attach = option == flood_filter._SO_ATTACH_FILTER
        if is_attach and self.is_full:
            raise OSError(errno.ENOMEM, "no room")
        self.real.setsockopt(level, option, value)
        self.is_full = is_attach


def test_no_old_filter_stays_where_there_is_no_room_for_two(bench: Bench) -> None:
    bench.filter._socket = RoomForOne(bench.socket)  # type: ignore[assignment]
    first, second, other = bench.sender(), bench.sender(), bench.sender()
    bench.mute(first)
    bench.now += MUTED_S / 2
    bench.mute(second)
    for sender in (first, second, other):
        sender.send(b"x")
    assert bench.hear() == b"x"
    assert bench.filter.dropped == 2  # the kernel has let neither in
    bench.now += MUTED_S / 2
    bench.filter.unmute_expired(bench.now)
    first.send(b"again")
    bench.hear_until(b"again")


def test_so_many_are_kept_out_by_the_kernel_and_more_are_dropped_here(bench: Bench) -> None:
    senders = [bench.sender() for _ in range(MUTED_MAX + 1)]
    for sender in senders:
        bench.mute(sender)
    for sender in senders:
        sender.send(b"x")
    assert bench.hear() is None
    assert bench.filter.dropped == MUTED_MAX + 2
    bench.now += WINDOW_S
    for sender in senders:
        sender.send(b"x")
    assert bench.hear() == b"x"
    assert bench.filter.dropped == MUTED_MAX + 2


def test_the_addresses_of_one_window_are_bounded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flood_filter, "COUNTED_MAX", 16)
    for port in range(1, 100):
        assert not bench.filter.must_drop(("127.0.0.1", port), bench.now)
        assert len(bench.filter._counts) <= 16


def test_where_the_kernel_takes_no_filter_it_is_dropped_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flood_filter, "_SO_ATTACH_FILTER", 0x7FFF)
    loud, other = bench.sender(), bench.sender()
    bench.mute(loud)
    loud.send(b"noise")
    other.send(b"other")
    assert {bench.hear(), bench.hear()} == {None, b"other"}
    assert bench.filter.dropped == 2
