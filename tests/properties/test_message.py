"""Messages round-trip, and damaged ones are rejected."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.errors import RemoteProtocolError
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage, checksum

U2, U6, U8 = (st.integers(0, (1 << bits) - 1) for bits in (2, 6, 8))
DATA = st.binary(max_size=264)

REQUESTS = st.builds(
    RequestMessage,
    netfn=st.integers(0, 0x1F).map(lambda half: half * 2),
    command=U8,
    data=DATA,
    sequence=U6,
    responder=U8,
    responder_lun=U2,
    requester=U8,
    requester_lun=U2,
)


@given(REQUESTS)
def test_requests(request_: RequestMessage) -> None:
    assert RequestMessage.decode(request_.encode()) == request_


@given(REQUESTS, U8, DATA)
def test_the_reply_to_any_request(request_: RequestMessage, code: int, data: bytes) -> None:
    reply = request_.reply(code, data)
    assert ResponseMessage.decode(reply.encode()) == reply
    assert reply.netfn == request_.netfn + 1
    assert (reply.command, reply.sequence) == (request_.command, request_.sequence)


@given(REQUESTS, st.data())
def test_one_wrong_byte_is_always_detected(request_: RequestMessage, data: st.DataObject) -> None:
    raw = bytearray(request_.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = (raw[at] + data.draw(st.integers(1, 255))) & 0xFF
    with pytest.raises(RemoteProtocolError):
        RequestMessage.decode(bytes(raw))


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_a_message(garbage: bytes) -> None:
    for kind in (RequestMessage, ResponseMessage):
        with contextlib.suppress(RemoteProtocolError):
            assert kind.decode(garbage).encode() == garbage


@given(st.binary())
def test_checksums(data: bytes) -> None:
    assert sum(data + bytes((checksum(data),))) % 256 == 0
