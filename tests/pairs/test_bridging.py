"""Bridged requests: answers in two parts, answers in one part, refusals and losses."""

from __future__ import annotations

import pytest

from bmcmedic.ipmi.bridge import Bridge, second_part, wrapped_request
from bmcmedic.ipmi.commands.messaging import SendMessageReq
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.ipmi.events import RequestUnanswered, ResponseReceived
from bmcmedic.ipmi.managed_system import IncomingRequest, ManagedSystem
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.ipmi.states import SessionState
from tests.support.session_pair import TO_BMC, Executor, Pair, make_pair

SATELLITE = Bridge(channel=6, target_address=0x2C)


def bridging_pair(execute: Executor) -> Pair:
    pair = make_pair(privilege=PrivilegeLevel.ADMINISTRATOR)
    pair.open()
    raised = pair.request(RequestMessage(0x06, 0x3B, b"\x04"))
    assert isinstance(raised, ResponseReceived)
    pair.settle()
    pair.sent.clear()
    pair.execute = execute
    return pair


def satellite(
    *, first: bool = True, second: bool = True, embedded: bool = False, swapped: bool = False
) -> Executor:
    """A satellite behind the BMC that answers with its own data, in the requested form."""

    def execute(
        managed: ManagedSystem, incoming: IncomingRequest, now: float
    ) -> list[bytes | None]:
        send = SendMessageReq.decode(incoming.message.data)
        assert send.channel == 6
        inner = wrapped_request(send)
        assert inner.responder == 0x2C
        answer = second_part(incoming.message, inner, 0, b"from 2c:" + inner.data)
        body = answer.encode() if embedded else b""
        parts: list[bytes | None] = []
        if first:
            parts.append(managed.respond(incoming, 0, body, now))
        if second and not embedded:
            parts.append(managed.send_message(incoming, answer, now))
        return parts[::-1] if swapped else parts

    return execute


@pytest.mark.parametrize(
    "execute",
    [satellite(), satellite(embedded=True), satellite(first=False), satellite(swapped=True)],
    ids=["two parts", "embedded", "first part lost", "parts swapped"],
)
def test_the_satellites_response_arrives_in_every_form_a_bmc_uses(execute: Executor) -> None:
    pair = bridging_pair(execute)
    for number in range(70):
        event = pair.ask(bytes((number,)), bridge=SATELLITE)
        assert isinstance(event, ResponseReceived)
        assert event.response.data == b"from 2c:" + bytes((number,))
        assert (event.response.netfn, event.response.command) == (0x31, 0x42)
    pair.execute = lambda managed, incoming, now: [managed.respond(incoming, 0, b"", now)]
    assert isinstance(pair.ask(), ResponseReceived)


@pytest.mark.parametrize("code", [0x83, 0x80, 0x81, 0x82, 0xC0, 0xD3])
def test_a_refused_send_message_is_the_answer(code: int) -> None:
    pair = bridging_pair(lambda managed, incoming, now: [managed.respond(incoming, code, b"", now)])
    event = pair.ask(bridge=SATELLITE)
    assert isinstance(event, ResponseReceived)
    assert (event.response.command, event.response.completion_code) == (0x34, code)
    assert pair.console.state is SessionState.ACTIVE


def test_a_lost_second_part_ends_at_the_deadline_and_asks_the_satellite_once() -> None:
    pair = bridging_pair(satellite(second=False))
    started_at = pair.now
    event = pair.ask(bridge=SATELLITE, timeout_s=3)
    assert isinstance(event, RequestUnanswered)
    assert pair.now - started_at == pytest.approx(3)
    assert len(pair.executed) == 1


def test_a_second_part_after_its_deadline_does_not_answer_the_next_request() -> None:
    held: list[bytes | None] = []

    def execute(
        managed: ManagedSystem, incoming: IncomingRequest, now: float
    ) -> list[bytes | None]:
        parts = satellite()(managed, incoming, now)
        if not held:
            held.append(parts.pop())
            return parts
        return [held[0], *parts]

    pair = bridging_pair(execute)
    assert isinstance(pair.ask(b"first", bridge=SATELLITE, timeout_s=1), RequestUnanswered)
    event = pair.ask(b"second", bridge=SATELLITE)
    assert isinstance(event, ResponseReceived)
    assert event.response.data == b"from 2c:second"


def test_a_bridged_request_that_is_not_idempotent_is_sent_once() -> None:
    pair = bridging_pair(lambda _managed, _incoming, _now: [])
    event = pair.ask(bridge=SATELLITE, idempotent=False)
    assert isinstance(event, RequestUnanswered)
    assert pair.count_sent(TO_BMC) == 1


def test_other_embedded_data_is_not_a_response() -> None:
    def execute(
        managed: ManagedSystem, incoming: IncomingRequest, now: float
    ) -> list[bytes | None]:
        wrong = RequestMessage(0x04, 0x2D, sequence=incoming.message.sequence).reply(0, b"x")
        return [managed.respond(incoming, 0, body, now) for body in (wrong.encode(), b"junk")]

    pair = bridging_pair(execute)
    event = pair.ask(bridge=SATELLITE, timeout_s=1)
    assert isinstance(event, RequestUnanswered)
    assert "discarded" in str(event.error)


def test_bridging_under_loss_ends_in_time() -> None:
    answered = 0
    for seed in range(300):
        pair = bridging_pair(satellite())
        pair.rng.seed(seed)
        pair.loss = 0.2
        started_at = pair.now
        event = pair.ask(bridge=SATELLITE)
        assert pair.now <= started_at + 5.000001
        answered += isinstance(event, ResponseReceived)
    assert answered > 200
