"""Chassis commands (chapter 28). The program only reads; only a person switches a host's power."""

from __future__ import annotations

from dataclasses import dataclass
from enum import KEEP, IntEnum, IntFlag

from bmcmedic.ipmi.commands.command import (
    PADDING_BYTES_MAX,
    Command,
    EmptyRsp,
    check_length,
    read_enum,
)
from bmcmedic.ipmi.constants import BMC_SLAVE_ADDRESS, NetFn, PrivilegeLevel


class ChassisCapabilities(IntFlag, boundary=KEEP):
    """The capabilities of the chassis device (28.1, byte 2)."""

    INTRUSION_SENSOR = 0x01
    FRONT_PANEL_LOCKOUT = 0x02
    DIAGNOSTIC_INTERRUPT = 0x04
    POWER_INTERLOCK = 0x08


@dataclass(frozen=True, slots=True)
class GetChassisCapabilitiesRsp:
    """The capabilities of the chassis, and the addresses of its controllers.

    Spec: 28.1. Shape: 5 or 6 bytes; without the sixth the bridge is at 0x20.
    """

    capabilities: ChassisCapabilities
    fru_address: int = BMC_SLAVE_ADDRESS
    sdr_address: int = BMC_SLAVE_ADDRESS
    sel_address: int = BMC_SLAVE_ADDRESS
    system_management_address: int = BMC_SLAVE_ADDRESS
    bridge_address: int = BMC_SLAVE_ADDRESS

    def encode(self) -> bytes:
        return bytes(
            (
                self.capabilities,
                self.fru_address,
                self.sdr_address,
                self.sel_address,
                self.system_management_address,
                self.bridge_address,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> GetChassisCapabilitiesRsp:
        check_length(data, 5, 6 + PADDING_BYTES_MAX, section="28.1")
        bridge = data[5] if len(data) > 5 else BMC_SLAVE_ADDRESS
        return cls(ChassisCapabilities(data[0]), data[1], data[2], data[3], data[4], bridge)


@dataclass(frozen=True, slots=True)
class GetChassisCapabilitiesReq(Command[GetChassisCapabilitiesRsp]):
    """Get Chassis Capabilities (28.1)."""

    section = "28.1"
    netfn = NetFn.CHASSIS
    command = 0x00
    response = GetChassisCapabilitiesRsp


class PowerRestorePolicy(IntEnum):
    """What the host does when AC comes back (28.2, byte 2 bits 6:5)."""

    STAYS_OFF = 0
    RESTORES_PRIOR_STATE = 1
    POWERS_UP = 2
    UNKNOWN = 3


class LastPowerEvent(IntFlag, boundary=KEEP):
    """Why the power last changed (28.2, byte 3)."""

    AC_FAILED = 0x01
    OVERLOAD = 0x02
    INTERLOCK = 0x04
    POWER_FAULT = 0x08
    ON_BY_COMMAND = 0x10


class MiscChassisState(IntFlag, boundary=KEEP):
    """Other chassis states (28.2, byte 4); bits 5:4 are the state of Chassis Identify."""

    INTRUSION = 0x01
    FRONT_PANEL_LOCKOUT = 0x02
    DRIVE_FAULT = 0x04
    COOLING_FAULT = 0x08
    IDENTIFY_TEMPORARY = 0x10
    IDENTIFY_INDEFINITE = 0x20
    IDENTIFY_SUPPORTED = 0x40


_RESTORE_POLICIES = tuple(PowerRestorePolicy)
_NO_EVENT = LastPowerEvent(0)
_NO_STATE = MiscChassisState(0)


@dataclass(frozen=True, slots=True)
class GetChassisStatusRsp:
    """The power state of the host, and why the power last changed.

    Spec: 28.2. Shape: 3 bytes, and optionally a byte for the front panel buttons: bits 7:4 say
    which buttons can be disabled, bits 3:0 which are.
    Field: most BMCs send 3 bytes, some Supermicro and Dell 4.
    """

    power_on: bool
    power_overload: bool = False
    interlock_active: bool = False
    power_fault: bool = False
    power_control_fault: bool = False
    restore_policy: PowerRestorePolicy = PowerRestorePolicy.UNKNOWN
    last_power_event: LastPowerEvent = _NO_EVENT
    misc_state: MiscChassisState = _NO_STATE
    front_panel_buttons: int | None = None

    def encode(self) -> bytes:
        power = (
            self.restore_policy << 5
            | self.power_control_fault << 4
            | self.power_fault << 3
            | self.interlock_active << 2
            | self.power_overload << 1
            | self.power_on
        )
        data = bytes((power, self.last_power_event, self.misc_state))
        if self.front_panel_buttons is None:
            return data
        return data + bytes((self.front_panel_buttons,))

    @staticmethod
    def decode_power_on(data: bytes) -> bool:
        """Decode only the power bit, which is all that a sweep over thousands of hosts needs.

        Raises: RemoteProtocolError for a wrong length.
        """
        check_length(data, 3, 4 + PADDING_BYTES_MAX, section="28.2")
        return bool(data[0] & 0x01)

    @classmethod
    def decode(cls, data: bytes) -> GetChassisStatusRsp:
        power_on = cls.decode_power_on(data)
        power = data[0]
        return cls(
            power_on=power_on,
            power_overload=bool(power & 0x02),
            interlock_active=bool(power & 0x04),
            power_fault=bool(power & 0x08),
            power_control_fault=bool(power & 0x10),
            restore_policy=_RESTORE_POLICIES[power >> 5 & 0x03],
            # Most often no flag is set, and building flags costs most of the time in a sweep.
            last_power_event=LastPowerEvent(data[1]) if data[1] else _NO_EVENT,
            misc_state=MiscChassisState(data[2]) if data[2] else _NO_STATE,
            front_panel_buttons=data[3] if len(data) > 3 else None,
        )


@dataclass(frozen=True, slots=True)
class GetChassisStatusReq(Command[GetChassisStatusRsp]):
    """Get Chassis Status (28.2), which ipmitool's `chassis power status` sends."""

    section = "28.2"
    netfn = NetFn.CHASSIS
    command = 0x01
    response = GetChassisStatusRsp


class ChassisControlAction(IntEnum):
    """What Chassis Control does to the host (28.3)."""

    POWER_DOWN = 0
    POWER_UP = 1
    POWER_CYCLE = 2
    HARD_RESET = 3
    DIAGNOSTIC_INTERRUPT = 4
    SOFT_SHUTDOWN = 5


@dataclass(frozen=True, slots=True)
class ChassisControlReq(Command[EmptyRsp]):
    """Chassis Control (28.3). Shape: the action, 1 byte.

    It is here for the simulator; the program never sends it by itself.
    """

    action: ChassisControlAction

    section = "28.3"
    netfn = NetFn.CHASSIS
    command = 0x02
    response = EmptyRsp
    privilege = PrivilegeLevel.OPERATOR
    idempotent = False

    def encode(self) -> bytes:
        return bytes((self.action,))

    @classmethod
    def decode(cls, data: bytes) -> ChassisControlReq:
        check_length(data, 1, section=cls.section)
        return cls(read_enum(ChassisControlAction, data[0] & 0x0F, section=cls.section, raw=data))


class RestartCause(IntEnum):
    """Why the host last restarted (28.11)."""

    UNKNOWN = 0x0
    CHASSIS_CONTROL = 0x1
    RESET_BUTTON = 0x2
    POWER_BUTTON = 0x3
    WATCHDOG_EXPIRATION = 0x4
    OEM = 0x5
    POWER_POLICY_ALWAYS_ON = 0x6
    POWER_POLICY_PRIOR_STATE = 0x7
    PEF_RESET = 0x8
    PEF_POWER_CYCLE = 0x9
    SOFT_RESET = 0xA
    REAL_TIME_CLOCK = 0xB
    RESERVED_C = 0xC
    RESERVED_D = 0xD
    RESERVED_E = 0xE
    RESERVED_F = 0xF


@dataclass(frozen=True, slots=True)
class GetSystemRestartCauseRsp:
    """Why the host last restarted, and over which channel. Spec: 28.11. Shape: cause, channel."""

    cause: RestartCause
    channel: int = 0

    def encode(self) -> bytes:
        return bytes((self.cause, self.channel))

    @classmethod
    def decode(cls, data: bytes) -> GetSystemRestartCauseRsp:
        check_length(data, 2, 2 + PADDING_BYTES_MAX, section="28.11")
        return cls(RestartCause(data[0] & 0x0F), data[1])


@dataclass(frozen=True, slots=True)
class GetSystemRestartCauseReq(Command[GetSystemRestartCauseRsp]):
    """Get System Restart Cause (28.11)."""

    section = "28.11"
    netfn = NetFn.CHASSIS
    command = 0x07
    response = GetSystemRestartCauseRsp


@dataclass(frozen=True, slots=True)
class GetPohCounterRsp:
    """The power-on hours counter.

    Spec: 28.14. Shape: minutes per count (1 byte), then the count (4 bytes, LSB first).
    """

    minutes_per_count: int
    count: int

    def encode(self) -> bytes:
        return bytes((self.minutes_per_count,)) + self.count.to_bytes(4, "little")

    @classmethod
    def decode(cls, data: bytes) -> GetPohCounterRsp:
        check_length(data, 5, 5 + PADDING_BYTES_MAX, section="28.14")
        return cls(data[0], int.from_bytes(data[1:5], "little"))


@dataclass(frozen=True, slots=True)
class GetPohCounterReq(Command[GetPohCounterRsp]):
    """Get POH Counter (28.14)."""

    section = "28.14"
    netfn = NetFn.CHASSIS
    command = 0x0F
    response = GetPohCounterRsp
