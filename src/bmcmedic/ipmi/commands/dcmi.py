"""The one command of the Data Center Manageability Interface (DCMI 1.5) that is used here."""

from __future__ import annotations

from dataclasses import dataclass

from bmcmedic.errors import InvalidDataField
from bmcmedic.ipmi.commands.command import (
    PADDING_BYTES_MAX,
    Command,
    check_length,
    require_range,
)
from bmcmedic.ipmi.constants import NetFn

GROUP = 0xDC
"""Group extension id of DCMI: the first byte of every DCMI request and response."""
SYSTEM_POWER_STATISTICS = 0x01
"""Mode of Get Power Reading that returns the power of the whole server."""

_POWER_READING_BYTES = 18
_IS_ACTIVE = 0x40


def _check_group(data: bytes, section: str) -> None:
    if data[0] != GROUP:
        raise InvalidDataField(f"group {data[0]:#04x} is not DCMI", section=section, raw=data)


@dataclass(frozen=True, slots=True)
class GetPowerReadingRsp:
    """The power that the whole server draws.

    Spec: DCMI 6.6.1. Shape: group, four times 2 bytes, time stamp and period of 4, state; LSB
    first. Units: watts, seconds since 1970, milliseconds.
    """

    current_w: int
    minimum_w: int = 0
    maximum_w: int = 0
    average_w: int = 0
    timestamp: int = 0
    period_ms: int = 0
    active: bool = True
    """Whether the power is being measured; if not, the figures mean nothing."""

    def __post_init__(self) -> None:
        for watts in (self.current_w, self.minimum_w, self.maximum_w, self.average_w):
            require_range("a power", watts, 0xFFFF)
        require_range("a time stamp", self.timestamp, 0xFFFFFFFF)
        require_range("a period", self.period_ms, 0xFFFFFFFF)

    def encode(self) -> bytes:
        watts = (self.current_w, self.minimum_w, self.maximum_w, self.average_w)
        return (
            bytes((GROUP,))
            + b"".join(each.to_bytes(2, "little") for each in watts)
            + self.timestamp.to_bytes(4, "little")
            + self.period_ms.to_bytes(4, "little")
            + bytes((_IS_ACTIVE if self.active else 0,))
        )

    @classmethod
    def decode(cls, data: bytes) -> GetPowerReadingRsp:
        section = "DCMI 6.6.1"
        check_length(
            data, _POWER_READING_BYTES, _POWER_READING_BYTES + PADDING_BYTES_MAX, section=section
        )
        _check_group(data, section)
        current, minimum, maximum, average = (
            int.from_bytes(data[at : at + 2], "little") for at in (1, 3, 5, 7)
        )
        return cls(
            current_w=current,
            minimum_w=minimum,
            maximum_w=maximum,
            average_w=average,
            timestamp=int.from_bytes(data[9:13], "little"),
            period_ms=int.from_bytes(data[13:17], "little"),
            active=bool(data[17] & _IS_ACTIVE),
        )


@dataclass(frozen=True, slots=True)
class GetPowerReadingReq(Command[GetPowerReadingRsp]):
    """Get Power Reading (DCMI 6.6.1). Shape: group, mode, two bytes that other modes use."""

    mode: int = SYSTEM_POWER_STATISTICS

    section = "DCMI 6.6.1"
    netfn = NetFn.GROUP_EXTENSION
    command = 0x02
    response = GetPowerReadingRsp

    def __post_init__(self) -> None:
        require_range("mode", self.mode, 0xFF)

    def encode(self) -> bytes:
        return bytes((GROUP, self.mode, 0, 0))

    @classmethod
    def decode(cls, data: bytes) -> GetPowerReadingReq:
        check_length(data, 4, section=cls.section)
        _check_group(data, cls.section)
        return cls(data[1])
