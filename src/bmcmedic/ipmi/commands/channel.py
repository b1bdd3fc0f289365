"""Channel and user commands (sections 22.23, 22.24, 22.27 and 22.29)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from bmcmedic.errors import LocalProtocolError
from bmcmedic.ipmi.commands.command import (
    PADDING_BYTES_MAX,
    Command,
    check_length,
    read_enum,
    require_length,
    require_range,
)
from bmcmedic.ipmi.constants import PRESENT_CHANNEL, NetFn, PrivilegeLevel

USER_NAME_BYTES = 16
USER_ID_MAX = 0x3F

IPMI_ENTERPRISE_NUMBER = 7154
"""Vendor id of every channel whose protocol the specification itself defines (22.24)."""

_NO_ACCESS = 0x0F


class AccessMode(IntEnum):
    """When a channel accepts messages (22.23, bits 2:0)."""

    DISABLED = 0
    PRE_BOOT_ONLY = 1
    ALWAYS_AVAILABLE = 2
    SHARED = 3


@dataclass(frozen=True, slots=True)
class GetChannelAccessRsp:
    """The access settings of a channel. Spec: 22.23. Shape: access byte, privilege limit."""

    access_mode: AccessMode
    privilege_limit: PrivilegeLevel
    alerting: bool = True
    per_message_authentication: bool = True
    user_level_authentication: bool = True

    def encode(self) -> bytes:
        access = (
            (not self.alerting) << 5
            | (not self.per_message_authentication) << 4
            | (not self.user_level_authentication) << 3
            | self.access_mode
        )
        return bytes((access, self.privilege_limit))

    @classmethod
    def decode(cls, data: bytes) -> GetChannelAccessRsp:
        check_length(data, 2, 2 + PADDING_BYTES_MAX, section="22.23")
        return cls(
            access_mode=read_enum(AccessMode, data[0] & 0x07, section="22.23", raw=data),
            privilege_limit=read_enum(PrivilegeLevel, data[1] & 0x0F, section="22.23", raw=data),
            alerting=not data[0] & 0x20,
            per_message_authentication=not data[0] & 0x10,
            user_level_authentication=not data[0] & 0x08,
        )


class ChannelAccessKind(IntEnum):
    """Which of a channel's two settings to read (22.23, bits 7:6)."""

    NON_VOLATILE = 1
    VOLATILE = 2


@dataclass(frozen=True, slots=True)
class GetChannelAccessReq(Command[GetChannelAccessRsp]):
    """Get Channel Access (22.23). Shape: channel, then the kind of setting in bits 7:6."""

    channel: int = PRESENT_CHANNEL
    kind: ChannelAccessKind = ChannelAccessKind.VOLATILE

    section = "22.23"
    netfn = NetFn.APP
    command = 0x41
    response = GetChannelAccessRsp
    completion_codes: ClassVar = {0x82: "not supported for this channel: it has no sessions"}

    def __post_init__(self) -> None:
        require_range("channel", self.channel, 0x0F)

    def encode(self) -> bytes:
        return bytes((self.channel, self.kind << 6))

    @classmethod
    def decode(cls, data: bytes) -> GetChannelAccessReq:
        check_length(data, 2, section=cls.section)
        kind = read_enum(ChannelAccessKind, data[1] >> 6, section=cls.section, raw=data)
        return cls(data[0] & 0x0F, kind)


class ChannelMedium(IntEnum):
    """The media that this program uses (table 6-3); a response keeps the bare number."""

    IPMB = 0x01
    LAN_802_3 = 0x04
    SYSTEM_INTERFACE = 0x0C


class ChannelProtocol(IntEnum):
    """The protocols that this program uses (table 6-2); a response keeps the bare number."""

    IPMB = 0x01
    KCS = 0x05


class SessionSupport(IntEnum):
    """The kind of sessions that a channel supports (22.24)."""

    SESSIONLESS = 0
    SINGLE_SESSION = 1
    MULTI_SESSION = 2
    SESSION_BASED = 3


@dataclass(frozen=True, slots=True)
class GetChannelInfoRsp:
    """The medium, protocol and sessions of a channel.

    Spec: 22.24. Shape: 9 bytes; the vendor id is LSB first. The auxiliary data holds the interrupt
    types of the system interface, and 0 on other channels.
    """

    channel: int
    medium: int
    protocol: int
    session_support: SessionSupport
    active_sessions: int = 0
    vendor_id: int = IPMI_ENTERPRISE_NUMBER
    auxiliary: bytes = b"\x00\x00"

    def encode(self) -> bytes:
        head = (
            self.channel,
            self.medium,
            self.protocol,
            self.session_support << 6 | self.active_sessions,
        )
        return bytes(head) + self.vendor_id.to_bytes(3, "little") + self.auxiliary

    @classmethod
    def decode(cls, data: bytes) -> GetChannelInfoRsp:
        check_length(data, 9, 9 + PADDING_BYTES_MAX, section="22.24")
        return cls(
            channel=data[0] & 0x0F,
            medium=data[1] & 0x7F,
            protocol=data[2] & 0x1F,
            session_support=SessionSupport(data[3] >> 6),
            active_sessions=data[3] & 0x3F,
            vendor_id=int.from_bytes(data[4:7], "little"),
            auxiliary=data[7:9],
        )


@dataclass(frozen=True, slots=True)
class GetChannelInfoReq(Command[GetChannelInfoRsp]):
    """Get Channel Info (22.24). Shape: channel."""

    channel: int = PRESENT_CHANNEL

    section = "22.24"
    netfn = NetFn.APP
    command = 0x42
    response = GetChannelInfoRsp

    def __post_init__(self) -> None:
        require_range("channel", self.channel, 0x0F)

    def encode(self) -> bytes:
        return bytes((self.channel,))

    @classmethod
    def decode(cls, data: bytes) -> GetChannelInfoReq:
        check_length(data, 1, section=cls.section)
        return cls(data[0] & 0x0F)


class UserEnableStatus(IntEnum):
    """Whether a user may log in (22.27, byte 3 bits 7:6)."""

    UNSPECIFIED = 0
    ENABLED = 1
    DISABLED = 2
    RESERVED = 3


@dataclass(frozen=True, slots=True)
class GetUserAccessRsp:
    """The rights of a user on a channel, and the number of users.

    Spec: 22.27. Shape: 4 bytes. A `privilege_limit` of None stands for "no access" (0xF).
    """

    users_max: int
    users_enabled: int
    users_fixed_name: int
    privilege_limit: PrivilegeLevel | None
    enable_status: UserEnableStatus = UserEnableStatus.UNSPECIFIED
    ipmi_messaging: bool = True
    link_authentication: bool = False
    callback_only: bool = False

    def encode(self) -> bytes:
        limit = _NO_ACCESS if self.privilege_limit is None else self.privilege_limit
        return bytes(
            (
                self.users_max,
                self.enable_status << 6 | self.users_enabled,
                self.users_fixed_name,
                self.callback_only << 6
                | self.link_authentication << 5
                | self.ipmi_messaging << 4
                | limit,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> GetUserAccessRsp:
        check_length(data, 4, 4 + PADDING_BYTES_MAX, section="22.27")
        limit = data[3] & 0x0F
        return cls(
            users_max=data[0] & 0x3F,
            users_enabled=data[1] & 0x3F,
            users_fixed_name=data[2] & 0x3F,
            privilege_limit=(
                None
                if limit == _NO_ACCESS
                else read_enum(PrivilegeLevel, limit, section="22.27", raw=data)
            ),
            enable_status=UserEnableStatus(data[1] >> 6),
            ipmi_messaging=bool(data[3] & 0x10),
            link_authentication=bool(data[3] & 0x20),
            callback_only=bool(data[3] & 0x40),
        )


@dataclass(frozen=True, slots=True)
class GetUserAccessReq(Command[GetUserAccessRsp]):
    """Get User Access (22.27). Shape: channel, user id."""

    user_id: int
    channel: int = PRESENT_CHANNEL

    section = "22.27"
    netfn = NetFn.APP
    command = 0x44
    response = GetUserAccessRsp
    privilege = PrivilegeLevel.OPERATOR

    def __post_init__(self) -> None:
        require_range("channel", self.channel, 0x0F)
        require_range("user id", self.user_id, USER_ID_MAX)

    def encode(self) -> bytes:
        return bytes((self.channel, self.user_id))

    @classmethod
    def decode(cls, data: bytes) -> GetUserAccessReq:
        check_length(data, 2, section=cls.section)
        return cls(user_id=data[1] & 0x3F, channel=data[0] & 0x0F)


@dataclass(frozen=True, slots=True)
class GetUserNameRsp:
    """A user name. Spec: 22.29. Shape: 16 bytes, padded with zeros, which `name` leaves out."""

    name: bytes

    def __post_init__(self) -> None:
        require_length("a user name", self.name, USER_NAME_BYTES)
        if b"\0" in self.name:
            raise LocalProtocolError("a user name has no zero byte")

    def encode(self) -> bytes:
        return self.name.ljust(USER_NAME_BYTES, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> GetUserNameRsp:
        check_length(data, USER_NAME_BYTES, USER_NAME_BYTES + PADDING_BYTES_MAX, section="22.29")
        return cls(data[:USER_NAME_BYTES].split(b"\0", 1)[0])


@dataclass(frozen=True, slots=True)
class GetUserNameReq(Command[GetUserNameRsp]):
    """Get User Name (22.29). Shape: user id."""

    user_id: int

    section = "22.29"
    netfn = NetFn.APP
    command = 0x46
    response = GetUserNameRsp
    privilege = PrivilegeLevel.OPERATOR

    def __post_init__(self) -> None:
        require_range("user id", self.user_id, USER_ID_MAX)

    def encode(self) -> bytes:
        return bytes((self.user_id,))

    @classmethod
    def decode(cls, data: bytes) -> GetUserNameReq:
        check_length(data, 1, section=cls.section)
        return cls(data[0] & 0x3F)
