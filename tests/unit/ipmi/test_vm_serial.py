from __future__ import annotations

import pytest

from bmcmedic.errors import LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi.vm_serial import (
    ALL_CAPABILITIES,
    ANSWER_TIMEOUT_S,
    FRAME_BYTES_MAX,
    SPECIAL_BYTES,
    ControlMessage,
    DamagedFrame,
    FrameReader,
    VmBmc,
    VmCapability,
    VmControlCode,
    VmHost,
    VmRequest,
    VmResponse,
)

GET_DEVICE_ID = VmRequest(5, 0x06, 0x01)
GET_DEVICE_ID_FRAME = bytes.fromhex("05 18 01 e2 a0")


def only(frames: object) -> object:
    (frame,) = list(frames)  # type: ignore[call-overload]
    return frame


def bmc_with_machine(capabilities: VmCapability = ALL_CAPABILITIES) -> VmBmc:
    bmc = VmBmc()
    bmc.connected()
    list(bmc.receive(VmHost(capabilities).connected()))
    return bmc


# ------------------------------------------------------------------------------------ the bytes


def test_a_request_and_its_answer_byte_by_byte() -> None:
    assert GET_DEVICE_ID.encode() == GET_DEVICE_ID_FRAME
    answer = VmResponse.to(GET_DEVICE_ID, 0xC3)
    assert answer.encode() == bytes.fromhex("05 1c 01 c3 1b a0")
    assert VmResponse.decode(answer.encode()[:-1]) == answer


@pytest.mark.parametrize("sequence", sorted(SPECIAL_BYTES))
def test_special_bytes_are_escaped(sequence: int) -> None:
    frame = VmRequest(sequence, 0x06, 0x01).encode()
    assert frame[:2] == bytes((0xAA, sequence | 0x10))
    assert frame[-1] == 0xA0
    assert not SPECIAL_BYTES & set(frame[1:-1])
    assert only(VmBmc().receive(frame)) == VmRequest(sequence, 0x06, 0x01)


def test_the_checksum_is_over_the_bytes_without_escapes_and_may_need_one() -> None:
    # 00 + 18 + 01 + 47 and 0xA0 add up to 0x100.
    frame = VmRequest(0, 0x06, 0x01, b"\x47").encode()
    assert frame == bytes.fromhex("00 18 01 47 aa b0 a0")
    assert only(VmBmc().receive(frame)) == VmRequest(0, 0x06, 0x01, b"\x47")


def test_what_qemu_sends_as_it_connects() -> None:
    greeting = bytes.fromhex("ff 01 a1 08 3f a1")
    assert VmHost().connected() == greeting
    bmc = VmBmc()
    assert bmc.connected() == bytes.fromhex("ff 01 a1")
    assert list(bmc.receive(greeting)) == [
        ControlMessage(VmControlCode.VERSION, 1),
        ControlMessage(VmControlCode.CAPABILITIES, 0x3F),
    ]
    assert bmc.version == 1
    assert bmc.capabilities == ALL_CAPABILITIES


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ("a0", "expected 4 bytes or more, got 0"),
        ("05 18 a0", "expected 4 bytes or more, got 2"),
        ("05 18 01 e3 a0", "wrong checksum"),
        ("05 1c 01 de a0", "a response instead of a request"),
        ("05 18 aa 01 e2 a0", "an escape before 0x01"),
        ("05 18 aa aa b0 e2 a0", "an escaped escape byte"),
        ("05 18 01 aa a0", "a frame that ends in an escape"),
        ("a1", "unknown control code"),
        ("55 a1", "unknown control code"),
        ("08 a1", "CAPABILITIES: expected 2 bytes, got 1"),
        ("04 01 a1", "RESET: expected 1 bytes, got 2"),
    ],
)
def test_a_damaged_frame_is_reported_and_the_next_one_decoded(frame: str, message: str) -> None:
    bmc = VmBmc()
    damaged, sound = bmc.receive(bytes.fromhex(frame) + GET_DEVICE_ID_FRAME)
    assert isinstance(damaged, DamagedFrame)
    assert isinstance(damaged.error, RemoteProtocolError)
    assert message in str(damaged.error)
    assert sound == GET_DEVICE_ID


def test_a_request_instead_of_a_response_is_damage_too() -> None:
    damaged = only(VmHost().receive(GET_DEVICE_ID.encode()))
    assert isinstance(damaged, DamagedFrame)
    short = only(VmHost().receive(bytes.fromhex("05 1c 01 de a0")))
    assert isinstance(short, DamagedFrame)
    assert "expected 5 bytes or more, got 4" in str(short.error)


def test_an_endless_frame_is_not_buffered() -> None:
    reader = FrameReader()
    assert list(reader.receive(bytes(100_000))) == []
    assert reader.buffered_bytes == FRAME_BYTES_MAX
    damaged, sound = reader.receive(b"\xa0\x01\xa1")
    assert isinstance(damaged, DamagedFrame)
    assert f"more than {FRAME_BYTES_MAX} bytes" in str(damaged.error)
    assert sound == (0xA1, b"\x01")


def test_the_longest_message_fits_and_one_more_byte_is_a_local_error() -> None:
    data = bytes(FRAME_BYTES_MAX - 4)
    assert only(VmBmc().receive(VmRequest(0, 6, 1, data).encode())) == VmRequest(0, 6, 1, data)
    with pytest.raises(LocalProtocolError, match="too long"):
        VmRequest(0, 6, 1, data + b"\0").encode()


@pytest.mark.parametrize(
    "request_",
    [
        VmRequest(256, 6, 1),
        VmRequest(0, 6, -1),
        VmRequest(0, 7, 1),
        VmRequest(0, 0x40, 1),
        VmRequest(0, 6, 1, lun=4),
    ],
)
def test_a_field_out_of_range_is_a_local_error(request_: VmRequest) -> None:
    with pytest.raises(LocalProtocolError):
        request_.encode()


@pytest.mark.parametrize(
    "message",
    [
        ControlMessage(VmControlCode.VERSION),
        ControlMessage(VmControlCode.RESET, 1),
        ControlMessage(VmControlCode.VERSION, 256),
    ],
)
def test_an_unexpected_value_is_a_local_error(message: ControlMessage) -> None:
    with pytest.raises(LocalProtocolError):
        message.encode()


def test_a_request_reaches_the_handlers_with_its_lun() -> None:
    message = VmRequest(9, 0x04, 0x2D, b"\xbe", lun=2).to_message()
    assert (message.netfn, message.command, message.data) == (0x04, 0x2D, b"\xbe")
    assert message.responder_lun == 2


# --------------------------------------------------------------------------------- the BMC's end


def test_only_what_the_machine_waits_for_is_answered() -> None:
    bmc = bmc_with_machine()
    first, second = bmc.receive(GET_DEVICE_ID_FRAME + VmRequest(6, 6, 1).encode())
    assert isinstance(first, VmRequest)
    assert isinstance(second, VmRequest)
    assert bmc.answer(first, 0) is None
    assert bmc.answer(second, 0) is not None
    assert bmc.answer(second, 0) is None


def test_no_control_message_without_the_capability() -> None:
    bmc = bmc_with_machine(VmCapability.RESET)
    assert bmc.control(VmControlCode.RESET) == b"\x04\xa1"
    assert bmc.control(VmControlCode.POWER_OFF) is None
    bmc.disconnected()
    assert bmc.control(VmControlCode.RESET) is None


def test_a_reset_of_the_interface_forgets_its_request() -> None:
    bmc = bmc_with_machine()
    list(bmc.receive(GET_DEVICE_ID_FRAME))
    assert bmc.unanswered == GET_DEVICE_ID
    list(bmc.receive(b"\x04\xa1"))
    assert bmc.release(0xD2) is None


def test_a_request_is_held_once_and_released_under_its_own_number() -> None:
    bmc = bmc_with_machine()
    assert bmc.hold() is None
    list(bmc.receive(GET_DEVICE_ID_FRAME))
    held = bmc.hold()
    assert held is not None
    assert VmResponse.decode(held[:-1]).sequence != GET_DEVICE_ID.sequence
    assert bmc.hold() is None
    assert bmc.release(0xD2) == VmResponse.to(GET_DEVICE_ID, 0xD2).encode()
    assert bmc.release(0xD2) is None


# --------------------------------------------------------------------------------- QEMU's habits


def test_qemu_answers_by_itself_when_the_bmc_is_silent() -> None:
    host = VmHost()
    host.request(6, 1, b"", now=1.0)
    assert host.timer == 1.0 + ANSWER_TIMEOUT_S
    assert host.handle_timer(1.0) is None
    answer = host.handle_timer(1.0 + ANSWER_TIMEOUT_S)
    assert answer is not None
    assert answer.completion_code == 0xC3
    assert host.waiting is None


def test_one_request_at_a_time() -> None:
    host = VmHost()
    host.request(6, 1, b"", now=1.0)
    with pytest.raises(LocalProtocolError):
        host.request(6, 1, b"", now=1.0)


@pytest.mark.parametrize("sequence", sorted(SPECIAL_BYTES))
def test_qemu_misreads_an_escaped_sequence_number(sequence: int) -> None:
    host = VmHost()
    host.sequence = sequence
    host.request(6, 1, b"", now=1.0)
    assert host.handle_timer(9.0) is None
    assert host.timer is None
    assert host.waiting is not None
