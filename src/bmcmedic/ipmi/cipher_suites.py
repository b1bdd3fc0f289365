"""The algorithms of RMCP+ and the cipher suites made of them (sections 13.28, 22.15.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from bmcmedic.errors import ConfigurationError


class AuthenticationAlgorithm(IntEnum):
    """RAKP authentication algorithms (section 13.28)."""

    NONE = 0x00
    HMAC_SHA1 = 0x01
    HMAC_MD5 = 0x02
    HMAC_SHA256 = 0x03


class IntegrityAlgorithm(IntEnum):
    """Integrity algorithms (section 13.28.4)."""

    NONE = 0x00
    HMAC_SHA1_96 = 0x01
    HMAC_MD5_128 = 0x02
    MD5_128 = 0x03
    HMAC_SHA256_128 = 0x04


class ConfidentialityAlgorithm(IntEnum):
    """Confidentiality algorithms (section 13.28.5)."""

    NONE = 0x00
    AES_CBC_128 = 0x01
    XRC4_128 = 0x02
    XRC4_40 = 0x03


@dataclass(frozen=True, slots=True)
class CipherSuite:
    """One cipher suite: three algorithms and the lengths that follow from them."""

    id: int
    authentication: AuthenticationAlgorithm
    integrity: IntegrityAlgorithm
    confidentiality: ConfidentialityAlgorithm
    digest: str
    """hashlib's name of the hash in RAKP, SIK, K1 and K2; empty for suite 0."""
    key_exchange_bytes: int
    """Length of the key exchange codes in RAKP 2 and 3."""
    rakp4_bytes: int
    """Length of the integrity check value in RAKP 4."""
    auth_code_bytes: int
    """Length of the AuthCode at the end of each session packet; 0 without integrity."""

    @property
    def is_encrypted(self) -> bool:
        """Whether payloads are encrypted."""
        return self.confidentiality is not ConfidentialityAlgorithm.NONE


_NONE = AuthenticationAlgorithm.NONE, "", 0, 0
_SHA1 = AuthenticationAlgorithm.HMAC_SHA1, "sha1", 20, 12
_SHA256 = AuthenticationAlgorithm.HMAC_SHA256, "sha256", 32, 16


def _suite(
    suite_id: int,
    hashing: tuple[AuthenticationAlgorithm, str, int, int],
    integrity: IntegrityAlgorithm,
    confidentiality: ConfidentialityAlgorithm,
) -> CipherSuite:
    authentication, digest, key_exchange_bytes, rakp4_bytes = hashing
    return CipherSuite(
        suite_id,
        authentication,
        integrity,
        confidentiality,
        digest,
        key_exchange_bytes,
        rakp4_bytes,
        rakp4_bytes if integrity else 0,
    )


CIPHER_SUITES: dict[int, CipherSuite] = {
    suite.id: suite
    for suite in (
        _suite(0, _NONE, IntegrityAlgorithm.NONE, ConfidentialityAlgorithm.NONE),
        _suite(1, _SHA1, IntegrityAlgorithm.NONE, ConfidentialityAlgorithm.NONE),
        _suite(2, _SHA1, IntegrityAlgorithm.HMAC_SHA1_96, ConfidentialityAlgorithm.NONE),
        _suite(3, _SHA1, IntegrityAlgorithm.HMAC_SHA1_96, ConfidentialityAlgorithm.AES_CBC_128),
        _suite(15, _SHA256, IntegrityAlgorithm.NONE, ConfidentialityAlgorithm.NONE),
        _suite(16, _SHA256, IntegrityAlgorithm.HMAC_SHA256_128, ConfidentialityAlgorithm.NONE),
        _suite(
            17, _SHA256, IntegrityAlgorithm.HMAC_SHA256_128, ConfidentialityAlgorithm.AES_CBC_128
        ),
    )
}
"""The supported suites by id. MD5 and xRC4 are left out: nothing needs them any more."""

DEFAULT_CIPHER_SUITES = (17, 3)
"""The suites that are proposed, in this order, if the operator names none."""


def cipher_suite(suite_id: int) -> CipherSuite:
    """Return the suite with that id; raises ConfigurationError for an unsupported one."""
    suite = CIPHER_SUITES.get(suite_id)
    if suite is None:
        known = ", ".join(map(str, CIPHER_SUITES))
        raise ConfigurationError(f"cipher suite {suite_id} is not supported; choose one of {known}")
    return suite
