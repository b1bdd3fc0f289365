"""The figures of sensors: ipmi_exporter's names, by their units."""

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
"""What ipmi_exporter calls sensors."""

_SEVERITY = "nominal (0), warning (1), critical (2)."
_ABOUT: Final = {
    "ipmi_temperature_celsius": "What a temperature sensor reads.",
    "ipmi_temperature_state": f"Temperature: {_SEVERITY}",
    "ipmi_fan_speed_rpm": "Turns of a fan in a minute.",
    "ipmi_fan_speed_ratio": "Speed of a fan, of the fastest that it turns.",
    "ipmi_fan_speed_state": f"Speed of a fan: {_SEVERITY}",
    "ipmi_voltage_volts": "What a voltage sensor reads.",
    "ipmi_voltage_state": f"Voltage: {_SEVERITY}",
    "ipmi_current_amperes": "What a current sensor reads.",
    "ipmi_current_state": f"Current: {_SEVERITY}",
    "ipmi_power_watts": "What a power sensor reads.",
    "ipmi_power_state": f"Power: {_SEVERITY}",
    "ipmi_sensor_value": "What any other sensor reads; its type says more than its number.",
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
    """Value and state of each; NaN where there is none, as ipmi_exporter has it."""
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
