"""The severity of a sensor's states: nominal, warning or critical.

The severities are FreeIPMI's, which users of ipmi_exporter know, with one exception. In FreeIPMI
a reading beyond a non-critical threshold is nominal unless configured otherwise. Here it is a
warning, which is the purpose of that threshold in the specification. A combination of event/reading
type and sensor type that is in no table has no severity.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from bmcmedic.ipmi.commands.sensor import Thresholds
from bmcmedic.ipmi.sensor_types import SENSOR_SPECIFIC_EVENT_TYPE, SensorType


class Severity(IntEnum):
    """The severities, with the numbers that ipmi_exporter uses."""

    NOMINAL = 0
    WARNING = 1
    CRITICAL = 2


_WARNING = Thresholds.LOWER_NON_CRITICAL | Thresholds.UPPER_NON_CRITICAL


def threshold_severity(comparisons: Thresholds) -> Severity:
    """Return the severity of the worst threshold crossed; non-recoverable counts as critical."""
    if comparisons & ~_WARNING:
        return Severity.CRITICAL
    return Severity.WARNING if comparisons else Severity.NOMINAL


def discrete_severity(event_type: int, sensor_type: int, states: int) -> Severity | None:
    """Return the severity of the worst asserted state (bit 0 is state 0), or None if unknown.

    A state beyond those of the sensor's type is ignored.
    Spec: 42.1 and 42.2.
    """
    if event_type == SENSOR_SPECIFIC_EVENT_TYPE:
        grades = _SENSOR_SPECIFIC.get(sensor_type)
    else:
        grades = _GENERIC.get(event_type, {}).get(sensor_type)
    if grades is None:
        return None
    asserted = (grade for at, grade in enumerate(grades) if states >> at & 1)
    return max(map(_SEVERITIES.__getitem__, asserted), default=Severity.NOMINAL)


_SEVERITIES: Final = {
    "n": Severity.NOMINAL,
    "w": Severity.WARNING,
    "c": Severity.CRITICAL,
}

_DEASSERTED_ASSERTED = "nw"
_DEASSERTED_FAILED = "nc"
_TRANSITION_SEVERITY = "nwccwccwn"
"""OK, non-critical, critical, non-recoverable; the same from more severe; monitor; information."""
_ABSENT_PRESENT = "cn"
_REDUNDANCY = "ncwcccww"

_T = SensorType

_GENERIC: Final[Mapping[int, Mapping[int, str]]] = {
    0x02: {_T.SYSTEM_EVENT: "nnn"},
    0x03: {
        **dict.fromkeys(
            (
                _T.TEMPERATURE,
                _T.VOLTAGE,
                _T.FAN,
                _T.POWER_SUPPLY,
                _T.POWER_UNIT,
                _T.POST_MEMORY_RESIZE,
                _T.SYSTEM_FIRMWARE_PROGRESS,
                _T.SYSTEM_EVENT,
            ),
            _DEASSERTED_ASSERTED,
        ),
        **dict.fromkeys(
            (
                _T.PROCESSOR,
                _T.MEMORY,
                _T.MODULE_BOARD,
                _T.BOOT_ERROR,
                _T.OS_STOP,
                _T.PLATFORM_ALERT,
            ),
            _DEASSERTED_FAILED,
        ),
        _T.BUTTON: "nn",
        _T.DRIVE_SLOT: "wn",
    },
    0x04: {_T.DRIVE_SLOT: "nc"},
    0x05: {_T.TEMPERATURE: "nc", _T.VOLTAGE: "nc"},
    0x06: {_T.VOLTAGE: "nc"},
    0x07: dict.fromkeys(
        (
            _T.TEMPERATURE,
            _T.VOLTAGE,
            _T.CURRENT,
            _T.FAN,
            _T.POWER_SUPPLY,
            _T.POWER_UNIT,
            _T.MEMORY,
            _T.DRIVE_SLOT,
            _T.SYSTEM_FIRMWARE_PROGRESS,
            _T.SYSTEM_EVENT,
            _T.BUTTON,
            _T.CHASSIS,
            _T.CHIP_SET,
            _T.CABLE,
            _T.BOOT_ERROR,
            _T.SLOT,
            _T.MANAGEMENT_SUBSYSTEM_HEALTH,
        ),
        _TRANSITION_SEVERITY,
    ),
    0x08: dict.fromkeys(
        (
            _T.FAN,
            _T.POWER_UNIT,
            _T.DRIVE_SLOT,
            _T.SYSTEM_FIRMWARE_PROGRESS,
            _T.MODULE_BOARD,
            _T.ENTITY_PRESENCE,
            _T.MANAGEMENT_SUBSYSTEM_HEALTH,
        ),
        _ABSENT_PRESENT,
    ),
    0x0A: {_T.FAN: "nwwwwwcwc"},
    0x0B: dict.fromkeys(
        (_T.FAN, _T.POWER_SUPPLY, _T.POWER_UNIT, _T.COOLING_DEVICE, _T.MEMORY), _REDUNDANCY
    ),
}
"""Severities by event/reading type (table 42-2) and sensor type.

Each string has one letter of `_SEVERITIES` for each state, starting with state 0.
"""

_SENSOR_SPECIFIC: Final[Mapping[int, str]] = {
    _T.PHYSICAL_SECURITY: "ccccccc",
    _T.SECURITY_VIOLATION: "cccccc",
    _T.PROCESSOR: "cccccccnccwcw",
    _T.POWER_SUPPLY: "nccccccw",
    _T.POWER_UNIT: "nnwwcccc",
    _T.MEMORY: "wccccwncnwc",
    _T.DRIVE_SLOT: "nccnnccnc",
    _T.SYSTEM_FIRMWARE_PROGRESS: "ccn",
    _T.EVENT_LOGGING_DISABLED: "ccnccwc",
    _T.SYSTEM_EVENT: "wncnnw",
    _T.CRITICAL_INTERRUPT: "cccwcccwcccw",
    _T.BUTTON: "nnnww",
    _T.CABLE: "nc",
    _T.BOOT_ERROR: "ccccw",
    _T.OS_BOOT: "nnnnnnwnnwc",
    _T.SLOT: "cwnnnnwwwn",
    _T.SYSTEM_ACPI_POWER_STATE: "nnnnnnnnnnnnncn",
    _T.WATCHDOG_2: "wcccnnnnw",
    _T.ENTITY_PRESENCE: "ncc",
    _T.MANAGEMENT_SUBSYSTEM_HEALTH: "cccccc",
    _T.BATTERY: "wcn",
    _T.SESSION_AUDIT: "nnwc",
    _T.VERSION_CHANGE: "wwccccnn",
    _T.FRU_STATE: "ccwwnwwc",
}
"""Severities of sensor-specific states by sensor type (table 42-3), in the same notation."""
