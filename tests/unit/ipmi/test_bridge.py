"""Bridging, against the captured two-part answer."""

from __future__ import annotations

import pytest

from bmcmedic.errors import CompletionCodeError, LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi.bridge import Bridge, is_first_part, second_part, wrapped_request
from bmcmedic.ipmi.commands.device import GetDeviceIdReq
from bmcmedic.ipmi.commands.messaging import MessageTracking, SendMessageReq
from bmcmedic.ipmi.constants import NetFn
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage
from tests.support.vectors import vector

SATELLITE = Bridge(channel=0, target_address=0x2C)
GET_DEVICE_ID = RequestMessage(NetFn.APP, 0x01, sequence=9)
FIRST_PART = ResponseMessage.decode(vector("messages", "send_message_rsp"))
SECOND_PART = ResponseMessage.decode(vector("messages", "bridged_get_device_id_rsp"))


def test_a_request_is_wrapped_as_ipmitool_wraps_it() -> None:
    assert SATELLITE.wrap(GET_DEVICE_ID).encode() == vector("messages", "send_message_req")


def test_the_request_of_the_incident() -> None:
    # -b 6 -t 0x2c raw 0x4 0x2d 0xbe
    request = RequestMessage(NetFn.SENSOR_EVENT, 0x2D, b"\xbe", sequence=9)
    wrapped = Bridge(channel=6, target_address=0x2C).wrap(request)
    assert wrapped.encode() == vector("messages", "send_message_req_channel_6")


def test_the_answer_in_two_parts() -> None:
    assert is_first_part(FIRST_PART)
    assert SATELLITE.unwrap(GET_DEVICE_ID, FIRST_PART) is None
    answer = SATELLITE.unwrap(GET_DEVICE_ID, SECOND_PART)
    assert answer is SECOND_PART
    device = GetDeviceIdReq.decode_response(answer.completion_code, answer.data)
    assert device.firmware == "9.08"


def test_the_answer_inside_the_first_part() -> None:
    embedded = FIRST_PART._replace(data=SECOND_PART.encode())
    assert SATELLITE.unwrap(GET_DEVICE_ID, embedded) == SECOND_PART


def test_the_second_part_may_overtake_the_first() -> None:
    assert SATELLITE.unwrap(GET_DEVICE_ID, SECOND_PART) is not None
    assert SATELLITE.unwrap(GET_DEVICE_ID, FIRST_PART) is None


def test_the_bmc_could_not_pass_it_on() -> None:
    refused = ResponseMessage.decode(vector("messages", "send_message_rsp_invalid_data_field"))
    with pytest.raises(CompletionCodeError, match="SendMessage: invalid data field") as refusal:
        SATELLITE.unwrap(GET_DEVICE_ID, refused)
    assert refusal.value.code == 0xCC
    with pytest.raises(CompletionCodeError, match="no device at that address"):
        SATELLITE.unwrap(GET_DEVICE_ID, FIRST_PART._replace(completion_code=0x83))


def test_a_refusal_of_the_satellite_is_its_response() -> None:
    refused = SECOND_PART._replace(completion_code=0xC1, data=b"")
    assert SATELLITE.unwrap(GET_DEVICE_ID, refused) == refused


@pytest.mark.parametrize(
    "other",
    [
        SECOND_PART._replace(sequence=8),
        SECOND_PART._replace(command=0x02),
        SECOND_PART._replace(netfn=0x0B),
        FIRST_PART._replace(sequence=8, completion_code=0xCC),
    ],
    ids=["sequence", "command", "netFn", "first part of another"],
)
def test_a_response_to_another_request_is_ignored(other: ResponseMessage) -> None:
    assert SATELLITE.unwrap(GET_DEVICE_ID, other) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        SECOND_PART.encode()[:-1],
        SECOND_PART._replace(sequence=8).encode(),
        SECOND_PART._replace(command=0x02).encode(),
        GET_DEVICE_ID.encode(),
    ],
    ids=["a byte", "cut", "sequence", "command", "a request"],
)
def test_other_data_inside_the_first_part_is_a_remote_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        SATELLITE.unwrap(GET_DEVICE_ID, FIRST_PART._replace(data=data))


def test_the_managed_system_unwraps_the_request_and_returns_the_answer() -> None:
    outer = RequestMessage.decode(vector("messages", "send_message_req"))
    send = SendMessageReq.decode(outer.data)
    assert (send.channel, send.tracking) == (0, MessageTracking.TRACK_REQUEST)
    inner = wrapped_request(send)
    assert (inner.responder, inner.requester, inner.netfn, inner.command) == (0x2C, 0x20, 6, 1)
    answer = second_part(outer, inner, 0x00, b"\x01")
    assert (answer.requester, answer.responder, answer.sequence) == (0x81, 0x2C, 9)
    assert SATELLITE.unwrap(GET_DEVICE_ID, answer) == answer


def test_an_invalid_wrapped_message() -> None:
    with pytest.raises(RemoteProtocolError):
        wrapped_request(SendMessageReq(0, b"\x2c\x18\xbd\x20\x24\x01\xbb"))


def test_an_impossible_bridge() -> None:
    for channel, address, lun in ((16, 0x2C, 0), (6, 0x100, 0), (6, 0x2C, 4)):
        with pytest.raises(LocalProtocolError):
            Bridge(channel, address, lun)
