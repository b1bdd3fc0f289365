"""The contents of a FRU inventory (Platform Management FRU Information Storage Definition 1.0).

Every area starts at a multiple of 8 bytes and ends in a checksum that makes the sum of its bytes 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from bmcmedic.errors import InvalidDataField, LocalProtocolError
from bmcmedic.ipmi.commands.command import check_length, require_range
from bmcmedic.ipmi.commands.text_fields import EIGHT_BIT_TEXT, decode_text, encode_text
from bmcmedic.ipmi.message import checksum

COMMON_HEADER_BYTES = 8
FRU_BYTES_MAX = 0xFFFF
FIELD_BYTES_MAX = 0x3F
AREA_FIELDS_MAX = 64

_FORMAT_VERSION = 1
_BLOCK_BYTES = 8
_AREA_BYTES_MAX = 255 * _BLOCK_BYTES
_END_OF_FIELDS = 0xC1
_ENGLISH = 25
_LANGUAGES_IN_LATIN_1 = (0, _ENGLISH)
MINUTES_SINCE_1996_MAX = 0xFFFFFF
"""Latest date of manufacture, in minutes since 1996-01-01 00:00."""


def _encode_fields(fields: tuple[str, ...]) -> bytes:
    out = bytearray()
    for text in fields:
        data = encode_text("a FRU field", text, FIELD_BYTES_MAX)
        # 0xC1 ends the fields and would also mean one character, so a single one is padded to two.
        if len(data) == 1:
            data += b" "
        out += bytes((EIGHT_BIT_TEXT << 6 | len(data),)) + data
    out.append(_END_OF_FIELDS)
    return bytes(out)


def _decode_fields(data: bytes, language: int) -> list[str]:
    fields: list[str] = []
    at = 0
    while at < len(data) and data[at] != _END_OF_FIELDS and len(fields) < AREA_FIELDS_MAX:
        kind, length = data[at] >> 6, data[at] & 0x3F
        raw = data[at + 1 : at + 1 + length]
        if kind == EIGHT_BIT_TEXT and language not in _LANGUAGES_IN_LATIN_1:
            fields.append(raw.decode("utf-16-le", "replace").rstrip(" \0"))
        else:
            fields.append(decode_text(kind, raw, kind_0=bytes.hex))
        at += 1 + length
    return fields


def _encode_area(head: bytes, fields: tuple[str, ...]) -> bytes:
    if len(fields) > AREA_FIELDS_MAX:
        raise LocalProtocolError(f"a FRU area has at most {AREA_FIELDS_MAX} fields")
    content = head + _encode_fields(fields)
    blocks = -(-(2 + len(content) + 1) // _BLOCK_BYTES)
    if blocks * _BLOCK_BYTES > _AREA_BYTES_MAX:
        raise LocalProtocolError(f"a FRU area has at most {_AREA_BYTES_MAX} bytes")
    area = (bytes((_FORMAT_VERSION, blocks)) + content).ljust(blocks * _BLOCK_BYTES - 1, b"\0")
    return area + bytes((checksum(area),))


def _area_content(data: bytes, offset: int, section: str) -> bytes:
    """Return the content between length and checksum; raises RemoteProtocolError."""
    length = data[offset + 1] * _BLOCK_BYTES if offset + 1 < len(data) else 0
    area = data[offset : offset + length]
    if not area or len(area) < length or area[0] & 0x0F != _FORMAT_VERSION or sum(area) & 0xFF:
        raise InvalidDataField(
            f"no complete FRU area with a valid checksum at byte {offset}",
            section=section,
            raw=area,
        )
    return area[2:-1]


def _split_custom(fields: list[str], count: int) -> tuple[list[str], tuple[str, ...]]:
    """Split the fields into the `count` that the area defines and the vendor's own.

    A defined field that is missing is empty.
    """
    return (fields + [""] * count)[:count], tuple(fields[count:])


@dataclass(frozen=True, slots=True)
class ChassisArea:
    """The chassis. Spec: FRU 10. `chassis_type` is SMBIOS's: 0x17 is a rack mount chassis."""

    chassis_type: int = 0x17
    part_number: str = ""
    serial_number: str = ""
    custom: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_range("chassis type", self.chassis_type, 0xFF)

    def encode(self) -> bytes:
        """Return the area, checksum included."""
        fields = (self.part_number, self.serial_number, *self.custom)
        return _encode_area(bytes((self.chassis_type,)), fields)

    @classmethod
    def decode(cls, data: bytes, offset: int = 0) -> ChassisArea:
        """Decode the area at `offset` of the inventory; raises RemoteProtocolError."""
        content = _area_content(data, offset, "34, FRU 10")
        (part, serial), custom = _split_custom(_decode_fields(content[1:], _ENGLISH), 2)
        return cls(content[0], part, serial, custom)


@dataclass(frozen=True, slots=True)
class BoardArea:
    """The main board.

    Spec: FRU 11. Units: `manufactured_minutes` counts from 1996-01-01 00:00; 0 is unspecified.
    """

    manufacturer: str = ""
    product_name: str = ""
    serial_number: str = ""
    part_number: str = ""
    fru_file_id: str = ""
    custom: tuple[str, ...] = ()
    manufactured_minutes: int = 0

    def __post_init__(self) -> None:
        require_range("date of manufacture", self.manufactured_minutes, MINUTES_SINCE_1996_MAX)

    def encode(self) -> bytes:
        """Return the area, checksum included."""
        fields = (
            self.manufacturer,
            self.product_name,
            self.serial_number,
            self.part_number,
            self.fru_file_id,
            *self.custom,
        )
        head = bytes((_ENGLISH,)) + self.manufactured_minutes.to_bytes(3, "little")
        return _encode_area(head, fields)

    @classmethod
    def decode(cls, data: bytes, offset: int = 0) -> BoardArea:
        """Decode the area at `offset` of the inventory; raises RemoteProtocolError."""
        content = _area_content(data, offset, "34, FRU 11")
        known, custom = _split_custom(_decode_fields(content[4:], content[0]), 5)
        manufacturer, product_name, serial, part, file_id = known
        minutes = int.from_bytes(content[1:4], "little")
        return cls(manufacturer, product_name, serial, part, file_id, custom, minutes)


@dataclass(frozen=True, slots=True)
class ProductArea:
    """The product as it is sold. Spec: FRU 12."""

    manufacturer: str = ""
    product_name: str = ""
    part_number: str = ""
    version: str = ""
    serial_number: str = ""
    asset_tag: str = ""
    fru_file_id: str = ""
    custom: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return the area, checksum included."""
        fields = (
            self.manufacturer,
            self.product_name,
            self.part_number,
            self.version,
            self.serial_number,
            self.asset_tag,
            self.fru_file_id,
            *self.custom,
        )
        return _encode_area(bytes((_ENGLISH,)), fields)

    @classmethod
    def decode(cls, data: bytes, offset: int = 0) -> ProductArea:
        """Decode the area at `offset` of the inventory; raises RemoteProtocolError."""
        content = _area_content(data, offset, "34, FRU 12")
        known, custom = _split_custom(_decode_fields(content[1:], content[0]), 7)
        manufacturer, name, part, version, serial, asset_tag, file_id = known
        return cls(manufacturer, name, part, version, serial, asset_tag, file_id, custom)


@dataclass(frozen=True, slots=True)
class FruInventory:
    """A whole inventory.

    Spec: FRU 8. Shape: header, then the areas. The header holds the version, the offsets of the
    internal, chassis, board, product and multi-record areas, a pad byte and a checksum. Units:
    offsets are in units of 8 bytes; 0 stands for no area.
    """

    chassis: ChassisArea | None = None
    board: BoardArea | None = None
    product: ProductArea | None = None

    def encode(self) -> bytes:
        """Return the inventory, header included."""
        offsets = []
        areas = b""
        for area in (self.chassis, self.board, self.product):
            at = (COMMON_HEADER_BYTES + len(areas)) // _BLOCK_BYTES
            offsets.append(0 if area is None else at)
            areas += b"" if area is None else area.encode()
        if max(offsets) > 0xFF:
            raise LocalProtocolError("the FRU areas do not fit into one inventory")
        header = bytes((_FORMAT_VERSION, 0, *offsets, 0, 0))
        return header + bytes((checksum(header),)) + areas

    @classmethod
    def decode(cls, data: bytes) -> FruInventory:
        """Decode an inventory; raises RemoteProtocolError."""
        check_length(data, COMMON_HEADER_BYTES, FRU_BYTES_MAX, section="34, FRU 8")
        header = data[:COMMON_HEADER_BYTES]
        if header[0] & 0x0F != _FORMAT_VERSION or sum(header) & 0xFF:
            raise InvalidDataField("no FRU header", section="34, FRU 8", raw=header)
        chassis, board, product = (offset * _BLOCK_BYTES for offset in header[2:5])
        return cls(
            chassis=ChassisArea.decode(data, chassis) if chassis else None,
            board=BoardArea.decode(data, board) if board else None,
            product=ProductArea.decode(data, product) if product else None,
        )
