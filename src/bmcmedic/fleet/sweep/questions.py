"""What a probe asks a BMC, and how the answers become facts of a ProbeResult."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bmcmedic.ipmi.commands.chassis import GetChassisStatusReq, GetChassisStatusRsp
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.constants import CompletionCode

Facts = dict[str, Any]


_POWER: tuple[Facts, Facts] = {"power": "off"}, {"power": "on"}


@dataclass(frozen=True, slots=True)
class Question:
    """One command of a probe; it is skipped once its `fact` is known from another."""

    fact: str
    request: Command[Any]
    facts_of: Callable[[bytes], Facts]
    """From the data of a good response; may raise RemoteProtocolError."""
    when_unsupported: Facts = field(default_factory=dict)

    def take(self, completion_code: int, data: bytes) -> Facts:
        """Facts from an answer; raises CompletionCodeError and RemoteProtocolError."""
        if completion_code == CompletionCode.OK:
            return self.facts_of(data)
        # Power is what a probe is for; the rest a BMC may lack.
        if completion_code == CompletionCode.INVALID_COMMAND and self.fact != "power":
            return self.when_unsupported
        raise self.request.completion_code_error(completion_code)


def _power(data: bytes) -> Facts:
    return _POWER[GetChassisStatusRsp.decode_power_on(data)]


POWER_QUESTION = Question("power", GetChassisStatusReq(), _power)
