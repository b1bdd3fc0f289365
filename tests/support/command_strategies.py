"""A hypothesis strategy for every request, response and record of `bmcmedic.ipmi.commands`."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from bmcmedic.errors import LocalProtocolError
from bmcmedic.ipmi.commands import (
    channel,
    chassis,
    command,
    dcmi,
    device,
    fru,
    fru_data,
    lan,
    messaging,
    reading_factors,
    sdr,
    sdr_records,
    sel,
    sel_records,
    sensor,
    session,
    watchdog,
)
from bmcmedic.ipmi.constants import PrivilegeLevel

U2, U3, U4, U5, U6, U7, U8, U10, U15, U16, U24, U32 = (
    st.integers(0, (1 << bits) - 1) for bits in (2, 3, 4, 5, 6, 7, 8, 10, 15, 16, 24, 32)
)
BOOL = st.booleans()
LEVEL = st.sampled_from(PrivilegeLevel)
EMPTY = st.builds(command.EmptyRsp)


def octets(minimum: int, maximum: int | None = None) -> SearchStrategy[bytes]:
    return st.binary(min_size=minimum, max_size=minimum if maximum is None else maximum)


def flags(kind: type, mask: int = 0xFF) -> SearchStrategy[Any]:
    return st.integers(0, 0xFF).map(lambda value: kind(value & mask))


def tenths() -> SearchStrategy[float]:
    return U16.map(lambda ticks: ticks / 10)


def texts(characters_max: int) -> SearchStrategy[str]:
    latin = st.characters(max_codepoint=0xFF)
    return st.text(latin, max_size=characters_max).map(lambda text: text.rstrip(" \0"))


def record(kind: type, /, **fields: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Build instances with every field given, so that a forgotten field fails at once."""
    missing = {field.name for field in dataclasses.fields(kind)} - set(fields)
    assert not missing, f"{kind.__name__} has no strategy for {missing}"
    return st.builds(kind, **fields)


def _only_valid(kind: type, /, **fields: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Build instances, without the combinations that the class rejects."""

    def build(values: dict[str, Any]) -> Any:  # noqa: ANN401 - of the kind that is given
        try:
            return kind(**values)
        except LocalProtocolError:
            return None

    return st.fixed_dictionaries(fields).map(build).filter(lambda value: value is not None)


ALLOCATION = {
    "units": U16,
    "unit_bytes": U16,
    "free_units": U16,
    "largest_free_units": U16,
    "record_units_max": U8,
}
READ_RECORD = {"record_id": U16, "reservation_id": U16, "offset": U8, "byte_count": U8}
TIMER = {
    "action": st.sampled_from(watchdog.TimeoutAction),
    "initial_countdown_s": tenths(),
    "pretimeout_interrupt": st.sampled_from(watchdog.PretimeoutInterrupt),
    "pretimeout_interval_s": st.one_of(st.just(0), U8),
    "dont_log": BOOL,
}
SENSOR = {"sensor_number": U8}

REQUESTS: dict[type, SearchStrategy[Any]] = {
    channel.GetChannelAccessReq: record(
        channel.GetChannelAccessReq, channel=U4, kind=st.sampled_from(channel.ChannelAccessKind)
    ),
    channel.GetChannelInfoReq: record(channel.GetChannelInfoReq, channel=U4),
    channel.GetUserAccessReq: record(channel.GetUserAccessReq, user_id=U6, channel=U4),
    channel.GetUserNameReq: record(channel.GetUserNameReq, user_id=U6),
    chassis.ChassisControlReq: record(
        chassis.ChassisControlReq, action=st.sampled_from(chassis.ChassisControlAction)
    ),
    chassis.GetChassisCapabilitiesReq: record(chassis.GetChassisCapabilitiesReq),
    chassis.GetChassisStatusReq: record(chassis.GetChassisStatusReq),
    chassis.GetPohCounterReq: record(chassis.GetPohCounterReq),
    chassis.GetSystemRestartCauseReq: record(chassis.GetSystemRestartCauseReq),
    device.ColdResetReq: record(device.ColdResetReq),
    device.GetDeviceGuidReq: record(device.GetDeviceGuidReq),
    device.GetDeviceIdReq: record(device.GetDeviceIdReq),
    device.GetSelfTestResultsReq: record(device.GetSelfTestResultsReq),
    device.WarmResetReq: record(device.WarmResetReq),
    fru.GetFruInventoryAreaInfoReq: record(fru.GetFruInventoryAreaInfoReq, fru_device_id=U8),
    fru.ReadFruDataReq: record(fru.ReadFruDataReq, offset=U16, count=U8, fru_device_id=U8),
    lan.GetLanConfigurationParametersReq: record(
        lan.GetLanConfigurationParametersReq,
        parameter=U8,
        channel=U4,
        set_selector=U8,
        block_selector=U8,
        revision_only=BOOL,
    ),
    messaging.ClearMessageFlagsReq: record(
        messaging.ClearMessageFlagsReq, flags=flags(messaging.MessageFlags)
    ),
    messaging.GetBmcGlobalEnablesReq: record(messaging.GetBmcGlobalEnablesReq),
    messaging.GetMessageFlagsReq: record(messaging.GetMessageFlagsReq),
    messaging.GetMessageReq: record(messaging.GetMessageReq),
    messaging.GetSystemGuidReq: record(messaging.GetSystemGuidReq),
    messaging.SendMessageReq: record(
        messaging.SendMessageReq,
        channel=U4,
        message=octets(0, 255),
        tracking=st.sampled_from(messaging.MessageTracking),
        authenticate=BOOL,
        encrypt=BOOL,
    ),
    messaging.SetBmcGlobalEnablesReq: record(
        messaging.SetBmcGlobalEnablesReq, enables=flags(messaging.BmcGlobalEnables)
    ),
    dcmi.GetPowerReadingReq: record(dcmi.GetPowerReadingReq, mode=U8),
    sdr.GetSdrRepositoryAllocationInfoReq: record(sdr.GetSdrRepositoryAllocationInfoReq),
    sdr.GetSdrRepositoryInfoReq: record(sdr.GetSdrRepositoryInfoReq),
    sdr.GetSdrReq: record(sdr.GetSdrReq, **READ_RECORD),
    sdr.ReserveSdrRepositoryReq: record(sdr.ReserveSdrRepositoryReq),
    sel.AddSelEntryReq: record(sel.AddSelEntryReq, record_data=octets(16)),
    sel.ClearSelReq: record(
        sel.ClearSelReq, reservation_id=U16, action=st.sampled_from(sel.ClearSelAction)
    ),
    sel.GetSelAllocationInfoReq: record(sel.GetSelAllocationInfoReq),
    sel.GetSelEntryReq: record(sel.GetSelEntryReq, **READ_RECORD),
    sel.GetSelInfoReq: record(sel.GetSelInfoReq),
    sel.GetSelTimeReq: record(sel.GetSelTimeReq),
    sel.ReserveSelReq: record(sel.ReserveSelReq),
    sel.SetSelTimeReq: record(sel.SetSelTimeReq, time=U32),
    sensor.GetSensorEventEnableReq: record(sensor.GetSensorEventEnableReq, **SENSOR),
    sensor.GetSensorHysteresisReq: record(sensor.GetSensorHysteresisReq, **SENSOR),
    sensor.GetSensorReadingFactorsReq: record(
        sensor.GetSensorReadingFactorsReq, sensor_number=U8, raw_reading=U8
    ),
    sensor.GetSensorReadingReq: record(sensor.GetSensorReadingReq, **SENSOR),
    sensor.GetSensorThresholdsReq: record(sensor.GetSensorThresholdsReq, **SENSOR),
    sensor.GetSensorTypeReq: record(sensor.GetSensorTypeReq, **SENSOR),
    session.CloseSessionReq: st.one_of(
        record(session.CloseSessionReq, session_id=U32, session_handle=st.none()),
        record(session.CloseSessionReq, session_id=st.just(0), session_handle=U8),
    ),
    session.GetChannelAuthenticationCapabilitiesReq: record(
        session.GetChannelAuthenticationCapabilitiesReq,
        channel=U4,
        privilege_level=LEVEL,
        extended=BOOL,
    ),
    session.GetChannelCipherSuitesReq: record(
        session.GetChannelCipherSuitesReq,
        list_index=U6,
        channel=U4,
        payload_type=U6,
        by_cipher_suite=BOOL,
    ),
    session.GetSessionInfoReq: st.one_of(
        st.builds(session.GetSessionInfoReq, st.integers(0, 0xFD)),
        st.builds(session.GetSessionInfoReq, st.just(0xFE), session_handle=U8),
        st.builds(session.GetSessionInfoReq, st.just(0xFF), session_id=U32),
    ),
    session.SetSessionPrivilegeLevelReq: record(
        session.SetSessionPrivilegeLevelReq, privilege_level=LEVEL
    ),
    watchdog.GetWatchdogTimerReq: record(watchdog.GetWatchdogTimerReq),
    watchdog.ResetWatchdogTimerReq: record(watchdog.ResetWatchdogTimerReq),
    watchdog.SetWatchdogTimerReq: _only_valid(
        watchdog.SetWatchdogTimerReq,
        use=st.sampled_from(watchdog.TimerUse),
        dont_stop=BOOL,
        clear_expiration_flags=flags(watchdog.ExpirationFlags),
        **TIMER,
    ),
}

RESPONSES: dict[type, SearchStrategy[Any]] = {
    command.EmptyRsp: EMPTY,
    channel.GetChannelAccessRsp: record(
        channel.GetChannelAccessRsp,
        access_mode=st.sampled_from(channel.AccessMode),
        privilege_limit=LEVEL,
        alerting=BOOL,
        per_message_authentication=BOOL,
        user_level_authentication=BOOL,
    ),
    channel.GetChannelInfoRsp: record(
        channel.GetChannelInfoRsp,
        channel=U4,
        medium=U7,
        protocol=U5,
        session_support=st.sampled_from(channel.SessionSupport),
        active_sessions=U6,
        vendor_id=U24,
        auxiliary=octets(2),
    ),
    channel.GetUserAccessRsp: record(
        channel.GetUserAccessRsp,
        users_max=U6,
        users_enabled=U6,
        users_fixed_name=U6,
        privilege_limit=st.none() | LEVEL,
        enable_status=st.sampled_from(channel.UserEnableStatus),
        ipmi_messaging=BOOL,
        link_authentication=BOOL,
        callback_only=BOOL,
    ),
    channel.GetUserNameRsp: record(
        channel.GetUserNameRsp, name=octets(0, 16).map(lambda name: name.replace(b"\0", b"x"))
    ),
    chassis.GetChassisCapabilitiesRsp: record(
        chassis.GetChassisCapabilitiesRsp,
        capabilities=flags(chassis.ChassisCapabilities),
        fru_address=U8,
        sdr_address=U8,
        sel_address=U8,
        system_management_address=U8,
        bridge_address=U8,
    ),
    chassis.GetChassisStatusRsp: record(
        chassis.GetChassisStatusRsp,
        power_on=BOOL,
        power_overload=BOOL,
        interlock_active=BOOL,
        power_fault=BOOL,
        power_control_fault=BOOL,
        restore_policy=st.sampled_from(chassis.PowerRestorePolicy),
        last_power_event=flags(chassis.LastPowerEvent),
        misc_state=flags(chassis.MiscChassisState),
        front_panel_buttons=st.none() | U8,
    ),
    chassis.GetPohCounterRsp: record(chassis.GetPohCounterRsp, minutes_per_count=U8, count=U32),
    chassis.GetSystemRestartCauseRsp: record(
        chassis.GetSystemRestartCauseRsp, cause=st.sampled_from(chassis.RestartCause), channel=U8
    ),
    device.GetDeviceGuidRsp: record(device.GetDeviceGuidRsp, guid=octets(16)),
    device.GetDeviceIdRsp: record(
        device.GetDeviceIdRsp,
        device_id=U8,
        device_revision=U4,
        provides_sdrs=BOOL,
        available=BOOL,
        firmware_major=U7,
        firmware_minor=U8,
        ipmi_version=U8,
        additional_device_support=U8,
        manufacturer_id=st.integers(0, 0xFFFFF),
        product_id=U16,
        auxiliary_firmware_revision=octets(0, 5),
    ),
    device.GetSelfTestResultsRsp: record(device.GetSelfTestResultsRsp, result=U8, detail=U8),
    fru.GetFruInventoryAreaInfoRsp: record(
        fru.GetFruInventoryAreaInfoRsp, size_bytes=U16, by_words=BOOL
    ),
    fru.ReadFruDataRsp: _only_valid(fru.ReadFruDataRsp, data=octets(0, 300), by_words=BOOL),
    lan.GetLanConfigurationParametersRsp: record(
        lan.GetLanConfigurationParametersRsp, data=octets(0, 255), parameter_revision=U8
    ),
    messaging.GetBmcGlobalEnablesRsp: record(
        messaging.GetBmcGlobalEnablesRsp, enables=flags(messaging.BmcGlobalEnables)
    ),
    messaging.GetMessageFlagsRsp: record(
        messaging.GetMessageFlagsRsp, flags=flags(messaging.MessageFlags)
    ),
    messaging.GetMessageRsp: record(
        messaging.GetMessageRsp, channel=U4, message=octets(0, 255), privilege_level=LEVEL
    ),
    messaging.GetSystemGuidRsp: record(messaging.GetSystemGuidRsp, guid=octets(16)),
    messaging.SendMessageRsp: record(messaging.SendMessageRsp, data=octets(0, 255)),
    dcmi.GetPowerReadingRsp: record(
        dcmi.GetPowerReadingRsp,
        current_w=U16,
        minimum_w=U16,
        maximum_w=U16,
        average_w=U16,
        timestamp=U32,
        period_ms=U32,
        active=BOOL,
    ),
    sdr.GetSdrRepositoryAllocationInfoRsp: record(
        sdr.GetSdrRepositoryAllocationInfoRsp, **ALLOCATION
    ),
    sdr.GetSdrRepositoryInfoRsp: record(
        sdr.GetSdrRepositoryInfoRsp,
        record_count=U16,
        free_bytes=U16,
        last_addition=U32,
        last_erase=U32,
        operations=flags(sdr.SdrOperations),
        version=U8,
    ),
    sdr.GetSdrRsp: record(sdr.GetSdrRsp, next_record_id=U16, record_data=octets(0, 255)),
    sdr.ReserveSdrRepositoryRsp: record(sdr.ReserveSdrRepositoryRsp, reservation_id=U16),
    sel.AddSelEntryRsp: record(sel.AddSelEntryRsp, record_id=U16),
    sel.ClearSelRsp: record(sel.ClearSelRsp, progress=st.sampled_from(sel.SelErasure)),
    sel.GetSelAllocationInfoRsp: record(sel.GetSelAllocationInfoRsp, **ALLOCATION),
    sel.GetSelEntryRsp: record(sel.GetSelEntryRsp, next_record_id=U16, record_data=octets(0, 16)),
    sel.GetSelInfoRsp: record(
        sel.GetSelInfoRsp,
        entries=U16,
        free_bytes=U16,
        last_addition=U32,
        last_erase=U32,
        operations=flags(sel.SelOperations),
        version=U8,
    ),
    sel.GetSelTimeRsp: record(sel.GetSelTimeRsp, time=U32),
    sel.ReserveSelRsp: record(sel.ReserveSelRsp, reservation_id=U16),
    sensor.GetSensorEventEnableRsp: record(
        sensor.GetSensorEventEnableRsp,
        events_enabled=BOOL,
        scanning_enabled=BOOL,
        masks=octets(0, 4),
    ),
    sensor.GetSensorHysteresisRsp: record(sensor.GetSensorHysteresisRsp, positive=U8, negative=U8),
    sensor.GetSensorReadingRsp: record(
        sensor.GetSensorReadingRsp,
        reading=U8,
        available=BOOL,
        events_enabled=BOOL,
        scanning_enabled=BOOL,
        states=octets(0, 2),
    ),
    sensor.GetSensorThresholdsRsp: record(
        sensor.GetSensorThresholdsRsp,
        readable=flags(sensor.Thresholds, 0x3F),
        lower_non_critical=U8,
        lower_critical=U8,
        lower_non_recoverable=U8,
        upper_non_critical=U8,
        upper_critical=U8,
        upper_non_recoverable=U8,
    ),
    sensor.GetSensorTypeRsp: record(sensor.GetSensorTypeRsp, sensor_type=U8, event_type=U7),
    session.GetChannelAuthenticationCapabilitiesRsp: record(
        session.GetChannelAuthenticationCapabilitiesRsp,
        channel=U4,
        authentication_types=flags(session.AuthenticationTypes, 0x3F),
        extended=BOOL,
        k_g_set=BOOL,
        per_message_authentication=BOOL,
        user_level_authentication=BOOL,
        non_null_user_names=BOOL,
        null_user_names=BOOL,
        anonymous_login=BOOL,
        ipmi_2_0=BOOL,
        ipmi_1_5=BOOL,
        oem_id=U24,
        oem_auxiliary=U8,
    ),
    session.GetChannelCipherSuitesRsp: record(
        session.GetChannelCipherSuitesRsp, channel=U4, record_data=octets(0, 16)
    ),
    session.GetSessionInfoRsp: record(
        session.GetSessionInfoRsp,
        session_handle=U8,
        sessions_possible=U6,
        sessions_active=U6,
        session=st.none()
        | record(
            session.SessionDetail,
            user_id=U6,
            privilege_level=LEVEL,
            channel=U4,
            protocol=U4,
            channel_data=octets(0, 18),
        ),
    ),
    session.SetSessionPrivilegeLevelRsp: record(
        session.SetSessionPrivilegeLevelRsp, privilege_level=LEVEL
    ),
    watchdog.GetWatchdogTimerRsp: record(
        watchdog.GetWatchdogTimerRsp,
        running=BOOL,
        use=st.sampled_from(watchdog.TimerUse),
        present_countdown_s=tenths(),
        expiration_flags=flags(watchdog.ExpirationFlags),
        **TIMER,
    ),
}
RESPONSES[sensor.GetSensorReadingFactorsRsp] = st.deferred(
    lambda: record(
        sensor.GetSensorReadingFactorsRsp,
        next_reading=U8,
        factors=RECORDS[reading_factors.ReadingFactors],
    )
)

_FACTORS = record(
    reading_factors.ReadingFactors,
    m=st.integers(-512, 511),
    b=st.integers(-512, 511),
    r_exponent=st.integers(-8, 7),
    b_exponent=st.integers(-8, 7),
    tolerance=U6,
    accuracy=U10,
    accuracy_exponent=U2,
    direction=U2,
)
_UNITS = record(
    sdr_records.SensorUnits,
    analog_format=st.sampled_from(reading_factors.AnalogFormat),
    base_unit=U8,
    modifier_unit=U8,
    rate_unit=U3,
    modifier_use=U2,
    percentage=BOOL,
)
_DESCRIPTION = record(
    sdr_records.SensorDescription,
    sensor_number=U8,
    sensor_type=U8,
    event_type=U8,
    entity_id=U8,
    entity_instance=U8,
    owner_id=U8,
    owner_lun=U8,
    initialization=U8,
    capabilities=U8,
    assertion_mask=U16,
    deassertion_mask=U16,
    reading_mask=U16,
    units=_UNITS,
)
_FRU_TEXT = texts(fru_data.FIELD_BYTES_MAX)
_CUSTOM = st.lists(_FRU_TEXT, max_size=5).map(tuple)
_CHASSIS = record(
    fru_data.ChassisArea,
    chassis_type=U8,
    part_number=_FRU_TEXT,
    serial_number=_FRU_TEXT,
    custom=_CUSTOM,
)
_BOARD = record(
    fru_data.BoardArea,
    manufacturer=_FRU_TEXT,
    product_name=_FRU_TEXT,
    serial_number=_FRU_TEXT,
    part_number=_FRU_TEXT,
    fru_file_id=_FRU_TEXT,
    custom=_CUSTOM,
    manufactured_minutes=U24,
)
_PRODUCT = record(
    fru_data.ProductArea,
    manufacturer=_FRU_TEXT,
    product_name=_FRU_TEXT,
    part_number=_FRU_TEXT,
    version=_FRU_TEXT,
    serial_number=_FRU_TEXT,
    asset_tag=_FRU_TEXT,
    fru_file_id=_FRU_TEXT,
    custom=_CUSTOM,
)
_ID_STRING = texts(sdr_records.ID_STRING_BYTES_MAX)
_LEVELS = (
    "nominal_reading",
    "normal_maximum",
    "normal_minimum",
    "sensor_maximum",
    "sensor_minimum",
    "upper_non_recoverable",
    "upper_critical",
    "upper_non_critical",
    "lower_non_recoverable",
    "lower_critical",
    "lower_non_critical",
    "positive_hysteresis",
    "negative_hysteresis",
    "oem",
)

RECORDS: dict[type, SearchStrategy[Any]] = {
    reading_factors.ReadingFactors: _FACTORS,
    sdr_records.SensorUnits: _UNITS,
    sdr_records.SensorDescription: _DESCRIPTION,
    sdr_records.FullSensorRecord: record(
        sdr_records.FullSensorRecord,
        record_id=U16,
        sensor=_DESCRIPTION,
        id_string=_ID_STRING,
        factors=_FACTORS,
        linearization=U7,
        characteristics=flags(sdr_records.AnalogCharacteristics),
        **dict.fromkeys(_LEVELS, U8),
    ),
    sdr_records.CompactSensorRecord: record(
        sdr_records.CompactSensorRecord,
        record_id=U16,
        sensor=_DESCRIPTION,
        id_string=_ID_STRING,
        sharing=U16,
        positive_hysteresis=U8,
        negative_hysteresis=U8,
        oem=U8,
    ),
    sdr_records.FruDeviceLocatorRecord: record(
        sdr_records.FruDeviceLocatorRecord,
        record_id=U16,
        id_string=_ID_STRING,
        fru_device_id=U8,
        access_address=U8,
        logical=BOOL,
        access_lun=U2,
        private_bus_id=U3,
        channel=U4,
        device_type=U8,
        device_type_modifier=U8,
        entity_id=U8,
        entity_instance=U8,
        oem=U8,
    ),
    sdr_records.McDeviceLocatorRecord: record(
        sdr_records.McDeviceLocatorRecord,
        record_id=U16,
        id_string=_ID_STRING,
        slave_address=U8,
        channel=U4,
        power_state_notification=U8,
        capabilities=U8,
        entity_id=U8,
        entity_instance=U8,
        oem=U8,
    ),
    sdr_records.OtherRecord: record(
        sdr_records.OtherRecord,
        record_id=U16,
        record_type=st.sampled_from((0x03, 0x08, 0x09, 0x10, 0x13, 0x14, 0xC0)),
        body=octets(0, 255),
    ),
    sel_records.SystemEventRecord: record(
        sel_records.SystemEventRecord,
        record_id=U16,
        timestamp=U32,
        generator_id=U16,
        sensor_type=U8,
        sensor_number=U8,
        event_type=U7,
        event_data=octets(3),
        deassertion=BOOL,
        event_message_revision=U8,
    ),
    sel_records.OemTimestampedRecord: record(
        sel_records.OemTimestampedRecord,
        record_id=U16,
        record_type=st.integers(0xC0, 0xDF),
        timestamp=U32,
        manufacturer_id=U24,
        oem_data=octets(6),
    ),
    sel_records.OemRecord: record(
        sel_records.OemRecord,
        record_id=U16,
        record_type=st.integers(0xE0, 0xFF),
        oem_data=octets(13),
    ),
    fru_data.ChassisArea: _CHASSIS,
    fru_data.BoardArea: _BOARD,
    fru_data.ProductArea: _PRODUCT,
    fru_data.FruInventory: record(
        fru_data.FruInventory,
        chassis=st.none() | _CHASSIS,
        board=st.none() | _BOARD,
        product=st.none() | _PRODUCT,
    ),
}
