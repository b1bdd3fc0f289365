"""Chapter 28: the chassis commands, which act on the simulated host."""

from __future__ import annotations

from bmcmedic.ipmi.commands.chassis import (
    ChassisCapabilities,
    ChassisControlAction,
    ChassisControlReq,
    GetChassisCapabilitiesReq,
    GetChassisCapabilitiesRsp,
    GetChassisStatusReq,
    GetChassisStatusRsp,
    GetPohCounterReq,
    GetPohCounterRsp,
    GetSystemRestartCauseReq,
    GetSystemRestartCauseRsp,
    LastPowerEvent,
    MiscChassisState,
    PowerRestorePolicy,
    RestartCause,
)
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.handler_call import Call, CommandRefusal
from bmcmedic.sim.host import POWER_CYCLE_OFF_S

SOFT_SHUTDOWN_S = 3.0
"""How long the host's system takes to shut down, in seconds."""
_POH_MINUTES_PER_COUNT = 1
_POH_COUNT_FACTORY = 558_000


def get_chassis_capabilities(
    _bmc: SimBmc, _request: GetChassisCapabilitiesReq, _call: Call
) -> bytes:
    """Get Chassis Capabilities (28.1)."""
    return GetChassisCapabilitiesRsp(ChassisCapabilities.DIAGNOSTIC_INTERRUPT).encode()


def get_chassis_status(bmc: SimBmc, _request: GetChassisStatusReq, _call: Call) -> bytes:
    """Get Chassis Status (28.2)."""
    return GetChassisStatusRsp(
        power_on=bmc.host.power_on,
        restore_policy=PowerRestorePolicy.RESTORES_PRIOR_STATE,
        last_power_event=bmc.last_power_event,
        misc_state=MiscChassisState(0),
    ).encode()


def chassis_control(bmc: SimBmc, request: ChassisControlReq, call: Call) -> bytes:
    """Chassis Control (28.3)."""
    action = request.action
    needs_power = action not in (ChassisControlAction.POWER_DOWN, ChassisControlAction.POWER_UP)
    if needs_power and not bmc.host.power_on:
        raise CommandRefusal(CompletionCode.NOT_SUPPORTED_IN_STATE)
    cause = RestartCause.CHASSIS_CONTROL
    if action is ChassisControlAction.POWER_DOWN:
        bmc.power_off(call.now)
    elif action is ChassisControlAction.SOFT_SHUTDOWN:
        bmc.host.shut_down()
        bmc.power_off(call.now, SOFT_SHUTDOWN_S)
    elif action is ChassisControlAction.DIAGNOSTIC_INTERRUPT:
        bmc.host.interrupt()
    elif action is ChassisControlAction.HARD_RESET:
        bmc.hard_reset(call.now, cause)
    elif action is ChassisControlAction.POWER_CYCLE:
        # Power on is planned first, so that power off knows that it is part of a power cycle.
        bmc.power_on(call.now, cause, POWER_CYCLE_OFF_S)
        bmc.power_off(call.now)
        bmc.last_power_event = LastPowerEvent.ON_BY_COMMAND
    elif not bmc.host.power_on:  # power up
        bmc.power_on(call.now, cause)
        bmc.last_power_event = LastPowerEvent.ON_BY_COMMAND
    return b""


def get_system_restart_cause(bmc: SimBmc, _request: GetSystemRestartCauseReq, call: Call) -> bytes:
    """Get System Restart Cause (28.11)."""
    channel = call.interface if bmc.restart_cause is RestartCause.CHASSIS_CONTROL else 0
    return GetSystemRestartCauseRsp(bmc.restart_cause, channel).encode()


def get_poh_counter(_bmc: SimBmc, _request: GetPohCounterReq, _call: Call) -> bytes:
    """Get POH Counter (28.14)."""
    return GetPohCounterRsp(_POH_MINUTES_PER_COUNT, _POH_COUNT_FACTORY).encode()
