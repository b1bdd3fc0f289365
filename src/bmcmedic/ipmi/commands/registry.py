"""All commands by their numbers, for the side that executes them.

This module is not imported by the package itself, so that a program which sends a few commands does
not load every chapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from bmcmedic.ipmi.commands import (
    channel,
    chassis,
    dcmi,
    device,
    fru,
    lan,
    messaging,
    sdr,
    sel,
    sensor,
    session,
    watchdog,
)
from bmcmedic.ipmi.commands.command import Command

_ALL: tuple[type[Command[Any]], ...] = (
    chassis.ChassisControlReq,
    chassis.GetChassisCapabilitiesReq,
    chassis.GetChassisStatusReq,
    chassis.GetPohCounterReq,
    chassis.GetSystemRestartCauseReq,
    channel.GetChannelAccessReq,
    channel.GetChannelInfoReq,
    channel.GetUserAccessReq,
    channel.GetUserNameReq,
    dcmi.GetPowerReadingReq,
    device.ColdResetReq,
    device.GetDeviceGuidReq,
    device.GetDeviceIdReq,
    device.GetSelfTestResultsReq,
    device.WarmResetReq,
    fru.GetFruInventoryAreaInfoReq,
    fru.ReadFruDataReq,
    lan.GetLanConfigurationParametersReq,
    messaging.ClearMessageFlagsReq,
    messaging.GetBmcGlobalEnablesReq,
    messaging.GetMessageFlagsReq,
    messaging.GetMessageReq,
    messaging.GetSystemGuidReq,
    messaging.SendMessageReq,
    messaging.SetBmcGlobalEnablesReq,
    sdr.GetSdrRepositoryAllocationInfoReq,
    sdr.GetSdrRepositoryInfoReq,
    sdr.GetSdrReq,
    sdr.ReserveSdrRepositoryReq,
    sel.AddSelEntryReq,
    sel.ClearSelReq,
    sel.GetSelAllocationInfoReq,
    sel.GetSelEntryReq,
    sel.GetSelInfoReq,
    sel.GetSelTimeReq,
    sel.ReserveSelReq,
    sel.SetSelTimeReq,
    sensor.GetSensorEventEnableReq,
    sensor.GetSensorHysteresisReq,
    sensor.GetSensorReadingFactorsReq,
    sensor.GetSensorReadingReq,
    sensor.GetSensorThresholdsReq,
    sensor.GetSensorTypeReq,
    session.CloseSessionReq,
    session.GetChannelAuthenticationCapabilitiesReq,
    session.GetChannelCipherSuitesReq,
    session.GetSessionInfoReq,
    session.SetSessionPrivilegeLevelReq,
    watchdog.GetWatchdogTimerReq,
    watchdog.ResetWatchdogTimerReq,
    watchdog.SetWatchdogTimerReq,
)

COMMANDS: Mapping[tuple[int, int], type[Command[Any]]] = MappingProxyType(
    {(int(command.netfn), command.command): command for command in _ALL}
)
"""Every command by the network function of its request and its command number."""
