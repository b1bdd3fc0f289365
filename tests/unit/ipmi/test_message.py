"""The IPMI message against captured ones, and the messages that are rejected."""

from __future__ import annotations

import pytest

from bmcmedic.errors import LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi.constants import NetFn
from bmcmedic.ipmi.message import (
    MESSAGE_BYTES_MAX,
    RequestMessage,
    ResponseMessage,
    checksum,
)
from tests.support.vectors import vector, vector_names

GET_DEVICE_ID = RequestMessage(NetFn.APP, 0x01, sequence=6)

REQUESTS = {
    "get_channel_authentication_capabilities_req": RequestMessage(
        NetFn.APP, 0x38, b"\x0e\x04", sequence=1
    ),
    "get_device_id_req": GET_DEVICE_ID,
    "oem_req": RequestMessage(0x2C, 0x3E, b"\x00\x02", sequence=5, requester_lun=0),
    "get_sel_info_req": RequestMessage(NetFn.STORAGE, 0x40, sequence=9),
    "send_message_req": RequestMessage(
        NetFn.APP, 0x34, bytes.fromhex("402c18bc202401bb"), sequence=9
    ),
    "send_message_req_channel_6": RequestMessage(
        NetFn.APP, 0x34, bytes.fromhex("462c10c420242dbed1"), sequence=9
    ),
}
RESPONSES = {
    "get_channel_authentication_capabilities_rsp": ResponseMessage(
        0x07, 0x38, 0x00, bytes.fromhex("0115060000000000"), sequence=1
    ),
    "get_device_id_rsp": ResponseMessage(
        0x07, 0x01, 0x00, bytes.fromhex("00030908029f911200020f00000000"), sequence=6
    ),
    "oem_rsp_invalid_command": ResponseMessage(0x2D, 0x3E, 0xC1, sequence=5),
    "get_sel_info_rsp": ResponseMessage(0x0B, 0x40, 0x00, b"\x51" + bytes(13), sequence=9),
    "send_message_rsp": ResponseMessage(0x07, 0x34, 0x00, sequence=9),
    "send_message_rsp_invalid_data_field": ResponseMessage(0x07, 0x34, 0xCC, sequence=9),
    "bridged_get_device_id_rsp": ResponseMessage(
        0x07,
        0x01,
        0x00,
        bytes.fromhex("00030908029f911200020f00000000"),
        sequence=9,
        requester=0x20,
        responder=0x2C,
    ),
}


def test_every_captured_message_is_used() -> None:
    assert vector_names("messages") == set(REQUESTS) | set(RESPONSES)


@pytest.mark.parametrize("name", REQUESTS)
def test_captured_requests(name: str) -> None:
    raw = vector("messages", name)
    assert RequestMessage.decode(raw) == REQUESTS[name]
    assert REQUESTS[name].encode() == raw


@pytest.mark.parametrize("name", RESPONSES)
def test_captured_responses(name: str) -> None:
    raw = vector("messages", name)
    assert ResponseMessage.decode(raw) == RESPONSES[name]
    assert RESPONSES[name].encode() == raw


def test_a_checksum_makes_the_sum_zero() -> None:
    assert checksum(b"\x20\x18") == 0xC8
    assert checksum(b"") == 0


def test_a_reply_goes_back_to_the_requester() -> None:
    request = RequestMessage(
        NetFn.SENSOR_EVENT,
        0x2D,
        b"\x30",
        sequence=17,
        responder=0x2C,
        responder_lun=1,
        requester=0x20,
        requester_lun=2,
    )
    reply = request.reply(0x00, b"\x2b")
    assert (reply.netfn, reply.command, reply.sequence) == (0x05, 0x2D, 17)
    assert (reply.requester, reply.requester_lun) == (0x20, 2)
    assert (reply.responder, reply.responder_lun) == (0x2C, 1)
    assert ResponseMessage.decode(reply.encode()) == reply


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "expected 7 to"),
        (vector("messages", "get_device_id_req")[:-1], "expected 7 to"),
        (bytes(MESSAGE_BYTES_MAX + 1), "expected 7 to"),
        (b"\x20\x18\xc9\x81\x18\x01\x66", "wrong header checksum"),
        (b"\x20\x18\xc8\x81\x18\x01\x67", "wrong data checksum"),
        (vector("messages", "get_device_id_rsp"), "a response instead of a request"),
    ],
    ids=["empty", "short", "long", "header checksum", "data checksum", "a response"],
)
def test_broken_requests(raw: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why) as broken:
        RequestMessage.decode(raw)
    assert broken.value.raw == raw[:64]


def test_a_request_is_not_a_response() -> None:
    raw = RequestMessage(NetFn.APP, 0x01, b"\x00").encode()
    with pytest.raises(RemoteProtocolError, match="a request instead of a response"):
        ResponseMessage.decode(raw)


@pytest.mark.parametrize(
    "request_",
    [
        RequestMessage(0x07, 0x01),
        RequestMessage(0x40, 0x01),
        RequestMessage(NetFn.APP, 0x01, sequence=64),
        RequestMessage(NetFn.APP, 0x01, responder_lun=4),
        RequestMessage(NetFn.APP, 0x01, bytes(MESSAGE_BYTES_MAX)),
    ],
    ids=["odd netFn", "netFn of 7 bits", "sequence of 7 bits", "LUN of 3 bits", "too long"],
)
def test_messages_that_must_not_be_sent(request_: RequestMessage) -> None:
    with pytest.raises(LocalProtocolError):
        request_.encode()
