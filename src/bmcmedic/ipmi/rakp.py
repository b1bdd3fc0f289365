"""Open Session, RAKP messages 1 to 4 and the session keys (sections 13.17 to 13.32).

The specification's SIDm, Rm, Rolem and UNamem belong to the remote console; its SIDc, Rc and GUIDc
belong to the managed system.
"""

from __future__ import annotations

import hmac
import struct
from typing import NamedTuple

from bmcmedic.errors import RemoteProtocolError, RmcpPlusStatusError
from bmcmedic.ipmi.cipher_suites import CIPHER_SUITES, CipherSuite
from bmcmedic.ipmi.constants import RmcpPlusStatus, rmcp_plus_status_text

PASSWORD_BYTES_MAX = 20
USER_NAME_BYTES_MAX = 16
NAME_ONLY_LOOKUP = 0x10
"""Bit of the role byte: look up the user by name alone (section 13.20)."""

SUITE_REFUSALS = frozenset(
    {
        RmcpPlusStatus.INVALID_AUTHENTICATION_ALGORITHM,
        RmcpPlusStatus.INVALID_INTEGRITY_ALGORITHM,
        RmcpPlusStatus.INVALID_CONFIDENTIALITY_ALGORITHM,
        RmcpPlusStatus.NO_MATCHING_AUTHENTICATION_PAYLOAD,
        RmcpPlusStatus.NO_MATCHING_INTEGRITY_PAYLOAD,
        RmcpPlusStatus.NO_CIPHER_SUITE_MATCH,
    }
)
"""Statuses after which another cipher suite may succeed."""

_STATUS_ADVICE: dict[int, str] = {
    RmcpPlusStatus.INSUFFICIENT_RESOURCES: "no free session slot: close sessions or wait a minute",
    RmcpPlusStatus.INSUFFICIENT_RESOURCES_FOR_ROLE: "no free session slot for this privilege",
    RmcpPlusStatus.UNAUTHORIZED_NAME: "check the user name, and that the user may use this channel",
    RmcpPlusStatus.UNAUTHORIZED_ROLE: "the user's privilege limit is lower than the requested one",
    RmcpPlusStatus.INVALID_ROLE: "the user's privilege limit is lower than the requested one",
    RmcpPlusStatus.NO_CIPHER_SUITE_MATCH: "try another --cipher-suite",
    RmcpPlusStatus.INVALID_AUTHENTICATION_ALGORITHM: "try another --cipher-suite",
    RmcpPlusStatus.INVALID_INTEGRITY_ALGORITHM: "try another --cipher-suite",
    RmcpPlusStatus.INVALID_CONFIDENTIALITY_ALGORITHM: "try another --cipher-suite",
    RmcpPlusStatus.INVALID_INTEGRITY_CHECK_VALUE: "check the password and K_g",
}

_CONSTANT_1 = b"\x01" * 20
_CONSTANT_2 = b"\x02" * 20
_OPEN_REQUEST = struct.Struct("<BB2xI")
_OPEN_RESPONSE = struct.Struct("<BBBxII")
_STATUS_HEADER = struct.Struct("<BB2xI")
_RAKP_1 = struct.Struct("<B3xI16sB2xB")


def _algorithms(suite: CipherSuite) -> bytes:
    """Return the three algorithm payloads of an Open Session message (13.17, table 13-9)."""
    return bytes(
        (
            *(0x00, 0, 0, 8, suite.authentication, 0, 0, 0),
            *(0x01, 0, 0, 8, suite.integrity, 0, 0, 0),
            *(0x02, 0, 0, 8, suite.confidentiality, 0, 0, 0),
        )
    )


_ALGORITHMS = {suite_id: _algorithms(suite) for suite_id, suite in CIPHER_SUITES.items()}
_SUITE_OF = {payloads: CIPHER_SUITES[suite_id] for suite_id, payloads in _ALGORITHMS.items()}


class OpenSessionRequest(NamedTuple):
    """RMCP+ Open Session Request (section 13.17)."""

    tag: int
    privilege: int
    console_session_id: int
    algorithms: bytes
    """The three algorithm payloads as they are on the wire, 24 bytes; `suite` is their meaning."""

    @classmethod
    def for_suite(
        cls, tag: int, privilege: int, console_session_id: int, suite: CipherSuite
    ) -> OpenSessionRequest:
        """Return a request that proposes exactly one suite."""
        return cls(tag, privilege, console_session_id, _ALGORITHMS[suite.id])

    @property
    def suite(self) -> CipherSuite | None:
        """The proposed suite, or None for an unsupported one."""
        return _SUITE_OF.get(self.algorithms)

    def encode(self) -> bytes:
        """Return the payload, 32 bytes."""
        return (
            _OPEN_REQUEST.pack(self.tag, self.privilege, self.console_session_id) + self.algorithms
        )

    @classmethod
    def decode(cls, payload: bytes) -> OpenSessionRequest:
        """Decode the payload; raises RemoteProtocolError."""
        _check_length(payload, (32,), "Open Session Request", "13.17")
        tag, privilege, console_session_id = _OPEN_REQUEST.unpack_from(payload)
        return cls(tag, privilege & 0x0F, console_session_id, payload[8:])


class OpenSessionResponse(NamedTuple):
    """RMCP+ Open Session Response (section 13.18); a refusal ends after SIDm.

    Field: refusals of 1 to 36 bytes have been seen; decoding one needs only tag and status.
    """

    tag: int
    status: int
    privilege: int
    console_session_id: int
    managed_session_id: int = 0
    algorithms: bytes = b""

    @property
    def suite(self) -> CipherSuite | None:
        """The suite that the BMC chose, or None for an unsupported one."""
        return _SUITE_OF.get(self.algorithms)

    def encode(self) -> bytes:
        """Return the payload: 36 bytes, or 8 for a refusal."""
        packed = _OPEN_RESPONSE.pack(
            self.tag,
            self.status,
            self.privilege,
            self.console_session_id,
            self.managed_session_id,
        )
        return packed[:8] if self.status else packed + self.algorithms

    @classmethod
    def decode(cls, payload: bytes) -> OpenSessionResponse:
        """Decode the payload; raises RemoteProtocolError."""
        if len(payload) >= 2 and payload[1]:
            padded = payload[:8].ljust(12, b"\0")
            tag, status, privilege, console_session_id, _ = _OPEN_RESPONSE.unpack(padded)
            return cls(tag, status, privilege, console_session_id)
        _check_length(payload, (36,), "Open Session Response", "13.18")
        tag, status, privilege, console_session_id, managed_session_id = _OPEN_RESPONSE.unpack_from(
            payload
        )
        return cls(tag, status, privilege, console_session_id, managed_session_id, payload[12:])


class Rakp1(NamedTuple):
    """RAKP Message 1: remote console to managed system (section 13.20)."""

    tag: int
    managed_session_id: int
    console_random: bytes
    role: int
    """Requested maximum privilege level in bits 3:0, `NAME_ONLY_LOOKUP` in bit 4."""
    user_name: bytes

    def encode(self) -> bytes:
        """Return the payload: 28 bytes and the user name."""
        return (
            _RAKP_1.pack(
                self.tag,
                self.managed_session_id,
                self.console_random,
                self.role,
                len(self.user_name),
            )
            + self.user_name
        )

    @classmethod
    def decode(cls, payload: bytes) -> Rakp1:
        """Decode the payload; raises RemoteProtocolError.

        Field: some clients always send 16 bytes of user name, padded with zeros.
        """
        if not 28 <= len(payload) <= 28 + USER_NAME_BYTES_MAX or payload[27] > len(payload) - 28:
            raise RemoteProtocolError("RAKP 1 has the wrong length", section="13.20", raw=payload)
        tag, managed_session_id, console_random, role, name_bytes = _RAKP_1.unpack_from(payload)
        return cls(
            tag, managed_session_id, console_random, role & 0x1F, payload[28 : 28 + name_bytes]
        )


class Rakp2(NamedTuple):
    """RAKP Message 2: managed system to remote console (section 13.21)."""

    tag: int
    status: int
    console_session_id: int
    managed_random: bytes = b""
    managed_guid: bytes = b""
    key_exchange_code: bytes = b""

    def __repr__(self) -> str:
        return f"Rakp2(tag={self.tag}, status={self.status})"

    def encode(self) -> bytes:
        """Return the payload: 40 bytes and the key exchange code, or 8 bytes for a refusal."""
        header = _STATUS_HEADER.pack(self.tag, self.status, self.console_session_id)
        if self.status:
            return header
        return header + self.managed_random + self.managed_guid + self.key_exchange_code

    @classmethod
    def decode(cls, payload: bytes, suite: CipherSuite) -> Rakp2:
        """Decode the payload; raises RemoteProtocolError."""
        tag, status, console_session_id = _status_header(payload, "RAKP 2", "13.21")
        if status:
            return cls(tag, status, console_session_id)
        _check_length(payload, (40 + suite.key_exchange_bytes,), "RAKP 2", "13.21")
        return cls(tag, status, console_session_id, payload[8:24], payload[24:40], payload[40:])


class Rakp3(NamedTuple):
    """RAKP Message 3: remote console to managed system (section 13.22)."""

    tag: int
    status: int
    managed_session_id: int
    key_exchange_code: bytes = b""

    def __repr__(self) -> str:
        return f"Rakp3(tag={self.tag}, status={self.status})"

    def encode(self) -> bytes:
        """Return the payload: 8 bytes and the key exchange code."""
        return (
            _STATUS_HEADER.pack(self.tag, self.status, self.managed_session_id)
            + self.key_exchange_code
        )

    @classmethod
    def decode(cls, payload: bytes) -> Rakp3:
        """Decode the payload, without checking the code; raises RemoteProtocolError."""
        tag, status, managed_session_id = _status_header(payload, "RAKP 3", "13.22")
        if len(payload) not in (8, 28, 40):
            raise RemoteProtocolError(
                "RAKP 3 has the wrong length", section="13.22", raw=payload[:8]
            )
        return cls(tag, status, managed_session_id, payload[8:])


class Rakp4(NamedTuple):
    """RAKP Message 4: managed system to remote console (section 13.23)."""

    tag: int
    status: int
    console_session_id: int
    integrity_check_value: bytes = b""

    def __repr__(self) -> str:
        return f"Rakp4(tag={self.tag}, status={self.status})"

    def encode(self) -> bytes:
        """Return the payload: 8 bytes and the integrity check value, or 8 bytes for a refusal."""
        header = _STATUS_HEADER.pack(self.tag, self.status, self.console_session_id)
        return header if self.status else header + self.integrity_check_value

    @classmethod
    def decode(cls, payload: bytes, suite: CipherSuite) -> Rakp4:
        """Decode the payload; raises RemoteProtocolError."""
        tag, status, console_session_id = _status_header(payload, "RAKP 4", "13.23")
        if status:
            return cls(tag, status, console_session_id)
        _check_length(payload, (8 + suite.rakp4_bytes,), "RAKP 4", "13.23")
        return cls(tag, status, console_session_id, payload[8:])


class KeyExchange:
    """The values that both sides know after RAKP 2; every code and key is computed from them.

    Spec: 13.28.1 (codes), 13.31 (SIK), 13.32 (K1, K2). A password is an HMAC key, so a 16-byte
    password gives the same codes as the same password padded to 20 bytes with zeros.
    """

    __slots__ = (
        "_console_id",
        "_digest",
        "_identity",
        "_kg",
        "_managed_guid",
        "_managed_id",
        "_password",
        "_rakp4_bytes",
        "_randoms",
        "managed_session_id",
    )

    def __init__(
        self,
        suite: CipherSuite,
        *,
        console_session_id: int,
        rakp1: Rakp1,
        managed_random: bytes,
        managed_guid: bytes,
        password: bytes,
        kg: bytes,
    ) -> None:
        self._digest = suite.digest
        self._rakp4_bytes = suite.rakp4_bytes
        self.managed_session_id = rakp1.managed_session_id
        self._console_id = console_session_id.to_bytes(4, "little")
        self._managed_id = rakp1.managed_session_id.to_bytes(4, "little")
        self._randoms = rakp1.console_random, managed_random
        self._managed_guid = managed_guid
        self._identity = bytes((rakp1.role, len(rakp1.user_name))) + rakp1.user_name
        self._password = password
        self._kg = kg

    @property
    def has_kg(self) -> bool:
        """Whether a K_g is used."""
        return bool(self._kg)

    def rakp2_code(self) -> bytes:
        """Return the key exchange authentication code of RAKP 2."""
        console_random, managed_random = self._randoms
        return self._hmac(
            self._password,
            self._console_id
            + self._managed_id
            + console_random
            + managed_random
            + self._managed_guid
            + self._identity,
        )

    def rakp3_code(self) -> bytes:
        """Return the key exchange authentication code of RAKP 3."""
        return self._hmac(self._password, self._randoms[1] + self._console_id + self._identity)

    def sik(self) -> bytes:
        """Return the session integrity key (SIK); if K_g is set, it takes the password's place."""
        console_random, managed_random = self._randoms
        return self._hmac(
            self._kg or self._password, console_random + managed_random + self._identity
        )

    def rakp4_value(self, sik: bytes) -> bytes:
        """Return the integrity check value of RAKP 4."""
        message = self._randoms[0] + self._managed_id + self._managed_guid
        return self._hmac(sik, message)[: self._rakp4_bytes]

    def k1(self, sik: bytes) -> bytes:
        """Return K1, the key of the integrity algorithm."""
        return self._hmac(sik, _CONSTANT_1)

    def k2(self, sik: bytes) -> bytes:
        """Return K2, the key of the confidentiality algorithm; AES uses its first 16 bytes."""
        return self._hmac(sik, _CONSTANT_2)

    def _hmac(self, key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, self._digest) if self._digest else b""


def session_refusal(name: str, status: int) -> RmcpPlusStatusError:
    """Return the error for a status in message `name`, with advice where there is some."""
    return RmcpPlusStatusError(
        name, status, rmcp_plus_status_text(status), _STATUS_ADVICE.get(status, "")
    )


def _status_header(payload: bytes, name: str, section: str) -> tuple[int, int, int]:
    if len(payload) < 8:
        raise RemoteProtocolError(f"{name} is truncated", section=section, raw=payload)
    tag, status, session_id = _STATUS_HEADER.unpack_from(payload)
    return tag, status, session_id


def _check_length(payload: bytes, lengths: tuple[int, ...], name: str, section: str) -> None:
    if len(payload) not in lengths:
        wanted = " or ".join(map(str, lengths))
        # Only the first bytes go into the error, because a keyed code may follow.
        raise RemoteProtocolError(
            f"{name}: expected {wanted} bytes, got {len(payload)}", section=section, raw=payload[:8]
        )
