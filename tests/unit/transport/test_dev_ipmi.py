"""Exchanges over /dev/ipmi0, against a kernel in memory and in virtual time."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmcmedic.errors import BmcmedicError, ConfigurationError, NoAnswer, RemoteProtocolError
from bmcmedic.transport.dev_ipmi import EXCHANGE_S_MAX, LEFT_S_MAX, SLICE_S, DevIpmi
from bmcmedic.transport.dev_ipmi_device import Received, device_error
from bmcmedic.transport.in_band import InterfaceBusy, InterfaceGone, Interrupted, Ipmb

REQUEST = b"\x18\x01"
PAT = b"\x18\x22"
NEVER = float("inf")


def answer(msgid: int, request: bytes, data: bytes = b"\0") -> Received:
    return Received(1, msgid, request[0] >> 2 | 1, request[1], request[0] & 3, data)


@dataclass
class Kernel:
    """Answers each request after `answer_s`, one after another."""

    now: float = 100.0
    answer_s: float = 0.01
    answer_data: bytes = b"\0"
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    due: deque[tuple[float, Received]] = field(default_factory=deque)
    opened: int = 0
    closed: int = 0
    gone: bool = False
    refuses: BmcmedicError | None = None
    hosed: int | None = 0
    at_wait: Callable[[], None] = lambda: None

    def open(self, path: str) -> Kernel:  # noqa: ARG002 - one kernel, one device
        if self.refuses is not None:
            raise self.refuses
        self.check()
        self.opened += 1
        return self

    def counters(self, path: str) -> Kernel:  # noqa: ARG002
        return self

    def complete_transactions(self) -> int | None:
        return None

    def hosed_count(self) -> int | None:
        return self.hosed

    def send(self, msgid: int, request: bytes) -> None:
        self.check()
        if self.refuses is not None:
            raise self.refuses
        self.sent.append((msgid, request))
        begins = max([self.now, *(at for at, _ in self.due if at < NEVER)])
        self.due.append((begins + self.answer_s, answer(msgid, request, self.answer_data)))

    def send_ipmb(self, msgid: int, request: bytes, target: Ipmb, answer_ms: int) -> None:
        raise AssertionError((msgid, request, target, answer_ms))

    def receive(self) -> Received | None:
        self.check()
        if self.due and self.due[0][0] <= self.now:
            return self.due.popleft()[1]
        return None

    def wait(self, timeout_s: float | None) -> None:
        assert timeout_s is not None
        assert timeout_s <= SLICE_S
        until = self.now + timeout_s
        self.now = min(until, max(self.now, self.due[0][0])) if self.due else until
        self.at_wait()

    def hold_alone(self) -> None:
        pass

    def wake(self) -> None:
        raise AssertionError

    def check(self) -> None:
        if self.gone:
            raise device_error("/dev/ipmi0", OSError(errno.ENODEV, "No such device"))

    def close(self) -> None:
        self.closed += 1


class Claim:
    def __init__(self) -> None:
        self.lost_after = NEVER
        self.asked: list[bool] = []

    def must_stop(self, *, recovering: bool) -> bool:
        self.asked.append(recovering)
        return len(self.asked) > self.lost_after


class Bench:
    def __init__(self) -> None:
        self.kernel = Kernel()
        self.device = DevIpmi(
            "/dev/ipmi0",
            open_device=self.kernel.open,
            open_counters=self.kernel.counters,
            monotonic=lambda: self.kernel.now,
        )

    def ask(self, request: bytes = REQUEST, s: float = 1.0, claim: Claim | None = None) -> bytes:
        deadline = self.kernel.now + s
        return self.device.attempt(request, deadline, claim or Claim(), idempotent=True)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_exchange_and_another_over_one_open_device(bench: Bench) -> None:
    bench.kernel.answer_data = b"\0abc"
    assert bench.ask() == b"\x1c\x01\0abc"
    assert bench.ask(b"\x19\x01x") == b"\x1d\x01\0abc"
    assert [request for _, request in bench.kernel.sent] == [REQUEST, b"\x19\x01x"]
    assert bench.kernel.opened == 1
    bench.device.close()
    bench.device.close()
    assert bench.kernel.closed == 2  # the counters too


def test_what_is_no_answer_to_it_is_dropped(bench: Bench) -> None:
    kernel = bench.kernel
    kernel.due += [
        (0.0, answer(99, REQUEST, b"\0another's")),
        (0.0, Received(2, 1, 7, 1, 0, b"\0event")),
        (0.0, Received(3, 1, 7, 1, 0, b"\0command")),
    ]
    kernel.answer_data = b"\0mine"
    assert bench.ask() == b"\x1c\x01\0mine"


@pytest.mark.parametrize(
    "received",
    [
        Received(1, 1, 7, 2, 0, b"\0"),
        Received(1, 1, 5, 1, 0, b"\0"),
        Received(1, 1, 7, 1, 0, b""),
        Received(1, 1, 255, 255, 0, b"\0" * 272),
    ],
)
def test_a_broken_answer_is_told_as_such(bench: Bench, received: Received) -> None:
    bench.kernel.due.append((0.0, received))
    with pytest.raises(RemoteProtocolError):
        bench.ask()


def test_the_next_waits_for_what_was_left_in_the_kernel(bench: Bench) -> None:
    kernel = bench.kernel
    kernel.answer_s, kernel.answer_data = 5.0, b"\0late"
    with pytest.raises(NoAnswer, match="the kernel still has the request"):
        bench.ask(s=1.0)
    kernel.answer_s, kernel.answer_data = 0.01, b"\0mine"
    began = kernel.now
    with pytest.raises(InterfaceBusy, match="an earlier request of ours"):
        bench.ask(PAT, s=1.0)
    assert len(kernel.sent) == 1
    assert kernel.now == pytest.approx(began + 1.0)
    assert bench.ask(PAT, s=10.0) == b"\x1c\x22\0mine"
    assert kernel.now == pytest.approx(100 + 5.0 + 0.01, abs=SLICE_S)


def test_who_waits_for_what_was_left_can_be_interrupted(bench: Bench) -> None:
    bench.kernel.answer_s = 5.0
    with pytest.raises(NoAnswer):
        bench.ask()
    claim = Claim()
    claim.lost_after = 3
    with pytest.raises(Interrupted) as raised:
        bench.ask(claim=claim)
    assert not raised.value.may_have_run
    assert claim.asked == [False, True, True, True]
    assert len(bench.kernel.sent) == 1


def test_what_the_kernel_never_answers_is_not_waited_for_for_ever(bench: Bench) -> None:
    kernel = bench.kernel
    kernel.answer_s = NEVER
    with pytest.raises(NoAnswer):
        bench.ask(s=NEVER)
    assert kernel.now == pytest.approx(100 + EXCHANGE_S_MAX)
    assert bench.device.exchange_s_max == EXCHANGE_S_MAX
    kernel.answer_s = 0.01
    with pytest.raises(InterfaceBusy):
        bench.ask(s=LEFT_S_MAX - EXCHANGE_S_MAX - 1)
    kernel.due.clear()
    assert bench.ask(s=10) == b"\x1c\x01\0"


def test_an_interrupted_exchange_is_not_sent_or_may_have_run(bench: Bench) -> None:
    claim = Claim()
    claim.lost_after = 0
    with pytest.raises(Interrupted) as raised:
        bench.ask(claim=claim)
    assert not raised.value.may_have_run
    assert not bench.kernel.sent
    claim.lost_after = 3
    bench.kernel.answer_s = 0.5
    with pytest.raises(Interrupted) as raised:
        bench.ask(claim=claim)
    assert raised.value.may_have_run
    assert len(bench.kernel.sent) == 1
    assert bench.ask(PAT, s=2.0) == b"\x1c\x22\0"


def test_who_takes_over_sends_at_once_and_gets_its_own_answer(bench: Bench) -> None:
    kernel = bench.kernel
    kernel.answer_s = 2.0
    pats: list[bytes] = []

    def take_over() -> None:
        if kernel.now > 101.0 and not pats:
            pats.append(b"")
            bench.device.take_over()
            pats[0] = bench.ask(PAT, s=10)

    kernel.at_wait = take_over
    with pytest.raises(Interrupted):
        bench.ask(s=10)
    assert pats == [b"\x1c\x22\0"]
    assert [request for _, request in kernel.sent] == [REQUEST, PAT]


def test_an_answer_that_another_thread_received_reaches_its_own(bench: Bench) -> None:
    kernel = bench.kernel
    kernel.answer_data = b"\0mine"

    def steal() -> None:
        if kernel.due and kernel.due[0][0] <= kernel.now:
            # A thread that was fenced off looks for an answer of its own.
            assert bench.device._receive(kernel, 12345) is None

    kernel.at_wait = steal
    assert bench.ask() == b"\x1c\x01\0mine"


def test_the_device_vanishes_and_comes_back(bench: Bench) -> None:
    kernel = bench.kernel
    kernel.answer_s = NEVER
    kernel.at_wait = lambda: setattr(kernel, "gone", kernel.now > 100.3)
    with pytest.raises(InterfaceGone, match="is ipmi_si loaded"):
        bench.ask(s=60)
    assert kernel.now < 100.4
    with pytest.raises(InterfaceGone):
        bench.ask()
    kernel.at_wait = lambda: None
    kernel.gone, kernel.answer_s = False, 0.01
    kernel.due.clear()
    assert bench.ask() == b"\x1c\x01\0"
    assert kernel.opened == 2


def test_a_request_that_the_kernel_gave_up_was_not_answered(bench: Bench) -> None:
    kernel = bench.kernel
    kernel.answer_data = b"\xff"
    assert bench.ask() == b"\x1c\x01\xff"
    kernel.at_wait = lambda: setattr(kernel, "hosed", 1)
    with pytest.raises(NoAnswer, match="the BMC does not serve KCS"):
        bench.ask()
    kernel.hosed = None
    kernel.at_wait = lambda: None
    assert bench.ask() == b"\x1c\x01\xff"


def test_what_the_kernel_refuses_passes_through(bench: Bench) -> None:
    kernel = bench.kernel
    kernel.refuses = InterfaceBusy("no more programs")
    with pytest.raises(InterfaceBusy):
        bench.ask()
    kernel.refuses = ConfigurationError("no right")
    with pytest.raises(InterfaceGone, match="no right"):
        bench.ask()
    kernel.refuses = None
    assert bench.ask()
    kernel.refuses = InterfaceBusy("maintenance mode")
    with pytest.raises(InterfaceBusy):
        bench.ask()
    kernel.refuses = None
    assert bench.ask()


def test_no_right_to_the_device_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "ipmi0"
    place.touch()
    monkeypatch.setattr("os.access", lambda path, mode: mode == 0)  # noqa: ARG005
    with pytest.raises(ConfigurationError, match="run as root"):
        DevIpmi(str(place))


@given(
    st.lists(
        st.tuples(
            st.sampled_from((0.0, 0.001, 0.5, 3.0, 70.0, NEVER)),
            st.sampled_from((0.01, 1.0, 61.0, NEVER)),
            st.sampled_from((NEVER, NEVER, 0, 1, 2, 5)),
            st.sampled_from(("", "", "", "gone", "back", "take over", "stray")),
        ),
        max_size=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_every_answer_is_its_own_and_one_request_is_in_the_kernel(
    steps: list[tuple[float, float, float, str]],
) -> None:
    bench = Bench()
    kernel = bench.kernel
    forgotten_until = 0.0
    for number, (answer_s, patience_s, lost_after, event) in enumerate(steps):
        if event in ("gone", "back"):
            kernel.gone = event == "gone"
            kernel.due.clear()
        elif event == "take over":
            bench.device.take_over()
            forgotten_until = NEVER
        elif event == "stray":
            kernel.due.appendleft((kernel.now, answer(-number, REQUEST, b"\0stray")))
        kernel.answer_s, kernel.answer_data = answer_s, bytes((0, number))
        claim = Claim()
        claim.lost_after = lost_after
        began = kernel.now
        try:
            response = bench.ask(s=patience_s, claim=claim)
        except (NoAnswer, Interrupted, InterfaceGone, InterfaceBusy):
            pass
        else:
            assert response == bytes((0x1C, 1, 0, number))
        assert kernel.now - began <= min(patience_s, EXCHANGE_S_MAX) + 1e-6
        if not forgotten_until and kernel.now < 100 + LEFT_S_MAX:
            ours = [received for _, received in kernel.due if received.data != b"\0stray"]
            assert len(ours) <= 1


def test_a_device_that_is_not_there_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "ipmi0"
    device = DevIpmi(str(path))
    assert device.missing == f"{path} is not there: load ipmi_si and ipmi_devintf"
    path.touch()
    assert device.missing is None
