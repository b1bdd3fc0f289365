"""What `--detail` asks besides the power status."""

from __future__ import annotations

from bmcmedic.fleet.sweep.questions import Facts, Question
from bmcmedic.ipmi.commands.device import (
    GetDeviceGuidReq,
    GetDeviceIdReq,
    GetDeviceIdRsp,
    GetSelfTestResultsReq,
    GetSelfTestResultsRsp,
)
from bmcmedic.ipmi.commands.messaging import GetSystemGuidReq, GetSystemGuidRsp
from bmcmedic.ipmi.commands.watchdog import GetWatchdogTimerReq, GetWatchdogTimerRsp
from bmcmedic.ipmi.guid import is_known_guid
from bmcmedic.model.probe import WatchdogFacts


def _device_id(data: bytes) -> Facts:
    device = GetDeviceIdRsp.decode(data)
    facts: Facts = {
        "device_id": device.device_id,
        "firmware": device.firmware,
        "manufacturer_id": device.manufacturer_id,
    }
    if not device.available:
        facts["error"] = "the BMC says that it is being updated (device not available)"
    return facts


def _guid(data: bytes) -> Facts:
    # Get Device GUID answers alike (sections 20.8, 22.14).
    guid = GetSystemGuidRsp.decode(data).guid
    return {"guid": guid.hex()} if is_known_guid(guid) else {}


def _self_test(data: bytes) -> Facts:
    results = GetSelfTestResultsRsp.decode(data)
    facts: Facts = {"self_test": results.text}
    if results.implemented and not results.passed:
        facts["error"] = f"self-test failed: {results.text}"
    return facts


def _watchdog(data: bytes) -> Facts:
    timer = GetWatchdogTimerRsp.decode(data)
    return {"watchdog": WatchdogFacts(timer.running, timer.present_countdown_s, timer.action.text)}


DETAIL_QUESTIONS = (
    Question("device_id", GetDeviceIdReq(), _device_id),
    Question("guid", GetSystemGuidReq(), _guid),
    Question("guid", GetDeviceGuidReq(), _guid),
    Question("self_test", GetSelfTestResultsReq(), _self_test, {"self_test": "unsupported"}),
    Question("watchdog", GetWatchdogTimerReq(), _watchdog),
)
