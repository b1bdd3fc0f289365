"""Commands that prepare, change, close and list sessions (22.13, 22.15, 22.18 to 22.20)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import KEEP, IntFlag
from typing import ClassVar

from bmcmedic.errors import LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi.commands.command import (
    PADDING_BYTES_MAX,
    Command,
    EmptyRsp,
    check_length,
    read_enum,
    require_length,
    require_range,
)
from bmcmedic.ipmi.constants import PRESENT_CHANNEL, NetFn, PrivilegeLevel

IPMI_PAYLOAD_TYPE = 0x00
"""The payload type of IPMI messages (table 13-16)."""

CIPHER_SUITE_CHUNK_BYTES = 16
"""Bytes of record data in one response; a shorter response is the last (22.15)."""

CIPHER_SUITE_LIST_INDEX_MAX = 0x3F
"""Highest list index, so that the record data of a channel has at most 64 chunks (22.15)."""


class AuthenticationTypes(IntFlag, boundary=KEEP):
    """Authentication types of IPMI 1.5 sessions that a channel supports (table 22-15)."""

    NONE = 0x01
    MD2 = 0x02
    MD5 = 0x04
    STRAIGHT_PASSWORD = 0x10
    OEM = 0x20


@dataclass(frozen=True, slots=True)
class GetChannelAuthenticationCapabilitiesRsp:
    """The sessions and logins that a channel accepts.

    Spec: 22.13. Shape: 8 bytes.
    Field: some BMCs pad the response. An IPMI 1.5 BMC leaves `extended` false and the rest 0.
    """

    channel: int
    authentication_types: AuthenticationTypes
    extended: bool
    """Whether the IPMI 2.0 fields below are valid."""
    k_g_set: bool = False
    """Whether K_g is set, that is not all zeros: two-key login is in use."""
    per_message_authentication: bool = True
    user_level_authentication: bool = True
    non_null_user_names: bool = True
    null_user_names: bool = False
    anonymous_login: bool = False
    ipmi_2_0: bool = True
    ipmi_1_5: bool = False
    oem_id: int = 0
    oem_auxiliary: int = 0

    def encode(self) -> bytes:
        status = (
            self.k_g_set << 5
            | (not self.per_message_authentication) << 4
            | (not self.user_level_authentication) << 3
            | self.non_null_user_names << 2
            | self.null_user_names << 1
            | self.anonymous_login
        )
        head = (
            self.channel,
            self.extended << 7 | self.authentication_types,
            status,
            self.ipmi_2_0 << 1 | self.ipmi_1_5,
        )
        return bytes(head) + self.oem_id.to_bytes(3, "little") + bytes((self.oem_auxiliary,))

    @classmethod
    def decode(cls, data: bytes) -> GetChannelAuthenticationCapabilitiesRsp:
        check_length(data, 8, 8 + PADDING_BYTES_MAX, section="22.13")
        channel, types, status, versions = data[:4]
        return cls(
            channel=channel & 0x0F,
            authentication_types=AuthenticationTypes(types & 0x3F),
            extended=bool(types & 0x80),
            k_g_set=bool(status & 0x20),
            per_message_authentication=not status & 0x10,
            user_level_authentication=not status & 0x08,
            non_null_user_names=bool(status & 0x04),
            null_user_names=bool(status & 0x02),
            anonymous_login=bool(status & 0x01),
            ipmi_2_0=bool(versions & 0x02),
            ipmi_1_5=bool(versions & 0x01),
            oem_id=int.from_bytes(data[4:7], "little"),
            oem_auxiliary=data[7],
        )


@dataclass(frozen=True, slots=True)
class GetChannelAuthenticationCapabilitiesReq(Command[GetChannelAuthenticationCapabilitiesRsp]):
    """Get Channel Authentication Capabilities (22.13).

    Shape: channel and bit 7 "extended", privilege level.
    """

    channel: int = PRESENT_CHANNEL
    privilege_level: PrivilegeLevel = PrivilegeLevel.ADMINISTRATOR
    extended: bool = True
    """Whether to ask for the IPMI 2.0 fields."""

    section = "22.13"
    netfn = NetFn.APP
    command = 0x38
    response = GetChannelAuthenticationCapabilitiesRsp
    privilege = PrivilegeLevel.CALLBACK
    sessionless = True

    def __post_init__(self) -> None:
        require_range("channel", self.channel, 0x0F)

    def encode(self) -> bytes:
        return bytes((self.extended << 7 | self.channel, self.privilege_level))

    @classmethod
    def decode(cls, data: bytes) -> GetChannelAuthenticationCapabilitiesReq:
        check_length(data, 2, section=cls.section)
        return cls(
            channel=data[0] & 0x0F,
            privilege_level=read_enum(
                PrivilegeLevel, data[1] & 0x0F, section=cls.section, raw=data
            ),
            extended=bool(data[0] & 0x80),
        )


@dataclass(frozen=True, slots=True)
class CipherSuiteRecord:
    """One cipher suite that a channel offers.

    Spec: 22.15.1, table 22-18. Shape: 0xC0 and the id, or 0xC1, the id and an enterprise number
    (3 bytes, LSB first). The algorithms follow, 1 byte each; bits 7:6 are 00 for authentication, 01
    for integrity, 10 for confidentiality.
    """

    suite_id: int
    authentication: int
    integrity: tuple[int, ...] = ()
    confidentiality: tuple[int, ...] = ()
    oem_iana: int | None = None

    def __post_init__(self) -> None:
        require_range("cipher suite id", self.suite_id, 0xFF)
        if self.oem_iana is not None:
            require_range("enterprise number", self.oem_iana, 0xFFFFFF)
        for algorithm in (self.authentication, *self.integrity, *self.confidentiality):
            require_range("algorithm number", algorithm, 0x3F)

    def encode(self) -> bytes:
        """Return the record."""
        if self.oem_iana is None:
            head = bytes((0xC0, self.suite_id))
        else:
            head = bytes((0xC1, self.suite_id)) + self.oem_iana.to_bytes(3, "little")
        return head + bytes(
            (
                self.authentication,
                *(0x40 | algorithm for algorithm in self.integrity),
                *(0x80 | algorithm for algorithm in self.confidentiality),
            )
        )


def encode_cipher_suite_records(records: Sequence[CipherSuiteRecord]) -> bytes:
    """Return the record data of a channel, from which each response takes a chunk of 16 bytes."""
    return b"".join(record.encode() for record in records)


def decode_cipher_suite_records(data: bytes) -> tuple[CipherSuiteRecord, ...]:
    """Decode the joined chunks; raises RemoteProtocolError for anything but complete records."""
    records = []
    at = 0
    while at < len(data):
        header_bytes = {0xC0: 2, 0xC1: 5}.get(data[at])
        if header_bytes is None or at + header_bytes >= len(data):
            raise RemoteProtocolError(
                f"no complete cipher suite record at byte {at}", section="22.15.1", raw=data[at:]
            )
        start = at + header_bytes
        end = start
        while end < len(data) and data[end] < 0xC0:
            end += 1
        algorithms = data[start:end]
        authentication = [value for value in algorithms if value >> 6 == 0]
        if len(authentication) != 1:
            raise RemoteProtocolError(
                "a cipher suite has exactly one authentication algorithm",
                section="22.15.1",
                raw=data[at:end],
            )
        records.append(
            CipherSuiteRecord(
                suite_id=data[at + 1],
                authentication=authentication[0],
                integrity=tuple(value & 0x3F for value in algorithms if value >> 6 == 1),
                confidentiality=tuple(value & 0x3F for value in algorithms if value >> 6 == 2),
                oem_iana=(
                    None if header_bytes == 2 else int.from_bytes(data[at + 2 : start], "little")
                ),
            )
        )
        at = end
    return tuple(records)


@dataclass(frozen=True, slots=True)
class GetChannelCipherSuitesRsp:
    """One chunk of the cipher suite record data; a chunk of fewer than 16 bytes is the last one.

    Spec: 22.15. Shape: channel, then 0 to 16 bytes of record data.
    """

    channel: int
    record_data: bytes

    def __post_init__(self) -> None:
        require_length("record data", self.record_data, CIPHER_SUITE_CHUNK_BYTES)

    def encode(self) -> bytes:
        return bytes((self.channel,)) + self.record_data

    @classmethod
    def decode(cls, data: bytes) -> GetChannelCipherSuitesRsp:
        check_length(data, 1, 1 + CIPHER_SUITE_CHUNK_BYTES, section="22.15")
        return cls(channel=data[0] & 0x0F, record_data=data[1:])


@dataclass(frozen=True, slots=True)
class GetChannelCipherSuitesReq(Command[GetChannelCipherSuitesRsp]):
    """Get Channel Cipher Suites (22.15).

    Shape: channel, payload type, list index and bit 7 "by cipher suite".
    """

    list_index: int = 0
    channel: int = PRESENT_CHANNEL
    payload_type: int = IPMI_PAYLOAD_TYPE
    by_cipher_suite: bool = True
    """Whether to list the algorithms suite by suite, instead of each algorithm once."""

    section = "22.15"
    netfn = NetFn.APP
    command = 0x54
    response = GetChannelCipherSuitesRsp
    privilege = PrivilegeLevel.CALLBACK
    sessionless = True

    def __post_init__(self) -> None:
        require_range("channel", self.channel, 0x0F)
        require_range("payload type", self.payload_type, 0x3F)
        require_range("list index", self.list_index, CIPHER_SUITE_LIST_INDEX_MAX)

    def encode(self) -> bytes:
        return bytes((self.channel, self.payload_type, self.by_cipher_suite << 7 | self.list_index))

    @classmethod
    def decode(cls, data: bytes) -> GetChannelCipherSuitesReq:
        check_length(data, 3, section=cls.section)
        return cls(
            list_index=data[2] & 0x3F,
            channel=data[0] & 0x0F,
            payload_type=data[1] & 0x3F,
            by_cipher_suite=bool(data[2] & 0x80),
        )


@dataclass(frozen=True, slots=True)
class SetSessionPrivilegeLevelRsp:
    """The present privilege level of the session. Spec: 22.18. Shape: 1 byte."""

    privilege_level: PrivilegeLevel

    def encode(self) -> bytes:
        return bytes((self.privilege_level,))

    @classmethod
    def decode(cls, data: bytes) -> SetSessionPrivilegeLevelRsp:
        check_length(data, 1, 1 + PADDING_BYTES_MAX, section="22.18")
        return cls(read_enum(PrivilegeLevel, data[0] & 0x0F, section="22.18", raw=data))


@dataclass(frozen=True, slots=True)
class SetSessionPrivilegeLevelReq(Command[SetSessionPrivilegeLevelRsp]):
    """Set Session Privilege Level (22.18). Shape: level, 1 byte.

    HIGHEST_MATCHING (0) asks for the present level without changing it.
    """

    privilege_level: PrivilegeLevel

    section = "22.18"
    netfn = NetFn.APP
    command = 0x3B
    response = SetSessionPrivilegeLevelRsp
    privilege = PrivilegeLevel.USER
    completion_codes: ClassVar = {
        0x80: "requested privilege level not available for this user",
        0x81: "requested privilege level exceeds the limit of the channel or user",
        0x82: "cannot disable user level authentication",
    }

    def encode(self) -> bytes:
        return bytes((self.privilege_level,))

    @classmethod
    def decode(cls, data: bytes) -> SetSessionPrivilegeLevelReq:
        check_length(data, 1, section=cls.section)
        return cls(read_enum(PrivilegeLevel, data[0] & 0x0F, section=cls.section, raw=data))


@dataclass(frozen=True, slots=True)
class CloseSessionReq(Command[EmptyRsp]):
    """Close Session (22.19).

    Shape: session id (4 bytes, LSB first); if it is 0, the session handle follows.
    """

    session_id: int
    session_handle: int | None = None

    section = "22.19"
    netfn = NetFn.APP
    command = 0x3C
    response = EmptyRsp
    privilege = PrivilegeLevel.CALLBACK
    completion_codes: ClassVar = {
        0x87: "invalid session id in the request",
        0x88: "invalid session handle in the request",
    }

    def __post_init__(self) -> None:
        require_range("session id", self.session_id, 0xFFFFFFFF)
        if self.session_handle is not None:
            require_range("session handle", self.session_handle, 0xFF)
            if self.session_id:
                raise LocalProtocolError("a session handle needs session id 0")

    def encode(self) -> bytes:
        handle = b"" if self.session_handle is None else bytes((self.session_handle,))
        return self.session_id.to_bytes(4, "little") + handle

    @classmethod
    def decode(cls, data: bytes) -> CloseSessionReq:
        check_length(data, 4, 5, section=cls.section)
        session_id = int.from_bytes(data[:4], "little")
        by_handle = len(data) == 5 and session_id == 0
        return cls(session_id, data[4] if by_handle else None)


@dataclass(frozen=True, slots=True)
class SessionDetail:
    """The requested session. On LAN, `channel_data` is IPv4, MAC, port (2 bytes, LSB first)."""

    user_id: int
    privilege_level: PrivilegeLevel
    channel: int
    protocol: int = 1
    """On a LAN channel 0 is IPMI 1.5 and 1 is RMCP+."""
    channel_data: bytes = b""


@dataclass(frozen=True, slots=True)
class GetSessionInfoRsp:
    """The number of sessions, and the details of the requested one.

    Spec: 22.20. Shape: 3 bytes, then 3 to 21 bytes if the requested session exists.
    """

    session_handle: int
    sessions_possible: int
    sessions_active: int
    session: SessionDetail | None = None

    def encode(self) -> bytes:
        head = bytes((self.session_handle, self.sessions_possible, self.sessions_active))
        if self.session is None:
            return head
        detail = (
            self.session.user_id,
            self.session.privilege_level,
            self.session.protocol << 4 | self.session.channel,
        )
        return head + bytes(detail) + self.session.channel_data

    @classmethod
    def decode(cls, data: bytes) -> GetSessionInfoRsp:
        check_length(data, 3, 24, section="22.20")
        session = None
        if len(data) >= 6:
            session = SessionDetail(
                user_id=data[3] & 0x3F,
                privilege_level=read_enum(
                    PrivilegeLevel, data[4] & 0x0F, section="22.20", raw=data
                ),
                channel=data[5] & 0x0F,
                protocol=data[5] >> 4,
                channel_data=data[6:],
            )
        return cls(data[0], data[1] & 0x3F, data[2] & 0x3F, session)


@dataclass(frozen=True, slots=True)
class GetSessionInfoReq(Command[GetSessionInfoRsp]):
    """Get Session Info (22.20).

    Shape: session index, 1 byte. 0 is the present session, n the n-th active one. 0xFE is followed
    by a session handle, 0xFF by a session id (4 bytes, LSB first).
    """

    session_index: int = 0
    session_handle: int | None = None
    session_id: int | None = None

    section = "22.20"
    netfn = NetFn.APP
    command = 0x3D
    response = GetSessionInfoRsp

    def __post_init__(self) -> None:
        require_range("session index", self.session_index, 0xFF)
        if (self.session_handle is not None) != (self.session_index == 0xFE):
            raise LocalProtocolError("session index 0xFE, and no other, needs a session handle")
        if (self.session_id is not None) != (self.session_index == 0xFF):
            raise LocalProtocolError("session index 0xFF, and no other, needs a session id")

    def encode(self) -> bytes:
        index = bytes((self.session_index,))
        if self.session_handle is not None:
            return index + bytes((self.session_handle,))
        if self.session_id is not None:
            return index + self.session_id.to_bytes(4, "little")
        return index

    @classmethod
    def decode(cls, data: bytes) -> GetSessionInfoReq:
        check_length(data, 1, 5, section=cls.section)
        more = {0xFE: 1, 0xFF: 4}.get(data[0], 0)
        check_length(data, 1 + more, section=cls.section)
        return cls(
            session_index=data[0],
            session_handle=data[1] if more == 1 else None,
            session_id=int.from_bytes(data[1:5], "little") if more == 4 else None,
        )
