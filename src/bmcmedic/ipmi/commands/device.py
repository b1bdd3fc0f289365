"""IPM device "global" commands (chapter 20)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmcmedic.ipmi.commands._command import Command, EmptyRsp, check_length
from bmcmedic.ipmi.constants import NetFn, PrivilegeLevel


@dataclass(frozen=True, slots=True)
class GetDeviceIdRsp:
    """Who the BMC is and which firmware it runs.

    Spec: 20.1. Shape: 11 or 15 bytes, LSB first; the last 4 (auxiliary revision) are optional.
    Field: while `available` is false the BMC is updating its firmware or its SDRs.
    """

    device_id: int
    device_revision: int
    provides_sdrs: bool
    available: bool
    firmware_major: int
    firmware_minor: int
    """As it stands in the byte: BCD, 0x23 is "23"."""
    ipmi_version: int
    additional_device_support: int
    manufacturer_id: int
    product_id: int
    auxiliary_firmware_revision: bytes = b""

    @property
    def firmware(self) -> str:
        """Major and minor revision as people write them, such as "3.23"."""
        return f"{self.firmware_major}.{self.firmware_minor:02x}"

    def encode(self) -> bytes:
        """The response's data bytes."""
        return (
            bytes(
                (
                    self.device_id,
                    self.provides_sdrs << 7 | self.device_revision,
                    (not self.available) << 7 | self.firmware_major,
                    self.firmware_minor,
                    self.ipmi_version,
                    self.additional_device_support,
                )
            )
            + self.manufacturer_id.to_bytes(3, "little")
            + self.product_id.to_bytes(2, "little")
            + self.auxiliary_firmware_revision
        )

    @classmethod
    def decode(cls, data: bytes) -> GetDeviceIdRsp:
        """Read the data bytes; raises RemoteProtocolError."""
        check_length(data, 11, 15, section="20.1")
        return cls(
            device_id=data[0],
            device_revision=data[1] & 0x0F,
            provides_sdrs=bool(data[1] & 0x80),
            available=not data[2] & 0x80,
            firmware_major=data[2] & 0x7F,
            firmware_minor=data[3],
            ipmi_version=data[4],
            additional_device_support=data[5],
            manufacturer_id=int.from_bytes(data[6:9], "little") & 0x0FFFFF,
            product_id=int.from_bytes(data[9:11], "little"),
            auxiliary_firmware_revision=data[11:],
        )


@dataclass(frozen=True, slots=True)
class GetDeviceIdReq(Command[GetDeviceIdRsp]):
    """Get Device ID (20.1)."""

    section: ClassVar[str] = "20.1"
    netfn: ClassVar[NetFn] = NetFn.APP
    command: ClassVar[int] = 0x01
    response: ClassVar[type[GetDeviceIdRsp]] = GetDeviceIdRsp


@dataclass(frozen=True, slots=True)
class ColdResetReq(Command[EmptyRsp]):
    """Cold Reset (20.2). Never sent twice: silence afterwards is an outcome, not an error."""

    section: ClassVar[str] = "20.2"
    netfn: ClassVar[NetFn] = NetFn.APP
    command: ClassVar[int] = 0x02
    response: ClassVar[type[EmptyRsp]] = EmptyRsp
    privilege: ClassVar[PrivilegeLevel] = PrivilegeLevel.ADMINISTRATOR
    idempotent: ClassVar[bool] = False
