"""What a probe asks a BMC, and how each answer becomes facts of a ProbeResult."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bmcmedic.ipmi.commands.chassis import GetChassisStatusReq, GetChassisStatusRsp
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.model.probe import ProbeResult, WatchdogFacts


class ProbeFacts:
    """What the answers of one BMC have shown so far; the fields are those of ProbeResult."""

    __slots__ = (
        "power",
        "device_id",
        "firmware",
        "manufacturer_id",
        "guid",
        "self_test",
        "watchdog",
        "error",
        "notes",
    )

    def __init__(self) -> None:
        self.power: str | None = None
        self.device_id: int | None = None
        self.firmware: str | None = None
        self.manufacturer_id: int | None = None
        self.guid: str | None = None
        self.self_test: str | None = None
        self.watchdog: WatchdogFacts | None = None
        self.error: str | None = None
        """Why a BMC that answers is not well."""
        self.notes: tuple[str, ...] = ()

    def to_result(
        self, target: str, *, reachable: bool, latency_s: float | None, error: str | None
    ) -> ProbeResult:
        """Return the result of a probe that ended; `error` is why it ended early, if it did."""
        return ProbeResult(
            target,
            reachable,
            # By position, in the order of the fields: by name it takes half as long again.
            self.power,
            self.device_id,
            self.firmware,
            self.manufacturer_id,
            self.guid,
            self.self_test,
            self.watchdog,
            latency_s,
            self.error if error is None else error,
            self.notes,
        )


Fill = Callable[[bytes, ProbeFacts], None]
"""Reads the data of a good response into the facts; may raise RemoteProtocolError."""


def _is_never_known(facts: ProbeFacts) -> bool:
    """Report that no other question fills the same facts, so the question is always asked."""
    del facts
    return False


def leave_unknown(facts: ProbeFacts) -> None:
    """Fill in nothing: the BMC does not have the command, which is no fault."""
    del facts


@dataclass(frozen=True, slots=True)
class Question:
    """One command of a probe."""

    request: Command[Any]
    fill: Fill
    fill_unsupported: Callable[[ProbeFacts], None] | None = None
    """Fills the facts where the BMC lacks the command; None where every BMC must have it."""
    is_known: Callable[[ProbeFacts], bool] = _is_never_known
    """Whether an earlier answer already gave the fact; then the question is skipped."""
    optional: str = ""
    """What an optional question asks for; empty where a BMC without an answer is not well."""

    def take(self, completion_code: int, data: bytes, facts: ProbeFacts) -> None:
        """Read an answer into `facts`; raises CompletionCodeError and RemoteProtocolError."""
        if completion_code == CompletionCode.OK:
            self.fill(data, facts)
        elif completion_code == CompletionCode.INVALID_COMMAND and self.fill_unsupported:
            self.fill_unsupported(facts)
        else:
            raise self.request.completion_code_error(completion_code)


def _fill_power(data: bytes, facts: ProbeFacts) -> None:
    facts.power = "on" if GetChassisStatusRsp.decode_power_on(data) else "off"


POWER_QUESTION = Question(GetChassisStatusReq(), _fill_power)
