"""Both ends of the VM protocol, connected in memory."""

from __future__ import annotations

import pytest

from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.vm_serial import (
    ANSWER_TIMEOUT_S,
    SPECIAL_BYTES,
    ControlMessage,
    VmBmc,
    VmControlCode,
    VmHost,
    VmRequest,
    VmResponse,
)

NOW = 1.0


def connected() -> tuple[VmHost, VmBmc]:
    host, bmc = VmHost(), VmBmc()
    connect(host, bmc)
    return host, bmc


def connect(host: VmHost, bmc: VmBmc) -> None:
    list(host.receive(bmc.connected()))
    list(bmc.receive(host.connected()))


def ask(host: VmHost, bmc: VmBmc) -> VmRequest:
    """Send a request of the machine; return it as the BMC decoded it."""
    (request,) = bmc.receive(host.request(6, 1, b"\xa0\xaa", NOW))
    assert isinstance(request, VmRequest)
    return request


def test_every_sequence_number_is_answered_also_in_single_bytes() -> None:
    host, bmc = connected()
    for _ in range(300):
        request = ask(host, bmc)
        answer = bmc.answer(request, 0, bytes(range(256)))
        assert answer is not None
        heard = [event for byte in answer for event in host.receive(bytes((byte,)))]
        assert heard == [VmResponse.to(request, 0, bytes(range(256)))]
        assert host.waiting is None
    assert host.sequence == 300 % 256


def test_every_control_code_arrives() -> None:
    host, bmc = connected()
    for code in set(VmControlCode) - {VmControlCode.VERSION, VmControlCode.CAPABILITIES}:
        frame = bmc.control(code)
        assert frame is not None
        assert list(host.receive(frame)) == [ControlMessage(code)]


def test_a_held_machine_waits_for_ever_and_its_release_frees_it() -> None:
    host, bmc = connected()
    ask(host, bmc)
    held = bmc.hold()
    assert held is not None
    assert list(host.receive(held)) == []
    assert host.timer is None
    assert host.waiting is not None
    released = bmc.release(CompletionCode.INITIALIZING)
    assert released is not None
    (answer,) = host.receive(released)
    assert isinstance(answer, VmResponse)
    assert answer.completion_code == CompletionCode.INITIALIZING
    assert host.waiting is None


def test_a_held_machine_is_freed_over_another_connection() -> None:
    host, bmc = connected()
    ask(host, bmc)
    list(host.receive(bmc.hold() or b""))
    assert host.disconnected() is None
    bmc.disconnected()
    assert host.waiting is not None
    connect(host, bmc)
    list(host.receive(bmc.release(CompletionCode.INITIALIZING) or b""))
    assert host.waiting is None


def test_a_lost_connection_frees_the_machine_by_itself() -> None:
    host, bmc = connected()
    ask(host, bmc)
    answer = host.disconnected()
    bmc.disconnected()
    assert answer is not None
    assert answer.completion_code == CompletionCode.INITIALIZING
    assert bmc.release(CompletionCode.INITIALIZING) is None


@pytest.mark.parametrize("sequence", sorted(SPECIAL_BYTES))
def test_a_machine_that_qemu_forgot_is_freed(sequence: int) -> None:
    host, bmc = connected()
    host.sequence = sequence
    ask(host, bmc)
    assert host.handle_timer(NOW + ANSWER_TIMEOUT_S) is None
    assert host.disconnected() is None
    bmc.disconnected()
    assert host.waiting is not None
    connect(host, bmc)
    (answer,) = host.receive(bmc.release(CompletionCode.INITIALIZING) or b"")
    assert isinstance(answer, VmResponse)
    assert answer.sequence == sequence
    assert host.waiting is None


def test_an_answer_that_comes_too_late_does_not_stop_the_timer_of_the_next() -> None:
    host, bmc = connected()
    late = ask(host, bmc)
    assert host.handle_timer(NOW + ANSWER_TIMEOUT_S) is not None
    ask(host, bmc)
    assert bmc.answer(late, 0) is None
    assert host.timer is not None
