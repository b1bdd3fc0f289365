"""Garbage, damage and replay to both sides in every state: all of it is dropped without harm."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from bmcmedic.errors import AuthenticationFailed, RmcpPlusStatusError
from bmcmedic.ipmi.events import (
    RequestUnanswered,
    ResponseReceived,
    SessionFailed,
    SessionOpened,
)
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage
from bmcmedic.ipmi.packet import (
    DATAGRAM_BYTES_MAX,
    LegacyPacket,
    Packet,
    PayloadType,
    PresencePing,
    PresencePong,
    decode_datagram,
    plus_header,
)
from tests.support.session_pair import (
    PEER,
    TO_BMC,
    TO_CONSOLE,
    Filter,
    Pair,
    make_pair,
    opened_pair,
)

MESSAGE = RequestMessage(0x30, 0x42)

Damage = Callable[[random.Random, bytes], bytes]


def flip_bit(rng: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def lengthen(rng: random.Random, data: bytes) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 40))


def overlong(rng: random.Random, data: bytes) -> bytes:
    return data + rng.randbytes(DATAGRAM_BYTES_MAX + 1 - len(data))


def garbage(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.randrange(0, 1 + len(data)))


def garbage_after_header(rng: random.Random, data: bytes) -> bytes:
    start = rng.choice((4, 5, 6, 10, 14, 16))
    return data[:start] + rng.randbytes(max(0, len(data) - start))


def damaged_first(damage: Damage, seed: int) -> Filter:
    """Put three damaged copies before every datagram."""
    rng = random.Random(seed)
    return lambda _way, data: [*(damage(rng, data) for _ in range(3)), data]


ALL_DAMAGE: tuple[Damage, ...] = (flip_bit, cut, lengthen, overlong, garbage, garbage_after_header)


@pytest.mark.parametrize("damage", [cut, overlong, garbage])
@pytest.mark.parametrize("suite", [0, 1, 2, 3, 15, 16, 17])
def test_garbage_before_every_datagram_changes_nothing(damage: Damage, suite: int) -> None:
    for seed in range(15):
        pair = make_pair(suites=(suite,), bmc_suites=(suite,), seed=seed)
        pair.change = damaged_first(damage, seed)
        assert isinstance(pair.open(), SessionOpened)
        for number in range(3):
            event = pair.ask(bytes((number,)) * number)
            assert isinstance(event, ResponseReceived)
            assert event.response.data == bytes((number,)) * number
        assert [len(message.data) for message in pair.executed] == [0, 1, 2]


@pytest.mark.parametrize("damage", ALL_DAMAGE)
@pytest.mark.parametrize("suite", [2, 3, 16, 17])
def test_a_damaged_datagram_in_a_protected_session_is_ignored(damage: Damage, suite: int) -> None:
    for seed in range(40):
        pair = opened_pair(suite=suite, seed=seed)
        pair.change = damaged_first(damage, seed)
        for number in range(3):
            event = pair.ask(bytes((number,)) * 5)
            assert isinstance(event, ResponseReceived)
            assert event.response.data == bytes((number,)) * 5
        assert len(pair.executed) == 3


@pytest.mark.parametrize("damage", ALL_DAMAGE)
def test_damaged_set_up_gives_a_session_or_an_error_but_no_exception(
    damage: Damage,
) -> None:
    """Set-up messages are not protected, so a damaged one can look like a refusal."""
    for seed in range(150):
        pair = make_pair(seed=seed)
        pair.change = damaged_first(damage, seed)
        event = pair.open()
        if isinstance(event, SessionFailed):
            assert isinstance(event.error, AuthenticationFailed | RmcpPlusStatusError)
            continue
        event = pair.ask(b"data")
        assert isinstance(event, ResponseReceived | RequestUnanswered)


def test_datagrams_of_one_session_are_rejected_in_another() -> None:
    first = make_pair(seed=1)
    first.open()
    first.ask(b"recorded")
    first.settle()
    recorded = list(first.sent)
    second = make_pair(seed=2)
    second.open()
    second.settle()
    executed = len(second.executed)
    for way, datagram in recorded:
        if way == TO_BMC:
            second.managed.receive_datagram(datagram, "attacker", second.now)
        else:
            assert second.console.receive_datagram(datagram, second.now) is None
    assert len(second.executed) == executed
    assert isinstance(second.ask(b"still fine"), ResponseReceived)


def test_a_replayed_request_is_not_executed_again() -> None:
    pair = opened_pair()
    for _ in range(40):
        pair.ask()
    discarded = pair.managed.discarded_count
    replayed = [data for way, data in pair.sent if way == TO_BMC]
    for datagram in replayed:
        assert pair.managed.receive_datagram(datagram, PEER, pair.now) is None
    assert pair.managed.discarded_count == discarded + 40
    assert isinstance(pair.ask(), ResponseReceived)


def test_a_replayed_response_is_rejected() -> None:
    pair = opened_pair()
    for _ in range(70):
        pair.ask()
    answers = [data for way, data in pair.sent if way == TO_CONSOLE]
    pair.change = lambda way, data: [data] if way == TO_BMC else []
    pair.console.request(pair.executed[0], pair.now, pair.now + 5)
    for datagram in answers:
        assert pair.console.receive_datagram(datagram, pair.now) is None
    assert pair.console.discarded is not None
    assert any("replayed" in reason for reason in pair.console.discarded)


def test_a_datagram_from_another_address_is_rejected() -> None:
    pair = opened_pair()
    pair.console.request(MESSAGE, pair.now, pair.now + 5)
    (datagram,) = pair.console.datagrams_to_send()
    assert pair.managed.receive_datagram(datagram, "somebody else", pair.now) is None
    assert pair.managed.receive_datagram(datagram, PEER, pair.now) is not None


def test_a_packet_far_outside_of_the_window_is_dropped() -> None:
    pair = opened_pair()
    pair.ask()
    session = pair.console._session
    assert session is not None
    session._outbound_sequence += 16
    pair.sent.clear()
    pair.console.request(MESSAGE, pair.now, pair.now + 0.2)
    (datagram,) = pair.console.datagrams_to_send()
    discarded = pair.managed.discarded_count
    assert pair.managed.receive_datagram(datagram, PEER, pair.now) is None
    assert pair.managed.discarded_count == discarded + 1


def test_a_console_that_missed_hundreds_of_responses_accepts_the_next() -> None:
    pair = opened_pair()
    session = next(iter(pair.managed._slots)).session
    assert session is not None
    session._outbound_sequence += 500
    assert isinstance(pair.ask(), ResponseReceived)


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("authenticated", [False, True])
def test_a_packet_with_less_protection_than_negotiated_is_dropped(
    encrypted: bool, authenticated: bool
) -> None:
    pair = opened_pair(suite=17)
    session = pair.console._session
    assert session is not None
    body = MESSAGE.encode(1)
    bare = (
        plus_header(encrypted << 7 | authenticated << 6, session.outbound_id, 5, len(body)) + body
    )
    discarded = pair.managed.discarded_count
    assert pair.managed.receive_datagram(bare, PEER, pair.now) is None
    assert pair.managed.discarded_count == discarded + 1
    assert pair.executed == []


def test_an_unknown_session_id_is_dropped() -> None:
    pair = make_pair()
    datagram = plus_header(0xC0, 0x12345678, 1, 32) + bytes(32)
    assert pair.managed.receive_datagram(datagram, PEER, 1.0) is None
    assert pair.console.receive_datagram(datagram, 1.0) is None


def test_set_up_messages_in_the_wrong_order_are_refused_and_harmless() -> None:
    pair = make_pair(suites=(17,))
    pair.open()
    pair.settle()
    set_up = [data for way, data in pair.sent if way == TO_BMC]
    other = make_pair(seed=9)
    for data in (set_up[2], set_up[1], set_up[2], set_up[1]):
        answer = other.managed.receive_datagram(data, PEER, 1.0)
        assert isinstance(answer, bytes)
        packet = decode_datagram(answer)
        assert isinstance(packet, Packet)
        assert packet.payload[1] == 0x02
    assert other.managed.session_count == 0
    # Repeating the set-up of the active session must not undo any of it.
    for data in set_up[1:]:
        pair.managed.receive_datagram(data, PEER, pair.now)
        pair.managed.receive_datagram(data, "somebody else", pair.now)
    assert isinstance(pair.ask(), ResponseReceived)


def test_flooding_open_session_takes_no_more_than_the_slots() -> None:
    pair = make_pair(slots=4, suites=(17,))
    for seed in range(200):
        other = make_pair(seed=seed + 2)
        other.console.open(1.0, 6.0)
        (datagram,) = other.console.datagrams_to_send()
        pair.managed.receive_datagram(datagram, f"attacker {seed}", 1.0)
    assert pair.managed.session_count == 4
    pair.now = 22.0
    assert isinstance(pair.open(), SessionOpened)
    assert pair.managed.session_count == 1


def test_a_session_id_that_is_taken_is_not_given_twice() -> None:
    pair = make_pair()
    rolls = iter([b"\1\0\0\0", b"\0\0\0\0", b"\1\0\0\0", b"\2\0\0\0"])
    pair.managed._slots._random_bytes = lambda _size: next(rolls)
    for seed in (2, 3):
        other = make_pair(seed=seed)
        other.console.open(1.0, 6.0)
        (datagram,) = other.console.datagrams_to_send()
        pair.managed.receive_datagram(datagram, f"console {seed}", 1.0)
    assert sorted(pair.managed._slots._slots) == [1, 2]


def test_every_presence_ping_is_answered() -> None:
    pair = make_pair()
    answer = pair.managed.receive_datagram(PresencePing(7).encode(), PEER, 1.0)
    assert isinstance(answer, bytes)
    assert decode_datagram(answer) == PresencePong(7, supports_ipmi=True)


def test_outside_of_a_session_only_what_the_specification_allows_is_answered() -> None:
    pair = make_pair()
    capabilities = RequestMessage(0x06, 0x38, b"\x8e\x04")
    for envelope in (
        LegacyPacket(0, 0, 0, capabilities.encode()),
        Packet(PayloadType.IPMI, False, False, 0, 0, capabilities.encode()),
    ):
        answer = pair.managed.receive_datagram(envelope.encode(), PEER, 1.0)
        assert isinstance(answer, bytes)
        answered = decode_datagram(answer)
        assert type(answered) is type(envelope)
        assert isinstance(answered, LegacyPacket | Packet)
        response = ResponseMessage.decode(answered.payload)
        assert (response.command, response.completion_code) == (0x38, 0)
    for message in (RequestMessage(0x06, 0x01), RequestMessage(0x06, 0x02), RequestMessage(0, 2)):
        for datagram in (
            LegacyPacket(0, 0, 0, message.encode()).encode(),
            Packet(PayloadType.IPMI, False, False, 0, 0, message.encode()).encode(),
        ):
            assert pair.managed.receive_datagram(datagram, PEER, 1.0) is None


def test_reasons_for_dropping_are_bounded_and_reported_at_the_deadline() -> None:
    pair = opened_pair()
    rng = random.Random(5)

    def change(way: str, data: bytes) -> list[bytes]:
        return (
            [data] if way == TO_BMC else [data[:-1] + b"\0", *(cut(rng, data) for _ in range(40))]
        )

    pair.change = change
    event = pair.ask()
    assert isinstance(event, RequestUnanswered)
    assert pair.console.discarded is not None
    assert len(pair.console.discarded) <= 17
    assert "datagrams discarded, most often" in str(event.error)
    for _ in range(100):
        pair.console.receive_datagram(rng.randbytes(30), pair.now)
    assert len(pair.console.discarded) <= 17


def every_state() -> list[Pair]:
    """Return a pair for each state, reached in the ordinary way."""
    pairs = []
    for steps in range(12):
        pair = make_pair(suites=(17,))
        pair.console.open(pair.now, pair.now + 5)
        for _ in range(steps):
            if pair.events:
                break
            pair.step()
        pairs.append(pair)
    for ending in ("request", "close"):
        pair = opened_pair()
        if ending == "request":
            pair.console.request(MESSAGE, pair.now, pair.now + 5)
        else:
            pair.console.close(pair.now, pair.now + 1)
        pair.step()
        pairs.append(pair)
    pairs.append(make_pair())
    return pairs


def test_garbage_raises_no_exception_in_any_state() -> None:
    rng = random.Random(4)
    recorded = opened_pair(seed=99)
    recorded.ask()
    samples = [data for _, data in recorded.sent]
    pairs = every_state()
    assert len({pair.console.state for pair in pairs}) >= 7
    for pair in pairs:
        for _ in range(300):
            data = rng.choice(ALL_DAMAGE)(rng, rng.choice(samples))
            state = pair.console.state
            event = pair.console.receive_datagram(data, pair.now)
            assert event is None
            assert pair.console.state is state
            pair.managed.receive_datagram(data, PEER, pair.now)
