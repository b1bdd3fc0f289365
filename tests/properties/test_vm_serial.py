"""The VM protocol: every message survives a round trip, cut at any byte; garbage is skipped."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.errors import RemoteProtocolError
from bmcmedic.ipmi.vm_serial import (
    END_OF_CONTROL,
    END_OF_MESSAGE,
    FRAME_BYTES_MAX,
    SPECIAL_BYTES,
    ControlMessage,
    DamagedFrame,
    FrameReader,
    VmBmc,
    VmControlCode,
    VmHost,
    VmRequest,
    VmResponse,
)

U2, U8 = st.integers(0, 3), st.integers(0, 0xFF)
# Half of the bytes are ones that need an escape.
BYTES = st.one_of(U8, st.sampled_from(sorted(SPECIAL_BYTES)))


def data(bytes_max: int) -> st.SearchStrategy[bytes]:
    return st.lists(BYTES, max_size=bytes_max).map(bytes)


REQUESTS = st.builds(
    VmRequest,
    sequence=BYTES,
    netfn=st.integers(0, 0x1F).map(lambda half: half * 2),
    command=BYTES,
    data=data(FRAME_BYTES_MAX - 4),
    lun=U2,
)
RESPONSES = st.builds(
    VmResponse,
    sequence=BYTES,
    netfn=st.integers(0, 0x1F).map(lambda half: half * 2 + 1),
    command=BYTES,
    completion_code=BYTES,
    data=data(FRAME_BYTES_MAX - 5),
    lun=U2,
)
CONTROLS = st.one_of(
    st.builds(
        ControlMessage,
        st.sampled_from(
            sorted(set(VmControlCode) - {VmControlCode.CAPABILITIES, VmControlCode.VERSION})
        ),
        st.none(),
    ),
    st.builds(
        ControlMessage, st.sampled_from([VmControlCode.CAPABILITIES, VmControlCode.VERSION]), BYTES
    ),
)


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    marks = sorted({min(mark, len(stream)) for mark in at} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(marks)]


@given(st.lists(REQUESTS | CONTROLS, max_size=6), st.lists(st.integers(0, 1500), max_size=20))
def test_messages_of_a_machine_survive_any_cut(
    said: list[VmRequest | ControlMessage], at: list[int]
) -> None:
    stream = b"".join(each.encode() for each in said)
    bmc = VmBmc()
    assert [event for piece in cut(stream, at) for event in bmc.receive(piece)] == said


@given(RESPONSES, st.lists(st.integers(0, 600), max_size=20))
def test_messages_of_a_bmc_survive_any_cut(response: VmResponse, at: list[int]) -> None:
    reader = FrameReader()
    (frame,) = [part for piece in cut(response.encode(), at) for part in reader.receive(piece)]
    assert not isinstance(frame, DamagedFrame)
    mark, payload = frame
    assert mark == END_OF_MESSAGE
    assert VmResponse.decode(payload) == response


@given(REQUESTS)
def test_only_the_last_byte_of_a_frame_ends_one(request_: VmRequest) -> None:
    frame = request_.encode()
    assert frame[-1] == END_OF_MESSAGE
    assert not {END_OF_MESSAGE, END_OF_CONTROL} & set(frame[:-1])


@given(REQUESTS, st.data())
def test_one_wrong_byte_in_a_message_is_always_noticed(
    request_: VmRequest, draw: st.DataObject
) -> None:
    payload = bytearray(request_.encode()[:-1])
    at = draw.draw(st.integers(0, len(payload) - 1))
    others = st.integers(0, 255).filter(lambda byte: byte != payload[at])
    payload[at] = draw.draw(others)
    for event in VmBmc().receive(bytes(payload) + bytes((END_OF_MESSAGE,))):
        assert event != request_


@given(st.lists(data(400), max_size=8), REQUESTS)
def test_garbage_is_skipped_to_the_next_frame(garbage: list[bytes], request_: VmRequest) -> None:
    bmc, host = VmBmc(), VmHost()
    for piece in garbage:
        for event in [*bmc.receive(piece), *host.receive(piece)]:
            if isinstance(event, DamagedFrame):
                assert isinstance(event.error, RemoteProtocolError)
            else:
                assert type(event).decode(event_payload(event)) == event
    *_, last = bmc.receive(bytes((END_OF_MESSAGE,)) + request_.encode())
    assert last == request_


def event_payload(event: VmRequest | VmResponse | ControlMessage) -> bytes:
    """Return the payload before the end mark, without escapes."""
    (frame,) = FrameReader().receive(event.encode())
    assert not isinstance(frame, DamagedFrame)
    return frame[1]
