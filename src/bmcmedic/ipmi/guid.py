"""System and device GUIDs, and how vendors order their bytes (section 20.8).

The specification wants the 16 bytes least significant first, that is the textual UUID reversed.
Many BMCs send them in the text's own order, others in SMBIOS order, where the first three groups
alone are reversed; and `product_uuid` of the host may itself be shown in either of these two.
"""

from __future__ import annotations

from uuid import UUID

GUID_BYTES = 16


def is_known_guid(raw: bytes) -> bool:
    """Whether the bytes identify anything: 16 of them, and neither all 0x00 nor all 0xFF."""
    return len(raw) == GUID_BYTES and raw not in (bytes(GUID_BYTES), b"\xff" * GUID_BYTES)


def guid_candidates(raw: bytes) -> tuple[str, ...]:
    """Every UUID, as lower-case text, that the bytes may stand for; none when unknown."""
    if not is_known_guid(raw):
        return ()
    reverse = raw[::-1]
    readings = (UUID(bytes=raw), UUID(bytes_le=raw), UUID(bytes=reverse), UUID(bytes_le=reverse))
    return tuple(dict.fromkeys(str(reading) for reading in readings))


def guid_matches(raw: bytes, product_uuid: str) -> bool:
    """Whether the BMC's GUID is the host's SMBIOS product UUID, in any order of bytes in use.

    False when either is unknown or `product_uuid` is no UUID: that proves nothing.
    """
    try:
        wanted = str(UUID(product_uuid.strip()))
    except ValueError:
        return False
    return wanted in guid_candidates(raw)
