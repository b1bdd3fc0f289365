"""From a sensor's record and what it reads to a value and a severity. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from bmcmedic.errors import RemoteProtocolError
from bmcmedic.ipmi.commands.reading_factors import AnalogFormat, ReadingFactors
from bmcmedic.ipmi.commands.sdr_records import (
    CompactSensorRecord,
    FullSensorRecord,
    SensorUnits,
    decode_sdr_record,
)
from bmcmedic.ipmi.commands.sensor import GetSensorReadingRsp
from bmcmedic.ipmi.constants import BMC_SLAVE_ADDRESS
from bmcmedic.ipmi.sensor_states import Severity, discrete_severity, threshold_severity
from bmcmedic.ipmi.sensor_types import THRESHOLD_EVENT_TYPE

_NON_LINEAR: Final = range(0x70, 0x80)
"""Linearizations whose factors hold for one raw reading (36.4); the vendor's own are among them."""
_LUN_BITS: Final = 0x03
_EVENT_TYPE_BITS: Final = 0x7F


@dataclass(frozen=True, slots=True)
class Sensor:
    """One sensor that can be read, as its record has it."""

    record_id: int
    name: str
    number: int
    owner_id: int
    lun: int
    sensor_type: int
    event_type: int
    units: SensorUnits
    factors: ReadingFactors | None = None
    """None where it has no value: of a discrete one many BMCs fill in factors that mean nothing."""
    linearization: int = 0

    @property
    def is_the_bmcs(self) -> bool:
        """Whether the BMC itself has it; else it is behind a bridge."""
        return self.owner_id == BMC_SLAVE_ADDRESS

    @property
    def is_non_linear(self) -> bool:
        """Whether each raw reading has factors of its own, which the BMC is asked for (35.5)."""
        return self.factors is not None and self.linearization in _NON_LINEAR


@dataclass(frozen=True, slots=True)
class SensorReading:
    """What a sensor says."""

    sensor: Sensor
    value: float | None
    """In its unit; None: it has none, or there is no such number."""
    severity: Severity | None
    """None: nobody can say."""


def sensors_in(records: Iterable[tuple[int, bytes]]) -> Iterator[Sensor]:
    """The sensors that records describe; what is no sensor, or is broken, is passed over.

    Of several that share a record only the first is there, as with ipmi-sensors.
    """
    for record_id, data in records:
        try:
            record = decode_sdr_record(data)
        except RemoteProtocolError:
            continue
        if not isinstance(record, FullSensorRecord | CompactSensorRecord):
            continue
        described = record.sensor
        event_type = described.event_type & _EVENT_TYPE_BITS
        factors, linearization = None, 0
        if isinstance(record, FullSensorRecord):
            linearization = record.linearization
            has_value = described.units.analog_format is not AnalogFormat.NONE
            if has_value and event_type == THRESHOLD_EVENT_TYPE:
                factors = record.factors
        yield Sensor(
            record_id=record_id,
            name=record.id_string,
            number=described.sensor_number,
            owner_id=described.owner_id,
            lun=described.owner_lun & _LUN_BITS,
            sensor_type=described.sensor_type,
            event_type=event_type,
            units=described.units,
            factors=factors,
            linearization=linearization,
        )


def interpret_reading(
    sensor: Sensor, response: GetSensorReadingRsp, factors: ReadingFactors | None = None
) -> SensorReading | None:
    """What a response means; `factors` are those of this raw reading, for a non-linear sensor.

    Spec: 35.14. None: it is not scanned, or has nothing valid to say now.
    """
    if not response.available or not response.scanning_enabled:
        return None
    value = None
    if sensor.factors is not None:
        if not sensor.is_non_linear:
            value = sensor.factors.convert(
                response.reading, sensor.units.analog_format, sensor.linearization
            )
        elif factors is not None:
            value = factors.convert(response.reading, sensor.units.analog_format)
    return SensorReading(sensor, value, _severity(sensor, response))


def _severity(sensor: Sensor, response: GetSensorReadingRsp) -> Severity | None:
    if sensor.event_type == THRESHOLD_EVENT_TYPE:
        return threshold_severity(response.comparisons)
    return discrete_severity(sensor.event_type, sensor.sensor_type, response.discrete_states)
