"""Remote console and managed system connected in memory: sessions that go well."""

from __future__ import annotations

import pytest

from bmcmedic.ipmi.cipher_suites import CIPHER_SUITES
from bmcmedic.ipmi.constants import CompletionCode, PrivilegeLevel
from bmcmedic.ipmi.events import (
    RequestUnanswered,
    ResponseReceived,
    SessionClosed,
    SessionFailed,
    SessionOpened,
)
from bmcmedic.ipmi.managed_system import IncomingRequest, ManagedSystem, User
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.ipmi.packet import Packet, PayloadType, decode_datagram
from bmcmedic.ipmi.states import SessionState
from tests.support.session_pair import (
    PASSWORD,
    TO_BMC,
    TO_CONSOLE,
    Executor,
    Pair,
    make_pair,
    opened_pair,
    silent,
)


def slow_into(waiting: list[IncomingRequest]) -> Executor:
    """A BMC that executes its requests later."""

    def slow(_managed: ManagedSystem, incoming: IncomingRequest, _now: float) -> list[bytes | None]:
        waiting.append(incoming)
        return []

    return slow


def in_session(datagram: bytes) -> Packet:
    packet = decode_datagram(datagram)
    assert isinstance(packet, Packet)
    return packet


@pytest.mark.parametrize("suite", sorted(CIPHER_SUITES))
@pytest.mark.parametrize("kg", [b"", b"a-k_g-of-20-bytes..."])
def test_every_suite_opens_exchanges_and_closes(suite: int, kg: bytes) -> None:
    pair = make_pair(suites=(suite,), bmc_suites=(suite,), kg=kg, bmc_kg=kg)
    assert pair.open() == SessionOpened(CIPHER_SUITES[suite])
    for length in range(40):
        event = pair.ask(bytes(range(length)))
        assert isinstance(event, ResponseReceived)
        assert event.response.data == bytes(range(length))
    assert pair.managed.session_count == 1
    assert pair.close() == SessionClosed()
    assert pair.managed.session_count == 0
    assert pair.console.state is SessionState.CLOSED


@pytest.mark.parametrize("password", [b"", b"p", b"sixteen-byte-pw!", b"twenty-bytes-is-most"])
@pytest.mark.parametrize("suite", [3, 17])
def test_passwords_of_every_length(password: bytes, suite: int) -> None:
    users = (User(2, b"admin", password),)
    pair = make_pair(suites=(suite,), password=password, users=users)
    assert isinstance(pair.open(), SessionOpened)
    assert isinstance(pair.ask(), ResponseReceived)


def test_a_password_that_the_bmc_pads_with_zeros_matches() -> None:
    pair = make_pair(password=b"short", users=(User(2, b"admin", b"short".ljust(20, b"\0")),))
    assert isinstance(pair.open(), SessionOpened)


def test_a_name_of_16_bytes_and_no_name_at_all() -> None:
    for name in ("", "sixteen-byte-nam"):
        pair = make_pair(user=name, users=(User(3, name.encode(), PASSWORD),))
        assert isinstance(pair.open(), SessionOpened)


def test_only_a_session_without_encryption_exposes_its_payload() -> None:
    secret = b"a very telling payload"
    for suite, is_visible in ((1, True), (2, True), (3, False), (17, False)):
        pair = opened_pair(suite=suite)
        pair.ask(secret)
        assert any(secret in datagram for _, datagram in pair.sent) is is_visible


def test_the_same_request_never_looks_the_same_on_the_wire() -> None:
    pair = opened_pair()
    for _ in range(20):
        pair.ask()
    datagrams = [datagram for _, datagram in pair.sent]
    assert len(set(datagrams)) == len(datagrams) == 40
    first_blocks = {datagram[16:32] for datagram in datagrams}
    assert len(first_blocks) == 40


def test_request_sequence_numbers_wrap_after_63() -> None:
    pair = opened_pair()
    for number in range(200):
        event = pair.ask(number.to_bytes(2, "big"))
        assert isinstance(event, ResponseReceived)
        assert event.response.data == number.to_bytes(2, "big")
    assert [message.sequence for message in pair.executed[:65]] == [*range(1, 64), 0, 1]


def test_session_sequence_numbers_wrap_past_zero() -> None:
    pair = opened_pair()
    console = pair.console._session
    (slot,) = pair.managed._slots
    managed = slot.session
    assert console is not None
    assert managed is not None
    # The state after four thousand million packets.
    for sender, receiver in ((console, managed), (managed, console)):
        sender._outbound_sequence = receiver._window._highest = 0xFFFFFFFA
    for _ in range(20):
        assert isinstance(pair.ask(), ResponseReceived)
    for way in (TO_BMC, TO_CONSOLE):
        sequences = [in_session(data).sequence for sent, data in pair.sent if sent == way]
        assert sequences[:8] == [*range(0xFFFFFFFB, 0x100000000), 1, 2, 3]
    assert pair.managed.discarded_count == 0


def test_a_request_that_is_not_idempotent_is_sent_once_even_without_an_answer() -> None:
    pair = opened_pair()
    pair.execute = silent
    assert isinstance(pair.ask(idempotent=False), RequestUnanswered)
    assert pair.count_sent() == 1
    assert pair.console.state is SessionState.ACTIVE


def test_a_request_that_is_not_idempotent_is_sent_once_even_if_sessions_may_reopen() -> None:
    pair = opened_pair(may_reopen=True)
    pair.execute = silent
    assert isinstance(pair.ask(idempotent=False), RequestUnanswered)
    assert pair.count_sent() == 1


def test_an_idempotent_request_is_repeated_and_its_late_response_accepted() -> None:
    pair = opened_pair()
    waiting: list[IncomingRequest] = []
    pair.execute = slow_into(waiting)
    pair.console.request(RequestMessage(0x30, 0x42, b"x"), pair.now, pair.now + 5)
    while pair.count_sent() < 5:
        pair.step()
    assert len(waiting) == 1, "a request in work is not started again"
    answer = pair.managed.respond(waiting[0], 0, b"late", pair.now)
    assert answer is not None
    pair.put(TO_CONSOLE, answer)
    event = pair.run()
    assert isinstance(event, ResponseReceived)
    assert event.response.data == b"late"


def test_the_end_of_a_slow_request_does_not_execute_a_newer_one_twice() -> None:
    pair = opened_pair()
    waiting: list[IncomingRequest] = []
    pair.execute = slow_into(waiting)
    assert isinstance(pair.ask(b"first", timeout_s=1), RequestUnanswered)
    pair.console.request(RequestMessage(0x30, 0x42, b"second"), pair.now, pair.now + 5)
    pair.step()
    pair.step()
    assert [incoming.message.data for incoming in waiting] == [b"first", b"second"]
    answer = pair.managed.respond(waiting[0], 0, b"first", pair.now)
    assert answer is not None
    pair.put(TO_CONSOLE, answer)
    while pair.now < 5:
        pair.step()
    assert [incoming.message.data for incoming in waiting] == [b"first", b"second"]


def test_a_response_after_its_deadline_does_not_answer_the_next_request() -> None:
    pair = opened_pair()
    waiting: list[IncomingRequest] = []

    def slow(managed: ManagedSystem, incoming: IncomingRequest, now: float) -> list[bytes | None]:
        waiting.append(incoming)
        if len(waiting) == 1:
            return []
        return [managed.respond(old, 0, old.message.data, now) for old in waiting]

    pair.execute = slow
    assert isinstance(pair.ask(b"first", timeout_s=0.2), RequestUnanswered)
    event = pair.ask(b"second")
    assert isinstance(event, ResponseReceived)
    assert event.response.data == b"second"


def test_privilege_levels_are_checked_and_raised() -> None:
    pair = opened_pair()
    cold_reset = RequestMessage(0x06, 0x02)
    event = pair.request(cold_reset)
    assert isinstance(event, ResponseReceived)
    assert event.response.completion_code == CompletionCode.INSUFFICIENT_PRIVILEGE
    assert pair.executed == []
    # A session that was opened at User level cannot go above it.
    event = pair.request(RequestMessage(0x06, 0x3B, b"\x04"))
    assert isinstance(event, ResponseReceived)
    assert event.response.completion_code == 0x81

    pair = make_pair(privilege=PrivilegeLevel.ADMINISTRATOR)
    pair.open()
    event = pair.request(RequestMessage(0x06, 0x3B, b"\x04"))
    assert isinstance(event, ResponseReceived)
    assert (event.response.completion_code, event.response.data) == (0, b"\x04")
    event = pair.request(cold_reset)
    assert isinstance(event, ResponseReceived)
    assert event.response.completion_code == 0
    assert len(pair.executed) == 1


def test_set_session_privilege_level_reports_the_reason_of_a_refusal() -> None:
    users = (User(2, b"admin", PASSWORD, PrivilegeLevel.OPERATOR),)
    pair = make_pair(users=users, privilege=PrivilegeLevel.OPERATOR)
    pair.open()
    for data, code in (
        (b"\x04", 0x80),
        (b"\x07", CompletionCode.INVALID_DATA_FIELD),
        (b"\x01", CompletionCode.INVALID_DATA_FIELD),
        (b"", CompletionCode.DATA_LENGTH_INVALID),
        (b"\x03\x03", CompletionCode.DATA_LENGTH_INVALID),
        (b"\x00", 0),
    ):
        event = pair.request(RequestMessage(0x06, 0x3B, data))
        assert isinstance(event, ResponseReceived)
        assert event.response.completion_code == code, data


def test_a_session_can_be_listed_and_closed_by_another() -> None:
    pair = opened_pair()
    event = pair.request(RequestMessage(0x06, 0x3D, b"\x00"))
    assert isinstance(event, ResponseReceived)
    assert event.response.data[:3] == bytes((1, 4, 1))
    own_id = pair.console._session.outbound_id if pair.console._session else 0
    for data, code in (
        (b"\x00\x00\x00\x00\x01", 0x88),
        ((own_id ^ 1).to_bytes(4, "little"), 0x87),
        (b"\x01", CompletionCode.DATA_LENGTH_INVALID),
    ):
        event = pair.request(RequestMessage(0x06, 0x3C, data))
        assert isinstance(event, ResponseReceived)
        assert event.response.completion_code == code, data
    assert pair.managed.session_count == 1


def test_session_info_caps_counts_at_the_width_of_their_fields() -> None:
    pair = make_pair(slots=300)
    for number in range(299):
        other = make_pair(seed=number + 2)
        other.managed = pair.managed
        other.open()
        other.settle()
    pair.open()
    event = pair.request(RequestMessage(0x06, 0x3D, b"\x00"))
    assert isinstance(event, ResponseReceived)
    assert event.response.completion_code == 0
    assert event.response.data[1:3] == b"\x3f\x3f"


def test_an_idle_session_times_out_and_a_busy_one_does_not() -> None:
    pair = opened_pair()
    for _ in range(5):
        pair.now += 55
        assert isinstance(pair.ask(), ResponseReceived)
    pair.now += 61
    assert isinstance(pair.ask(timeout_s=2), RequestUnanswered)


def test_a_half_open_session_frees_its_slot() -> None:
    pair = make_pair(slots=1)
    pair.change = lambda way, data: [data] if way == TO_BMC else []
    assert isinstance(pair.open(timeout_s=0.2), SessionFailed)
    assert pair.managed.session_count == 1
    again = make_pair(slots=1, seed=2)
    again.managed = pair.managed
    again.now = pair.now + 21
    assert isinstance(again.open(), SessionOpened)


def test_a_session_is_closed_even_without_a_confirmation() -> None:
    pair = opened_pair()
    pair.change = lambda way, data: [data] if way == TO_BMC else []
    started_at = pair.now
    assert pair.close() == SessionClosed()
    assert pair.managed.session_count == 0
    assert pair.now - started_at == pytest.approx(1.0)


def _reopening(seed: int = 1) -> Pair:
    pair = opened_pair(may_reopen=True, seed=seed)
    pair.managed.forget_sessions()
    return pair


def test_a_forgotten_session_is_set_up_again_and_its_request_answered() -> None:
    pair = _reopening()
    event = pair.ask(b"again")
    assert isinstance(event, ResponseReceived)
    assert event.response.data == b"again"
    assert [message.data for message in pair.executed] == [b"again"]
    assert isinstance(pair.ask(), ResponseReceived)


def test_a_request_in_a_forgotten_session_times_out_if_it_may_not_reopen() -> None:
    pair = opened_pair()
    pair.managed.forget_sessions()
    event = pair.ask()
    assert isinstance(event, RequestUnanswered)
    assert "request 30/42" in str(event.error)
    assert all(in_session(data).payload_type == PayloadType.IPMI for _, data in pair.sent)


def test_a_session_is_set_up_again_as_often_as_its_bmc_restarts() -> None:
    pair = opened_pair(may_reopen=True)
    for number in range(50):
        pair.managed.forget_sessions()
        event = pair.ask(bytes((number,)))
        assert isinstance(event, ResponseReceived), number


def test_a_bmc_that_is_gone_for_good_ends_the_reopening_at_the_deadline() -> None:
    pair = opened_pair(may_reopen=True)
    pair.change = lambda _way, _data: []
    started_at = pair.now
    event = pair.ask(timeout_s=5)
    assert isinstance(event, SessionFailed)
    assert pair.now - started_at == pytest.approx(5)


def test_a_request_can_be_given_up_and_the_session_goes_on() -> None:
    pair = opened_pair()
    pair.execute = silent
    pair.console.request(RequestMessage(0x30, 0x42), pair.now, pair.now + 5)
    pair.step()
    pair.console.give_up_request()
    assert pair.console.get_timer() is None
    assert pair.console.state is SessionState.ACTIVE
    pair.execute = lambda managed, incoming, now: [managed.respond(incoming, 0, b"", now)]
    assert isinstance(pair.ask(), ResponseReceived)
    pair.console.give_up_request()
    assert pair.console.state is SessionState.ACTIVE
    assert pair.close() == SessionClosed()
