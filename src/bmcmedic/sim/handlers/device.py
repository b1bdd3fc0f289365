"""Chapter 20: the device itself, and its resets."""

from __future__ import annotations

from bmcmedic.ipmi.commands.device import (
    ColdResetReq,
    GetDeviceGuidReq,
    GetDeviceGuidRsp,
    GetDeviceIdReq,
    GetSelfTestResultsReq,
    GetSelfTestResultsRsp,
    SelfTestResult,
    WarmResetReq,
)
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.handler_call import Call, NoReply


def get_device_id(bmc: SimBmc, _request: GetDeviceIdReq, _call: Call) -> bytes:
    """Get Device ID (20.1)."""
    return bmc.profile.device_id


def cold_reset(bmc: SimBmc, _request: ColdResetReq, call: Call) -> bytes:
    """Cold Reset (20.2), subject to the reset faults."""
    return _reset(bmc, call, cold=True)


def warm_reset(bmc: SimBmc, _request: WarmResetReq, call: Call) -> bytes:
    """Warm Reset (20.3), subject to the reset faults."""
    return _reset(bmc, call, cold=False)


def _reset(bmc: SimBmc, call: Call, *, cold: bool) -> bytes:
    if bmc.faults.reset_ignored:
        return b""
    bmc.schedule_restart(call.now, cold=cold)
    if bmc.faults.reset_lost_reply:
        raise NoReply
    return b""


def get_self_test_results(_bmc: SimBmc, _request: GetSelfTestResultsReq, _call: Call) -> bytes:
    """Get Self Test Results (20.4)."""
    return GetSelfTestResultsRsp(SelfTestResult.PASSED).encode()


def get_device_guid(bmc: SimBmc, _request: GetDeviceGuidReq, _call: Call) -> bytes:
    """Get Device GUID (20.8)."""
    return GetDeviceGuidRsp(bmc.guid).encode()
