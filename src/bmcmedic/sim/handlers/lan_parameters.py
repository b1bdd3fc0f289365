"""Chapter 23: the configuration of the BMC's LAN channel, as `ipmitool lan print` reads it."""

from __future__ import annotations

from collections.abc import Callable

from bmcmedic.ipmi.commands.lan import (
    GetLanConfigurationParametersReq,
    GetLanConfigurationParametersRsp,
    LanParameter,
)
from bmcmedic.ipmi.constants import PRESENT_CHANNEL, CompletionCode
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.handler_call import Call, CommandRefusal, Interface

_NOT_SUPPORTED = 0x80
_STATIC_ADDRESS = 1
_SUITES = bytes((0, 3, 17))

_PARAMETERS: dict[int, Callable[[SimBmc], bytes]] = {
    LanParameter.SET_IN_PROGRESS: lambda _bmc: b"\x00",
    LanParameter.AUTHENTICATION_TYPE_SUPPORT: lambda _bmc: b"\x00",
    LanParameter.AUTHENTICATION_TYPE_ENABLES: lambda _bmc: bytes(5),
    LanParameter.IP_ADDRESS: lambda bmc: bmc.lan.address,
    LanParameter.IP_ADDRESS_SOURCE: lambda _bmc: bytes((_STATIC_ADDRESS,)),
    LanParameter.MAC_ADDRESS: lambda bmc: bmc.lan.mac,
    LanParameter.SUBNET_MASK: lambda bmc: bmc.lan.mask,
    LanParameter.IPV4_HEADER: lambda _bmc: bytes((0x40, 0x40, 0x10)),
    LanParameter.ARP_CONTROL: lambda _bmc: b"\x02",
    LanParameter.GRATUITOUS_ARP_INTERVAL: lambda _bmc: b"\x00",
    LanParameter.DEFAULT_GATEWAY_ADDRESS: lambda bmc: bmc.lan.gateway,
    LanParameter.DEFAULT_GATEWAY_MAC: lambda _bmc: bytes(6),
    LanParameter.BACKUP_GATEWAY_ADDRESS: lambda _bmc: bytes(4),
    LanParameter.BACKUP_GATEWAY_MAC: lambda _bmc: bytes(6),
    LanParameter.COMMUNITY_STRING: lambda _bmc: b"public".ljust(18, b"\x00"),
    LanParameter.VLAN_ID: lambda _bmc: bytes(2),
    LanParameter.VLAN_PRIORITY: lambda _bmc: b"\x00",
    LanParameter.CIPHER_SUITE_COUNT: lambda _bmc: bytes((len(_SUITES) - 1,)),
    LanParameter.CIPHER_SUITES: lambda _bmc: _SUITES.ljust(17, b"\x00"),
    LanParameter.CIPHER_SUITE_PRIVILEGES: lambda _bmc: bytes((0, 0x44)).ljust(9, b"\x00"),
}


def get_lan_configuration_parameters(
    bmc: SimBmc, request: GetLanConfigurationParametersReq, _call: Call
) -> bytes:
    """Get LAN Configuration Parameters (23.2)."""
    if request.channel not in (Interface.LAN, PRESENT_CHANNEL):
        raise CommandRefusal(CompletionCode.INVALID_DATA_FIELD)
    value = _PARAMETERS.get(request.parameter)
    if value is None:
        raise CommandRefusal(_NOT_SUPPORTED)
    return GetLanConfigurationParametersRsp(b"" if request.revision_only else value(bmc)).encode()
