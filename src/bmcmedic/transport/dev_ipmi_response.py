"""What a message from the kernel says, as a response to a request."""

from __future__ import annotations

from bmcmedic.errors import RemoteProtocolError
from bmcmedic.transport.dev_ipmi_device import Received


def response_to(request: bytes, received: Received) -> bytes:
    """The response.

    Shape: netFn<<2 | LUN, command, completion code, data.
    Raises: RemoteProtocolError when it answers another request, or has no completion code.
    """
    raw = bytes((received.netfn << 2 & 0xFF | received.lun, received.command)) + received.data
    if received.netfn != request[0] >> 2 | 1 or received.command != request[1]:
        raise RemoteProtocolError("the response is another request's", section="5.1", raw=raw)
    if not received.data:
        raise RemoteProtocolError("a response without a completion code", section="5.2", raw=raw)
    return raw
