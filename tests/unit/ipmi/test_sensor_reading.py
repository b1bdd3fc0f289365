"""Readings computed from a sensor's record and its response."""

from __future__ import annotations

import pytest

from bmcmedic.ipmi.commands.reading_factors import ReadingFactors
from bmcmedic.ipmi.commands.sdr_records import CompactSensorRecord, OtherRecord, SensorDescription
from bmcmedic.ipmi.commands.sensor import GetSensorReadingRsp, Thresholds
from bmcmedic.ipmi.sensor_reading import Sensor, interpret_reading, sensors_in
from bmcmedic.ipmi.sensor_states import Severity, discrete_severity, threshold_severity
from bmcmedic.ipmi.sensor_types import SensorType, sensor_type_name
from bmcmedic.sim.sdr_build import Sensor as Built
from tests.support.sensor_zoo import ANALOG, temperature, voltage


def described(built: Built, record_id: int = 4) -> Sensor:
    (sensor,) = sensors_in([(record_id, built.record(record_id))])
    return sensor


def test_a_threshold_based_sensor_has_value_and_severity() -> None:
    sensor = described(temperature(9, "Inlet", 0))
    assert (sensor.record_id, sensor.name, sensor.number, sensor.lun) == (4, "Inlet", 9, 0)
    reading = interpret_reading(sensor, GetSensorReadingRsp(23, states=b"\xc0"))
    assert reading is not None
    assert (reading.value, reading.severity) == (23.0, Severity.NOMINAL)


@pytest.mark.parametrize(
    ("beyond", "severity"),
    [
        (Thresholds(0), Severity.NOMINAL),
        (Thresholds.LOWER_NON_CRITICAL, Severity.WARNING),
        (Thresholds.UPPER_NON_CRITICAL, Severity.WARNING),
        (Thresholds.UPPER_NON_CRITICAL | Thresholds.UPPER_CRITICAL, Severity.CRITICAL),
        (Thresholds.LOWER_CRITICAL, Severity.CRITICAL),
        (Thresholds.LOWER_NON_RECOVERABLE, Severity.CRITICAL),
        (Thresholds.UPPER_NON_RECOVERABLE, Severity.CRITICAL),
    ],
)
def test_the_worst_threshold_counts(beyond: Thresholds, severity: Severity) -> None:
    assert threshold_severity(beyond) is severity


@pytest.mark.parametrize(
    "response",
    [
        GetSensorReadingRsp(23, available=False),
        GetSensorReadingRsp(23, scanning_enabled=False),
    ],
)
def test_an_unavailable_sensor_has_no_reading(response: GetSensorReadingRsp) -> None:
    assert interpret_reading(described(temperature(9, "Inlet", 0)), response) is None


def test_a_response_without_states_has_crossed_no_threshold() -> None:
    reading = interpret_reading(
        described(temperature(9, "Inlet", 0)), GetSensorReadingRsp(23, states=b"")
    )
    assert reading is not None
    assert reading.severity is Severity.NOMINAL


def test_a_non_linear_sensor_needs_the_factors_of_its_reading() -> None:
    sensor = described(voltage(9, "Bent", 0, linearization=0x70))
    assert sensor.is_non_linear
    response = GetSensorReadingRsp(20)
    without, with_them = (
        interpret_reading(sensor, response),
        interpret_reading(sensor, response, ReadingFactors(3, 5)),
    )
    assert without is not None
    assert with_them is not None
    assert (without.value, with_them.value) == (None, 65.0)


def test_a_reading_without_a_number_has_no_value() -> None:
    reading = interpret_reading(
        described(voltage(9, "1/x", 0, linearization=7)), GetSensorReadingRsp(0)
    )
    assert reading is not None
    assert (reading.value, reading.severity) == (None, Severity.NOMINAL)


def test_other_and_malformed_records_are_skipped() -> None:
    whole = ANALOG[0].record(7)
    records = [(1, b""), (2, whole[:30]), (3, OtherRecord(3, 0xC0, b"oem").encode()), (7, whole)]
    assert [sensor.record_id for sensor in sensors_in(records)] == [7]


def test_owner_and_lun_of_a_sensor() -> None:
    about = SensorDescription(5, SensorType.FAN, 0x88, owner_id=0x2C, owner_lun=0x63)
    (sensor,) = sensors_in([(1, CompactSensorRecord(1, about, "ME").encode())])
    assert (sensor.is_owned_by_bmc, sensor.lun, sensor.event_type) == (False, 3, 0x08)


def test_states_without_a_known_severity_have_none() -> None:
    assert discrete_severity(0x70, SensorType.FAN, 1) is None
    assert discrete_severity(0x6F, 0xC0, 1) is None
    assert discrete_severity(0x03, SensorType.BATTERY, 1) is None
    assert discrete_severity(0x6F, SensorType.POWER_SUPPLY, 0x4000) is Severity.NOMINAL


def test_types_are_named_as_freeipmi_names_them() -> None:
    names = {kind: sensor_type_name(kind) for kind in (0, 1, 0x23, 0x2C, 0x2D, 0xC0, 0xFF)}
    assert names == {
        0: "Unrecognized",
        1: "Temperature",
        0x23: "Watchdog 2",
        0x2C: "FRU State",
        0x2D: "Unrecognized",
        0xC0: "OEM Reserved",
        0xFF: "OEM Reserved",
    }
