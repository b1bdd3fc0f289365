"""The datagrams on port 623: RMCP, ASF presence and both session headers (13.1 to 13.6)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from bmcmedic.errors import LocalProtocolError, RemoteProtocolError

DATAGRAM_BYTES_MAX = 1024
"""Longest datagram that is decoded, in bytes; RMCP+ as it is used here stays below 512."""

_RMCP_ASF = b"\x06\x00\xff\x06"
_RMCP_IPMI = b"\x06\x00\xff\x07"
_RMCP_PLUS = b"\x06\x00\xff\x07\x06"
_ASF_IANA = 4542
_ASF_PING = 0x80
_ASF_PONG = 0x40
_FORMAT_RMCP_PLUS = 0x06
_ENCRYPTED = 0x80
_AUTHENTICATED = 0x40
_PLUS_HEADER = struct.Struct("<BBIIH")
_PLUS_HEADER_END = 4 + _PLUS_HEADER.size
_LEGACY_HEADER = struct.Struct("<BII")


class PayloadType(IntEnum):
    """RMCP+ payload types (section 13.27.3)."""

    IPMI = 0x00
    SOL = 0x01
    OEM_EXPLICIT = 0x02
    OPEN_SESSION_REQUEST = 0x10
    OPEN_SESSION_RESPONSE = 0x11
    RAKP_1 = 0x12
    RAKP_2 = 0x13
    RAKP_3 = 0x14
    RAKP_4 = 0x15


class PresencePing(NamedTuple):
    """ASF Presence Ping, which finds out whether a host supports IPMI (section 13.2.3)."""

    tag: int

    def encode(self) -> bytes:
        """Return the whole datagram."""
        return _RMCP_ASF + struct.pack(">IBBBB", _ASF_IANA, _ASF_PING, self.tag, 0, 0)


class PresencePong(NamedTuple):
    """ASF Presence Pong: the answer to a ping (section 13.2.4)."""

    tag: int
    supports_ipmi: bool

    def encode(self) -> bytes:
        """Return the whole datagram."""
        body = struct.pack(">IIBB6x", _ASF_IANA, 0, 0x81 if self.supports_ipmi else 0x01, 0)
        return (
            _RMCP_ASF + struct.pack(">IBBBB", _ASF_IANA, _ASF_PONG, self.tag, 0, len(body)) + body
        )


class LegacyPacket(NamedTuple):
    """An IPMI 1.5 session packet; only authentication type none is supported (section 13.6)."""

    authentication_type: int
    sequence: int
    session_id: int
    payload: bytes

    def encode(self) -> bytes:
        """Return the whole datagram; raises LocalProtocolError for any type other than none."""
        if self.authentication_type:
            raise LocalProtocolError("IPMI 1.5 is supported only for packets outside of a session")
        header = _LEGACY_HEADER.pack(self.authentication_type, self.sequence, self.session_id)
        return _RMCP_IPMI + header + bytes((len(self.payload),)) + self.payload


class Packet(NamedTuple):
    """An RMCP+ session packet (section 13.6, table 13-8).

    `payload` is as it is on the wire, so still encrypted if `is_encrypted` is true. `payload_end`
    is its end in the datagram, where the integrity trailer starts.
    """

    payload_type: int
    is_encrypted: bool
    is_authenticated: bool
    session_id: int
    sequence: int
    payload: bytes
    payload_end: int = 0

    def encode(self) -> bytes:
        """Return the whole datagram of a packet outside of a session.

        Raises: LocalProtocolError for a protected packet; only `Session.seal` can make one.
        """
        if self.is_encrypted or self.is_authenticated:
            raise LocalProtocolError("only a session can make a protected packet")
        return (
            plus_header(self.payload_type, self.session_id, self.sequence, len(self.payload))
            + self.payload
        )


Datagram = PresencePing | PresencePong | LegacyPacket | Packet


def plus_header(payload_type: int, session_id: int, sequence: int, payload_bytes: int) -> bytes:
    """Return the RMCP and RMCP+ session headers; `payload_type` includes its protection bits."""
    return _RMCP_IPMI + _PLUS_HEADER.pack(
        _FORMAT_RMCP_PLUS, payload_type, session_id, sequence, payload_bytes
    )


def payload_type_byte(payload_type: int, *, encrypted: bool, authenticated: bool) -> int:
    """Return the payload type with its two protection bits."""
    return payload_type | encrypted << 7 | authenticated << 6


def decode_datagram(data: bytes) -> Datagram:
    """Decode one datagram; raises RemoteProtocolError."""
    if data[:5] == _RMCP_PLUS and len(data) <= DATAGRAM_BYTES_MAX:
        return _decode_plus(data)
    if not 5 <= len(data) <= DATAGRAM_BYTES_MAX:
        raise RemoteProtocolError(f"a datagram of {len(data)} bytes", section="13.1.3", raw=data)
    # Sequence number 0xFF asks for no RMCP acknowledge. Others are accepted as well, because IPMI
    # has no RMCP acknowledge.
    if data[0] != 0x06 or data[3] & 0x80:
        raise RemoteProtocolError("not an RMCP data message", section="13.1.3", raw=data)
    message_class = data[3] & 0x1F
    if message_class == 0x07:
        return _decode_ipmi(data)
    if message_class == 0x06:
        return _decode_asf(data)
    raise RemoteProtocolError(
        f"RMCP message class {message_class:#04x}", section="13.1.3", raw=data
    )


def _decode_ipmi(data: bytes) -> LegacyPacket | Packet:
    return _decode_plus(data) if data[4] == _FORMAT_RMCP_PLUS else _decode_legacy(data)


def _decode_plus(data: bytes) -> Packet:
    if len(data) < _PLUS_HEADER_END:
        raise RemoteProtocolError("truncated session header", section="13.6", raw=data)
    _, type_byte, session_id, sequence, payload_bytes = _PLUS_HEADER.unpack_from(data, 4)
    payload_type = type_byte & 0x3F
    if payload_type == PayloadType.OEM_EXPLICIT:
        raise RemoteProtocolError(
            "an OEM payload that was never negotiated", section="13.27", raw=data
        )
    end = _PLUS_HEADER_END + payload_bytes
    if end > len(data):
        raise RemoteProtocolError(
            f"payload length {payload_bytes}, but {len(data) - _PLUS_HEADER_END} bytes follow",
            section="13.6",
            raw=data,
        )
    return Packet(
        payload_type,
        type_byte & _ENCRYPTED != 0,
        type_byte & _AUTHENTICATED != 0,
        session_id,
        sequence,
        data[_PLUS_HEADER_END:end],
        end,
    )


def _decode_legacy(data: bytes) -> LegacyPacket:
    authentication_type = data[4] & 0x0F
    header_end = 13 if authentication_type == 0 else 29
    if len(data) < header_end + 1:
        raise RemoteProtocolError("truncated session header", section="13.6", raw=data)
    _, sequence, session_id = _LEGACY_HEADER.unpack_from(data, 4)
    start = header_end + 1
    end = start + data[header_end]
    # One pad byte may follow ("legacy PAD", table 13-8).
    if not end <= len(data) <= end + 1:
        raise RemoteProtocolError(
            f"payload length {data[header_end]}, but {len(data) - start} bytes follow",
            section="13.6",
            raw=data,
        )
    return LegacyPacket(authentication_type, sequence, session_id, data[start:end])


def _decode_asf(data: bytes) -> PresencePing | PresencePong:
    if len(data) < 12:
        raise RemoteProtocolError("truncated ASF message", section="13.2", raw=data)
    enterprise, message_type, tag, _, length = struct.unpack_from(">IBBBB", data, 4)
    if enterprise != _ASF_IANA or len(data) != 12 + length:
        raise RemoteProtocolError("not an ASF message", section="13.2", raw=data)
    if message_type == _ASF_PING and length == 0:
        return PresencePing(tag)
    if message_type == _ASF_PONG and length == 16:
        return PresencePong(tag, bool(data[20] & 0x80))
    raise RemoteProtocolError(f"ASF message type {message_type:#04x}", section="13.2", raw=data)
