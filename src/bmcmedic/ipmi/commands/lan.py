"""LAN configuration, read only (chapter 23)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from bmcmedic.ipmi.commands.command import Command, check_length, require_length, require_range
from bmcmedic.ipmi.constants import PRESENT_CHANNEL, NetFn, PrivilegeLevel

LAN_PARAMETER_BYTES_MAX = 255
"""Longest LAN parameter that is accepted, in bytes."""


class LanParameter(IntEnum):
    """The parameters that this program uses (table 23-4); a request keeps the bare number."""

    SET_IN_PROGRESS = 0
    AUTHENTICATION_TYPE_SUPPORT = 1
    AUTHENTICATION_TYPE_ENABLES = 2
    IP_ADDRESS = 3
    IP_ADDRESS_SOURCE = 4
    MAC_ADDRESS = 5
    SUBNET_MASK = 6
    IPV4_HEADER = 7
    ARP_CONTROL = 10
    GRATUITOUS_ARP_INTERVAL = 11
    DEFAULT_GATEWAY_ADDRESS = 12
    DEFAULT_GATEWAY_MAC = 13
    BACKUP_GATEWAY_ADDRESS = 14
    BACKUP_GATEWAY_MAC = 15
    COMMUNITY_STRING = 16
    VLAN_ID = 20
    VLAN_PRIORITY = 21
    CIPHER_SUITE_COUNT = 22
    CIPHER_SUITES = 23
    CIPHER_SUITE_PRIVILEGES = 24


@dataclass(frozen=True, slots=True)
class GetLanConfigurationParametersRsp:
    """A parameter as it is on the wire, most of them in network order.

    Spec: 23.2. Shape: parameter revision (1 byte), then the data.
    Field: a BMC may send no data when it is asked for the revision alone, or for a parameter that
    it does not know.
    """

    data: bytes = b""
    parameter_revision: int = 0x11

    def __post_init__(self) -> None:
        require_length("a LAN parameter", self.data, LAN_PARAMETER_BYTES_MAX)

    def encode(self) -> bytes:
        return bytes((self.parameter_revision,)) + self.data

    @classmethod
    def decode(cls, data: bytes) -> GetLanConfigurationParametersRsp:
        check_length(data, 1, 1 + LAN_PARAMETER_BYTES_MAX, section="23.2")
        return cls(data[1:], data[0])


@dataclass(frozen=True, slots=True)
class GetLanConfigurationParametersReq(Command[GetLanConfigurationParametersRsp]):
    """Get LAN Configuration Parameters (23.2).

    Shape: channel and bit 7 "revision only", parameter, set selector, block selector.
    """

    parameter: int
    channel: int = PRESENT_CHANNEL
    set_selector: int = 0
    block_selector: int = 0
    revision_only: bool = False

    section = "23.2"
    netfn = NetFn.TRANSPORT
    command = 0x02
    response = GetLanConfigurationParametersRsp
    privilege = PrivilegeLevel.OPERATOR
    completion_codes: ClassVar = {0x80: "parameter not supported"}

    def __post_init__(self) -> None:
        require_range("parameter", self.parameter, 0xFF)
        require_range("channel", self.channel, 0x0F)
        require_range("set selector", self.set_selector, 0xFF)
        require_range("block selector", self.block_selector, 0xFF)

    def encode(self) -> bytes:
        head = self.revision_only << 7 | self.channel
        return bytes((head, self.parameter, self.set_selector, self.block_selector))

    @classmethod
    def decode(cls, data: bytes) -> GetLanConfigurationParametersReq:
        check_length(data, 4, section=cls.section)
        return cls(
            parameter=data[1],
            channel=data[0] & 0x0F,
            set_selector=data[2],
            block_selector=data[3],
            revision_only=bool(data[0] & 0x80),
        )
