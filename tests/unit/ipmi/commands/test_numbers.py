"""The numbers of every command and the lengths it accepts, in a second, independent table.

Network functions, commands and names were compared with `ipmi_cmd_str` of libfreeipmi 1.6.10.
"""

from __future__ import annotations

import pytest

from bmcmedic.errors import InvalidDataField, RemoteProtocolError
from bmcmedic.ipmi.commands import channel, chassis, lan, messaging, sel, session, watchdog
from bmcmedic.ipmi.commands.command import ResponseBody
from bmcmedic.ipmi.commands.registry import COMMANDS

LENGTH_TRIED_MAX = 600

Range = tuple[int, int]
NUMBERS: dict[str, tuple[int, int, Range, Range]] = {
    # name: netFn, command, bytes of request data, bytes of response data with padding
    "GetChassisCapabilitiesReq": (0x00, 0x00, (0, 0), (5, 10)),
    "GetChassisStatusReq": (0x00, 0x01, (0, 0), (3, 8)),
    "ChassisControlReq": (0x00, 0x02, (1, 1), (0, 4)),
    "GetSystemRestartCauseReq": (0x00, 0x07, (0, 0), (2, 6)),
    "GetPohCounterReq": (0x00, 0x0F, (0, 0), (5, 9)),
    "GetSensorReadingFactorsReq": (0x04, 0x23, (2, 2), (7, 11)),
    "GetSensorHysteresisReq": (0x04, 0x25, (1, 2), (2, 6)),
    "GetSensorThresholdsReq": (0x04, 0x27, (1, 1), (7, 11)),
    "GetSensorEventEnableReq": (0x04, 0x29, (1, 1), (1, 9)),
    "GetSensorReadingReq": (0x04, 0x2D, (1, 1), (2, 8)),
    "GetSensorTypeReq": (0x04, 0x2F, (1, 1), (2, 6)),
    "GetDeviceIdReq": (0x06, 0x01, (0, 0), (11, 16)),
    "ColdResetReq": (0x06, 0x02, (0, 0), (0, 4)),
    "WarmResetReq": (0x06, 0x03, (0, 0), (0, 4)),
    "GetSelfTestResultsReq": (0x06, 0x04, (0, 0), (2, 6)),
    "GetDeviceGuidReq": (0x06, 0x08, (0, 0), (16, 20)),
    "ResetWatchdogTimerReq": (0x06, 0x22, (0, 0), (0, 4)),
    "SetWatchdogTimerReq": (0x06, 0x24, (6, 6), (0, 4)),
    "GetWatchdogTimerReq": (0x06, 0x25, (0, 0), (6, 12)),  # 6 while stopped, by ipmi_sim
    "SetBmcGlobalEnablesReq": (0x06, 0x2E, (1, 1), (0, 4)),
    "GetBmcGlobalEnablesReq": (0x06, 0x2F, (0, 0), (1, 5)),
    "ClearMessageFlagsReq": (0x06, 0x30, (1, 1), (0, 4)),
    "GetMessageFlagsReq": (0x06, 0x31, (0, 0), (1, 5)),
    "GetMessageReq": (0x06, 0x33, (0, 0), (1, 256)),
    "SendMessageReq": (0x06, 0x34, (1, 256), (0, 255)),
    "GetSystemGuidReq": (0x06, 0x37, (0, 0), (16, 20)),
    "GetChannelAuthenticationCapabilitiesReq": (0x06, 0x38, (2, 2), (8, 12)),
    "SetSessionPrivilegeLevelReq": (0x06, 0x3B, (1, 1), (1, 5)),
    "CloseSessionReq": (0x06, 0x3C, (4, 5), (0, 4)),
    "GetSessionInfoReq": (0x06, 0x3D, (1, 1), (3, 24)),
    "GetChannelAccessReq": (0x06, 0x41, (2, 2), (2, 6)),
    "GetChannelInfoReq": (0x06, 0x42, (1, 1), (9, 13)),
    "GetUserAccessReq": (0x06, 0x44, (2, 2), (4, 8)),
    "GetUserNameReq": (0x06, 0x46, (1, 1), (16, 20)),
    "GetChannelCipherSuitesReq": (0x06, 0x54, (3, 3), (1, 17)),
    "GetFruInventoryAreaInfoReq": (0x0A, 0x10, (1, 1), (3, 7)),
    "ReadFruDataReq": (0x0A, 0x11, (4, 4), (1, 511)),
    "GetSdrRepositoryInfoReq": (0x0A, 0x20, (0, 0), (14, 18)),
    "GetSdrRepositoryAllocationInfoReq": (0x0A, 0x21, (0, 0), (9, 13)),
    "ReserveSdrRepositoryReq": (0x0A, 0x22, (0, 0), (2, 6)),
    "GetSdrReq": (0x0A, 0x23, (6, 6), (2, 257)),
    "GetSelInfoReq": (0x0A, 0x40, (0, 0), (14, 18)),
    "GetSelAllocationInfoReq": (0x0A, 0x41, (0, 0), (9, 13)),
    "ReserveSelReq": (0x0A, 0x42, (0, 0), (2, 6)),
    "GetSelEntryReq": (0x0A, 0x43, (6, 6), (2, 18)),
    "AddSelEntryReq": (0x0A, 0x44, (16, 16), (2, 6)),
    "ClearSelReq": (0x0A, 0x47, (6, 6), (1, 5)),
    "GetSelTimeReq": (0x0A, 0x48, (0, 0), (4, 8)),
    "SetSelTimeReq": (0x0A, 0x49, (4, 4), (0, 4)),
    "GetLanConfigurationParametersReq": (0x0C, 0x02, (4, 4), (1, 256)),
    "GetPowerReadingReq": (0x2C, 0x02, (4, 4), (18, 22)),
}


def lengths(kind: type[ResponseBody]) -> Range:
    """Return the shortest and the longest length of data that is accepted."""
    accepted = set()
    for length in range(LENGTH_TRIED_MAX):
        for fill in (b"\x00", b"\x01"):
            try:
                kind.decode(fill * length)
            except InvalidDataField:
                accepted.add(length)
            except RemoteProtocolError:
                continue
            else:
                accepted.add(length)
    return min(accepted), max(accepted)


def test_every_command_is_in_the_table() -> None:
    assert {command.__name__ for command in COMMANDS.values()} == set(NUMBERS)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.__name__)
def test_numbers_and_lengths(command: type) -> None:
    kind = next(known for known in COMMANDS.values() if known is command)
    netfn, number, request_bytes, response_bytes = NUMBERS[kind.__name__]
    assert (kind.netfn, kind.command) == (netfn, number)
    assert COMMANDS[netfn, number] is kind
    assert lengths(kind) == request_bytes
    assert lengths(kind.response) == response_bytes


def test_values_that_have_names() -> None:
    assert [int(use) for use in watchdog.TimerUse] == [0, 1, 2, 3, 4, 5]
    assert [int(action) for action in watchdog.TimeoutAction] == [0, 1, 2, 3]
    assert [int(cause) for cause in chassis.RestartCause] == list(range(16))
    assert [int(action) for action in chassis.ChassisControlAction] == [0, 1, 2, 3, 4, 5]
    assert [int(event) for event in chassis.LastPowerEvent] == [1, 2, 4, 8, 16]
    assert [int(mode) for mode in channel.AccessMode] == [0, 1, 2, 3]
    assert [int(status) for status in channel.UserEnableStatus] == [0, 1, 2, 3]
    assert [int(tracking) for tracking in messaging.MessageTracking] == [0, 1, 2]
    assert [int(flag) for flag in messaging.MessageFlags] == [1, 2, 8, 32, 64, 128]
    assert [int(flag) for flag in sel.SelOperations] == [1, 2, 4, 8, 128]
    assert [int(kind) for kind in session.AuthenticationTypes] == [1, 2, 4, 16, 32]
    assert session.CIPHER_SUITE_CHUNK_BYTES == 16
    known = [*range(8), *range(10, 17), *range(20, 25)]
    assert [int(parameter) for parameter in lan.LanParameter] == known


def test_bus_errors_of_send_message_have_texts() -> None:
    assert messaging.SendMessageReq.completion_codes[0x81] == "lost arbitration on the bus"
    assert messaging.SendMessageReq.completion_codes[0x83].startswith("NAK on write")


def test_clear_sel_contains_clr() -> None:
    with pytest.raises(InvalidDataField, match="CLR"):
        sel.ClearSelReq.decode(b"\x34\x12CLX\xaa")
