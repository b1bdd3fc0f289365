"""Converts the raw byte of a sensor to a number (sections 35.5 and 36.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from bmcmedic.ipmi.commands.command import check_length, require_range

FACTORS_BYTES = 6
"""Length of the encoded factors, in bytes."""


class AnalogFormat(IntEnum):
    """The number format of the raw byte (43.1, byte 21 bits 7:6)."""

    UNSIGNED = 0
    ONES_COMPLEMENT = 1
    TWOS_COMPLEMENT = 2
    NONE = 3
    """The sensor has no analog reading."""


def raw_number(raw: int, analog_format: AnalogFormat) -> int:
    """Return the raw byte as a whole number."""
    if analog_format is AnalogFormat.TWOS_COMPLEMENT and raw & 0x80:
        return raw - 0x100
    if analog_format is AnalogFormat.ONES_COMPLEMENT and raw & 0x80:
        return raw - 0xFF
    return raw


@dataclass(frozen=True, slots=True)
class ReadingFactors:
    """The factors of `y = (M x + B 10^b_exponent) 10^r_exponent`.

    Spec: 43.1, bytes 25 to 30, and 35.5. Shape: 6 bytes; M and B are 10 bits in two's complement,
    tolerance 6 bits, accuracy 10, its exponent 2, direction 2, r_exponent and b_exponent 4 in
    two's complement.
    """

    m: int
    b: int = 0
    r_exponent: int = 0
    b_exponent: int = 0
    tolerance: int = 0
    accuracy: int = 0
    accuracy_exponent: int = 0
    direction: int = 0
    """0 for none, 1 for input, 2 for output; only an SDR gives it."""

    def __post_init__(self) -> None:
        require_range("M", self.m, 511, -512)
        require_range("B", self.b, 511, -512)
        require_range("R exponent", self.r_exponent, 7, -8)
        require_range("B exponent", self.b_exponent, 7, -8)
        require_range("tolerance", self.tolerance, 0x3F)
        require_range("accuracy", self.accuracy, 0x3FF)
        require_range("accuracy exponent", self.accuracy_exponent, 3)
        require_range("direction", self.direction, 3)

    def encode(self) -> bytes:
        """Return the 6 bytes."""
        return bytes(
            (
                self.m & 0xFF,
                (self.m >> 8 & 3) << 6 | self.tolerance,
                self.b & 0xFF,
                (self.b >> 8 & 3) << 6 | self.accuracy & 0x3F,
                self.accuracy >> 6 << 4 | self.accuracy_exponent << 2 | self.direction,
                (self.r_exponent & 0x0F) << 4 | self.b_exponent & 0x0F,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> ReadingFactors:
        """Decode the 6 bytes; raises RemoteProtocolError."""
        check_length(data, FACTORS_BYTES, section="35.5")
        return cls(
            m=_signed(data[0] | data[1] >> 6 << 8, 10),
            b=_signed(data[2] | data[3] >> 6 << 8, 10),
            r_exponent=_signed(data[5] >> 4, 4),
            b_exponent=_signed(data[5] & 0x0F, 4),
            tolerance=data[1] & 0x3F,
            accuracy=data[4] >> 4 << 6 | data[3] & 0x3F,
            accuracy_exponent=data[4] >> 2 & 3,
            direction=data[4] & 3,
        )

    def convert(
        self,
        raw: int,
        analog_format: AnalogFormat = AnalogFormat.UNSIGNED,
        linearization: int = 0,
    ) -> float | None:
        """Return the reading in the sensor's unit; None if it has no value, such as 1/x of zero."""
        if analog_format is AnalogFormat.NONE:
            return None
        linear = self.m * raw_number(raw, analog_format) + self.b * 10.0**self.b_exponent
        linearize = _LINEARIZATIONS.get(linearization & 0x7F)
        if linearize is None:
            return None
        try:
            return linearize(_scale(linear, self.r_exponent))
        except (ValueError, OverflowError, ZeroDivisionError):
            return None


_LINEARIZATIONS: dict[int, Callable[[float], float]] = {
    0: lambda x: x,
    1: math.log,
    2: math.log10,
    3: math.log2,
    4: math.exp,
    5: lambda x: 10.0**x,
    6: lambda x: 2.0**x,
    7: lambda x: 1.0 / x,
    8: lambda x: x * x,
    9: lambda x: x**3,
    10: math.sqrt,
    11: math.cbrt,
}
"""The linearization functions by number (table 43-1, byte 24).

Linearizations from 0x70 on are non-linear or the vendor's own, and cannot be converted here.
"""


def _scale(value: float, exponent: int) -> float:
    # Division by a whole power of ten gives 12.1; a factor of 0.1 would give 12.100000000000001.
    return value * 10.0**exponent if exponent >= 0 else value / 10.0**-exponent


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value
