"""System and device GUIDs, and the byte orders that vendors use (section 20.8).

The specification requires the 16 bytes least significant first, that is, the textual UUID reversed.
Field: many BMCs send them in the order of the text. Others use SMBIOS order, in which only the
first three groups are reversed. The host's `product_uuid` may be in either of these two as well.
"""

from __future__ import annotations

from uuid import UUID

GUID_BYTES = 16


def is_known_guid(raw: bytes) -> bool:
    """Return whether the bytes identify anything: there are 16, not all 0x00 and not all 0xFF."""
    return len(raw) == GUID_BYTES and raw not in (bytes(GUID_BYTES), b"\xff" * GUID_BYTES)


def guid_candidates(raw: bytes) -> tuple[str, ...]:
    """Return every UUID that the bytes may stand for, as lower-case text; none when unknown."""
    if not is_known_guid(raw):
        return ()
    reverse = raw[::-1]
    readings = (UUID(bytes=raw), UUID(bytes_le=raw), UUID(bytes=reverse), UUID(bytes_le=reverse))
    return tuple(dict.fromkeys(str(reading) for reading in readings))


def guid_matches(raw: bytes, product_uuid: str) -> bool:
    """Return whether the BMC's GUID is the host's SMBIOS product UUID, in any known byte order.

    The result is False when either is unknown or `product_uuid` is not a UUID. False therefore does
    not prove that the two differ.
    """
    try:
        wanted = str(UUID(product_uuid.strip()))
    except ValueError:
        return False
    return wanted in guid_candidates(raw)
