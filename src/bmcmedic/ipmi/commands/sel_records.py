"""The records of the system event log (chapter 32): 16 bytes each, fields LSB first."""

from __future__ import annotations

from dataclasses import dataclass

from bmcmedic.errors import InvalidDataField
from bmcmedic.ipmi.commands.command import check_length, require_length, require_range

SEL_RECORD_BYTES = 16
SYSTEM_EVENT = 0x02
"""Record type of a system event (32.1)."""

_OEM_TIMESTAMPED_FIRST = 0xC0
_OEM_FIRST = 0xE0


@dataclass(frozen=True, slots=True)
class SystemEventRecord:
    """An event that a sensor or software reported.

    Spec: 32.1, table 32-1. Shape: id, type 0x02, timestamp (4), generator (2), event message
    revision, sensor type and number, direction (bit 7: deassertion) and event type, 3 data bytes.
    """

    record_id: int
    timestamp: int
    generator_id: int
    """Slave address and LUN of the controller, or a software id; 0x0020 is the BMC."""
    sensor_type: int
    sensor_number: int
    event_type: int
    event_data: bytes
    deassertion: bool = False
    event_message_revision: int = 0x04

    def __post_init__(self) -> None:
        require_range("record id", self.record_id, 0xFFFF)
        require_range("event type", self.event_type, 0x7F)
        require_length("event data", self.event_data, 3, 3)

    def encode(self) -> bytes:
        """Return the record's 16 bytes."""
        return (
            self.record_id.to_bytes(2, "little")
            + bytes((SYSTEM_EVENT,))
            + self.timestamp.to_bytes(4, "little")
            + self.generator_id.to_bytes(2, "little")
            + bytes(
                (
                    self.event_message_revision,
                    self.sensor_type,
                    self.sensor_number,
                    self.deassertion << 7 | self.event_type,
                )
            )
            + self.event_data
        )

    @classmethod
    def decode(cls, data: bytes) -> SystemEventRecord:
        """Decode a record of this type; raises RemoteProtocolError."""
        check_length(data, SEL_RECORD_BYTES, section="32.1")
        if data[2] != SYSTEM_EVENT:
            raise InvalidDataField("not a system event record", section="32.1", raw=data)
        return cls(
            record_id=int.from_bytes(data[:2], "little"),
            timestamp=int.from_bytes(data[3:7], "little"),
            generator_id=int.from_bytes(data[7:9], "little"),
            sensor_type=data[10],
            sensor_number=data[11],
            event_type=data[12] & 0x7F,
            event_data=data[13:16],
            deassertion=bool(data[12] & 0x80),
            event_message_revision=data[9],
        )


@dataclass(frozen=True, slots=True)
class OemTimestampedRecord:
    """A vendor's record with a timestamp.

    Spec: 32.2, table 32-2. Shape: id, type 0xC0 to 0xDF, timestamp (4), manufacturer (3), 6 bytes.
    """

    record_id: int
    record_type: int
    timestamp: int
    manufacturer_id: int
    oem_data: bytes

    def __post_init__(self) -> None:
        require_range("record id", self.record_id, 0xFFFF)
        require_range("record type", self.record_type, _OEM_FIRST - 1, _OEM_TIMESTAMPED_FIRST)
        require_length("OEM data", self.oem_data, 6, 6)

    def encode(self) -> bytes:
        """Return the record's 16 bytes."""
        return (
            self.record_id.to_bytes(2, "little")
            + bytes((self.record_type,))
            + self.timestamp.to_bytes(4, "little")
            + self.manufacturer_id.to_bytes(3, "little")
            + self.oem_data
        )

    @classmethod
    def decode(cls, data: bytes) -> OemTimestampedRecord:
        """Decode a record of this type; raises RemoteProtocolError."""
        check_length(data, SEL_RECORD_BYTES, section="32.2")
        if not _OEM_TIMESTAMPED_FIRST <= data[2] < _OEM_FIRST:
            raise InvalidDataField("not a timestamped OEM record", section="32.2", raw=data)
        return cls(
            record_id=int.from_bytes(data[:2], "little"),
            record_type=data[2],
            timestamp=int.from_bytes(data[3:7], "little"),
            manufacturer_id=int.from_bytes(data[7:10], "little"),
            oem_data=data[10:16],
        )


@dataclass(frozen=True, slots=True)
class OemRecord:
    """A vendor's record without a timestamp (types 0xE0 to 0xFF), or one of an unknown type.

    Spec: 32.3, table 32-3. Shape: id, type, 13 bytes.
    """

    record_id: int
    record_type: int
    oem_data: bytes

    def __post_init__(self) -> None:
        require_range("record id", self.record_id, 0xFFFF)
        require_range("record type", self.record_type, 0xFF)
        require_length("OEM data", self.oem_data, 13, 13)

    def encode(self) -> bytes:
        """Return the record's 16 bytes."""
        head = self.record_id.to_bytes(2, "little") + bytes((self.record_type,))
        return head + self.oem_data

    @classmethod
    def decode(cls, data: bytes) -> OemRecord:
        """Decode a record of any type, but not its data; raises RemoteProtocolError."""
        check_length(data, SEL_RECORD_BYTES, section="32.3")
        return cls(int.from_bytes(data[:2], "little"), data[2], data[3:16])


SelRecord = SystemEventRecord | OemTimestampedRecord | OemRecord


def decode_sel_record(data: bytes) -> SelRecord:
    """Decode a whole record by its type; raises RemoteProtocolError."""
    check_length(data, SEL_RECORD_BYTES, section="32.1")
    if data[2] == SYSTEM_EVENT:
        return SystemEventRecord.decode(data)
    if _OEM_TIMESTAMPED_FIRST <= data[2] < _OEM_FIRST:
        return OemTimestampedRecord.decode(data)
    return OemRecord.decode(data)
