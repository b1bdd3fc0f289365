"""One machine's GUID in three byte orders."""

from __future__ import annotations

import pytest

from bmcmedic.ipmi.guid import guid_candidates, guid_matches, is_known_guid

PRODUCT_UUID = "4c4c4544-0042-3510-8051-b7c04f465931"
TEXT_ORDER = bytes.fromhex("4c4c4544004235108051b7c04f465931")
SMBIOS_ORDER = bytes.fromhex("44454c4c420010358051b7c04f465931")


@pytest.mark.parametrize(
    "raw",
    [TEXT_ORDER, SMBIOS_ORDER, TEXT_ORDER[::-1], SMBIOS_ORDER[::-1]],
    ids=["text", "SMBIOS", "least significant first", "SMBIOS reversed"],
)
def test_every_order_of_bytes_that_vendors_use(raw: bytes) -> None:
    assert guid_matches(raw, PRODUCT_UUID)
    assert guid_matches(raw, PRODUCT_UUID.upper() + "\n")
    assert PRODUCT_UUID in guid_candidates(raw)


def test_the_host_may_show_its_uuid_in_smbios_order() -> None:
    assert guid_matches(TEXT_ORDER, "44454c4c-4200-1035-8051-b7c04f465931")


def test_another_machine_does_not_match() -> None:
    other = bytes([*TEXT_ORDER[:-1], TEXT_ORDER[-1] ^ 1])
    assert not guid_matches(other, PRODUCT_UUID)
    # The same bytes in an order that no vendor uses.
    assert not guid_matches(TEXT_ORDER[8:] + TEXT_ORDER[:8], PRODUCT_UUID)


@pytest.mark.parametrize("raw", [bytes(16), b"\xff" * 16, b"", TEXT_ORDER[:15], TEXT_ORDER * 2])
def test_a_guid_of_zeros_or_ones_identifies_nothing(raw: bytes) -> None:
    assert not is_known_guid(raw)
    assert guid_candidates(raw) == ()
    assert not guid_matches(raw, str(bytes(16).hex()))
    assert not guid_matches(raw, "ff" * 16)


@pytest.mark.parametrize("text", ["", "none", "Not Settable", PRODUCT_UUID[:-1]])
def test_an_invalid_uuid_matches_nothing(text: str) -> None:
    assert not guid_matches(TEXT_ORDER, text)
