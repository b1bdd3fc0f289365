"""Sensor data records and log records as BMCs send them, correct or not."""

from __future__ import annotations

import pytest

from bmcmedic.errors import InvalidDataField, LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi.commands.sdr_records import (
    FullSensorRecord,
    McDeviceLocatorRecord,
    OtherRecord,
    decode_sdr_record,
)
from bmcmedic.ipmi.commands.sel_records import (
    OemRecord,
    OemTimestampedRecord,
    SystemEventRecord,
    decode_sel_record,
)
from bmcmedic.ipmi.commands.text_fields import decode_bcd_plus, decode_six_bit_ascii
from tests.support.vectors import vector

FULL = vector("commands", "full_sensor_record")
MC = vector("commands", "mc_device_locator_record")


@pytest.mark.parametrize(
    "name",
    [
        "full_sensor_record",
        "compact_sensor_record",
        "fru_device_locator_record",
        "mc_device_locator_record",
    ],
)
def test_sdrs_are_decoded_by_their_type(name: str) -> None:
    raw = vector("commands", name)
    record = decode_sdr_record(raw)
    assert not isinstance(record, OtherRecord)
    assert record.encode() == raw


def test_an_unknown_sdr_is_kept_as_it_is() -> None:
    raw = bytes.fromhex("0100 51c0 03 010203".replace(" ", ""))
    assert decode_sdr_record(raw) == OtherRecord(1, 0xC0, b"\x01\x02\x03")


def test_an_sdr_may_be_longer_than_announced_but_not_shorter() -> None:
    assert decode_sdr_record(MC + b"\0\0") == decode_sdr_record(MC)
    with pytest.raises(InvalidDataField):
        decode_sdr_record(MC[:-1])
    with pytest.raises(RemoteProtocolError):
        decode_sdr_record(MC[:4])


def test_an_id_string_that_announces_more_than_it_has() -> None:
    raw = bytearray(MC)
    raw[15] = 0xDF
    record = decode_sdr_record(bytes(raw))
    assert isinstance(record, McDeviceLocatorRecord)
    assert record.id_string == "ME"


@pytest.mark.parametrize(
    ("kind_and_length", "data", "text"),
    [
        (0xC2, b"ME", "ME"),
        (0xC4, b"ME \0", "ME"),
        (0x42, b"\x12\xab", "12 -"),
        (0x83, bytes.fromhex("29dca6"), "IPMI"),
        (0x04, "ΩB".encode("utf-16-le"), "ΩB"),
        (0xC0, b"", ""),
    ],
    ids=["8-bit", "padded", "BCD plus", "6-bit", "unicode", "empty"],
)
def test_id_strings(kind_and_length: int, data: bytes, text: str) -> None:
    body = MC[5:15] + bytes((kind_and_length,)) + data
    record = decode_sdr_record(MC[:4] + bytes((len(body),)) + body)
    assert isinstance(record, McDeviceLocatorRecord)
    assert record.id_string == text


def test_packed_strings() -> None:
    # "IPMI" is the specification's own example of 6-bit ASCII: 29h DCh A6h (43.15).
    assert decode_six_bit_ascii(bytes.fromhex("29dca6")) == "IPMI"
    assert decode_bcd_plus(b"\x01\x9a\xbc") == "019 -."


@pytest.mark.parametrize("text", ["x" * 17, "Ω", "padded ", "zero\0"])
def test_id_strings_that_could_not_be_decoded_again(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        McDeviceLocatorRecord(1, text).encode()


def test_a_full_sensor_converts_its_readings() -> None:
    sensor = FullSensorRecord.decode(FULL)
    # 1/x of (-100 * 2 + 300 * 10) * 0.01
    assert sensor.value(2) == pytest.approx(1 / 28)


def test_sel_records_are_decoded_by_their_type() -> None:
    event = decode_sel_record(vector("commands", "system_event_record"))
    assert isinstance(event, SystemEventRecord)
    assert event.deassertion
    assert isinstance(
        decode_sel_record(vector("commands", "oem_timestamped_record")), OemTimestampedRecord
    )
    raw = b"\x05\x00\xe3" + bytes(range(13))
    assert decode_sel_record(raw) == OemRecord(5, 0xE3, bytes(range(13)))


def test_a_sel_record_of_another_type() -> None:
    with pytest.raises(InvalidDataField):
        SystemEventRecord.decode(vector("commands", "oem_timestamped_record"))
    with pytest.raises(InvalidDataField):
        OemTimestampedRecord.decode(vector("commands", "system_event_record"))
    with pytest.raises(RemoteProtocolError):
        decode_sel_record(bytes(15))
