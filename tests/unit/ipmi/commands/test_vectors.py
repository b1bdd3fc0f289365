"""Frozen bytes from other sources, decoded and encoded here."""

from __future__ import annotations

from typing import Any

import pytest

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
    sel_records,
    sensor,
    session,
    watchdog,
)
from bmcmedic.ipmi.commands import sdr_records as records
from bmcmedic.ipmi.commands.reading_factors import AnalogFormat, ReadingFactors
from bmcmedic.ipmi.constants import PrivilegeLevel
from tests.support.vectors import vector, vector_names

FACTORS = ReadingFactors(
    m=-100,
    b=300,
    r_exponent=-2,
    b_exponent=1,
    tolerance=5,
    accuracy=9 << 6 | 0x2A,
    accuracy_exponent=2,
)
INPUT_FACTORS = ReadingFactors(
    m=-100,
    b=300,
    r_exponent=-2,
    b_exponent=1,
    tolerance=5,
    accuracy=9 << 6 | 0x2A,
    accuracy_exponent=2,
    direction=1,
)
SENSOR = records.SensorDescription(
    sensor_number=0x30,
    sensor_type=1,
    event_type=1,
    entity_id=3,
    entity_instance=0x81,
    owner_id=0x20,
    owner_lun=0x21,
    initialization=0x40,
    capabilities=0x40,
    assertion_mask=0x7A95,
    deassertion_mask=0x7A96,
    reading_mask=0x3F3E,
    units=records.SensorUnits(
        analog_format=AnalogFormat.TWOS_COMPLEMENT,
        base_unit=1,
        modifier_unit=4,
        rate_unit=3,
        modifier_use=1,
        percentage=True,
    ),
)

EXACT: dict[str, Any] = {
    "get_channel_authentication_capabilities_req": session.GetChannelAuthenticationCapabilitiesReq(
        channel=14, privilege_level=PrivilegeLevel.ADMINISTRATOR, extended=True
    ),
    "get_channel_authentication_capabilities_req_of_ipmi_1_5": (
        session.GetChannelAuthenticationCapabilitiesReq(
            channel=14, privilege_level=PrivilegeLevel.ADMINISTRATOR, extended=False
        )
    ),
    "get_channel_authentication_capabilities_rsp": session.GetChannelAuthenticationCapabilitiesRsp(
        channel=1,
        authentication_types=(
            session.AuthenticationTypes.MD5 | session.AuthenticationTypes.STRAIGHT_PASSWORD
        ),
        extended=True,
        k_g_set=True,
        per_message_authentication=False,
        user_level_authentication=True,
        non_null_user_names=True,
        null_user_names=False,
        anonymous_login=False,
        ipmi_2_0=True,
        ipmi_1_5=True,
        oem_id=10876,
        oem_auxiliary=5,
    ),
    "get_channel_authentication_capabilities_rsp_of_ipmi_1_5": (
        session.GetChannelAuthenticationCapabilitiesRsp(
            channel=1,
            authentication_types=(
                session.AuthenticationTypes.NONE
                | session.AuthenticationTypes.MD5
                | session.AuthenticationTypes.STRAIGHT_PASSWORD
            ),
            extended=False,
            null_user_names=True,
            ipmi_2_0=False,
        )
    ),
    "get_channel_cipher_suites_req": session.GetChannelCipherSuitesReq(list_index=1),
    "set_session_privilege_level_req": session.SetSessionPrivilegeLevelReq(
        PrivilegeLevel.ADMINISTRATOR
    ),
    "close_session_req": session.CloseSessionReq(0x0A0B0C0D),
    "set_watchdog_timer_req": watchdog.SetWatchdogTimerReq(
        use=watchdog.TimerUse.SMS_OS,
        action=watchdog.TimeoutAction.POWER_CYCLE,
        initial_countdown_s=120.0,
        pretimeout_interrupt=watchdog.PretimeoutInterrupt.NMI,
        pretimeout_interval_s=30,
        dont_log=True,
        dont_stop=True,
        clear_expiration_flags=watchdog.ExpirationFlags.SMS_OS,
    ),
    "get_watchdog_timer_rsp": watchdog.GetWatchdogTimerRsp(
        running=True,
        use=watchdog.TimerUse.SMS_OS,
        action=watchdog.TimeoutAction.HARD_RESET,
        initial_countdown_s=60.0,
        present_countdown_s=53.7,
        pretimeout_interrupt=watchdog.PretimeoutInterrupt.MESSAGING,
        pretimeout_interval_s=10,
        expiration_flags=watchdog.ExpirationFlags.OS_LOAD,
    ),
    "get_watchdog_timer_rsp_never_set": watchdog.GetWatchdogTimerRsp(
        running=False,
        use=watchdog.TimerUse.UNSPECIFIED,
        action=watchdog.TimeoutAction.NONE,
        initial_countdown_s=0.0,
        present_countdown_s=0.0,
    ),
    "get_chassis_capabilities_rsp": chassis.GetChassisCapabilitiesRsp(
        chassis.ChassisCapabilities.INTRUSION_SENSOR | chassis.ChassisCapabilities.POWER_INTERLOCK,
        fru_address=0x20,
        sdr_address=0x22,
        sel_address=0x24,
        system_management_address=0x26,
        bridge_address=0x28,
    ),
    "get_chassis_status_rsp": chassis.GetChassisStatusRsp(
        power_on=True,
        power_fault=True,
        restore_policy=chassis.PowerRestorePolicy.POWERS_UP,
        last_power_event=chassis.LastPowerEvent.ON_BY_COMMAND,
        misc_state=(
            chassis.MiscChassisState.COOLING_FAULT
            | chassis.MiscChassisState.IDENTIFY_SUPPORTED
            | chassis.MiscChassisState.IDENTIFY_INDEFINITE
        ),
        front_panel_buttons=0x12,
    ),
    "get_chassis_status_rsp_of_3_bytes": chassis.GetChassisStatusRsp(
        power_on=False,
        power_overload=True,
        interlock_active=True,
        power_control_fault=True,
        restore_policy=chassis.PowerRestorePolicy.RESTORES_PRIOR_STATE,
        last_power_event=chassis.LastPowerEvent.AC_FAILED,
        misc_state=chassis.MiscChassisState.DRIVE_FAULT,
    ),
    "chassis_control_req": chassis.ChassisControlReq(chassis.ChassisControlAction.SOFT_SHUTDOWN),
    "get_system_restart_cause_rsp": chassis.GetSystemRestartCauseRsp(
        chassis.RestartCause.WATCHDOG_EXPIRATION, channel=1
    ),
    "get_poh_counter_rsp": chassis.GetPohCounterRsp(minutes_per_count=60, count=0x01020304),
    "set_bmc_global_enables_req": messaging.SetBmcGlobalEnablesReq(
        messaging.BmcGlobalEnables.EVENT_MESSAGE_BUFFER
        | messaging.BmcGlobalEnables.SYSTEM_EVENT_LOGGING
        | messaging.BmcGlobalEnables.OEM_1
    ),
    "clear_message_flags_req": messaging.ClearMessageFlagsReq(
        messaging.MessageFlags.WATCHDOG_PRETIMEOUT
        | messaging.MessageFlags.RECEIVE_MESSAGE_AVAILABLE
    ),
    "get_message_flags_rsp": messaging.GetMessageFlagsRsp(
        messaging.MessageFlags.EVENT_MESSAGE_BUFFER_FULL
        | messaging.MessageFlags.WATCHDOG_PRETIMEOUT
        | messaging.MessageFlags.OEM_2
    ),
    "get_message_rsp": messaging.GetMessageRsp(6, b"\x01\x02\x03", PrivilegeLevel.ADMINISTRATOR),
    "send_message_req": messaging.SendMessageReq(
        channel=6,
        message=b"\x2c\x10\xc4",
        tracking=messaging.MessageTracking.TRACK_REQUEST,
        encrypt=True,
    ),
    "get_channel_access_req": channel.GetChannelAccessReq(
        1, channel.ChannelAccessKind.NON_VOLATILE
    ),
    "get_channel_access_rsp": channel.GetChannelAccessRsp(
        access_mode=channel.AccessMode.ALWAYS_AVAILABLE,
        privilege_limit=PrivilegeLevel.ADMINISTRATOR,
        alerting=False,
        per_message_authentication=True,
        user_level_authentication=False,
    ),
    "get_channel_info_rsp": channel.GetChannelInfoRsp(
        channel=1,
        medium=channel.ChannelMedium.LAN_802_3,
        protocol=channel.ChannelProtocol.IPMB,
        session_support=channel.SessionSupport.MULTI_SESSION,
        active_sessions=3,
        auxiliary=b"\x01\x02",
    ),
    "get_user_access_req": channel.GetUserAccessReq(user_id=2, channel=1),
    "get_user_access_rsp": channel.GetUserAccessRsp(
        users_max=16,
        users_enabled=3,
        users_fixed_name=1,
        privilege_limit=PrivilegeLevel.ADMINISTRATOR,
        enable_status=channel.UserEnableStatus.ENABLED,
        ipmi_messaging=True,
        callback_only=True,
    ),
    "get_user_name_rsp": channel.GetUserNameRsp(b"admin"),
    "get_sel_info_rsp": sel.GetSelInfoRsp(
        entries=300,
        free_bytes=12000,
        last_addition=0x655C0001,
        last_erase=0x655B0002,
        operations=(
            sel.SelOperations.RESERVE | sel.SelOperations.DELETE | sel.SelOperations.OVERFLOW
        ),
    ),
    "get_sel_info_rsp_empty_log": sel.GetSelInfoRsp(
        entries=0,
        free_bytes=0,
        last_addition=0,
        last_erase=0,
    ),
    "get_sel_allocation_info_rsp": sel.GetSelAllocationInfoRsp(512, 16, 500, 499, 1),
    "get_sel_entry_req": sel.GetSelEntryReq(record_id=0x0102, reservation_id=0x1234, offset=3),
    "clear_sel_req": sel.ClearSelReq(0x1234),
    "clear_sel_rsp": sel.ClearSelRsp(sel.SelErasure.COMPLETED),
    "get_sdr_repository_info_rsp": sdr.GetSdrRepositoryInfoRsp(
        record_count=25,
        free_bytes=0xFFFF,
        last_addition=0x655C0001,
        last_erase=0x655B0002,
        operations=sdr.SdrOperations.RESERVE | sdr.SdrOperations.MODAL_UPDATE,
    ),
    "get_sdr_repository_allocation_info_rsp": sdr.GetSdrRepositoryAllocationInfoRsp(
        64, 64, 5, 4, 2
    ),
    "get_sdr_req": sdr.GetSdrReq(record_id=0x0102, reservation_id=0x1234, offset=5, byte_count=16),
    "get_fru_inventory_area_info_rsp": fru.GetFruInventoryAreaInfoRsp(0x0800, by_words=True),
    "read_fru_data_req": fru.ReadFruDataReq(offset=0x0110, count=16, fru_device_id=2),
    "get_sensor_reading_factors_rsp": sensor.GetSensorReadingFactorsRsp(0x40, FACTORS),
    "get_sensor_hysteresis_req": sensor.GetSensorHysteresisReq(0x30),
    "get_sensor_thresholds_rsp": sensor.GetSensorThresholdsRsp(
        sensor.Thresholds.LOWER_CRITICAL | sensor.Thresholds.UPPER_NON_RECOVERABLE,
        lower_non_critical=1,
        lower_critical=2,
        lower_non_recoverable=3,
        upper_non_critical=4,
        upper_critical=5,
        upper_non_recoverable=6,
    ),
    "get_sensor_event_enable_rsp": sensor.GetSensorEventEnableRsp(
        events_enabled=True, scanning_enabled=True, masks=b"\x80\x0a\x95\x7a"
    ),
    "get_sensor_reading_rsp": sensor.GetSensorReadingRsp(
        0x2B, events_enabled=False, states=b"\xd8"
    ),
    "get_sensor_reading_rsp_discrete": sensor.GetSensorReadingRsp(
        0, available=False, states=b"\x82\x82"
    ),
    "get_sensor_type_rsp": sensor.GetSensorTypeRsp(1, 1),
    "get_power_reading_req": dcmi.GetPowerReadingReq(),
    "get_lan_configuration_parameters_req": lan.GetLanConfigurationParametersReq(
        lan.LanParameter.IP_ADDRESS, channel=1, set_selector=1, block_selector=2
    ),
    "get_device_id_rsp": device.GetDeviceIdRsp(
        device_id=0x20,
        device_revision=1,
        provides_sdrs=True,
        available=False,
        firmware_major=3,
        firmware_minor=0x23,
        ipmi_version=0x02,
        additional_device_support=0x85,
        manufacturer_id=10876,
        product_id=0x0A1B,
        auxiliary_firmware_revision=b"\x01\x02\x03\x04",
    ),
    "get_device_id_rsp_of_ipmi_sim": device.GetDeviceIdRsp(
        device_id=0,
        device_revision=3,
        provides_sdrs=False,
        available=True,
        firmware_major=9,
        firmware_minor=0x08,
        ipmi_version=0x02,
        additional_device_support=0x9F,
        manufacturer_id=0x1291,
        product_id=0x0F02,
        auxiliary_firmware_revision=bytes(4),
    ),
    "get_self_test_results_rsp": device.GetSelfTestResultsRsp(
        device.SelfTestResult.CORRUPTED, device.SelfTestFailures(0x41)
    ),
    "full_sensor_record": records.FullSensorRecord(
        record_id=0x0102,
        sensor=SENSOR,
        id_string="CPU Temp",
        factors=INPUT_FACTORS,
        linearization=7,
        characteristics=records.AnalogCharacteristics.NORMAL_MAXIMUM,
        nominal_reading=11,
        normal_maximum=12,
        normal_minimum=13,
        sensor_maximum=14,
        sensor_minimum=15,
        upper_non_recoverable=21,
        upper_critical=22,
        upper_non_critical=23,
        lower_non_recoverable=24,
        lower_critical=25,
        lower_non_critical=26,
        positive_hysteresis=7,
        negative_hysteresis=8,
        oem=9,
    ),
    "compact_sensor_record": records.CompactSensorRecord(
        record_id=0x0102,
        sensor=SENSOR,
        id_string="PSU stat",
        sharing=0x8593,
        positive_hysteresis=7,
        negative_hysteresis=8,
        oem=9,
    ),
    "fru_device_locator_record": records.FruDeviceLocatorRecord(
        record_id=0x0203,
        id_string="Main",
        fru_device_id=2,
        access_address=0x20,
        logical=True,
        access_lun=2,
        private_bus_id=5,
        channel=6,
        device_type=0x10,
        device_type_modifier=2,
        entity_id=7,
        entity_instance=1,
        oem=3,
    ),
    "mc_device_locator_record": records.McDeviceLocatorRecord(
        record_id=0x0204,
        id_string="ME",
        slave_address=0x2C,
        channel=6,
        power_state_notification=0x20,
        capabilities=0x09,
        entity_id=6,
        entity_instance=2,
        oem=4,
    ),
    "system_event_record": sel_records.SystemEventRecord(
        record_id=0x0102,
        timestamp=0x655C0001,
        generator_id=0x0120,
        sensor_type=0x23,
        sensor_number=0x81,
        event_type=0x6F,
        event_data=b"\xc1\x14\xff",
        deassertion=True,
    ),
    "oem_timestamped_record": sel_records.OemTimestampedRecord(
        record_id=0x0103,
        record_type=0xC0,
        timestamp=0x655C0001,
        manufacturer_id=10876,
        oem_data=b"\x01\x02\x03\x04\x05\x06",
    ),
}

ELSEWHERE = {"cipher_suite_records_3_and_17", "cipher_suite_record_of_a_vendor"}
"""Vectors that other tests use."""


def test_every_vector_is_used() -> None:
    assert vector_names("commands") == set(EXACT) | ELSEWHERE


@pytest.mark.parametrize("name", EXACT)
def test_the_frozen_bytes_decode_to_their_documented_values(name: str) -> None:
    expected = EXACT[name]
    assert type(expected).decode(vector("commands", name)) == expected


@pytest.mark.parametrize("name", EXACT)
def test_the_values_encode_to_the_frozen_bytes(name: str) -> None:
    assert EXACT[name].encode() == vector("commands", name)
