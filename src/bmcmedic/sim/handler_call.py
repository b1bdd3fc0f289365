"""The types between a front end, `dispatch` and a command handler: the call and its outcomes."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage


class Interface(IntEnum):
    """The interface that a request came in by, as its channel number (section 6.3)."""

    LAN = 0x1
    SYSTEM_INTERFACE = 0xF


class Call(NamedTuple):
    """One request as its handler sees it: the message, its interface, and the time."""

    message: RequestMessage
    interface: Interface
    now: float


class HandlerAnswer(NamedTuple):
    """The BMC's answer, and how long after the request it is ready, in seconds.

    `follow_up` is the second part of the answer to a bridged request: the response of the other
    controller. It carries the sequence number of the request inside Send Message.
    """

    completion_code: int
    data: bytes
    service_time_s: float
    follow_up: ResponseMessage | None = None


class CommandRefusal(Exception):
    """A handler refuses the command with this completion code."""

    def __init__(self, completion_code: CompletionCode | int) -> None:
        super().__init__(completion_code)
        self.completion_code = int(completion_code)


class NoReply(Exception):
    """The command was executed, but its answer is lost."""


class Bridged(Exception):
    """Send Message was delivered; the other controller's response follows."""

    def __init__(self, response: ResponseMessage) -> None:
        super().__init__()
        self.response = response
