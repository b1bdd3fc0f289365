"""Bridged requests over /dev/ipmi0, with the thread that waits for their answers."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Iterator

import pytest

from bmcmedic.errors import BmcmedicError, NoAnswer, QueueFull, Refused, TransportError
from bmcmedic.transport import dev_ipmi_bridge
from bmcmedic.transport.dev_ipmi import DevIpmi
from bmcmedic.transport.dev_ipmi_bridge import BRIDGED_MAX
from bmcmedic.transport.dev_ipmi_device import Received
from bmcmedic.transport.in_band import InterfaceBusy, InterfaceGone, Interrupted, Ipmb
from tests.support.polling import eventually

WAIT_S_MAX = 30.0
NEVER = float("inf")
REQUEST = b"\x10\x2d\xbe"
ME = Ipmb(6, 0x2C)


class OpenDevice:
    """One open device, whose messages the test gives."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.sent: list[tuple[int, bytes]] = []
        self.bridged: list[tuple[int, bytes, Ipmb, int]] = []
        self.inbox: deque[Received] = deque()
        self.closed = False
        self._event = threading.Event()

    def send(self, msgid: int, request: bytes) -> None:
        self.sent.append((msgid, request))
        if self.kernel.answers:
            self.give(Received(1, msgid, request[0] >> 2 | 1, request[1], 0, b"\0"))

    def send_ipmb(self, msgid: int, request: bytes, target: Ipmb, answer_ms: int) -> None:
        if self.kernel.refuses is not None:
            raise self.kernel.refuses
        self.bridged.append((msgid, request, target, answer_ms))
        if self.kernel.accepts:
            self.kernel.complete += 1

    def receive(self) -> Received | None:
        self.check()
        return self.inbox.popleft() if self.inbox else None

    def give(self, received: Received) -> None:
        self.inbox.append(received)
        self._event.set()

    def wait(self, timeout_s: float | None) -> None:
        assert not self.closed
        if self._event.wait(timeout_s):
            self._event.clear()

    def hold_alone(self) -> None:
        pass

    def wake(self) -> None:
        assert not self.closed
        self._event.set()

    def check(self) -> None:
        if self.kernel.gone:
            raise InterfaceGone("/dev/ipmi0: No such device")

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Kernel:
    def __init__(self) -> None:
        self.devices: list[OpenDevice] = []
        self.complete = 0
        self.accepts = True
        self.answers = True
        self.counts = True
        self.gone = False
        self.refuses: BmcmedicError | None = None

    def open(self, path: str) -> OpenDevice:  # noqa: ARG002
        self.devices.append(OpenDevice(self))
        return self.devices[-1]

    def counters(self, path: str) -> Kernel:  # noqa: ARG002
        return self

    def complete_transactions(self) -> int | None:
        return self.complete if self.counts else None

    def hosed_count(self) -> int | None:
        return 0 if self.counts else None

    def close(self) -> None:
        pass


class Free:
    def must_stop(self, *, recovering: bool) -> bool:  # noqa: ARG002
        return False


class Bench:
    def __init__(self) -> None:
        self.kernel = Kernel()
        self.interface = DevIpmi(
            "/dev/ipmi0", open_device=self.kernel.open, open_counters=self.kernel.counters
        )
        self.done: list[bytes | BmcmedicError] = []

    def send(self, s: float = WAIT_S_MAX, claim: Free | None = None) -> None:
        deadline = time.monotonic() + s
        self.interface.send_bridged(REQUEST, ME, deadline, claim or Free(), self.done.append)

    @property
    def bridge(self) -> OpenDevice:
        """The second open device; the first is for what the BMC answers itself."""
        return self.kernel.devices[1]

    def answer(
        self, number: int = 0, data: bytes = b"\0\x33", *, kind: int = 1, command: int = 0x2D
    ) -> None:
        msgid, request, _, _ = self.bridge.bridged[number]
        self.bridge.give(Received(kind, msgid, request[0] >> 2 | 1, command, 0, data))


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.kernel.gone = False
    bench.interface.close()
    eventually(lambda: not any("bridged" in thread.name for thread in threading.enumerate()))
    assert all(device.closed for device in bench.kernel.devices)


def test_it_returns_when_the_bmc_has_taken_it_and_tells_the_answer_later(bench: Bench) -> None:
    bench.send()
    ((_, request, target, answer_ms),) = bench.bridge.bridged
    assert (request, target) == (REQUEST, ME)
    assert 0 < answer_ms <= WAIT_S_MAX * 1000
    assert not bench.done
    assert bench.interface.attempt(b"\x18\x01", NEVER, Free(), idempotent=True) == b"\x1c\x01\0"
    bench.answer()
    eventually(lambda: bool(bench.done))
    assert bench.done == [b"\x14\x2d\0\x33"]


def test_answers_come_in_any_order_and_each_once(bench: Bench) -> None:
    told: list[tuple[int, bytes | BmcmedicError]] = []

    def tell(number: int, got: bytes | BmcmedicError) -> None:
        told.append((number, got))

    for number in range(3):
        done = functools.partial(tell, number)
        bench.interface.send_bridged(REQUEST, ME, NEVER, Free(), done)
    bench.answer(2, b"\0two")
    bench.answer(2, b"\0again")
    bench.answer(0, b"\0zero", kind=2)
    bench.answer(0, b"\0zero")
    bench.answer(1, b"\xc3")
    eventually(lambda: len(told) == 3)
    assert told == [(2, b"\x14\x2d\0two"), (0, b"\x14\x2d\0zero"), (1, b"\x14\x2d\xc3")]


def test_a_broken_answer_is_told_as_such(bench: Bench) -> None:
    bench.send()
    bench.answer(command=0x2E)
    eventually(lambda: bool(bench.done))
    assert "another request's" in str(bench.done[0])


def test_while_the_bmc_has_not_taken_it_nothing_else_is_sent(bench: Bench) -> None:
    bench.kernel.accepts = False
    with pytest.raises(NoAnswer, match="did not accept the bridged request"):
        bench.send(s=0.05)
    with pytest.raises(InterfaceBusy):
        bench.interface.attempt(b"\x18\x01", time.monotonic() + 0.05, Free(), idempotent=True)
    assert not bench.kernel.devices[0].sent
    bench.answer()  # too late: its caller has been told
    bench.kernel.complete += 1
    assert bench.interface.attempt(b"\x18\x01", NEVER, Free(), idempotent=True)
    assert not bench.done


def test_its_own_answer_shows_that_it_was_taken(bench: Bench) -> None:
    bench.kernel.accepts = False
    sender = threading.Thread(target=bench.send)
    sender.start()
    eventually(lambda: len(bench.kernel.devices) == 2 and bool(bench.bridge.bridged))
    bench.answer(data=b"\xc3")
    sender.join(WAIT_S_MAX)
    assert not sender.is_alive()
    assert bench.done == [b"\x14\x2d\xc3"]


def test_where_nothing_is_counted_a_request_behind_it_shows_that_it_was_taken(
    bench: Bench,
) -> None:
    bench.kernel.counts = False
    bench.send()
    assert [request for _, request in bench.kernel.devices[0].sent] == [b"\x18\x01"]
    bench.kernel.answers = False
    with pytest.raises(NoAnswer):
        bench.send(s=0.05)
    bench.answer(0)
    eventually(lambda: bool(bench.done))
    assert bench.done == [b"\x14\x2d\0\x33"]


def test_who_is_interrupted_is_not_told_besides(bench: Bench) -> None:
    class Lost(Free):
        asked = 0

        def must_stop(self, *, recovering: bool) -> bool:  # noqa: ARG002
            self.asked += 1
            return self.asked > 2

    bench.kernel.accepts = False
    with pytest.raises(Interrupted) as raised:
        bench.send(claim=Lost())
    assert raised.value.may_have_run
    bench.answer()
    eventually(lambda: not bench.bridge.inbox)
    assert not bench.done


def test_no_more_than_so_many_wait(bench: Bench) -> None:
    for _ in range(BRIDGED_MAX):
        bench.send()
    with pytest.raises(QueueFull, match="8 bridged requests"):
        bench.send()
    bench.answer()
    eventually(lambda: bool(bench.done))
    bench.send()
    assert len(bench.bridge.bridged) == BRIDGED_MAX + 1


def test_a_channel_without_controllers_is_refused_and_nothing_waits(bench: Bench) -> None:
    bench.kernel.refuses = Refused("no IPMB")
    for _ in range(BRIDGED_MAX + 1):
        with pytest.raises(Refused, match="no IPMB"):
            bench.send()
    bench.kernel.refuses = None
    bench.send()
    with pytest.raises(NoAnswer, match="before the request was sent"):
        bench.send(s=-1.0)


def test_what_the_kernel_does_not_end_ends_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev_ipmi_bridge, "LATE_S", 0.0)
    monkeypatch.setattr(dev_ipmi_bridge, "CHECK_PERIOD_S", 0.01)
    bench.send(s=1.0)  # long enough to be sent on a busy machine
    eventually(lambda: bool(bench.done))
    assert isinstance(bench.done[0], NoAnswer)


def test_when_the_device_vanishes_all_are_told_and_the_next_opens_it_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev_ipmi_bridge, "CHECK_PERIOD_S", 0.01)
    bench.send()
    bench.send()
    bench.kernel.gone = True
    eventually(lambda: len(bench.done) == 2)
    assert all(isinstance(told, InterfaceGone) for told in bench.done)
    with pytest.raises(InterfaceGone):
        bench.interface.attempt(b"\x18\x01", time.monotonic() + WAIT_S_MAX, Free(), idempotent=True)
    bench.kernel.gone = False
    bench.send()
    assert len(bench.kernel.devices) == 4


def test_closing_tells_who_waits(bench: Bench) -> None:
    bench.send()
    bench.interface.close()
    assert isinstance(bench.done[0], TransportError)


def test_without_a_thread_it_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: threading.Thread) -> None:  # noqa: ARG001
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(InterfaceBusy, match="can't start new thread"):
            bench.send()
    bench.send()


def test_who_waits_is_told_when_the_thread_meets_what_nobody_thought_of(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.send()

    def unforeseen() -> Received | None:
        raise ValueError("nobody thought of this")

    monkeypatch.setattr(bench.bridge, "receive", unforeseen)
    bench.bridge.wake()
    eventually(lambda: bool(bench.done))
    assert isinstance(bench.done[0], TransportError)
    eventually(lambda: bench.bridge.closed)
    bench.send()  # opened anew
    assert len(bench.kernel.devices) == 3
