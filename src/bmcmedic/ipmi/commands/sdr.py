"""SDR repository commands (chapter 33); `sdr_records` decodes the records themselves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import KEEP, IntFlag

from bmcmedic.ipmi.commands.command import (
    PADDING_BYTES_MAX,
    Command,
    check_length,
    require_length,
    require_range,
)
from bmcmedic.ipmi.commands.shared_responses import AllocationInfoRsp, ReservationRsp
from bmcmedic.ipmi.constants import NetFn

FIRST_RECORD_ID = 0x0000
LAST_RECORD_ID = 0xFFFF
"""Value of `next_record_id` when there is no further record."""

WHOLE_RECORD = 0xFF
"""Value of `byte_count` that asks for the entire record; a BMC that cannot send it answers 0xCA."""

SDR_READ_BYTES_MAX = 255
"""Most record bytes in one response of Get SDR."""


class SdrOperations(IntFlag, boundary=KEEP):
    """The operations that the repository supports, and an overflow flag (33.9, byte 15)."""

    GET_ALLOCATION_INFO = 0x01
    RESERVE = 0x02
    PARTIAL_ADD = 0x04
    DELETE = 0x08
    NON_MODAL_UPDATE = 0x20
    MODAL_UPDATE = 0x40
    OVERFLOW = 0x80


_NO_OPERATIONS = SdrOperations(0)


@dataclass(frozen=True, slots=True)
class GetSdrRepositoryInfoRsp:
    """The size of the repository and the times of its last changes.

    Spec: 33.9. Shape: 14 bytes, LSB first. Units: timestamps in seconds since 1970, free space in
    bytes. Field: free space 0xFFFF is "unspecified", 0xFFFE "65534 or more".
    """

    record_count: int
    free_bytes: int
    last_addition: int = 0
    last_erase: int = 0
    operations: SdrOperations = _NO_OPERATIONS
    version: int = 0x51

    def encode(self) -> bytes:
        return (
            bytes((self.version,))
            + self.record_count.to_bytes(2, "little")
            + self.free_bytes.to_bytes(2, "little")
            + self.last_addition.to_bytes(4, "little")
            + self.last_erase.to_bytes(4, "little")
            + bytes((self.operations,))
        )

    @classmethod
    def decode(cls, data: bytes) -> GetSdrRepositoryInfoRsp:
        check_length(data, 14, 14 + PADDING_BYTES_MAX, section="33.9")
        return cls(
            record_count=int.from_bytes(data[1:3], "little"),
            free_bytes=int.from_bytes(data[3:5], "little"),
            last_addition=int.from_bytes(data[5:9], "little"),
            last_erase=int.from_bytes(data[9:13], "little"),
            operations=SdrOperations(data[13]),
            version=data[0],
        )


@dataclass(frozen=True, slots=True)
class GetSdrRepositoryInfoReq(Command[GetSdrRepositoryInfoRsp]):
    """Get SDR Repository Info (33.9)."""

    section = "33.9"
    netfn = NetFn.STORAGE
    command = 0x20
    response = GetSdrRepositoryInfoRsp


class GetSdrRepositoryAllocationInfoRsp(AllocationInfoRsp):
    """The allocation units of the repository (33.10)."""

    __slots__ = ()
    section = "33.10"


@dataclass(frozen=True, slots=True)
class GetSdrRepositoryAllocationInfoReq(Command[GetSdrRepositoryAllocationInfoRsp]):
    """Get SDR Repository Allocation Info (33.10)."""

    section = "33.10"
    netfn = NetFn.STORAGE
    command = 0x21
    response = GetSdrRepositoryAllocationInfoRsp


class ReserveSdrRepositoryRsp(ReservationRsp):
    """The reservation that a partial read needs (33.11)."""

    __slots__ = ()
    section = "33.11"


@dataclass(frozen=True, slots=True)
class ReserveSdrRepositoryReq(Command[ReserveSdrRepositoryRsp]):
    """Reserve SDR Repository (33.11)."""

    section = "33.11"
    netfn = NetFn.STORAGE
    command = 0x22
    response = ReserveSdrRepositoryRsp


@dataclass(frozen=True, slots=True)
class GetSdrRsp:
    """A record, or the requested part of one.

    Spec: 33.12. Shape: id of the next record (2 bytes, LSB first), then the bytes.
    """

    next_record_id: int
    record_data: bytes

    def __post_init__(self) -> None:
        require_range("record id", self.next_record_id, 0xFFFF)
        require_length("SDR data", self.record_data, SDR_READ_BYTES_MAX)

    def encode(self) -> bytes:
        return self.next_record_id.to_bytes(2, "little") + self.record_data

    @classmethod
    def decode(cls, data: bytes) -> GetSdrRsp:
        check_length(data, 2, 2 + SDR_READ_BYTES_MAX, section="33.12")
        return cls(int.from_bytes(data[:2], "little"), data[2:])


@dataclass(frozen=True, slots=True)
class GetSdrReq(Command[GetSdrRsp]):
    """Get SDR (33.12); only a partial read needs a reservation.

    Shape: reservation id and record id (2 bytes each, LSB first), offset, byte count.
    """

    record_id: int = FIRST_RECORD_ID
    reservation_id: int = 0
    offset: int = 0
    byte_count: int = WHOLE_RECORD

    section = "33.12"
    netfn = NetFn.STORAGE
    command = 0x23
    response = GetSdrRsp

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
    def decode(cls, data: bytes) -> GetSdrReq:
        check_length(data, 6, section=cls.section)
        return cls(
            record_id=int.from_bytes(data[2:4], "little"),
            reservation_id=int.from_bytes(data[:2], "little"),
            offset=data[4],
            byte_count=data[5],
        )
