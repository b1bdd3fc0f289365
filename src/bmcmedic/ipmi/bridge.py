"""Talking through the BMC to a controller behind it (sections 6.13 and 22.7).

A request is wrapped into Send Message with tracking. The answer comes in two parts: the response
to Send Message, which is its completion code alone, then the bridged response as a message of its
own, with the sequence number of the wrapped request. Some BMCs put the second part into the data
of the first. Both messages of a pair carry one sequence number, so a single look-up finds them.
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
    """The way to a satellite controller, such as 0x2C on channel 6 (`-b 6 -t 0x2c`)."""

    channel: int
    target_address: int
    target_lun: int = 0
    requester_address: int = BMC_SLAVE_ADDRESS
    """Who asks on the far side: the BMC itself, so that the answer comes back to it."""

    def __post_init__(self) -> None:
        require_range("channel", self.channel, 0x0F)
        require_range("target address", self.target_address, 0xFF)
        require_range("target LUN", self.target_lun, 3)
        require_range("requester address", self.requester_address, 0xFF)

    def wrap(self, request: RequestMessage) -> RequestMessage:
        """The Send Message that carries `request` to the target.

        Who asks whom inside is the bridge's; the outer message keeps the request's own requester
        and sequence number.
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
        """The bridged response that `response` is or carries; None when it is still to come.

        `request` is what was given to `wrap`. A message that answers something else is None too.
        Raises: CompletionCodeError when the BMC could not send the message on; RemoteProtocolError
        when what it put into its response is no response to the request.
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
    """Whether this is the response to the Send Message itself."""
    return response.netfn == SendMessageReq.netfn | 1 and response.command == SendMessageReq.command


def wrapped_request(send: SendMessageReq) -> RequestMessage:
    """What a Send Message carries, for the side that sends it on; raises RemoteProtocolError."""
    return RequestMessage.decode(send.message)


def second_part(
    outer: RequestMessage, inner: RequestMessage, completion_code: int, data: bytes = b""
) -> ResponseMessage:
    """The bridged response as the BMC hands it to the console that sent `outer`."""
    return inner.reply(completion_code, data)._replace(
        requester=outer.requester,
        requester_lun=outer.requester_lun,
    )


def _answers(request: RequestMessage, response: ResponseMessage) -> bool:
    return response.netfn == request.netfn | 1 and response.command == request.command
