"""Response bodies that commands of two chapters share, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from bmcmedic.ipmi.commands.command import PADDING_BYTES_MAX, check_length, require_length
from bmcmedic.ipmi.guid import GUID_BYTES


@dataclass(frozen=True, slots=True)
class AllocationInfoRsp:
    """The allocation units of a repository.

    Shape: four counts of 2 bytes, LSB first, then the largest record in units, 1 byte. Units:
    `unit_bytes` is in bytes, the other fields are counts.
    """

    section: ClassVar[str]

    units: int
    unit_bytes: int
    free_units: int
    largest_free_units: int
    record_units_max: int

    def encode(self) -> bytes:
        counts = (self.units, self.unit_bytes, self.free_units, self.largest_free_units)
        words = b"".join(count.to_bytes(2, "little") for count in counts)
        return words + bytes((self.record_units_max,))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        check_length(data, 9, 9 + PADDING_BYTES_MAX, section=cls.section)
        units, unit_bytes, free, largest = (
            int.from_bytes(data[at : at + 2], "little") for at in (0, 2, 4, 6)
        )
        return cls(units, unit_bytes, free, largest, data[8])


@dataclass(frozen=True, slots=True)
class ReservationRsp:
    """A reservation id; a change of the repository cancels it. Shape: 2 bytes, LSB first."""

    section: ClassVar[str]

    reservation_id: int

    def encode(self) -> bytes:
        return self.reservation_id.to_bytes(2, "little")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        check_length(data, 2, 2 + PADDING_BYTES_MAX, section=cls.section)
        return cls(int.from_bytes(data[:2], "little"))


@dataclass(frozen=True, slots=True)
class GuidRsp:
    """A GUID. Shape: 16 bytes, kept in wire order."""

    section: ClassVar[str]

    guid: bytes

    def __post_init__(self) -> None:
        require_length("a GUID", self.guid, GUID_BYTES, GUID_BYTES)

    def encode(self) -> bytes:
        return self.guid

    @classmethod
    def decode(cls, data: bytes) -> Self:
        check_length(data, GUID_BYTES, GUID_BYTES + PADDING_BYTES_MAX, section=cls.section)
        return cls(data[:GUID_BYTES])
