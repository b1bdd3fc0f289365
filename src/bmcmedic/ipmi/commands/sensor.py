"""Sensor commands (chapter 35)."""

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
from bmcmedic.ipmi.commands.reading_factors import FACTORS_BYTES, ReadingFactors
from bmcmedic.ipmi.constants import NetFn


@dataclass(frozen=True, slots=True)
class GetSensorReadingFactorsRsp:
    """The reading factors for one raw reading of a non-linear sensor.

    Spec: 35.5. Shape: the next raw reading that has factors of its own, then the factors, 6 bytes.
    """

    next_reading: int
    factors: ReadingFactors

    def encode(self) -> bytes:
        return bytes((self.next_reading,)) + self.factors.encode()

    @classmethod
    def decode(cls, data: bytes) -> GetSensorReadingFactorsRsp:
        check_length(data, 1 + FACTORS_BYTES, 1 + FACTORS_BYTES + PADDING_BYTES_MAX, section="35.5")
        return cls(data[0], ReadingFactors.decode(data[1 : 1 + FACTORS_BYTES]))


@dataclass(frozen=True, slots=True)
class GetSensorReadingFactorsReq(Command[GetSensorReadingFactorsRsp]):
    """Get Sensor Reading Factors (35.5). Shape: sensor number, raw reading."""

    sensor_number: int
    raw_reading: int

    section = "35.5"
    netfn = NetFn.SENSOR_EVENT
    command = 0x23
    response = GetSensorReadingFactorsRsp

    def __post_init__(self) -> None:
        require_range("sensor number", self.sensor_number, 0xFF)
        require_range("raw reading", self.raw_reading, 0xFF)

    def encode(self) -> bytes:
        return bytes((self.sensor_number, self.raw_reading))

    @classmethod
    def decode(cls, data: bytes) -> GetSensorReadingFactorsReq:
        check_length(data, 2, section=cls.section)
        return cls(data[0], data[1])


@dataclass(frozen=True, slots=True)
class GetSensorHysteresisRsp:
    """The hysteresis in raw counts. Spec: 35.7. Shape: positive, negative."""

    positive: int
    negative: int

    def encode(self) -> bytes:
        return bytes((self.positive, self.negative))

    @classmethod
    def decode(cls, data: bytes) -> GetSensorHysteresisRsp:
        check_length(data, 2, 2 + PADDING_BYTES_MAX, section="35.7")
        return cls(data[0], data[1])


@dataclass(frozen=True, slots=True)
class GetSensorHysteresisReq(Command[GetSensorHysteresisRsp]):
    """Get Sensor Hysteresis (35.7). Shape: sensor number, then 0xFF.

    Field: some clients omit the 0xFF.
    """

    sensor_number: int

    section = "35.7"
    netfn = NetFn.SENSOR_EVENT
    command = 0x25
    response = GetSensorHysteresisRsp

    def __post_init__(self) -> None:
        require_range("sensor number", self.sensor_number, 0xFF)

    def encode(self) -> bytes:
        return bytes((self.sensor_number, 0xFF))

    @classmethod
    def decode(cls, data: bytes) -> GetSensorHysteresisReq:
        check_length(data, 1, 2, section=cls.section)
        return cls(data[0])


class Thresholds(IntFlag, boundary=KEEP):
    """The thresholds of a sensor, or the threshold comparisons that are true (35.9, 35.14)."""

    LOWER_NON_CRITICAL = 0x01
    LOWER_CRITICAL = 0x02
    LOWER_NON_RECOVERABLE = 0x04
    UPPER_NON_CRITICAL = 0x08
    UPPER_CRITICAL = 0x10
    UPPER_NON_RECOVERABLE = 0x20


@dataclass(frozen=True, slots=True)
class GetSensorThresholdsRsp:
    """The thresholds as raw readings.

    Spec: 35.9. Shape: the readable ones as bits, then lower non-critical, critical and
    non-recoverable, then upper non-critical, critical and non-recoverable, 1 byte each.
    """

    readable: Thresholds
    lower_non_critical: int = 0
    lower_critical: int = 0
    lower_non_recoverable: int = 0
    upper_non_critical: int = 0
    upper_critical: int = 0
    upper_non_recoverable: int = 0

    def encode(self) -> bytes:
        return bytes(
            (
                self.readable,
                self.lower_non_critical,
                self.lower_critical,
                self.lower_non_recoverable,
                self.upper_non_critical,
                self.upper_critical,
                self.upper_non_recoverable,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> GetSensorThresholdsRsp:
        check_length(data, 7, 7 + PADDING_BYTES_MAX, section="35.9")
        return cls(Thresholds(data[0] & 0x3F), *data[1:7])


@dataclass(frozen=True, slots=True)
class GetSensorThresholdsReq(Command[GetSensorThresholdsRsp]):
    """Get Sensor Thresholds (35.9). Shape: sensor number."""

    sensor_number: int

    section = "35.9"
    netfn = NetFn.SENSOR_EVENT
    command = 0x27
    response = GetSensorThresholdsRsp

    def __post_init__(self) -> None:
        require_range("sensor number", self.sensor_number, 0xFF)

    def encode(self) -> bytes:
        return bytes((self.sensor_number,))

    @classmethod
    def decode(cls, data: bytes) -> GetSensorThresholdsReq:
        check_length(data, 1, section=cls.section)
        return cls(data[0])


@dataclass(frozen=True, slots=True)
class GetSensorEventEnableRsp:
    """The events that a sensor may report.

    Spec: 35.11. Shape: 1 byte, then 0 to 4 bytes with the assertion and deassertion masks, LSB
    first. The last bytes may be missing where the sensor has no such events.
    """

    events_enabled: bool
    scanning_enabled: bool
    masks: bytes = b""

    def __post_init__(self) -> None:
        require_length("event masks", self.masks, 4)

    @property
    def assertion_mask(self) -> int:
        """The enabled assertion events; bit 0 is event 0."""
        return int.from_bytes(self.masks[:2], "little")

    @property
    def deassertion_mask(self) -> int:
        """The enabled deassertion events; bit 0 is event 0."""
        return int.from_bytes(self.masks[2:4], "little")

    def encode(self) -> bytes:
        return bytes((self.events_enabled << 7 | self.scanning_enabled << 6,)) + self.masks

    @classmethod
    def decode(cls, data: bytes) -> GetSensorEventEnableRsp:
        check_length(data, 1, 5 + PADDING_BYTES_MAX, section="35.11")
        return cls(bool(data[0] & 0x80), bool(data[0] & 0x40), data[1:5])


@dataclass(frozen=True, slots=True)
class GetSensorEventEnableReq(Command[GetSensorEventEnableRsp]):
    """Get Sensor Event Enable (35.11). Shape: sensor number."""

    sensor_number: int

    section = "35.11"
    netfn = NetFn.SENSOR_EVENT
    command = 0x29
    response = GetSensorEventEnableRsp

    def __post_init__(self) -> None:
        require_range("sensor number", self.sensor_number, 0xFF)

    def encode(self) -> bytes:
        return bytes((self.sensor_number,))

    @classmethod
    def decode(cls, data: bytes) -> GetSensorEventEnableReq:
        check_length(data, 1, section=cls.section)
        return cls(data[0])


@dataclass(frozen=True, slots=True)
class GetSensorReadingRsp:
    """The present reading of a sensor.

    Spec: 35.14. Shape: raw reading, status of the sensor, then 0 to 2 bytes of `states`: threshold
    comparisons (bits 5:0), or the discrete states 0 to 14, LSB first.
    Field: on some BMCs, a discrete sensor sends one byte of states, and a threshold sensor two or
    none.
    """

    reading: int
    available: bool = True
    """Whether the reading is valid; it is not, for example, soon after the BMC's start."""
    events_enabled: bool = True
    scanning_enabled: bool = True
    states: bytes = b"\xc0"

    def __post_init__(self) -> None:
        require_length("sensor states", self.states, 2)

    @property
    def comparisons(self) -> Thresholds:
        """The threshold comparisons of a threshold-based sensor that are true."""
        return Thresholds(self.states[0] & 0x3F if self.states else 0)

    @property
    def discrete_states(self) -> int:
        """The asserted states of a discrete sensor; bit 0 is state 0."""
        return int.from_bytes(self.states, "little") & 0x7FFF

    def encode(self) -> bytes:
        status = self.events_enabled << 7 | self.scanning_enabled << 6 | (not self.available) << 5
        return bytes((self.reading, status)) + self.states

    @classmethod
    def decode(cls, data: bytes) -> GetSensorReadingRsp:
        check_length(data, 2, 4 + PADDING_BYTES_MAX, section="35.14")
        return cls(
            reading=data[0],
            available=not data[1] & 0x20,
            events_enabled=bool(data[1] & 0x80),
            scanning_enabled=bool(data[1] & 0x40),
            states=data[2:4],
        )


@dataclass(frozen=True, slots=True)
class GetSensorReadingReq(Command[GetSensorReadingRsp]):
    """Get Sensor Reading (35.14). Shape: sensor number."""

    sensor_number: int

    section = "35.14"
    netfn = NetFn.SENSOR_EVENT
    command = 0x2D
    response = GetSensorReadingRsp

    def __post_init__(self) -> None:
        require_range("sensor number", self.sensor_number, 0xFF)

    def encode(self) -> bytes:
        return bytes((self.sensor_number,))

    @classmethod
    def decode(cls, data: bytes) -> GetSensorReadingReq:
        check_length(data, 1, section=cls.section)
        return cls(data[0])


@dataclass(frozen=True, slots=True)
class GetSensorTypeRsp:
    """The type of a sensor. Spec: 35.16. Shape: sensor type, event/reading type."""

    sensor_type: int
    event_type: int

    def encode(self) -> bytes:
        return bytes((self.sensor_type, self.event_type))

    @classmethod
    def decode(cls, data: bytes) -> GetSensorTypeRsp:
        check_length(data, 2, 2 + PADDING_BYTES_MAX, section="35.16")
        return cls(data[0], data[1] & 0x7F)


@dataclass(frozen=True, slots=True)
class GetSensorTypeReq(Command[GetSensorTypeRsp]):
    """Get Sensor Type (35.16). Shape: sensor number."""

    sensor_number: int

    section = "35.16"
    netfn = NetFn.SENSOR_EVENT
    command = 0x2F
    response = GetSensorTypeRsp

    def __post_init__(self) -> None:
        require_range("sensor number", self.sensor_number, 0xFF)

    def encode(self) -> bytes:
        return bytes((self.sensor_number,))

    @classmethod
    def decode(cls, data: bytes) -> GetSensorTypeReq:
        check_length(data, 1, section=cls.section)
        return cls(data[0])
