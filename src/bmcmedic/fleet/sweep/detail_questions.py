"""What `bmcmedic probe --detail` asks besides the power status."""

from __future__ import annotations

from bmcmedic.errors import RemoteProtocolError
from bmcmedic.fleet.answers import salvaged_facts, watchdog_facts
from bmcmedic.fleet.sweep.questions import ProbeFacts, Question, leave_unknown
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


def _fill_device(data: bytes, facts: ProbeFacts) -> None:
    device = GetDeviceIdRsp.decode(data)
    facts.device_id = device.device_id
    facts.firmware = device.firmware
    facts.manufacturer_id = device.manufacturer_id
    if not device.available:
        facts.error = "the BMC says that it is being updated (device not available)"


def _fill_guid(data: bytes, facts: ProbeFacts) -> None:
    # Get System GUID and Get Device GUID have the same response (sections 22.14, 20.8).
    guid = GetSystemGuidRsp.decode(data).guid
    if is_known_guid(guid):
        facts.guid = guid.hex()


def _has_guid(facts: ProbeFacts) -> bool:
    return facts.guid is not None


def _fill_self_test(data: bytes, facts: ProbeFacts) -> None:
    results = GetSelfTestResultsRsp.decode(data)
    facts.self_test = results.text
    if results.implemented and not results.passed:
        facts.error = f"self-test failed: {results.text}"


def _fill_unsupported_self_test(facts: ProbeFacts) -> None:
    facts.self_test = "unsupported"


def _fill_watchdog(data: bytes, facts: ProbeFacts) -> None:
    try:
        facts.watchdog = watchdog_facts(GetWatchdogTimerRsp.decode(data))
    except RemoteProtocolError:
        facts.watchdog = salvaged_facts(data)
        raise


DETAIL_QUESTIONS = (
    Question(GetDeviceIdReq(), _fill_device, leave_unknown),
    Question(GetSystemGuidReq(), _fill_guid, leave_unknown, optional="system GUID"),
    Question(GetDeviceGuidReq(), _fill_guid, leave_unknown, _has_guid, "device GUID"),
    Question(
        GetSelfTestResultsReq(), _fill_self_test, _fill_unsupported_self_test, optional="self-test"
    ),
    Question(GetWatchdogTimerReq(), _fill_watchdog, leave_unknown, optional="watchdog timer"),
)
