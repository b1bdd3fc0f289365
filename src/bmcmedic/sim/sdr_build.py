"""The sensors of the simulated server, and the SDRs that describe them (chapter 43).

The records are built here by hand, without the client's codecs. So a mistake in either of the two
shows where they meet.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

SDR_VERSION = 0x51
_FULL, _COMPACT, _FRU_LOCATOR, _MC_LOCATOR = 0x01, 0x02, 0x11, 0x12
_BMC = 0x20
_THRESHOLD_EVENT = 0x01
SENSOR_SPECIFIC = 0x6F

UNIT_NONE, UNIT_DEGREES_C, UNIT_VOLTS, UNIT_AMPS, UNIT_WATTS, UNIT_RPM = 0, 1, 4, 5, 6, 18
TEMPERATURE, VOLTAGE, CURRENT, FAN, POWER_SUPPLY, OTHER_UNITS = 0x01, 0x02, 0x03, 0x04, 0x08, 0x0B
UNSIGNED, ONES_COMPLEMENT, TWOS_COMPLEMENT = range(3)
"""How a raw byte encodes a number (43.1, byte 21)."""

LNC, LC, LNR, UNC, UC, UNR = range(6)
"""The thresholds, numbered as in commands and masks (35.9)."""


@dataclass(frozen=True, slots=True)
class Entity:
    """The part of the server that a sensor belongs to: entity id and instance (43.14)."""

    entity_id: int
    instance: int


@dataclass(frozen=True, slots=True)
class AnalogSensor:
    """A sensor with a measured value: (m * raw + b * 10^b_exponent) * 10^r_exponent.

    `thresholds` maps LNC … UNR to raw values.
    """

    number: int
    name: str
    sensor_type: int
    entity: Entity
    unit: int
    nominal: int
    thresholds: dict[int, int]
    m: int = 1
    r_exponent: int = 0
    b: int = 0
    b_exponent: int = 0
    needs_power: bool = True
    hysteresis: int = 2
    analog_format: int = UNSIGNED
    linearization: int = 0
    percentage: bool = False
    available: bool = True
    """Whether the sensor has a reading."""
    scanned: bool = True
    owner: int = _BMC
    """Address of the controller that owns the sensor; any but the BMC's is behind a bridge."""
    event_type: int = _THRESHOLD_EVENT

    @property
    def readable_mask(self) -> int:
        """The readable thresholds, one bit each."""
        return sum(1 << index for index in self.thresholds)

    @property
    def event_mask(self) -> int:
        """The possible events: going low for lower thresholds, going high for upper ones."""
        return sum(1 << (2 * i if i <= LNR else 2 * i + 1) for i in self.thresholds)

    def state(self, raw: int) -> int:
        """Return the thresholds that a reading is at or beyond, one bit each (35.14, byte 4)."""
        beyond = 0
        number = self._number(raw)
        for index, threshold in self.thresholds.items():
            limit = self._number(threshold)
            if number <= limit if index <= LNR else number >= limit:
                beyond |= 1 << index
        return beyond

    def _number(self, raw: int) -> int:
        if self.analog_format == UNSIGNED or raw < 0x80:
            return raw
        return raw - (0x100 if self.analog_format == TWOS_COMPLEMENT else 0xFF)

    def record(self, record_id: int) -> bytes:
        """Encode the sensor as a Full Sensor Record (43.1)."""
        mask = self.readable_mask
        lower = (mask & 0x07) << 12
        upper = (mask >> 3 & 0x07) << 12
        limits = bytes(self.thresholds.get(index, 0) for index in (UNR, UC, UNC, LNR, LC, LNC))
        body = (
            struct.pack(
                "<9B3H4B",
                self.owner,
                0,
                self.number,
                self.entity.entity_id,
                self.entity.instance,
                0x7F,  # initialize all, scanning and events on
                0x54,  # auto re-arm, hysteresis readable, thresholds readable
                self.sensor_type,
                self.event_type,
                self.event_mask | lower,
                self.event_mask | upper,
                mask,  # all readable, none settable
                self.analog_format << 6 | self.percentage,  # no rate
                self.unit,
                0x00,
                self.linearization,
            )
            + bytes(
                (
                    self.m & 0xFF,
                    (self.m >> 2 & 0xC0) | 0x01,
                    self.b & 0xFF,
                    self.b >> 2 & 0xC0,
                    0x00,
                    (self.r_exponent & 0x0F) << 4 | self.b_exponent & 0x0F,
                    0x01,  # nominal reading given
                    self.nominal,
                    self.nominal,
                    self.nominal,
                    0xFF,
                    0x00,
                )
            )
            + limits
            + bytes((self.hysteresis, self.hysteresis, 0, 0, 0))
            + _id_string(self.name)
        )
        return _record(record_id, _FULL, body)


@dataclass(frozen=True, slots=True)
class DiscreteSensor:
    """A sensor that has states instead of a measured value."""

    number: int
    name: str
    sensor_type: int
    entity: Entity
    states: int
    """The states that the sensor is in, one bit for each offset."""

    possible_states: int
    needs_power: bool = False
    event_type: int = SENSOR_SPECIFIC
    available: bool = True
    scanned: bool = True
    shared: int = 1
    """How many sensors, numbered from this one on, share this record."""

    @property
    def event_mask(self) -> int:
        """The possible events: one for every possible state."""
        return self.possible_states

    def record(self, record_id: int) -> bytes:
        """Encode the sensor as a Compact Sensor Record (43.2)."""
        body = struct.pack(
            "<9B3H11B",
            _BMC,
            0,
            self.number,
            self.entity.entity_id,
            self.entity.instance,
            0x67,
            0x40,  # auto re-arm
            self.sensor_type,
            self.event_type,
            self.possible_states,
            self.possible_states,
            self.possible_states,
            0xC0,  # no analog reading
            0x00,
            0x00,
            self.shared,
            0x00,
            0x00,
            0x00,
            0x00,
            0x00,
            0x00,
            0x00,
        ) + _id_string(self.name)
        return _record(record_id, _COMPACT, body)


Sensor = AnalogSensor | DiscreteSensor


def fru_locator(record_id: int, name: str, entity: Entity) -> bytes:
    """Encode the FRU Device Locator of the BMC's logical FRU 0 (43.8)."""
    body = bytes((_BMC, 0x00, 0x80, 0x00, 0x00, 0x10, 0x00))
    body += bytes((entity.entity_id, entity.instance, 0x00)) + _id_string(name)
    return _record(record_id, _FRU_LOCATOR, body)


def mc_locator(
    record_id: int, name: str, address: int, channel: int, supports: int, entity: Entity
) -> bytes:
    """Encode a Management Controller Device Locator (43.9)."""
    body = bytes((address, channel, 0x00, supports, 0, 0, 0))
    body += bytes((entity.entity_id, entity.instance, 0x00)) + _id_string(name)
    return _record(record_id, _MC_LOCATOR, body)


def _id_string(name: str) -> bytes:
    text = name.encode("ascii")[:16]
    return bytes((0xC0 | len(text),)) + text


def _record(record_id: int, record_type: int, body: bytes) -> bytes:
    return struct.pack("<HBBB", record_id, SDR_VERSION, record_type, len(body)) + body
