"""Dispatch a request to its handler: what a front end calls for each command that it receives."""

from __future__ import annotations

from bmcmedic.errors import InvalidDataField, RemoteProtocolError
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.handler_call import (
    Bridged,
    Call,
    CommandRefusal,
    HandlerAnswer,
    Interface,
    NoReply,
)
from bmcmedic.sim.handlers.table import HANDLERS


def execute(
    bmc: SimBmc, request: RequestMessage, interface: Interface, now: float
) -> HandlerAnswer | None:
    """Execute a request on the BMC and return its answer, or None when the BMC stays silent."""
    if bmc.timer is not None and bmc.timer <= now:
        bmc.handle_timer(now)
    if not bmc.answers(interface):
        return None
    bmc.count_request(request)
    service_time_s = bmc.take_turn(now)
    if service_time_s is None:
        return HandlerAnswer(CompletionCode.NODE_BUSY, b"", 0.0)
    faults = bmc.take_command_faults(request) if bmc.faults.command_faults else ()
    answer: HandlerAnswer | None = HandlerAnswer(CompletionCode.OK, b"", service_time_s)
    if all(fault.executes for fault in faults):
        answer = _execute(bmc, request, Call(request, interface, now), service_time_s)
    for fault in faults:
        answer = None if answer is None else fault.apply(answer)
    return answer


def _execute(
    bmc: SimBmc, request: RequestMessage, call: Call, service_time_s: float
) -> HandlerAnswer | None:
    """Execute a request that no fault stops."""
    known = HANDLERS.get((request.netfn, request.command))
    if known is None:
        return HandlerAnswer(CompletionCode.INVALID_COMMAND, b"", service_time_s)
    command, handler = known
    try:
        decoded = command.decode(request.data)
    except InvalidDataField:
        return HandlerAnswer(CompletionCode.INVALID_DATA_FIELD, b"", service_time_s)
    except RemoteProtocolError:
        return HandlerAnswer(CompletionCode.DATA_LENGTH_INVALID, b"", service_time_s)
    try:
        data = handler(bmc, decoded, call)
    except CommandRefusal as refusal:
        return HandlerAnswer(refusal.completion_code, b"", service_time_s)
    except NoReply:
        return None
    except Bridged as bridged:
        return HandlerAnswer(CompletionCode.OK, b"", service_time_s, bridged.response)
    return HandlerAnswer(CompletionCode.OK, data, service_time_s)
