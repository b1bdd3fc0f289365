"""What the simulated BMC's command handlers are given and may answer."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage


class Interface(IntEnum):
    """Where a request came in: the channel number that the BMC gives it (section 6.3)."""

    LAN = 0x1
    SYSTEM_INTERFACE = 0xF


class Call(NamedTuple):
    """The circumstances of one request."""

    message: RequestMessage
    interface: Interface
    now: float


class HandlerAnswer(NamedTuple):
    """What the BMC answers, and how much later than the request.

    `follow_up` is the second part of a bridged request's answer: the response of the other
    controller, with the sequence number of the request that was carried to it.
    """

    completion_code: int
    data: bytes
    service_time_s: float
    follow_up: ResponseMessage | None = None


class CommandRefusal(Exception):
    """A handler says no, with this completion code."""

    def __init__(self, completion_code: CompletionCode | int) -> None:
        super().__init__(completion_code)
        self.completion_code = int(completion_code)


class NoReply(Exception):
    """The command was done, and its answer never leaves."""


class Bridged(Exception):
    """Send Message went through; the other controller's response follows."""

    def __init__(self, response: ResponseMessage) -> None:
        super().__init__()
        self.response = response
