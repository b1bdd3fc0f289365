"""The strings that follow a type/length byte, in SDRs (43.15) and FRU inventories (FRU 1.0, 13)."""

from __future__ import annotations

from collections.abc import Callable

from bmcmedic.errors import LocalProtocolError

BCD_PLUS = 1
SIX_BIT_ASCII = 2
EIGHT_BIT_TEXT = 3

_BCD_PLUS_DIGITS = "0123456789 -.:,_"


def decode_bcd_plus(data: bytes) -> str:
    """Decode BCD plus: two digits per byte, the high nibble first."""
    return "".join(_BCD_PLUS_DIGITS[value >> 4] + _BCD_PLUS_DIGITS[value & 15] for value in data)


def decode_six_bit_ascii(data: bytes) -> str:
    """Decode 6-bit ASCII: four characters, 0x20 to 0x5F, per three bytes, lowest bits first."""
    bits = int.from_bytes(data, "little")
    return "".join(chr(0x20 + (bits >> 6 * at & 0x3F)) for at in range(len(data) * 8 // 6))


def decode_text(kind: int, data: bytes, *, kind_0: Callable[[bytes], str]) -> str:
    """Decode a string and strip the spaces and zeros that pad it; `kind_0` decodes type 0."""
    if kind == BCD_PLUS:
        text = decode_bcd_plus(data)
    elif kind == SIX_BIT_ASCII:
        text = decode_six_bit_ascii(data)
    elif kind == EIGHT_BIT_TEXT:
        text = data.decode("latin-1")
    else:
        text = kind_0(data)
    return text.rstrip(" \0")


def encode_text(name: str, text: str, bytes_max: int) -> bytes:
    """Encode a string as 8-bit text.

    Raises: LocalProtocolError when decoding the result would not give the same string.
    """
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        raise LocalProtocolError(f"{name} is not Latin-1: {text!r}") from None
    if len(data) > bytes_max:
        raise LocalProtocolError(f"{name} has at most {bytes_max} characters: {text!r}")
    if text.rstrip(" \0") != text:
        raise LocalProtocolError(f"{name} ends in padding: {text!r}")
    return data
