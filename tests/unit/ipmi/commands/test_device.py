"""Device commands: data that BMCs leave out or add, and self-test results."""

from __future__ import annotations

import pytest

from bmcmedic.errors import LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi.commands.device import (
    GetDeviceGuidRsp,
    GetDeviceIdRsp,
    GetSelfTestResultsRsp,
)
from tests.support.vectors import vector

DEVICE_ID = vector("commands", "get_device_id_rsp")


@pytest.mark.parametrize("length", range(11, 17))
def test_a_device_id_with_any_auxiliary_revision(length: int) -> None:
    raw = (DEVICE_ID + b"\x05")[:length]
    device = GetDeviceIdRsp.decode(raw)
    assert device.product_id == 0x0A1B
    assert device.auxiliary_firmware_revision == raw[11:]
    assert device.encode() == raw


@pytest.mark.parametrize("length", [0, 10, 17])
def test_a_device_id_of_another_length(length: int) -> None:
    with pytest.raises(RemoteProtocolError, match="expected 11 to 16 bytes"):
        GetDeviceIdRsp.decode(bytes(length))


def test_a_firmware_revision_is_binary_then_bcd() -> None:
    assert GetDeviceIdRsp.decode(DEVICE_ID).firmware == "3.23"


def test_a_bmc_that_is_updating_reports_itself_unavailable() -> None:
    assert not GetDeviceIdRsp.decode(DEVICE_ID).available
    assert GetDeviceIdRsp.decode(vector("commands", "get_device_id_rsp_of_ipmi_sim")).available


@pytest.mark.parametrize(
    ("raw", "text", "passed"),
    [
        ("5500", "passed", True),
        ("5600", "unsupported", False),
        ("5740", "SDR repository not accessible", False),
        ("5703", "operational firmware corrupted, boot block corrupted", False),
        ("5700", "corrupted or inaccessible data or devices", False),
        ("5812", "fatal hardware error 0x12", False),
        ("a107", "device-specific failure 0xa1 0x07", False),
    ],
)
def test_self_test_results(raw: str, text: str, *, passed: bool) -> None:
    result = GetSelfTestResultsRsp.decode(bytes.fromhex(raw))
    assert result.text == text
    assert result.passed is passed
    assert result.implemented is (text != "unsupported")


def test_a_guid_keeps_its_bytes() -> None:
    raw = bytes(range(16))
    assert GetDeviceGuidRsp.decode(raw).guid == raw
    with pytest.raises(RemoteProtocolError):
        GetDeviceGuidRsp.decode(raw[:15])
    with pytest.raises(LocalProtocolError):
        GetDeviceGuidRsp(raw[:15])
