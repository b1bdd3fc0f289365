"""FRU inventories, byte by byte, as in the FRU Information Storage Definition 1.0."""

from __future__ import annotations

import pytest

from bmcmedic.errors import InvalidDataField, LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi.commands.fru import ReadFruDataRsp
from bmcmedic.ipmi.commands.fru_data import (
    AREA_FIELDS_MAX,
    BoardArea,
    ChassisArea,
    FruInventory,
    ProductArea,
)

CHASSIS = bytes.fromhex(
    "01 02"  # version 1, 2 blocks of 8 bytes
    "17"  # rack mount chassis
    "c2 4142"  # part number "AB", 8-bit text
    "c3 313233"  # serial number "123"
    "c1"  # no more fields
    "00 00 00 00"
    "87"  # checksum
)
HEADER = bytes.fromhex("01 00 01 00 00 00 00 fe")


def with_checksum(area: bytes) -> bytes:
    return area + bytes((-sum(area) & 0xFF,))


def test_a_chassis_area() -> None:
    assert sum(CHASSIS) % 256 == 0
    area = ChassisArea(0x17, "AB", "123")
    assert area.encode() == CHASSIS
    assert ChassisArea.decode(CHASSIS) == area


def test_an_inventory() -> None:
    inventory = FruInventory(chassis=ChassisArea(0x17, "AB", "123"))
    assert inventory.encode() == HEADER + CHASSIS
    assert FruInventory.decode(HEADER + CHASSIS + b"\xff" * 100) == inventory


def test_areas_follow_each_other_at_multiples_of_8() -> None:
    inventory = FruInventory(
        ChassisArea(), BoardArea("A board's maker", custom=("own",)), ProductArea("P", "Q")
    )
    raw = inventory.encode()
    assert len(raw) % 8 == 0
    assert raw[2] == 1 < raw[3] < raw[4]
    assert raw[5] == 0
    assert FruInventory.decode(raw) == inventory


def test_a_single_character_is_not_the_end() -> None:
    area = ProductArea("P", "Q", "R")
    assert b"\xc1P" not in area.encode()
    assert ProductArea.decode(area.encode()) == area


def test_a_board_has_its_date_in_minutes_since_1996() -> None:
    raw = BoardArea(manufactured_minutes=0x010203).encode()
    assert raw[2] == 25
    assert raw[3:6] == b"\x03\x02\x01"
    assert BoardArea.decode(raw).manufactured_minutes == 0x010203


def test_an_area_that_ends_early_leaves_the_rest_empty() -> None:
    raw = with_checksum(bytes.fromhex("01 01 19 c2 4142 c1"))
    assert ProductArea.decode(raw) == ProductArea("AB")


def test_other_kinds_of_text() -> None:
    # 6-bit "IPMI", binary, BCD plus; then a language other than English in UTF-16.
    raw = with_checksum(bytes.fromhex("01 02 19 83 29dca6 02 0aff 42 1234 c1 00"))
    area = ProductArea.decode(raw)
    assert (area.manufacturer, area.product_name, area.part_number) == ("IPMI", "0aff", "1234")
    raw = with_checksum(bytes.fromhex("01 01 0f c2 6f4b c1"))
    assert ProductArea.decode(raw).manufacturer == "\u4b6f"


@pytest.mark.parametrize(
    "raw",
    [
        HEADER[:-1] + b"\xff" + CHASSIS,
        HEADER + CHASSIS[:-1] + b"\x88",
        HEADER + CHASSIS[:-1],
        HEADER,
        bytes.fromhex("01 00 ff 00 00 00 00 00") + CHASSIS,
        b"\xff" * 64,
        HEADER + b"\x01\x00" + CHASSIS[2:],
    ],
    ids=["header", "checksum", "cut", "no area", "offset", "blank", "no length"],
)
def test_broken_inventories(raw: bytes) -> None:
    with pytest.raises(InvalidDataField):
        FruInventory.decode(raw)


def test_an_inventory_without_a_header() -> None:
    with pytest.raises(RemoteProtocolError):
        FruInventory.decode(b"\x01\x00")


def test_values_that_do_not_fit_are_local_errors() -> None:
    with pytest.raises(LocalProtocolError, match="63 characters"):
        ProductArea("x" * 64).encode()
    with pytest.raises(LocalProtocolError, match="fields"):
        ProductArea(custom=("x",) * AREA_FIELDS_MAX).encode()
    with pytest.raises(LocalProtocolError, match="2040 bytes"):
        ProductArea(custom=("x" * 63,) * 40).encode()
    with pytest.raises(LocalProtocolError):
        BoardArea(manufactured_minutes=1 << 24)


def test_a_read_counts_bytes_or_words() -> None:
    assert ReadFruDataRsp.decode(b"\x02ab") == ReadFruDataRsp(b"ab")
    assert ReadFruDataRsp.decode(b"\x01ab") == ReadFruDataRsp(b"ab", by_words=True)
    assert ReadFruDataRsp.decode(b"\x00") == ReadFruDataRsp(b"")
    with pytest.raises(InvalidDataField, match="a count of 3, but 2 bytes follow"):
        ReadFruDataRsp.decode(b"\x03ab")
    with pytest.raises(LocalProtocolError, match="not a whole number of words"):
        ReadFruDataRsp(b"abc", by_words=True)
