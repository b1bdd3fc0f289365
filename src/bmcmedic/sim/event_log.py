"""The System Event Log of one BMC (chapters 31 and 32), as records of 16 bytes each."""

from __future__ import annotations

import struct
from dataclasses import dataclass

RECORDS_MAX = 512
RECORD_BYTES = 16
_LAST = 0xFFFF
_SYSTEM_EVENT = 0x02
_EVENT_MESSAGE_REVISION = 0x04
_SHAPE = struct.Struct("<HBIHBBBB3s")

GENERATOR_BMC = 0x0020
GENERATOR_BIOS = 0x0001


@dataclass(frozen=True, slots=True)
class SelEvent:
    """An event before the log gives it a record id and a time stamp (32.1)."""

    sensor_type: int
    sensor_number: int
    event_type: int
    data: bytes
    generator: int = GENERATOR_BMC

    def record(self, record_id: int, timestamp_s: int) -> bytes:
        """Encode the event as a SEL record."""
        return _SHAPE.pack(
            record_id,
            _SYSTEM_EVENT,
            timestamp_s & 0xFFFFFFFF,
            self.generator,
            _EVENT_MESSAGE_REVISION,
            self.sensor_type,
            self.sensor_number,
            self.event_type,
            self.data,
        )


class EventLog:
    """The records of one BMC in the order in which they were added.

    All BMCs of a rack share the records of a fresh log. They are copied when a record is added.
    """

    __slots__ = ("added_at_s", "erased_at_s", "overflow", "reservation_id", "_next_id", "_records")

    def __init__(self, records: tuple[bytes, ...] = ()) -> None:
        self._records: tuple[bytes, ...] | list[bytes] = records
        self._next_id = len(records) + 1
        self.overflow = False
        self.reservation_id = 0
        self.added_at_s = struct.unpack_from("<I", records[-1], 3)[0] if records else 0
        self.erased_at_s = 0

    def __len__(self) -> int:
        return len(self._records)

    def reserve(self) -> int:
        """Return a new reservation id; it cancels the one before."""
        self.reservation_id = self.reservation_id % 0xFFFF + 1
        return self.reservation_id

    def find(self, record_id: int) -> tuple[bytes, int] | None:
        """Find a record by its id (0: the first, 0xFFFF: the last).

        Returns the record and the id of the next one; None: there is no such record.
        """
        records = self._records
        if not records:
            return None
        if record_id == 0:
            index = 0
        elif record_id == _LAST:
            index = len(records) - 1
        else:
            index = record_id - int.from_bytes(records[0][:2], "little")
            if not 0 <= index < len(records):
                return None
        after = index + 1
        next_id = int.from_bytes(records[after][:2], "little") if after < len(records) else _LAST
        return records[index], next_id

    def add(self, event: SelEvent, timestamp_s: int) -> int | None:
        """Log an event and return the record's id, or None when the log is full."""
        return self._append(event.record(self._next_id, timestamp_s), timestamp_s)

    def add_record(self, record: bytes, timestamp_s: int) -> int | None:
        """Add the record of an Add SEL Entry (31.6) under a new id.

        The log also sets the time stamp of a record that has one.
        """
        stamped = self._next_id.to_bytes(2, "little") + record[2:]
        if record[2] < 0xE0:  # an OEM record without a time stamp keeps its bytes
            stamp = struct.pack("<I", timestamp_s & 0xFFFFFFFF)
            stamped = stamped[:3] + stamp + stamped[7:]
        return self._append(stamped, timestamp_s)

    def clear(self, timestamp_s: int) -> None:
        """Erase all records."""
        self._records = ()
        self._next_id = 1
        self.overflow = False
        self.erased_at_s = timestamp_s

    def _append(self, record: bytes, timestamp_s: int) -> int | None:
        if len(self._records) >= RECORDS_MAX:
            self.overflow = True
            return None
        if isinstance(self._records, tuple):
            self._records = list(self._records)
        self._records.append(record)
        self.added_at_s = timestamp_s
        record_id = self._next_id
        self._next_id += 1
        return record_id


_SENSOR_SPECIFIC = 0x6F
_SENSOR_BOOT_INITIATED = 0x81
_SENSOR_OS_BOOT = 0x82
SENSOR_WATCHDOG = 0x83
SENSOR_POWER_UNIT = 0x84


def boot_initiated(offset: int, restart_cause: int) -> SelEvent:
    """System Boot / Restart Initiated, as a BIOS logs it at POST (0: power up, 1: hard reset)."""
    data = bytes((0xC0 | offset, restart_cause, 0x01))
    return SelEvent(0x1D, _SENSOR_BOOT_INITIATED, _SENSOR_SPECIFIC, data, GENERATOR_BIOS)


def os_boot() -> SelEvent:
    """OS Boot: the boot from drive C: is completed."""
    return SelEvent(0x1F, _SENSOR_OS_BOOT, _SENSOR_SPECIFIC, b"\x01\xff\xff", GENERATOR_BIOS)


def power_unit(offset: int) -> SelEvent:
    """Power Unit (0: power off, 1: power cycle)."""
    return SelEvent(0x09, SENSOR_POWER_UNIT, _SENSOR_SPECIFIC, bytes((offset, 0xFF, 0xFF)))


def watchdog_2(offset: int, interrupt: int, timer_use: int) -> SelEvent:
    """Watchdog 2 (0: expired, 1: hard reset, 2: power down, 3: power cycle, 8: interrupt)."""
    data = bytes((0xC0 | offset, interrupt << 4 | timer_use, 0xFF))
    return SelEvent(0x23, SENSOR_WATCHDOG, _SENSOR_SPECIFIC, data)


def log_cleared() -> SelEvent:
    """Event Logging Disabled, log area cleared: the first entry of a log that was cleared."""
    return SelEvent(0x10, 0x85, _SENSOR_SPECIFIC, b"\x02\xff\xff")


def factory_log(timestamp_s: int) -> tuple[bytes, ...]:
    """The log of a server that has been running for a while."""
    power_up_by_button = 0x03
    events = (
        (log_cleared(), 0),
        (boot_initiated(0, power_up_by_button), 40),
        (os_boot(), 130),
    )
    return tuple(
        event.record(number, timestamp_s + after_s)
        for number, (event, after_s) in enumerate(events, start=1)
    )
