"""Numbers of sensor types and units by name (tables 42-3 and 43-15).

Records keep the bare numbers, because vendors use more numbers than these.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

THRESHOLD_EVENT_TYPE = 0x01
"""Event/reading type of a threshold-based sensor (table 42-1)."""

SENSOR_SPECIFIC_EVENT_TYPE = 0x6F
"""Event/reading type of a sensor with sensor-specific states (table 42-1)."""


class SensorType(IntEnum):
    """What a sensor measures or reports (table 42-3)."""

    TEMPERATURE = 0x01
    VOLTAGE = 0x02
    CURRENT = 0x03
    FAN = 0x04
    PHYSICAL_SECURITY = 0x05
    SECURITY_VIOLATION = 0x06
    PROCESSOR = 0x07
    POWER_SUPPLY = 0x08
    POWER_UNIT = 0x09
    COOLING_DEVICE = 0x0A
    OTHER_UNITS = 0x0B
    MEMORY = 0x0C
    DRIVE_SLOT = 0x0D
    POST_MEMORY_RESIZE = 0x0E
    SYSTEM_FIRMWARE_PROGRESS = 0x0F
    EVENT_LOGGING_DISABLED = 0x10
    WATCHDOG_1 = 0x11
    SYSTEM_EVENT = 0x12
    CRITICAL_INTERRUPT = 0x13
    BUTTON = 0x14
    MODULE_BOARD = 0x15
    MICROCONTROLLER = 0x16
    ADD_IN_CARD = 0x17
    CHASSIS = 0x18
    CHIP_SET = 0x19
    OTHER_FRU = 0x1A
    CABLE = 0x1B
    TERMINATOR = 0x1C
    SYSTEM_BOOT = 0x1D
    BOOT_ERROR = 0x1E
    OS_BOOT = 0x1F
    OS_STOP = 0x20
    SLOT = 0x21
    SYSTEM_ACPI_POWER_STATE = 0x22
    WATCHDOG_2 = 0x23
    PLATFORM_ALERT = 0x24
    ENTITY_PRESENCE = 0x25
    MONITOR_ASIC = 0x26
    LAN = 0x27
    MANAGEMENT_SUBSYSTEM_HEALTH = 0x28
    BATTERY = 0x29
    SESSION_AUDIT = 0x2A
    VERSION_CHANGE = 0x2B
    FRU_STATE = 0x2C


_UNRECOGNIZED: Final = "Unrecognized"
_OEM: Final = "OEM Reserved"
_OEM_TYPES: Final = range(0xC0, 0x100)
_TYPE_NAMES: Final = (
    _UNRECOGNIZED,
    "Temperature",
    "Voltage",
    "Current",
    "Fan",
    "Physical Security",
    "Platform Security Violation Attempt",
    "Processor",
    "Power Supply",
    "Power Unit",
    "Cooling Device",
    "Other Units Based Sensor",
    "Memory",
    "Drive Slot",
    "POST Memory Resize",
    "System Firmware Progress",
    "Event Logging Disabled",
    "Watchdog 1",
    "System Event",
    "Critical Interrupt",
    "Button/Switch",
    "Module/Board",
    "Microcontroller/Coprocessor",
    "Add In Card",
    "Chassis",
    "Chip Set",
    "Other Fru",
    "Cable/Interconnect",
    "Terminator",
    "System Boot Initiated",
    "Boot Error",
    "OS Boot",
    "OS Critical Stop",
    "Slot/Connector",
    "System ACPI Power State",
    "Watchdog 2",
    "Platform Alert",
    "Entity Presence",
    "Monitor ASIC/IC",
    "LAN",
    "Management Subsystem Health",
    "Battery",
    "Session Audit",
    "Version Change",
    "FRU State",
)
"""The names by number, as ipmi-sensors prints them."""


def sensor_type_name(sensor_type: int) -> str:
    """Return the name that FreeIPMI and ipmi_exporter use for a sensor type."""
    if sensor_type in _OEM_TYPES:
        return _OEM
    return _TYPE_NAMES[sensor_type] if sensor_type < len(_TYPE_NAMES) else _UNRECOGNIZED


class UnitType(IntEnum):
    """The unit of a reading (table 43-15)."""

    UNSPECIFIED = 0
    DEGREES_CELSIUS = 1
    DEGREES_FAHRENHEIT = 2
    KELVIN = 3
    VOLTS = 4
    AMPS = 5
    WATTS = 6
    JOULES = 7
    RPM = 18
    HERTZ = 19
