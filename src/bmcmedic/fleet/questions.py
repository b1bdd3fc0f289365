"""What a probe asks a BMC, and how the answers become facts of a ProbeResult."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bmcmedic.errors import CompletionCodeError
from bmcmedic.ipmi.commands._command import Command
from bmcmedic.ipmi.commands.chassis import GetChassisStatusReq, GetChassisStatusRsp
from bmcmedic.ipmi.constants import CompletionCode

Facts = dict[str, Any]


_POWER: tuple[Facts, Facts] = {"power": "off"}, {"power": "on"}


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
    return _POWER[status.power_on]


POWER_QUESTION = Question("power", GetChassisStatusReq(), _power)
