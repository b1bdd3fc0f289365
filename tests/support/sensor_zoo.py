"""Sensors of every kind, for a simulated BMC."""

from __future__ import annotations

from typing import Any

from bmcmedic.sim import sdr_build as sdr
from bmcmedic.sim.sdr_build import AnalogSensor, DiscreteSensor, Entity, Sensor

BOARD = Entity(7, 1)
_HOT = {sdr.UNC: 85, sdr.UC: 95, sdr.UNR: 100}
_STILL = {sdr.LNR: 4, sdr.LC: 8, sdr.LNC: 12}
MINUS_5, MINUS_30, MINUS_35 = 0xFB, 0xE2, 0xDD


def temperature(number: int, name: str, raw: int, **more: Any) -> AnalogSensor:  # noqa: ANN401 - of any field
    return AnalogSensor(number, name, sdr.TEMPERATURE, BOARD, sdr.UNIT_DEGREES_C, raw, _HOT, **more)


def fan(number: int, name: str, raw: int) -> AnalogSensor:
    return AnalogSensor(number, name, sdr.FAN, BOARD, sdr.UNIT_RPM, raw, _STILL, m=75)


def voltage(number: int, name: str, raw: int, **more: Any) -> AnalogSensor:  # noqa: ANN401 - of any field
    return AnalogSensor(number, name, sdr.VOLTAGE, BOARD, sdr.UNIT_VOLTS, raw, {}, **more)


def other(number: int, name: str, raw: int, unit: int, **more: Any) -> AnalogSensor:  # noqa: ANN401 - of any field
    return AnalogSensor(number, name, sdr.OTHER_UNITS, BOARD, unit, raw, {}, **more)


ANALOG: tuple[Sensor, ...] = (
    temperature(1, "Well", 47),
    temperature(2, "At its critical", 95),
    temperature(3, "Beyond all", 120),
    fan(4, "Turning", 76),
    fan(5, "Slow", 7),
    fan(6, "Still", 0),
    AnalogSensor(
        7,
        "Outside",
        sdr.TEMPERATURE,
        BOARD,
        sdr.UNIT_DEGREES_C,
        MINUS_5,
        {sdr.LC: MINUS_30, sdr.UC: 60},
        analog_format=sdr.TWOS_COMPLEMENT,
    ),
    AnalogSensor(
        8,
        "Freezing",
        sdr.TEMPERATURE,
        BOARD,
        sdr.UNIT_DEGREES_C,
        MINUS_35,
        {sdr.LC: MINUS_30, sdr.UC: 60},
        analog_format=sdr.TWOS_COMPLEMENT,
    ),
    temperature(9, "Ones", MINUS_5, analog_format=sdr.ONES_COMPLEMENT),
    voltage(10, "12V", 201, m=6, r_exponent=-2),
    voltage(11, "VCORE", 120, m=61, b=5, b_exponent=2, r_exponent=-4),
    voltage(12, "-12V", 87, m=64, b=-179, b_exponent=2, r_exponent=-3),
    voltage(13, "Steep", 3, m=-25, b=511, r_exponent=2),
    AnalogSensor(14, "PSU In", sdr.CURRENT, BOARD, sdr.UNIT_AMPS, 25, {}, r_exponent=-1),
    other(15, "PSU Power", 58, sdr.UNIT_WATTS, m=4),
    AnalogSensor(16, "Duty", sdr.FAN, BOARD, sdr.UNIT_NONE, 40, {}, percentage=True),
    other(17, "Load", 70, sdr.UNIT_NONE, percentage=True),
    other(18, "Fahrenheit", 99, 2),
    voltage(19, "ln", 120, linearization=1),
    voltage(20, "log10", 120, linearization=2),
    voltage(21, "log2", 120, linearization=3),
    voltage(22, "e", 4, linearization=4),
    voltage(23, "exp10", 3, linearization=5),
    voltage(24, "exp2", 8, linearization=6),
    voltage(25, "1/x", 10, linearization=7),
    voltage(26, "sqr", 9, linearization=8),
    voltage(27, "cube", 5, linearization=9),
    voltage(28, "sqrt", 144, linearization=10),
    voltage(29, "No number", 77, analog_format=3),
    temperature(30, "Not there yet", 47, available=False),
    temperature(31, "Not scanned", 47, scanned=False),
    temperature(32, "Behind a bridge", 47, owner=0x2C),
    temperature(33, "Digital", 47, event_type=0x05),
    DiscreteSensor(40, "PS1", sdr.POWER_SUPPLY, BOARD, 0x01, 0x0F),
    DiscreteSensor(41, "PS2 failed", sdr.POWER_SUPPLY, BOARD, 0x03, 0x0F),
    DiscreteSensor(42, "PS3 gone", sdr.POWER_SUPPLY, BOARD, 0x00, 0x0F, available=False),
    DiscreteSensor(43, "Shared", sdr.FAN, BOARD, 0x02, 0x03, event_type=0x08, shared=3),
    DiscreteSensor(46, "The vendor's", 0xC0, BOARD, 0x01, 0x0F),
    DiscreteSensor(47, "The vendor's too", sdr.FAN, BOARD, 0x01, 0x0F, event_type=0x70),
)
"""Sensors of every kind; the tests name those on which FreeIPMI and this program agree."""


def discrete(kinds: list[tuple[int, int]], states: int) -> tuple[Sensor, ...]:
    """Return one sensor of each kind (event type, sensor type), all in the same states."""
    return tuple(
        DiscreteSensor(number, f"{number:02x}", kind[1], BOARD, states, 0x7FFF, event_type=kind[0])
        for number, kind in enumerate(kinds, start=1)
    )
