from __future__ import annotations

import pytest

from bmcmedic.errors import CompletionCodeError
from bmcmedic.ipmi.bridge import Bridge
from bmcmedic.ipmi.commands.channel import (
    ChannelMedium,
    GetChannelAccessReq,
    GetChannelInfoReq,
    GetUserAccessReq,
    GetUserNameReq,
)
from bmcmedic.ipmi.commands.lan import GetLanConfigurationParametersReq, LanParameter
from bmcmedic.ipmi.commands.messaging import (
    BmcGlobalEnables,
    ClearMessageFlagsReq,
    GetBmcGlobalEnablesReq,
    GetMessageFlagsReq,
    GetMessageReq,
    MessageFlags,
    SendMessageReq,
    SetBmcGlobalEnablesReq,
)
from bmcmedic.ipmi.commands.sensor import GetSensorReadingReq, GetSensorReadingRsp
from bmcmedic.ipmi.constants import CompletionCode, PrivilegeLevel
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.dispatch import execute
from bmcmedic.sim.handler_call import HandlerAnswer, Interface
from tests.support.sim import START, ask, send_command, sim_bmc

KCS = Interface.SYSTEM_INTERFACE
READING = GetSensorReadingReq(0xBE)


def bridged(
    bmc: SimBmc, target: int, interface: Interface = Interface.LAN
) -> tuple[RequestMessage, HandlerAnswer]:
    request = RequestMessage(int(READING.netfn), READING.command, READING.encode(), sequence=9)
    answer = execute(bmc, Bridge(6, target).wrap(request), interface, START)
    assert answer is not None
    return request, answer


def test_the_satellites_sensor_is_answered_in_two_parts() -> None:
    request, answer = bridged(sim_bmc(), 0x2C)
    assert (answer.completion_code, answer.data) == (0, b"")
    assert answer.follow_up is not None
    response = Bridge.unwrap(request, answer.follow_up)
    assert response is not None
    assert response.responder == 0x2C
    reading = GetSensorReadingRsp.decode(response.data)
    assert reading.reading == 51
    assert reading.available


def test_an_address_without_a_controller_is_a_nak() -> None:
    _, answer = bridged(sim_bmc(), 0x2E)
    assert (answer.completion_code, answer.follow_up) == (0x83, None)


@pytest.mark.parametrize("message", [b"", b"\x2c\x10\xc4", b"\x01" * 8])
def test_a_broken_message_is_refused(message: bytes) -> None:
    answer = send_command(sim_bmc(), SendMessageReq(6, message), START)
    assert answer is not None
    assert answer.completion_code == CompletionCode.INVALID_DATA_FIELD


def test_over_kcs_the_response_waits_in_the_message_queue() -> None:
    bmc = sim_bmc()
    _, answer = bridged(bmc, 0x2C, KCS)
    assert answer.follow_up is None
    flags = ask(bmc, GetMessageFlagsReq(), START, KCS).flags
    assert MessageFlags.RECEIVE_MESSAGE_AVAILABLE in flags
    message = ask(bmc, GetMessageReq(), START, KCS)
    assert message.channel == 6
    assert message.message[4] == READING.command
    assert ask(bmc, GetMessageFlagsReq(), START, KCS).flags == 0
    with pytest.raises(CompletionCodeError) as caught:
        ask(bmc, GetMessageReq(), START, KCS)
    assert caught.value.code == 0x80


def test_clearing_the_flag_empties_the_queue() -> None:
    bmc = sim_bmc()
    bridged(bmc, 0x2C, KCS)
    ask(bmc, ClearMessageFlagsReq(MessageFlags.RECEIVE_MESSAGE_AVAILABLE), START, KCS)
    with pytest.raises(CompletionCodeError):
        ask(bmc, GetMessageReq(), START, KCS)


def test_global_enables_are_the_hosts_to_set() -> None:
    bmc = sim_bmc()
    enables = BmcGlobalEnables.EVENT_MESSAGE_BUFFER | BmcGlobalEnables.SYSTEM_EVENT_LOGGING
    with pytest.raises(CompletionCodeError):
        ask(bmc, SetBmcGlobalEnablesReq(enables), START)
    ask(bmc, SetBmcGlobalEnablesReq(enables), START, KCS)
    assert ask(bmc, GetBmcGlobalEnablesReq(), START).enables == enables


def test_channels_users_and_lan_parameters() -> None:
    bmc = sim_bmc()
    assert ask(bmc, GetChannelInfoReq(), START).channel == 1
    assert ask(bmc, GetChannelInfoReq(6), START).medium == ChannelMedium.IPMB
    assert ask(bmc, GetChannelInfoReq(), START, KCS).medium == ChannelMedium.SYSTEM_INTERFACE
    assert ask(bmc, GetChannelAccessReq(1), START).privilege_limit is PrivilegeLevel.ADMINISTRATOR
    assert ask(bmc, GetUserNameReq(2), START).name == b"admin"
    assert ask(bmc, GetUserAccessReq(3), START).privilege_limit is None
    address = ask(bmc, GetLanConfigurationParametersReq(LanParameter.IP_ADDRESS), START)
    assert len(address.data) == 4
    with pytest.raises(CompletionCodeError) as caught:
        ask(bmc, GetLanConfigurationParametersReq(0xC0), START)
    assert caught.value.code == 0x80
