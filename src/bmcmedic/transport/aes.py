"""AES-CBC for the sans-I/O core, which is handed it, from the `cryptography` library."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bmcmedic.ipmi.session import AES_BLOCK_BYTES, AesUpdate

# Every packet starts with a random block, so what the kept contexts start from has no influence.
_START = modes.CBC(bytes(AES_BLOCK_BYTES))


def aes_cbc(key: bytes) -> tuple[AesUpdate, AesUpdate]:
    """One kept encryptor and one kept decryptor for a 16-byte key (`ipmi.session.AesFactory`)."""
    cipher = Cipher(algorithms.AES(key), _START)
    return cipher.encryptor().update, cipher.decryptor().update
