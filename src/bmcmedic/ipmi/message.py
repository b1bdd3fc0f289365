"""The IPMI message as it travels inside a LAN session or on the IPMB (sections 5.1, 13.8, 7.2).

responder address | netFn<<2 | responder LUN | checksum of the two | requester address |
rqSeq<<2 | requester LUN | command | [completion code] | data … | checksum of the last part
"""

from __future__ import annotations

from typing import NamedTuple

from bmcmedic.errors import LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi.constants import BMC_SLAVE_ADDRESS, REMOTE_CONSOLE_SWID

_SECTION = "13.8"
_REQUEST_OVERHEAD = 7
_RESPONSE_OVERHEAD = 8
MESSAGE_BYTES_MAX = 272
"""Longest message accepted from the network, in bytes; the specification's LAN limit is lower."""


def checksum(data: bytes) -> int:
    """Return the two's complement checksum: added to the bytes it gives 0 modulo 256 (13.8)."""
    return -sum(data) & 0xFF


class RequestMessage(NamedTuple):
    """A request from `requester` to `responder`; `netfn` is even."""

    netfn: int
    command: int
    data: bytes = b""
    sequence: int = 0
    responder: int = BMC_SLAVE_ADDRESS
    responder_lun: int = 0
    requester: int = REMOTE_CONSOLE_SWID
    requester_lun: int = 0

    def encode(self, sequence: int | None = None) -> bytes:
        """Return the message with both checksums; `sequence` overrides the field if it is given.

        Raises: LocalProtocolError for a field out of range.
        """
        if sequence is None:
            sequence = self.sequence
        if self.netfn & 1 or not 0 <= self.netfn <= 0x3E:
            raise LocalProtocolError(f"a request's netFn is even and below 0x40: {self.netfn:#x}")
        if not 0 <= sequence <= 0x3F:
            raise LocalProtocolError(f"rqSeq has 6 bits: {sequence}")
        if (self.responder_lun | self.requester_lun) & ~3:
            raise LocalProtocolError("a LUN has 2 bits")
        if len(self.data) + _REQUEST_OVERHEAD > MESSAGE_BYTES_MAX:
            raise LocalProtocolError(f"request data of {len(self.data)} bytes is too long")
        data = self.data
        responder = self.responder
        network = self.netfn << 2 | self.responder_lun
        requester = self.requester
        sequence = sequence << 2 | self.requester_lun
        command = self.command
        first = -(responder + network) & 0xFF
        rest = -(requester + sequence + command + sum(data)) & 0xFF
        return bytes((responder, network, first, requester, sequence, command, *data, rest))

    @classmethod
    def decode(cls, raw: bytes) -> RequestMessage:
        """Decode a request.

        Raises: RemoteProtocolError for a wrong length, a wrong checksum or an odd netFn.
        """
        _check(raw, _REQUEST_OVERHEAD)
        if raw[1] & 0x04:
            raise RemoteProtocolError("a response instead of a request", section="5.1", raw=raw)
        return cls(
            netfn=raw[1] >> 2,
            command=raw[5],
            data=raw[6:-1],
            sequence=raw[4] >> 2,
            responder=raw[0],
            responder_lun=raw[1] & 3,
            requester=raw[3],
            requester_lun=raw[4] & 3,
        )

    def with_sequence(self, sequence: int) -> RequestMessage:
        """Return the same request with another sequence number (rqSeq)."""
        return self._replace(sequence=sequence)

    def reply(self, completion_code: int, data: bytes = b"") -> ResponseMessage:
        """Return a response to this request."""
        return ResponseMessage(
            netfn=self.netfn | 1,
            command=self.command,
            completion_code=completion_code,
            data=data,
            sequence=self.sequence,
            requester=self.requester,
            requester_lun=self.requester_lun,
            responder=self.responder,
            responder_lun=self.responder_lun,
        )


class ResponseMessage(NamedTuple):
    """A response; `netfn` is odd. The address fields name the same parties as in the request."""

    netfn: int
    command: int
    completion_code: int
    data: bytes = b""
    sequence: int = 0
    requester: int = REMOTE_CONSOLE_SWID
    requester_lun: int = 0
    responder: int = BMC_SLAVE_ADDRESS
    responder_lun: int = 0

    def encode(self) -> bytes:
        """Return the message with both checksums."""
        first = self.requester, self.netfn << 2 | self.requester_lun
        rest = (
            bytes(
                (
                    self.responder,
                    self.sequence << 2 | self.responder_lun,
                    self.command,
                    self.completion_code,
                )
            )
            + self.data
        )
        return bytes((*first, -sum(first) & 0xFF)) + rest + bytes((-sum(rest) & 0xFF,))

    @classmethod
    def decode(cls, raw: bytes) -> ResponseMessage:
        """Decode a response.

        Raises: RemoteProtocolError for a wrong length, a wrong checksum or an even netFn.
        """
        _check(raw, _RESPONSE_OVERHEAD)
        requester, network, _, responder, sequence, command, completion_code = raw[:7]
        if not network & 0x04:
            raise RemoteProtocolError("a request instead of a response", section="5.1", raw=raw)
        return cls(
            network >> 2,
            command,
            completion_code,
            raw[7:-1],
            sequence >> 2,
            requester,
            network & 3,
            responder,
            sequence & 3,
        )


def _check(raw: bytes, overhead: int) -> None:
    if not overhead <= len(raw) <= MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(
            f"expected {overhead} to {MESSAGE_BYTES_MAX} bytes, got {len(raw)}",
            section=_SECTION,
            raw=raw,
        )
    if raw[0] + raw[1] + raw[2] & 0xFF:
        raise RemoteProtocolError("wrong header checksum", section=_SECTION, raw=raw)
    if sum(raw) & 0xFF:
        raise RemoteProtocolError("wrong data checksum", section=_SECTION, raw=raw)
