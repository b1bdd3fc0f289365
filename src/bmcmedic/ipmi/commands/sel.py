"""SEL device commands (chapter 31); `sel_records` decodes the records themselves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import KEEP, IntEnum, IntFlag
from typing import ClassVar

from bmcmedic.errors import InvalidDataField
from bmcmedic.ipmi.commands.command import (
    PADDING_BYTES_MAX,
    Command,
    EmptyRsp,
    check_length,
    read_enum,
    require_length,
    require_range,
)
from bmcmedic.ipmi.commands.sel_records import SEL_RECORD_BYTES
from bmcmedic.ipmi.commands.shared_responses import AllocationInfoRsp, ReservationRsp
from bmcmedic.ipmi.constants import NetFn, PrivilegeLevel

FIRST_RECORD_ID = 0x0000
LAST_RECORD_ID = 0xFFFF
"""Value of `next_record_id` when there is no further record."""

WHOLE_RECORD = 0xFF
"""Value of `byte_count` that asks for the entire record."""

TIMESTAMP_UNSPECIFIED = 0xFFFFFFFF
"""Timestamp of a change that never happened."""

ERASE_IN_PROGRESS = 0x81
"""Completion code of a command that comes while the SEL is being erased (31.2 to 31.9)."""

_ERASING: dict[int, str] = {ERASE_IN_PROGRESS: "SEL erase in progress"}


class SelOperations(IntFlag, boundary=KEEP):
    """The operations that the SEL device supports, and an overflow flag (31.2, byte 15)."""

    GET_ALLOCATION_INFO = 0x01
    RESERVE = 0x02
    PARTIAL_ADD = 0x04
    DELETE = 0x08
    OVERFLOW = 0x80


_NO_OPERATIONS = SelOperations(0)


@dataclass(frozen=True, slots=True)
class GetSelInfoRsp:
    """The fill level of the log and the times of its last changes.

    Spec: 31.2. Shape: 14 bytes, LSB first. Units: timestamps in seconds since 1970, free space in
    bytes. Field: free space 0xFFFF is "65535 or more"; a log that never changed has timestamp
    0xFFFFFFFF, or 0.
    """

    entries: int
    free_bytes: int
    last_addition: int = TIMESTAMP_UNSPECIFIED
    last_erase: int = TIMESTAMP_UNSPECIFIED
    operations: SelOperations = _NO_OPERATIONS
    version: int = 0x51

    def encode(self) -> bytes:
        return (
            bytes((self.version,))
            + self.entries.to_bytes(2, "little")
            + self.free_bytes.to_bytes(2, "little")
            + self.last_addition.to_bytes(4, "little")
            + self.last_erase.to_bytes(4, "little")
            + bytes((self.operations,))
        )

    @classmethod
    def decode(cls, data: bytes) -> GetSelInfoRsp:
        check_length(data, 14, 14 + PADDING_BYTES_MAX, section="31.2")
        return cls(
            entries=int.from_bytes(data[1:3], "little"),
            free_bytes=int.from_bytes(data[3:5], "little"),
            last_addition=int.from_bytes(data[5:9], "little"),
            last_erase=int.from_bytes(data[9:13], "little"),
            operations=SelOperations(data[13]),
            version=data[0],
        )


@dataclass(frozen=True, slots=True)
class GetSelInfoReq(Command[GetSelInfoRsp]):
    """Get SEL Info (31.2)."""

    section = "31.2"
    netfn = NetFn.STORAGE
    command = 0x40
    response = GetSelInfoRsp
    completion_codes: ClassVar = _ERASING


class GetSelAllocationInfoRsp(AllocationInfoRsp):
    """The allocation units of the log (31.3)."""

    __slots__ = ()
    section = "31.3"


@dataclass(frozen=True, slots=True)
class GetSelAllocationInfoReq(Command[GetSelAllocationInfoRsp]):
    """Get SEL Allocation Info (31.3)."""

    section = "31.3"
    netfn = NetFn.STORAGE
    command = 0x41
    response = GetSelAllocationInfoRsp


class ReserveSelRsp(ReservationRsp):
    """The reservation that Clear SEL needs (31.4)."""

    __slots__ = ()
    section = "31.4"


@dataclass(frozen=True, slots=True)
class ReserveSelReq(Command[ReserveSelRsp]):
    """Reserve SEL (31.4)."""

    section = "31.4"
    netfn = NetFn.STORAGE
    command = 0x42
    response = ReserveSelRsp
    completion_codes: ClassVar = _ERASING


@dataclass(frozen=True, slots=True)
class GetSelEntryRsp:
    """A record, or the requested part of one.

    Spec: 31.5. Shape: id of the next record (2 bytes, LSB first), then 0 to 16 bytes of this one.
    """

    next_record_id: int
    record_data: bytes

    def __post_init__(self) -> None:
        require_range("record id", self.next_record_id, 0xFFFF)
        require_length("a SEL record", self.record_data, SEL_RECORD_BYTES)

    def encode(self) -> bytes:
        return self.next_record_id.to_bytes(2, "little") + self.record_data

    @classmethod
    def decode(cls, data: bytes) -> GetSelEntryRsp:
        check_length(data, 2, 2 + SEL_RECORD_BYTES, section="31.5")
        return cls(int.from_bytes(data[:2], "little"), data[2:])


@dataclass(frozen=True, slots=True)
class GetSelEntryReq(Command[GetSelEntryRsp]):
    """Get SEL Entry (31.5); only a partial read needs a reservation.

    Shape: reservation id and record id (2 bytes each, LSB first), offset, byte count.
    """

    record_id: int = FIRST_RECORD_ID
    reservation_id: int = 0
    offset: int = 0
    byte_count: int = WHOLE_RECORD

    section = "31.5"
    netfn = NetFn.STORAGE
    command = 0x43
    response = GetSelEntryRsp
    completion_codes: ClassVar = _ERASING

    def __post_init__(self) -> None:
        require_range("record id", self.record_id, 0xFFFF)
        require_range("reservation id", self.reservation_id, 0xFFFF)
        require_range("offset", self.offset, 0xFF)
        require_range("byte count", self.byte_count, 0xFF)

    def encode(self) -> bytes:
        return (
            self.reservation_id.to_bytes(2, "little")
            + self.record_id.to_bytes(2, "little")
            + bytes((self.offset, self.byte_count))
        )

    @classmethod
    def decode(cls, data: bytes) -> GetSelEntryReq:
        check_length(data, 6, section=cls.section)
        return cls(
            record_id=int.from_bytes(data[2:4], "little"),
            reservation_id=int.from_bytes(data[:2], "little"),
            offset=data[4],
            byte_count=data[5],
        )


@dataclass(frozen=True, slots=True)
class AddSelEntryRsp:
    """The record id that the BMC assigned. Spec: 31.6. Shape: 2 bytes, LSB first."""

    record_id: int

    def encode(self) -> bytes:
        return self.record_id.to_bytes(2, "little")

    @classmethod
    def decode(cls, data: bytes) -> AddSelEntryRsp:
        check_length(data, 2, 2 + PADDING_BYTES_MAX, section="31.6")
        return cls(int.from_bytes(data[:2], "little"))


@dataclass(frozen=True, slots=True)
class AddSelEntryReq(Command[AddSelEntryRsp]):
    """Add SEL Entry (31.6). It is never sent twice, as the log would then hold the record twice.

    Shape: the whole record of 16 bytes; the BMC assigns the record id.
    """

    record_data: bytes

    section = "31.6"
    netfn = NetFn.STORAGE
    command = 0x44
    response = AddSelEntryRsp
    privilege = PrivilegeLevel.OPERATOR
    idempotent = False
    completion_codes: ClassVar = {0x80: "operation not supported for this record type"} | _ERASING

    def __post_init__(self) -> None:
        require_length("a SEL record", self.record_data, SEL_RECORD_BYTES, SEL_RECORD_BYTES)

    def encode(self) -> bytes:
        return self.record_data

    @classmethod
    def decode(cls, data: bytes) -> AddSelEntryReq:
        check_length(data, SEL_RECORD_BYTES, section=cls.section)
        return cls(data)


class SelErasure(IntEnum):
    """The progress of the erasure (31.9)."""

    IN_PROGRESS = 0
    COMPLETED = 1


@dataclass(frozen=True, slots=True)
class ClearSelRsp:
    """The progress of the erasure. Spec: 31.9. Shape: 1 byte."""

    progress: SelErasure

    def encode(self) -> bytes:
        return bytes((self.progress,))

    @classmethod
    def decode(cls, data: bytes) -> ClearSelRsp:
        check_length(data, 1, 1 + PADDING_BYTES_MAX, section="31.9")
        return cls(read_enum(SelErasure, data[0] & 0x0F, section="31.9", raw=data))


class ClearSelAction(IntEnum):
    """What Clear SEL shall do (31.9, byte 6)."""

    GET_STATUS = 0x00
    INITIATE = 0xAA


@dataclass(frozen=True, slots=True)
class ClearSelReq(Command[ClearSelRsp]):
    """Clear SEL (31.9). Shape: reservation id (2 bytes, LSB first), "CLR", action."""

    reservation_id: int
    action: ClearSelAction = ClearSelAction.INITIATE

    section = "31.9"
    netfn = NetFn.STORAGE
    command = 0x47
    response = ClearSelRsp
    privilege = PrivilegeLevel.OPERATOR
    idempotent = False

    def __post_init__(self) -> None:
        require_range("reservation id", self.reservation_id, 0xFFFF)

    def encode(self) -> bytes:
        return self.reservation_id.to_bytes(2, "little") + b"CLR" + bytes((self.action,))

    @classmethod
    def decode(cls, data: bytes) -> ClearSelReq:
        check_length(data, 6, section=cls.section)
        if data[2:5] != b"CLR":
            raise InvalidDataField('no "CLR" in Clear SEL', section=cls.section, raw=data)
        action = read_enum(ClearSelAction, data[5], section=cls.section, raw=data)
        return cls(int.from_bytes(data[:2], "little"), action)


@dataclass(frozen=True, slots=True)
class GetSelTimeRsp:
    """The BMC's clock. Spec: 31.10. Shape: 4 bytes, LSB first. Units: seconds since 1970."""

    time: int

    def encode(self) -> bytes:
        return self.time.to_bytes(4, "little")

    @classmethod
    def decode(cls, data: bytes) -> GetSelTimeRsp:
        check_length(data, 4, 4 + PADDING_BYTES_MAX, section="31.10")
        return cls(int.from_bytes(data[:4], "little"))


@dataclass(frozen=True, slots=True)
class GetSelTimeReq(Command[GetSelTimeRsp]):
    """Get SEL Time (31.10)."""

    section = "31.10"
    netfn = NetFn.STORAGE
    command = 0x48
    response = GetSelTimeRsp


@dataclass(frozen=True, slots=True)
class SetSelTimeReq(Command[EmptyRsp]):
    """Set SEL Time (31.11). Shape: 4 bytes, LSB first. Units: seconds since 1970."""

    time: int

    section = "31.11"
    netfn = NetFn.STORAGE
    command = 0x49
    response = EmptyRsp
    privilege = PrivilegeLevel.OPERATOR

    def __post_init__(self) -> None:
        require_range("time", self.time, 0xFFFFFFFF)

    def encode(self) -> bytes:
        return self.time.to_bytes(4, "little")

    @classmethod
    def decode(cls, data: bytes) -> SetSelTimeReq:
        check_length(data, 4, section=cls.section)
        return cls(int.from_bytes(data, "little"))
