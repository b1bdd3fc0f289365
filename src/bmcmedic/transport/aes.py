"""AES-CBC from the `cryptography` library; the caller passes it to the sans-I/O core."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bmcmedic.ipmi.session import AES_BLOCK_BYTES, AesUpdate

# Every packet starts with a random block, so the initial vector of a reused context is harmless.
_START = modes.CBC(bytes(AES_BLOCK_BYTES))


def aes_cbc(key: bytes) -> tuple[AesUpdate, AesUpdate]:
    """Return a reusable encryptor and decryptor for a 16-byte key (`ipmi.session.AesFactory`)."""
    cipher = Cipher(algorithms.AES(key), _START)
    return cipher.encryptor().update, cipher.decryptor().update
