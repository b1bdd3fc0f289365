"""The metrics of sensors, with ipmi_exporter's names, which depend on the unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from bmcmedic.ipmi.sensor_reading import Sensor, SensorReading
from bmcmedic.ipmi.sensor_types import (
    THRESHOLD_EVENT_TYPE,
    SensorType,
    UnitType,
    sensor_type_name,
)

COLLECTOR: Final = "ipmi"
"""The name of ipmi_exporter's collector for sensors."""

_SEVERITY = "nominal (0), warning (1), critical (2)."
_ABOUT: Final = {
    "ipmi_temperature_celsius": "Value of a temperature sensor, in degrees Celsius.",
    "ipmi_temperature_state": f"Temperature: {_SEVERITY}",
    "ipmi_fan_speed_rpm": "Speed of a fan, in revolutions per minute.",
    "ipmi_fan_speed_ratio": "Speed of a fan, as a share of its highest speed.",
    "ipmi_fan_speed_state": f"Speed of a fan: {_SEVERITY}",
    "ipmi_voltage_volts": "Value of a voltage sensor, in volts.",
    "ipmi_voltage_state": f"Voltage: {_SEVERITY}",
    "ipmi_current_amperes": "Value of a current sensor, in amperes.",
    "ipmi_current_state": f"Current: {_SEVERITY}",
    "ipmi_power_watts": "Value of a power sensor, in watts.",
    "ipmi_power_state": f"Power: {_SEVERITY}",
    "ipmi_sensor_value": "Value of any other sensor; the label `type` gives its meaning.",
    "ipmi_sensor_state": f"Any other sensor: {_SEVERITY}",
}
_BY_UNIT: Final[Mapping[int, tuple[str, str]]] = {
    UnitType.DEGREES_CELSIUS: ("ipmi_temperature_celsius", "ipmi_temperature_state"),
    UnitType.RPM: ("ipmi_fan_speed_rpm", "ipmi_fan_speed_state"),
    UnitType.VOLTS: ("ipmi_voltage_volts", "ipmi_voltage_state"),
    UnitType.AMPS: ("ipmi_current_amperes", "ipmi_current_state"),
    UnitType.WATTS: ("ipmi_power_watts", "ipmi_power_state"),
}
_RATIO: Final = ("ipmi_fan_speed_ratio", "ipmi_fan_speed_state")
_OTHER: Final = ("ipmi_sensor_value", "ipmi_sensor_state")
_PERCENT: Final = 100.0


def sensor_metrics(readings: Iterable[SensorReading]) -> Iterator[Metric]:
    """Yield value and state of each sensor; NaN if there is none, as in ipmi_exporter."""
    families: dict[str, GaugeMetricFamily] = {}
    for reading in readings:
        names = _names(reading.sensor)
        value = math.nan if reading.value is None else reading.value
        if names is _RATIO:
            value /= _PERCENT
        state = math.nan if reading.severity is None else float(reading.severity)
        labels = {"id": str(reading.sensor.record_id), "name": reading.sensor.name}
        if names is _OTHER:
            labels["type"] = sensor_type_name(reading.sensor.sensor_type)
        for name, number in zip(names, (value, state), strict=True):
            family = families.get(name)
            if family is None:
                family = families[name] = GaugeMetricFamily(name, _ABOUT[name], labels=list(labels))
            family.add_metric(list(labels.values()), number)
    yield from families.values()


def _names(sensor: Sensor) -> tuple[str, str]:
    units = sensor.units
    if sensor.event_type != THRESHOLD_EVENT_TYPE or units.modifier_use or units.rate_unit:
        return _OTHER
    if units.percentage:
        return _RATIO if sensor.sensor_type == SensorType.FAN else _OTHER
    return _BY_UNIT.get(units.base_unit, _OTHER)
