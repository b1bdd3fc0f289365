"""FRU inventory device commands (chapter 34); `fru_data` decodes the inventory itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmcmedic.errors import InvalidDataField, LocalProtocolError
from bmcmedic.ipmi.commands.command import (
    PADDING_BYTES_MAX,
    Command,
    check_length,
    require_length,
    require_range,
)
from bmcmedic.ipmi.constants import NetFn

FRU_READ_BYTES_MAX = 255
"""Highest count in Read FRU Data, in bytes, or in words where the device is accessed by words."""


@dataclass(frozen=True, slots=True)
class GetFruInventoryAreaInfoRsp:
    """The size of an inventory.

    Spec: 34.1. Shape: size (2 bytes, LSB first), then a byte whose bit 0 means "by words".
    """

    size_bytes: int
    by_words: bool = False
    """Whether offsets and counts of Read FRU Data are in words of 16 bits."""

    def encode(self) -> bytes:
        return self.size_bytes.to_bytes(2, "little") + bytes((self.by_words,))

    @classmethod
    def decode(cls, data: bytes) -> GetFruInventoryAreaInfoRsp:
        check_length(data, 3, 3 + PADDING_BYTES_MAX, section="34.1")
        return cls(int.from_bytes(data[:2], "little"), bool(data[2] & 0x01))


@dataclass(frozen=True, slots=True)
class GetFruInventoryAreaInfoReq(Command[GetFruInventoryAreaInfoRsp]):
    """Get FRU Inventory Area Info (34.1). Shape: FRU device id."""

    fru_device_id: int = 0

    section = "34.1"
    netfn = NetFn.STORAGE
    command = 0x10
    response = GetFruInventoryAreaInfoRsp

    def __post_init__(self) -> None:
        require_range("FRU device id", self.fru_device_id, 0xFF)

    def encode(self) -> bytes:
        return bytes((self.fru_device_id,))

    @classmethod
    def decode(cls, data: bytes) -> GetFruInventoryAreaInfoReq:
        check_length(data, 1, section=cls.section)
        return cls(data[0])


@dataclass(frozen=True, slots=True)
class ReadFruDataRsp:
    """A piece of the inventory.

    Spec: 34.2. Shape: count, then the data. Units: the count is in bytes, or in words where the
    device is accessed by words.
    """

    data: bytes
    by_words: bool = False

    def __post_init__(self) -> None:
        require_length("FRU data", self.data, FRU_READ_BYTES_MAX << self.by_words)
        if self.by_words and (not self.data or len(self.data) % 2):
            raise LocalProtocolError(f"{len(self.data)} bytes are not a whole number of words")

    def encode(self) -> bytes:
        return bytes((len(self.data) >> self.by_words,)) + self.data

    @classmethod
    def decode(cls, data: bytes) -> ReadFruDataRsp:
        """Decode response data.

        Raises: RemoteProtocolError when the count does not match the number of bytes that follow.
        """
        check_length(data, 1, 1 + 2 * FRU_READ_BYTES_MAX, section="34.2")
        count, rest = data[0], data[1:]
        if len(rest) == count:
            return cls(rest)
        if len(rest) == 2 * count:
            return cls(rest, by_words=True)
        raise InvalidDataField(
            f"Read FRU Data announces a count of {count}, but {len(rest)} bytes follow",
            section="34.2",
            raw=data,
        )


@dataclass(frozen=True, slots=True)
class ReadFruDataReq(Command[ReadFruDataRsp]):
    """Read FRU Data (34.2).

    Shape: FRU device id, offset (2 bytes, LSB first), count. Units: bytes or words, as Get FRU
    Inventory Area Info reports.
    """

    offset: int
    count: int
    fru_device_id: int = 0

    section = "34.2"
    netfn = NetFn.STORAGE
    command = 0x11
    response = ReadFruDataRsp
    completion_codes: ClassVar = {0x81: "FRU device busy"}

    def __post_init__(self) -> None:
        require_range("FRU device id", self.fru_device_id, 0xFF)
        require_range("offset", self.offset, 0xFFFF)
        require_range("count", self.count, FRU_READ_BYTES_MAX)

    def encode(self) -> bytes:
        head = bytes((self.fru_device_id,))
        return head + self.offset.to_bytes(2, "little") + bytes((self.count,))

    @classmethod
    def decode(cls, data: bytes) -> ReadFruDataReq:
        check_length(data, 4, section=cls.section)
        return cls(int.from_bytes(data[1:3], "little"), data[3], data[0])
