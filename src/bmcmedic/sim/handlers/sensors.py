"""Chapter 35: the sensors that the profile describes."""

from __future__ import annotations

from bmcmedic.ipmi.commands.reading_factors import ReadingFactors
from bmcmedic.ipmi.commands.sensor import (
    GetSensorEventEnableReq,
    GetSensorEventEnableRsp,
    GetSensorHysteresisReq,
    GetSensorHysteresisRsp,
    GetSensorReadingFactorsReq,
    GetSensorReadingFactorsRsp,
    GetSensorReadingReq,
    GetSensorReadingRsp,
    GetSensorThresholdsReq,
    GetSensorThresholdsRsp,
    GetSensorTypeReq,
    GetSensorTypeRsp,
    Thresholds,
)
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.handler_call import Call, CommandRefusal
from bmcmedic.sim.sdr_build import AnalogSensor, Sensor

_RESERVED_STATE_BIT = 0x8000
_NO_COMPARISON = 0xC0


def _sensor(bmc: SimBmc, number: int) -> Sensor:
    sensor = bmc.profile.sensors.get(number)
    if sensor is None:
        raise CommandRefusal(CompletionCode.NOT_PRESENT)
    return sensor


def _analog(bmc: SimBmc, number: int) -> AnalogSensor:
    sensor = _sensor(bmc, number)
    if not isinstance(sensor, AnalogSensor):
        raise CommandRefusal(CompletionCode.ILLEGAL_FOR_SENSOR)
    return sensor


def get_sensor_reading_factors(
    bmc: SimBmc, request: GetSensorReadingFactorsReq, _call: Call
) -> bytes:
    """Get Sensor Reading Factors (35.5); all sensors are linear, so the factors never change."""
    sensor = _analog(bmc, request.sensor_number)
    factors = ReadingFactors(sensor.m, sensor.b, sensor.r_exponent, sensor.b_exponent)
    return GetSensorReadingFactorsRsp(request.raw_reading, factors).encode()


def get_sensor_hysteresis(bmc: SimBmc, request: GetSensorHysteresisReq, _call: Call) -> bytes:
    """Get Sensor Hysteresis (35.7)."""
    sensor = _analog(bmc, request.sensor_number)
    return GetSensorHysteresisRsp(sensor.hysteresis, sensor.hysteresis).encode()


def get_sensor_thresholds(bmc: SimBmc, request: GetSensorThresholdsReq, _call: Call) -> bytes:
    """Get Sensor Thresholds (35.9)."""
    sensor = _analog(bmc, request.sensor_number)
    return GetSensorThresholdsRsp(
        Thresholds(sensor.readable_mask), *(sensor.thresholds.get(index, 0) for index in range(6))
    ).encode()


def get_sensor_event_enable(bmc: SimBmc, request: GetSensorEventEnableReq, _call: Call) -> bytes:
    """Get Sensor Event Enable (35.11)."""
    sensor = _sensor(bmc, request.sensor_number)
    mask = sensor.event_mask.to_bytes(2, "little")
    return GetSensorEventEnableRsp(True, True, mask + mask).encode()


def get_sensor_reading(bmc: SimBmc, request: GetSensorReadingReq, _call: Call) -> bytes:
    """Get Sensor Reading (35.14); most sensors have no reading without power."""
    sensor = _sensor(bmc, request.sensor_number)
    if not sensor.available or (sensor.needs_power and not bmc.host.power_on):
        return GetSensorReadingRsp(0, available=False).encode()
    if isinstance(sensor, AnalogSensor):
        reading = sensor.nominal
        states = bytes((_NO_COMPARISON | sensor.state(reading),))
    else:
        reading = 0
        states = (sensor.states | _RESERVED_STATE_BIT).to_bytes(2, "little")
    return GetSensorReadingRsp(reading, scanning_enabled=sensor.scanned, states=states).encode()


def get_sensor_type(bmc: SimBmc, request: GetSensorTypeReq, _call: Call) -> bytes:
    """Get Sensor Type (35.16)."""
    sensor = _sensor(bmc, request.sensor_number)
    return GetSensorTypeRsp(sensor.sensor_type, sensor.event_type).encode()
