"""The simulated server: what all BMCs of a rack share, and each copies when it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from bmcmedic.ipmi.commands.device import GetDeviceIdRsp
from bmcmedic.ipmi.commands.fru_data import BoardArea, ChassisArea, FruInventory, ProductArea
from bmcmedic.sim import sdr_build as sdr
from bmcmedic.sim.event_log import SENSOR_POWER_UNIT, SENSOR_WATCHDOG, factory_log
from bmcmedic.sim.sdr_build import AnalogSensor, DiscreteSensor, Entity, Sensor

DEVICE_ID = GetDeviceIdRsp(
    device_id=0x20,
    device_revision=1,
    provides_sdrs=True,
    available=True,
    firmware_major=3,
    firmware_minor=0x23,
    ipmi_version=0x02,
    additional_device_support=0x8F,  # chassis, FRU, SEL, SDR repository, sensors
    manufacturer_id=7154,  # the IPMI forum: tools handle no quirks of a vendor then
    product_id=0x0001,
    auxiliary_firmware_revision=bytes((0, 1, 0, 0)),
)

SATELLITE_ADDRESS = 0x2C
IPMB_CHANNEL = 6

_BOARD = Entity(7, 1)
_HOT = {sdr.UNC: 85, sdr.UC: 95, sdr.UNR: 100}
_STILL = {sdr.LNR: 4, sdr.LC: 8, sdr.LNC: 12}


def _around(nominal: int) -> dict[int, int]:
    """Return thresholds 8 and 12 per cent below and above the nominal value."""
    near, far = round(nominal * 0.08), round(nominal * 0.12)
    return {
        sdr.LNC: nominal - near,
        sdr.LC: nominal - far,
        sdr.UNC: nominal + near,
        sdr.UC: nominal + far,
    }


def _voltage(number: int, name: str, m: int, nominal: int, *, needs_power: bool) -> AnalogSensor:
    return AnalogSensor(
        number,
        name,
        sdr.VOLTAGE,
        _BOARD,
        sdr.UNIT_VOLTS,
        nominal,
        _around(nominal),
        m=m,
        r_exponent=-2,
        needs_power=needs_power,
    )


def _temperature(
    number: int, name: str, entity: Entity, nominal: int, *, needs_power: bool = True
) -> AnalogSensor:
    return AnalogSensor(
        number,
        name,
        sdr.TEMPERATURE,
        entity,
        sdr.UNIT_DEGREES_C,
        nominal,
        _HOT,
        needs_power=needs_power,
    )


def _fan(number: int, name: str, instance: int, nominal: int) -> AnalogSensor:
    return AnalogSensor(
        number, name, sdr.FAN, Entity(29, instance), sdr.UNIT_RPM, nominal, _STILL, m=75
    )


SENSORS: tuple[Sensor, ...] = (
    _temperature(0x01, "CPU1 Temp", Entity(3, 1), 47),
    _temperature(0x02, "CPU2 Temp", Entity(3, 2), 45),
    _temperature(0x03, "Inlet Temp", Entity(55, 1), 23, needs_power=False),
    _temperature(0x04, "DIMM Temp", Entity(32, 1), 38),
    _fan(0x11, "FAN1", 1, 76),
    _fan(0x12, "FAN2", 2, 74),
    _fan(0x13, "FAN3", 3, 77),
    _voltage(0x21, "12V", 6, 201, needs_power=True),
    _voltage(0x22, "5VCC", 3, 168, needs_power=True),
    _voltage(0x23, "3.3VCC", 2, 166, needs_power=True),
    _voltage(0x24, "VBAT", 2, 152, needs_power=False),
    AnalogSensor(
        0x31, "PSU Power", sdr.OTHER_UNITS, Entity(10, 1), sdr.UNIT_WATTS, 58, {sdr.UC: 240}, m=4
    ),
    AnalogSensor(
        0x34,
        "PSU Current",
        sdr.CURRENT,
        Entity(10, 1),
        sdr.UNIT_AMPS,
        21,
        {sdr.UC: 60},
        r_exponent=-1,
    ),
    AnalogSensor(
        0x05,
        "CPU1 Margin",
        sdr.TEMPERATURE,
        Entity(3, 1),
        sdr.UNIT_DEGREES_C,
        0xDA,  # -38: degrees below the temperature at which the CPU is throttled
        {sdr.UNC: 0xFB, sdr.UC: 0x00},
        analog_format=sdr.TWOS_COMPLEMENT,
    ),
    AnalogSensor(
        0x14,
        "FAN Duty",
        sdr.FAN,
        Entity(29, 1),
        sdr.UNIT_NONE,
        80,
        {},
        m=5,
        r_exponent=-1,
        percentage=True,
    ),
    DiscreteSensor(0x32, "PS1 Status", sdr.POWER_SUPPLY, Entity(10, 1), 0x01, 0x0F),
    DiscreteSensor(0x33, "PS2 Status", sdr.POWER_SUPPLY, Entity(10, 2), 0x01, 0x0F),
    DiscreteSensor(SENSOR_WATCHDOG, "Watchdog", 0x23, Entity(6, 1), 0x00, 0x010F),
    DiscreteSensor(SENSOR_POWER_UNIT, "Power Unit", 0x09, Entity(7, 1), 0x00, 0x03),
)

SATELLITE_SENSOR = AnalogSensor(
    0xBE, "PCH Temp", sdr.TEMPERATURE, Entity(45, 1), sdr.UNIT_DEGREES_C, 51, _HOT
)
"""The one sensor of the management engine behind the bridge."""


@dataclass(frozen=True, slots=True)
class Lan:
    """The BMC's network interface, as Get LAN Configuration Parameters shows it."""

    address: bytes = bytes(4)
    mask: bytes = bytes((255, 0, 0, 0))
    mac: bytes = bytes.fromhex("020000000001")
    gateway: bytes = bytes(4)


@dataclass(frozen=True, slots=True)
class Profile:
    """The part of a BMC that all BMCs of one kind of server share."""

    device_id: bytes
    sensors: dict[int, Sensor]
    sdrs: tuple[bytes, ...]
    factory_log: tuple[bytes, ...]
    built_at_s: int
    """When the SDR repository and the log were filled, in seconds since 1970."""

    user_names: tuple[bytes, ...] = (b"admin",)
    lan: Lan = field(default_factory=Lan)


@lru_cache(maxsize=4)
def server_profile(built_at_s: int, user_names: tuple[bytes, ...] = (b"admin",)) -> Profile:
    """Return the profile of the standard simulated server."""
    return profile_with(SENSORS, built_at_s, user_names)


def profile_with(
    sensors: Sequence[Sensor], built_at_s: int, user_names: tuple[bytes, ...] = (b"admin",)
) -> Profile:
    """Return the profile of the same server with other sensors."""
    records = [
        sdr.mc_locator(1, "BMC", 0x20, 0, 0x8F, Entity(6, 1)),
        sdr.mc_locator(2, "ME", SATELLITE_ADDRESS, IPMB_CHANNEL, 0x01, Entity(46, 1)),
        sdr.fru_locator(3, "Builtin FRU", _BOARD),
    ]
    records += [
        sensor.record(number) for number, sensor in enumerate(sensors, start=len(records) + 1)
    ]
    return Profile(
        device_id=DEVICE_ID.encode(),
        sensors={sensor.number: sensor for sensor in sensors},
        sdrs=tuple(records),
        factory_log=factory_log(built_at_s),
        built_at_s=built_at_s,
        user_names=user_names,
    )


_MANUFACTURED_MINUTES = 14_500_000
"""Date of manufacture, in minutes since 1996: it is in July 2023."""


@lru_cache(maxsize=64)
def fru_inventory(name: str) -> bytes:
    """Return the FRU inventory of the server whose BMC has that name."""
    return FruInventory(
        chassis=ChassisArea(part_number="SIM-CH-1U", serial_number=f"C-{name}"),
        board=BoardArea(
            manufacturer="bmcmedic",
            product_name="Simulated board",
            serial_number=f"B-{name}",
            part_number="SIM-MB-2",
            manufactured_minutes=_MANUFACTURED_MINUTES,
        ),
        product=ProductArea(
            manufacturer="bmcmedic",
            product_name="Simulated server",
            part_number="SIM-1U",
            version="1.0",
            serial_number=f"S-{name}",
            asset_tag=name,
        ),
    ).encode()
