"""IPM device "global" commands (chapter 20)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import KEEP, IntEnum, IntFlag

from bmcmedic.ipmi.commands.command import (
    PADDING_BYTES_MAX,
    Command,
    EmptyRsp,
    check_length,
)
from bmcmedic.ipmi.commands.shared_responses import GuidRsp
from bmcmedic.ipmi.constants import NetFn, PrivilegeLevel

AUXILIARY_BYTES_MAX = 5
"""Most auxiliary bytes accepted: one more than the specification's 4, as some BMCs send 5."""


@dataclass(frozen=True, slots=True)
class GetDeviceIdRsp:
    """The identity of the BMC and the revision of its firmware.

    Spec: 20.1. Shape: 11 or 15 bytes, LSB first; the last 4 (auxiliary revision) are optional.
    While `available` is false, the BMC is updating its firmware or its SDRs.
    Field: some BMCs send 1 to 3 or 5 auxiliary bytes.
    """

    device_id: int
    device_revision: int
    provides_sdrs: bool
    available: bool
    firmware_major: int
    firmware_minor: int
    """The byte as it is on the wire, in BCD: 0x23 means "23"."""
    ipmi_version: int
    additional_device_support: int
    manufacturer_id: int
    product_id: int
    auxiliary_firmware_revision: bytes = b""

    @property
    def firmware(self) -> str:
        """The major and minor revision as text, such as "3.23"."""
        return f"{self.firmware_major}.{self.firmware_minor:02x}"

    def encode(self) -> bytes:
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
        check_length(data, 11, 11 + AUXILIARY_BYTES_MAX, section="20.1")
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

    section = "20.1"
    netfn = NetFn.APP
    command = 0x01
    response = GetDeviceIdRsp


@dataclass(frozen=True, slots=True)
class ColdResetReq(Command[EmptyRsp]):
    """Cold Reset (20.2). It is never sent twice: silence afterwards is an outcome, not an error."""

    section = "20.2"
    netfn = NetFn.APP
    command = 0x02
    response = EmptyRsp
    privilege = PrivilegeLevel.ADMINISTRATOR
    idempotent = False


@dataclass(frozen=True, slots=True)
class WarmResetReq(Command[EmptyRsp]):
    """Warm Reset (20.3). It is optional, and never sent twice.

    Field: many BMCs answer 0xC1.
    """

    section = "20.3"
    netfn = NetFn.APP
    command = 0x03
    response = EmptyRsp
    privilege = PrivilegeLevel.ADMINISTRATOR
    idempotent = False


class SelfTestResult(IntEnum):
    """The first byte of the self-test results (20.4); other values are device-specific."""

    PASSED = 0x55
    NOT_IMPLEMENTED = 0x56
    CORRUPTED = 0x57
    """Data or devices are corrupted or inaccessible; the second byte says which ones."""
    FATAL_HARDWARE_ERROR = 0x58


class SelfTestFailures(IntFlag, boundary=KEEP):
    """What is corrupted or inaccessible (20.4, byte 3 where byte 2 is 0x57)."""

    OPERATIONAL_FIRMWARE = 0x01
    BOOT_BLOCK = 0x02
    FRU_INTERNAL_USE_AREA = 0x04
    SDR_REPOSITORY_EMPTY = 0x08
    IPMB_LINES = 0x10
    FRU_DEVICE = 0x20
    SDR_REPOSITORY = 0x40
    SEL_DEVICE = 0x80


_FAILURE_TEXT = {
    SelfTestFailures.OPERATIONAL_FIRMWARE: "operational firmware corrupted",
    SelfTestFailures.BOOT_BLOCK: "boot block corrupted",
    SelfTestFailures.FRU_INTERNAL_USE_AREA: "internal use area of the FRU corrupted",
    SelfTestFailures.SDR_REPOSITORY_EMPTY: "SDR repository empty",
    SelfTestFailures.IPMB_LINES: "IPMB signal lines do not respond",
    SelfTestFailures.FRU_DEVICE: "FRU device not accessible",
    SelfTestFailures.SDR_REPOSITORY: "SDR repository not accessible",
    SelfTestFailures.SEL_DEVICE: "SEL device not accessible",
}


@dataclass(frozen=True, slots=True)
class GetSelfTestResultsRsp:
    """The result of the BMC's self-test.

    Spec: 20.4. Shape: result and detail, 1 byte each.
    Field: a BMC without a self-test answers 0x56, or 0xC1 to the whole command. Neither means that
    the BMC is sick.
    """

    result: int
    detail: int = 0

    @property
    def passed(self) -> bool:
        """Whether the BMC passed its self-test."""
        return self.result == SelfTestResult.PASSED

    @property
    def implemented(self) -> bool:
        """Whether the BMC has a self-test."""
        return self.result != SelfTestResult.NOT_IMPLEMENTED

    @property
    def text(self) -> str:
        """The result as text: `passed`, `unsupported`, or what failed."""
        if self.passed:
            return "passed"
        if not self.implemented:
            return "unsupported"
        if self.result == SelfTestResult.FATAL_HARDWARE_ERROR:
            return f"fatal hardware error 0x{self.detail:02x}"
        if self.result == SelfTestResult.CORRUPTED:
            failures = [text for bit, text in _FAILURE_TEXT.items() if self.detail & bit]
            return ", ".join(failures) or "corrupted or inaccessible data or devices"
        return f"device-specific failure 0x{self.result:02x} 0x{self.detail:02x}"

    def encode(self) -> bytes:
        return bytes((self.result, self.detail))

    @classmethod
    def decode(cls, data: bytes) -> GetSelfTestResultsRsp:
        check_length(data, 2, 2 + PADDING_BYTES_MAX, section="20.4")
        return cls(data[0], data[1])


@dataclass(frozen=True, slots=True)
class GetSelfTestResultsReq(Command[GetSelfTestResultsRsp]):
    """Get Self Test Results (20.4)."""

    section = "20.4"
    netfn = NetFn.APP
    command = 0x04
    response = GetSelfTestResultsRsp


class GetDeviceGuidRsp(GuidRsp):
    """The BMC's own GUID (20.8)."""

    __slots__ = ()
    section = "20.8"


@dataclass(frozen=True, slots=True)
class GetDeviceGuidReq(Command[GetDeviceGuidRsp]):
    """Get Device GUID (20.8)."""

    section = "20.8"
    netfn = NetFn.APP
    command = 0x08
    response = GetDeviceGuidRsp
