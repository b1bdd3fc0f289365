"""Computes a sensor's value and severity from its record and its raw reading, without I/O."""

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
"""Linearizations whose factors hold for one raw reading only (36.4), the vendor's own included."""
_LUN_BITS: Final = 0x03
_EVENT_TYPE_BITS: Final = 0x7F


@dataclass(frozen=True, slots=True)
class Sensor:
    """One readable sensor, as its record describes it."""

    record_id: int
    name: str
    number: int
    owner_id: int
    lun: int
    sensor_type: int
    event_type: int
    units: SensorUnits
    factors: ReadingFactors | None = None
    """The reading factors; None for a sensor without a value.

    Field: many BMCs fill in meaningless factors for a discrete sensor.
    """
    linearization: int = 0

    @property
    def is_owned_by_bmc(self) -> bool:
        """Whether the BMC itself owns the sensor; otherwise it is behind a bridge."""
        return self.owner_id == BMC_SLAVE_ADDRESS

    @property
    def is_non_linear(self) -> bool:
        """Whether each raw reading has its own factors, which the BMC must be asked for (35.5)."""
        return self.factors is not None and self.linearization in _NON_LINEAR


@dataclass(frozen=True, slots=True)
class SensorReading:
    """The decoded reading of a sensor."""

    sensor: Sensor
    value: float | None
    """The value in the sensor's unit; None if it has none, or the conversion gives no number."""
    severity: Severity | None
    """The severity of the sensor's states; None if it is unknown."""


def sensors_in(records: Iterable[tuple[int, bytes]]) -> Iterator[Sensor]:
    """Yield the sensors that the records describe; skip other records and malformed ones.

    Of several sensors that share a record only the first is yielded, as in ipmi-sensors.
    """
    for record_id, data in records:
        try:
            record = decode_sdr_record(data)
        except RemoteProtocolError:
            continue
        if not isinstance(record, FullSensorRecord | CompactSensorRecord):
            continue
        description = record.sensor
        event_type = description.event_type & _EVENT_TYPE_BITS
        factors, linearization = None, 0
        if isinstance(record, FullSensorRecord):
            linearization = record.linearization
            has_value = description.units.analog_format is not AnalogFormat.NONE
            if has_value and event_type == THRESHOLD_EVENT_TYPE:
                factors = record.factors
        yield Sensor(
            record_id=record_id,
            name=record.id_string,
            number=description.sensor_number,
            owner_id=description.owner_id,
            lun=description.owner_lun & _LUN_BITS,
            sensor_type=description.sensor_type,
            event_type=event_type,
            units=description.units,
            factors=factors,
            linearization=linearization,
        )


def interpret_reading(
    sensor: Sensor, response: GetSensorReadingRsp, factors: ReadingFactors | None = None
) -> SensorReading | None:
    """Return the reading that a response stands for.

    `factors` are those of this raw reading; only a non-linear sensor needs them. The result is None
    if the sensor is not scanned or has no valid reading now.
    Spec: 35.14.
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
