"""An active RMCP+ session: it seals and opens packets (sections 13.6, 13.28, 13.29).

The remote console and the managed system use the same class, with the two session ids swapped.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable

from bmcmedic.errors import RemoteProtocolError
from bmcmedic.ipmi.cipher_suites import CipherSuite
from bmcmedic.ipmi.packet import Packet, PayloadType, payload_type_byte, plus_header

AesUpdate = Callable[[bytes], bytes]
AesFactory = Callable[[bytes], tuple[AesUpdate, AesUpdate]]
"""Makes the `update` functions of one AES-CBC-128 encryptor and decryptor from a 16-byte key.

The two contexts are kept, so each call chains to the one before it. A session relies on that. When
it encrypts, it puts a random block in front of the plaintext. That block becomes an unpredictable
ciphertext block, which is the initialization vector of the blocks after it. When it decrypts, the
vector comes first, so that the state left by earlier packets affects only the vector's own block.
"""

RandomBytes = Callable[[int], bytes]

AES_BLOCK_BYTES = 16
BEHIND_MAX = 31
"""How far a sequence number may be behind the highest one seen and still be accepted (6.12.14)."""
MANAGED_SYSTEM_AHEAD_MAX = 16
"""How far a sequence number may be ahead of the highest one seen by a managed system (6.12.14)."""
REMOTE_CONSOLE_AHEAD_MAX = 1024
"""How far a sequence number may be ahead of the highest one seen by a remote console.

It is larger, so that a console that lost 17 answers in a row still accepts the next one.
"""

_SEQUENCE_MAX = 0xFFFFFFFF
_NEXT_HEADER = 0x07
_PADS = [bytes(range(1, pad_bytes + 1)) + bytes((pad_bytes,)) for pad_bytes in range(16)]
_TRAILERS = [b"\xff" * pad_bytes + bytes((pad_bytes, _NEXT_HEADER)) for pad_bytes in range(4)]


class SequenceWindow:
    """The inbound session sequence numbers that have been seen (section 6.12.14).

    The first number that passes the integrity check sets the window, whatever number that is.
    """

    __slots__ = ("_ahead_max", "_highest", "_seen")

    def __init__(self, ahead_max: int) -> None:
        self._ahead_max = ahead_max
        self._highest: int | None = None
        self._seen = 1

    def accept(self, sequence: int) -> bool:
        """Return whether this number is new and inside the window; if so, mark it as seen."""
        if self._highest is None:
            self._highest = sequence
            return True
        ahead = sequence - self._highest & _SEQUENCE_MAX
        if 0 < ahead <= self._ahead_max:
            self._highest = sequence
            self._seen = (self._seen << ahead | 1) & (1 << BEHIND_MAX + 1) - 1
            return True
        behind = -ahead & _SEQUENCE_MAX
        if behind > BEHIND_MAX or self._seen >> behind & 1:
            return False
        self._seen |= 1 << behind
        return True


class Session:
    """Seals and opens the packets of one session.

    `inbound_id` is the session id in packets that come in, `outbound_id` the one in packets sent.
    """

    __slots__ = (
        "_auth_code_bytes",
        "_decrypt",
        "_digest",
        "_encrypt",
        "_k1",
        "_outbound_sequence",
        "_random_bytes",
        "_type_bits",
        "_window",
        "inbound_id",
        "outbound_id",
        "suite",
    )

    def __init__(
        self,
        suite: CipherSuite,
        *,
        inbound_id: int,
        outbound_id: int,
        k1: bytes,
        k2: bytes,
        aes: AesFactory,
        random_bytes: RandomBytes,
        ahead_max: int,
    ) -> None:
        self.suite = suite
        self.inbound_id = inbound_id
        self.outbound_id = outbound_id
        self._k1 = k1
        self._digest = suite.digest
        self._auth_code_bytes = suite.auth_code_bytes
        self._type_bits = payload_type_byte(
            0, encrypted=suite.is_encrypted, authenticated=suite.auth_code_bytes > 0
        )
        self._encrypt: AesUpdate | None = None
        self._decrypt: AesUpdate | None = None
        if suite.is_encrypted:
            self._encrypt, self._decrypt = aes(k2[:AES_BLOCK_BYTES])
        self._random_bytes = random_bytes
        self._outbound_sequence = 0
        self._window = SequenceWindow(ahead_max)

    def __repr__(self) -> str:
        return f"<Session suite {self.suite.id} id {self.inbound_id:#010x}>"

    def seal(self, payload: bytes, payload_type: int = PayloadType.IPMI) -> bytes:
        """Return a datagram that carries `payload`, with the next sequence number."""
        # 0 means "outside of a session" (section 6.12.13), so the counter wraps to 1.
        sequence = self._outbound_sequence % _SEQUENCE_MAX + 1
        self._outbound_sequence = sequence
        if self._encrypt is not None:
            pad = _PADS[(15 - len(payload)) % AES_BLOCK_BYTES]
            payload = self._encrypt(self._random_bytes(AES_BLOCK_BYTES) + payload + pad)
        datagram = (
            plus_header(payload_type | self._type_bits, self.outbound_id, sequence, len(payload))
            + payload
        )
        if not self._auth_code_bytes:
            return datagram
        # From AuthType to Next Header the length is a multiple of 4; RMCP's 4 bytes do not count
        # (13.6).
        datagram += _TRAILERS[-(len(datagram) + 2) % 4]
        return datagram + self._auth_code(datagram)

    def open(self, packet: Packet, datagram: bytes) -> bytes:
        """Return the decrypted payload of a packet of this session.

        Raises: RemoteProtocolError for wrong protection, a wrong AuthCode, a replayed or
        out-of-window sequence number, or wrong padding.
        """
        if (packet.is_encrypted << 7 | packet.is_authenticated << 6) != self._type_bits:
            raise RemoteProtocolError("packet not protected as negotiated", section="13.6")
        if self._auth_code_bytes:
            self._check_auth_code(packet, datagram)
        if not self._window.accept(packet.sequence):
            raise RemoteProtocolError(
                f"sequence number {packet.sequence} replayed or out of window", section="6.12.14"
            )
        return packet.payload if self._decrypt is None else self._decrypted(packet.payload)

    def _auth_code(self, datagram: bytes) -> bytes:
        return hmac.digest(self._k1, datagram[4:], self._digest)[: self._auth_code_bytes]

    def _check_auth_code(self, packet: Packet, datagram: bytes) -> None:
        start = len(datagram) - self._auth_code_bytes
        # Pad length and next header precede the code. Field: some BMCs pad with other bytes than
        # FFh.
        if start < packet.payload_end + 2:
            raise RemoteProtocolError("packet without an AuthCode", section="13.28.4")
        if not hmac.compare_digest(self._auth_code(datagram[:start]), datagram[start:]):
            raise RemoteProtocolError("wrong AuthCode", section="13.28.4")
        # Field: some BMCs leave out the pad. The AuthCode covers these bytes, so they are genuine.
        if datagram[start - 1] != _NEXT_HEADER:
            raise RemoteProtocolError("wrong next header", section="13.6")

    def _decrypted(self, payload: bytes) -> bytes:
        # A partial block would stay in the kept AES context and corrupt every later packet.
        if len(payload) < 2 * AES_BLOCK_BYTES or len(payload) % AES_BLOCK_BYTES:
            raise RemoteProtocolError(
                f"{len(payload)} bytes are not an AES-CBC payload", section="13.29"
            )
        assert self._decrypt is not None
        plain = self._decrypt(payload)
        pad_bytes = plain[-1]
        end = len(plain) - 1 - pad_bytes
        # Field: some BMCs send pad bytes that do not count 1, 2, 3 …; only the length matters.
        if pad_bytes >= AES_BLOCK_BYTES or end < AES_BLOCK_BYTES:
            raise RemoteProtocolError("wrong confidentiality pad", section="13.29")
        return plain[AES_BLOCK_BYTES:end]


def random_session_id(random_bytes: RandomBytes) -> int:
    """Return a random session id; it is never 0, which is reserved for set-up (section 13.17)."""
    while True:
        (session_id,) = struct.unpack("<I", random_bytes(4))
        if session_id:
            return int(session_id)
