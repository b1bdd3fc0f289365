"""What a probe asks a BMC, and how the answers become facts of a ProbeResult."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bmcmedic.errors import CompletionCodeError
from bmcmedic.ipmi.commands._command import Command
from bmcmedic.ipmi.commands.chassis import GetChassisStatusReq, GetChassisStatusRsp
from bmcmedic.ipmi.commands.device import (
    GetDeviceGuidReq,
    GetDeviceIdReq,
    GetDeviceIdRsp,
    GetSelfTestResultsReq,
    GetSelfTestResultsRsp,
)
from bmcmedic.ipmi.commands.messaging import GetSystemGuidReq
from bmcmedic.ipmi.commands.watchdog import GetWatchdogTimerReq, GetWatchdogTimerRsp
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.guid import is_known_guid
from bmcmedic.model import WatchdogFacts

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """One command of a probe; it is skipped once its `fact` is known from another."""

    fact: str
    request: Command[Any]
    facts_of: Callable[[Any], Facts]
    when_unsupported: Facts = field(default_factory=dict)

    def take(self, completion_code: int, data: bytes) -> Facts:
        """Facts from an answer; raises CompletionCodeError and RemoteProtocolError."""
        try:
            return self.facts_of(self.request.decode_response(completion_code, data))
        except CompletionCodeError as error:
            # Power is what a probe is for; the rest a BMC may lack.
            if error.code == CompletionCode.INVALID_COMMAND and self.fact != "power":
                return self.when_unsupported
            raise


def _power(status: GetChassisStatusRsp) -> Facts:
    return {"power": "on" if status.power_on else "off"}


def _device_id(device: GetDeviceIdRsp) -> Facts:
    facts: Facts = {
        "device_id": device.device_id,
        "firmware": device.firmware,
        "manufacturer_id": device.manufacturer_id,
    }
    if not device.available:
        facts["error"] = "the BMC says that it is being updated (device not available)"
    return facts


def _guid(response: Any) -> Facts:  # noqa: ANN401 - two commands answer alike
    return {"guid": response.guid.hex()} if is_known_guid(response.guid) else {}


def _self_test(results: GetSelfTestResultsRsp) -> Facts:
    facts: Facts = {"self_test": results.text}
    if results.implemented and not results.passed:
        facts["error"] = f"self-test failed: {results.text}"
    return facts


def _watchdog(timer: GetWatchdogTimerRsp) -> Facts:
    return {"watchdog": WatchdogFacts(timer.running, timer.present_countdown_s, timer.action.text)}


POWER_QUESTION = Question("power", GetChassisStatusReq(), _power)
DETAIL_QUESTIONS = (
    Question("device_id", GetDeviceIdReq(), _device_id),
    Question("guid", GetSystemGuidReq(), _guid),
    Question("guid", GetDeviceGuidReq(), _guid),
    Question("self_test", GetSelfTestResultsReq(), _self_test, {"self_test": "unsupported"}),
    Question("watchdog", GetWatchdogTimerReq(), _watchdog),
)
