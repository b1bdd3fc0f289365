"""The table of commands that the simulated BMC knows, each with its handler.

A handler takes the BMC, the decoded request and its circumstances (`Call`), and returns the
response's data. It refuses by raising `CommandRefusal`. A command that is not in `HANDLERS` is
answered with 0xC1 (invalid command).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bmcmedic.ipmi.commands.channel import (
    GetChannelAccessReq,
    GetChannelInfoReq,
    GetUserAccessReq,
    GetUserNameReq,
)
from bmcmedic.ipmi.commands.chassis import (
    ChassisControlReq,
    GetChassisCapabilitiesReq,
    GetChassisStatusReq,
    GetPohCounterReq,
    GetSystemRestartCauseReq,
)
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.dcmi import GetPowerReadingReq
from bmcmedic.ipmi.commands.device import (
    ColdResetReq,
    GetDeviceGuidReq,
    GetDeviceIdReq,
    GetSelfTestResultsReq,
    WarmResetReq,
)
from bmcmedic.ipmi.commands.fru import GetFruInventoryAreaInfoReq, ReadFruDataReq
from bmcmedic.ipmi.commands.lan import GetLanConfigurationParametersReq
from bmcmedic.ipmi.commands.messaging import (
    ClearMessageFlagsReq,
    GetBmcGlobalEnablesReq,
    GetMessageFlagsReq,
    GetMessageReq,
    GetSystemGuidReq,
    SendMessageReq,
    SetBmcGlobalEnablesReq,
)
from bmcmedic.ipmi.commands.sdr import (
    GetSdrRepositoryAllocationInfoReq,
    GetSdrRepositoryInfoReq,
    GetSdrReq,
    ReserveSdrRepositoryReq,
)
from bmcmedic.ipmi.commands.sel import (
    AddSelEntryReq,
    ClearSelReq,
    GetSelAllocationInfoReq,
    GetSelEntryReq,
    GetSelInfoReq,
    GetSelTimeReq,
    ReserveSelReq,
    SetSelTimeReq,
)
from bmcmedic.ipmi.commands.sensor import (
    GetSensorEventEnableReq,
    GetSensorHysteresisReq,
    GetSensorReadingFactorsReq,
    GetSensorReadingReq,
    GetSensorThresholdsReq,
    GetSensorTypeReq,
)
from bmcmedic.ipmi.commands.watchdog import (
    GetWatchdogTimerReq,
    ResetWatchdogTimerReq,
    SetWatchdogTimerReq,
)
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.handler_call import Call
from bmcmedic.sim.handlers import (
    chassis,
    dcmi,
    device,
    lan_parameters,
    messaging,
    sensors,
    storage,
    watchdog,
)

Handler = Callable[[SimBmc, Any, Call], bytes]

_BY_COMMAND: dict[type[Command[Any]], Handler] = {
    GetDeviceIdReq: device.get_device_id,
    ColdResetReq: device.cold_reset,
    WarmResetReq: device.warm_reset,
    GetSelfTestResultsReq: device.get_self_test_results,
    GetDeviceGuidReq: device.get_device_guid,
    ResetWatchdogTimerReq: watchdog.reset_watchdog_timer,
    SetWatchdogTimerReq: watchdog.set_watchdog_timer,
    GetWatchdogTimerReq: watchdog.get_watchdog_timer,
    SetBmcGlobalEnablesReq: messaging.set_bmc_global_enables,
    GetBmcGlobalEnablesReq: messaging.get_bmc_global_enables,
    ClearMessageFlagsReq: messaging.clear_message_flags,
    GetMessageFlagsReq: messaging.get_message_flags,
    GetMessageReq: messaging.get_message,
    SendMessageReq: messaging.send_message,
    GetSystemGuidReq: messaging.get_system_guid,
    GetChannelAccessReq: messaging.get_channel_access,
    GetChannelInfoReq: messaging.get_channel_info,
    GetUserAccessReq: messaging.get_user_access,
    GetUserNameReq: messaging.get_user_name,
    GetChassisCapabilitiesReq: chassis.get_chassis_capabilities,
    GetChassisStatusReq: chassis.get_chassis_status,
    ChassisControlReq: chassis.chassis_control,
    GetSystemRestartCauseReq: chassis.get_system_restart_cause,
    GetPohCounterReq: chassis.get_poh_counter,
    GetPowerReadingReq: dcmi.get_power_reading,
    GetSensorReadingFactorsReq: sensors.get_sensor_reading_factors,
    GetSensorHysteresisReq: sensors.get_sensor_hysteresis,
    GetSensorThresholdsReq: sensors.get_sensor_thresholds,
    GetSensorEventEnableReq: sensors.get_sensor_event_enable,
    GetSensorReadingReq: sensors.get_sensor_reading,
    GetSensorTypeReq: sensors.get_sensor_type,
    GetSelInfoReq: storage.get_sel_info,
    GetSelAllocationInfoReq: storage.get_sel_allocation_info,
    ReserveSelReq: storage.reserve_sel,
    GetSelEntryReq: storage.get_sel_entry,
    AddSelEntryReq: storage.add_sel_entry,
    ClearSelReq: storage.clear_sel,
    GetSelTimeReq: storage.get_sel_time,
    SetSelTimeReq: storage.set_sel_time,
    GetSdrRepositoryInfoReq: storage.get_sdr_repository_info,
    GetSdrRepositoryAllocationInfoReq: storage.get_sdr_repository_allocation_info,
    ReserveSdrRepositoryReq: storage.reserve_sdr_repository,
    GetSdrReq: storage.get_sdr,
    GetFruInventoryAreaInfoReq: storage.get_fru_inventory_area_info,
    ReadFruDataReq: storage.read_fru_data,
    GetLanConfigurationParametersReq: lan_parameters.get_lan_configuration_parameters,
}

HANDLERS: dict[tuple[int, int], tuple[type[Command[Any]], Handler]] = {
    (int(command.netfn), command.command): (command, handler)
    for command, handler in _BY_COMMAND.items()
}
