"""Bridging: requests that the BMC passes on to a controller behind it (sections 6.13 and 22.7).

A request is wrapped into Send Message with tracking. The answer comes in two parts. The first is
the response to Send Message, which is only a completion code. The second is the bridged response, a
separate message with the sequence number of the wrapped request. Field: some BMCs put the second
part into the data of the first. The outer and the inner request carry the same sequence number, so
one lookup finds the request for either part.
"""

from __future__ import annotations

from dataclasses import dataclass

from bmcmedic.errors import RemoteProtocolError
from bmcmedic.ipmi.commands.command import require_range
from bmcmedic.ipmi.commands.messaging import MessageTracking, SendMessageReq
from bmcmedic.ipmi.constants import BMC_SLAVE_ADDRESS
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage


@dataclass(frozen=True, slots=True)
class Bridge:
    """The address of a satellite controller, such as 0x2C on channel 6 (`-b 6 -t 0x2c`)."""

    channel: int
    target_address: int
    target_lun: int = 0
    requester_address: int = BMC_SLAVE_ADDRESS
    """Requester on the far side: the BMC itself, so that the response comes back to it."""

    def __post_init__(self) -> None:
        require_range("channel", self.channel, 0x0F)
        require_range("target address", self.target_address, 0xFF)
        require_range("target LUN", self.target_lun, 3)
        require_range("requester address", self.requester_address, 0xFF)

    def wrap(self, request: RequestMessage) -> RequestMessage:
        """Return the Send Message that carries `request` to the target.

        The inner message has the addresses of the bridge. The outer message keeps the request's own
        requester and sequence number.
        """
        inner = request._replace(
            responder=self.target_address,
            responder_lun=self.target_lun,
            requester=self.requester_address,
            requester_lun=0,
        )
        send = SendMessageReq(self.channel, inner.encode(), MessageTracking.TRACK_REQUEST)
        return RequestMessage(
            netfn=send.netfn,
            command=send.command,
            data=send.encode(),
            sequence=request.sequence,
            requester=request.requester,
            requester_lun=request.requester_lun,
        )

    @staticmethod
    def unwrap(request: RequestMessage, response: ResponseMessage) -> ResponseMessage | None:
        """Return the bridged response that `response` is or contains; None if it is still to come.

        `request` is the one that was given to `wrap`. A message that answers another request gives
        None as well.
        Raises: CompletionCodeError when the BMC could not pass the message on; RemoteProtocolError
        when the data of its response is not a response to the request.
        """
        if response.sequence != request.sequence:
            return None
        if not is_first_part(response):
            return response if _answers(request, response) else None
        body = SendMessageReq.decode_response(response.completion_code, response.data)
        if not body.data:
            return None
        inner = ResponseMessage.decode(body.data)
        if inner.sequence != request.sequence or not _answers(request, inner):
            raise RemoteProtocolError(
                "the bridged response answers another request", section="6.13", raw=body.data
            )
        return inner


def is_first_part(response: ResponseMessage) -> bool:
    """Return whether this is the response to Send Message itself."""
    return response.netfn == SendMessageReq.netfn | 1 and response.command == SendMessageReq.command


def wrapped_request(send: SendMessageReq) -> RequestMessage:
    """Decode the request inside a Send Message, to pass it on; raises RemoteProtocolError."""
    return RequestMessage.decode(send.message)


def second_part(
    outer: RequestMessage, inner: RequestMessage, completion_code: int, data: bytes = b""
) -> ResponseMessage:
    """Return the bridged response as the BMC sends it to the console that sent `outer`."""
    return inner.reply(completion_code, data)._replace(
        requester=outer.requester,
        requester_lun=outer.requester_lun,
    )


def _answers(request: RequestMessage, response: ResponseMessage) -> bool:
    return response.netfn == request.netfn | 1 and response.command == request.command
