"""BMC messaging commands (chapter 22); sessions are in `session`, channels in `channel`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import KEEP, IntEnum, IntFlag
from typing import ClassVar

from bmcmedic.ipmi.commands.command import (
    PADDING_BYTES_MAX,
    Command,
    EmptyRsp,
    check_length,
    read_enum,
    require_length,
    require_range,
)
from bmcmedic.ipmi.commands.shared_responses import GuidRsp
from bmcmedic.ipmi.constants import NetFn, PrivilegeLevel

MESSAGE_DATA_BYTES_MAX = 255
"""Most bytes that Send Message and Get Message may carry; real BMCs take far fewer."""


class BmcGlobalEnables(IntFlag, boundary=KEEP):
    """What the BMC does with messages and events for the host (22.1)."""

    RECEIVE_MESSAGE_QUEUE_INTERRUPT = 0x01
    EVENT_MESSAGE_BUFFER_FULL_INTERRUPT = 0x02
    EVENT_MESSAGE_BUFFER = 0x04
    SYSTEM_EVENT_LOGGING = 0x08
    OEM_0 = 0x20
    OEM_1 = 0x40
    OEM_2 = 0x80


@dataclass(frozen=True, slots=True)
class SetBmcGlobalEnablesReq(Command[EmptyRsp]):
    """Set BMC Global Enables (22.1). Only the host's own system interface may send it."""

    enables: BmcGlobalEnables

    section = "22.1"
    netfn = NetFn.APP
    command = 0x2E
    response = EmptyRsp
    privilege = PrivilegeLevel.ADMINISTRATOR

    def encode(self) -> bytes:
        return bytes((self.enables,))

    @classmethod
    def decode(cls, data: bytes) -> SetBmcGlobalEnablesReq:
        check_length(data, 1, section=cls.section)
        return cls(BmcGlobalEnables(data[0]))


@dataclass(frozen=True, slots=True)
class GetBmcGlobalEnablesRsp:
    """The present settings. Spec: 22.2. Shape: 1 byte."""

    enables: BmcGlobalEnables

    def encode(self) -> bytes:
        return bytes((self.enables,))

    @classmethod
    def decode(cls, data: bytes) -> GetBmcGlobalEnablesRsp:
        check_length(data, 1, 1 + PADDING_BYTES_MAX, section="22.2")
        return cls(BmcGlobalEnables(data[0]))


@dataclass(frozen=True, slots=True)
class GetBmcGlobalEnablesReq(Command[GetBmcGlobalEnablesRsp]):
    """Get BMC Global Enables (22.2)."""

    section = "22.2"
    netfn = NetFn.APP
    command = 0x2F
    response = GetBmcGlobalEnablesRsp


class MessageFlags(IntFlag, boundary=KEEP):
    """What the BMC holds for the host (22.3, 22.4)."""

    RECEIVE_MESSAGE_AVAILABLE = 0x01
    EVENT_MESSAGE_BUFFER_FULL = 0x02
    WATCHDOG_PRETIMEOUT = 0x08
    OEM_0 = 0x20
    OEM_1 = 0x40
    OEM_2 = 0x80


@dataclass(frozen=True, slots=True)
class ClearMessageFlagsReq(Command[EmptyRsp]):
    """Clear Message Flags (22.3): a set bit clears its flag and discards what it announces."""

    flags: MessageFlags

    section = "22.3"
    netfn = NetFn.APP
    command = 0x30
    response = EmptyRsp
    privilege = PrivilegeLevel.ADMINISTRATOR

    def encode(self) -> bytes:
        return bytes((self.flags,))

    @classmethod
    def decode(cls, data: bytes) -> ClearMessageFlagsReq:
        check_length(data, 1, section=cls.section)
        return cls(MessageFlags(data[0]))


@dataclass(frozen=True, slots=True)
class GetMessageFlagsRsp:
    """The present flags. Spec: 22.4. Shape: 1 byte."""

    flags: MessageFlags

    def encode(self) -> bytes:
        return bytes((self.flags,))

    @classmethod
    def decode(cls, data: bytes) -> GetMessageFlagsRsp:
        check_length(data, 1, 1 + PADDING_BYTES_MAX, section="22.4")
        return cls(MessageFlags(data[0]))


@dataclass(frozen=True, slots=True)
class GetMessageFlagsReq(Command[GetMessageFlagsRsp]):
    """Get Message Flags (22.4)."""

    section = "22.4"
    netfn = NetFn.APP
    command = 0x31
    response = GetMessageFlagsRsp
    privilege = PrivilegeLevel.ADMINISTRATOR


@dataclass(frozen=True, slots=True)
class GetMessageRsp:
    """The oldest message in the receive message queue.

    Spec: 22.6. Shape: inferred privilege level in bits 7:4 and channel in 3:0, then the message.
    """

    channel: int
    message: bytes
    privilege_level: PrivilegeLevel = PrivilegeLevel.HIGHEST_MATCHING

    def __post_init__(self) -> None:
        require_range("channel", self.channel, 0x0F)
        require_length("a message", self.message, MESSAGE_DATA_BYTES_MAX)

    def encode(self) -> bytes:
        return bytes((self.privilege_level << 4 | self.channel,)) + self.message

    @classmethod
    def decode(cls, data: bytes) -> GetMessageRsp:
        check_length(data, 1, 1 + MESSAGE_DATA_BYTES_MAX, section="22.6")
        level = read_enum(PrivilegeLevel, data[0] >> 4, section="22.6", raw=data)
        return cls(data[0] & 0x0F, data[1:], level)


@dataclass(frozen=True, slots=True)
class GetMessageReq(Command[GetMessageRsp]):
    """Get Message (22.6). It removes the message from the queue, so it is never sent twice."""

    section = "22.6"
    netfn = NetFn.APP
    command = 0x33
    response = GetMessageRsp
    privilege = PrivilegeLevel.ADMINISTRATOR
    idempotent = False
    completion_codes: ClassVar = {0x80: "the receive message queue is empty"}


class MessageTracking(IntEnum):
    """How the BMC handles the response to a message that it sends for us (22.7, bits 7:6)."""

    NONE = 0
    TRACK_REQUEST = 1
    """The BMC returns the response to the requester."""
    SEND_RAW = 2


@dataclass(frozen=True, slots=True)
class SendMessageRsp:
    """The BMC accepted the message.

    Spec: 22.7. Shape: no data, or data on some channels.
    Field: some BMCs put the whole bridged response here; others send it as a separate message.
    """

    data: bytes = b""

    def __post_init__(self) -> None:
        require_length("response data", self.data, MESSAGE_DATA_BYTES_MAX)

    def encode(self) -> bytes:
        return self.data

    @classmethod
    def decode(cls, data: bytes) -> SendMessageRsp:
        check_length(data, 0, MESSAGE_DATA_BYTES_MAX, section="22.7")
        return cls(data)


@dataclass(frozen=True, slots=True)
class SendMessageReq(Command[SendMessageRsp]):
    """Send Message (22.7). Shape: channel, encryption, authentication and tracking, then message.

    Whether it could be repeated depends on the message inside, so it never is.
    """

    channel: int
    message: bytes
    tracking: MessageTracking = MessageTracking.NONE
    authenticate: bool = False
    encrypt: bool = False

    section = "22.7"
    netfn = NetFn.APP
    command = 0x34
    response = SendMessageRsp
    idempotent = False
    completion_codes: ClassVar = {
        0x80: "invalid session handle",
        0x81: "lost arbitration on the bus",
        0x82: "bus error",
        0x83: "NAK on write: no device at that address",
    }

    def __post_init__(self) -> None:
        require_range("channel", self.channel, 0x0F)
        require_length("a message", self.message, MESSAGE_DATA_BYTES_MAX)

    def encode(self) -> bytes:
        head = self.tracking << 6 | self.encrypt << 5 | self.authenticate << 4 | self.channel
        return bytes((head,)) + self.message

    @classmethod
    def decode(cls, data: bytes) -> SendMessageReq:
        check_length(data, 1, 1 + MESSAGE_DATA_BYTES_MAX, section=cls.section)
        return cls(
            channel=data[0] & 0x0F,
            message=data[1:],
            tracking=read_enum(MessageTracking, data[0] >> 6, section=cls.section, raw=data),
            authenticate=bool(data[0] & 0x10),
            encrypt=bool(data[0] & 0x20),
        )


class GetSystemGuidRsp(GuidRsp):
    """The host's GUID (22.14)."""

    __slots__ = ()
    section = "22.14"


@dataclass(frozen=True, slots=True)
class GetSystemGuidReq(Command[GetSystemGuidRsp]):
    """Get System GUID (22.14)."""

    section = "22.14"
    netfn = NetFn.APP
    command = 0x37
    response = GetSystemGuidRsp
    privilege = PrivilegeLevel.CALLBACK
    sessionless = True
