"""Datagrams and set-up messages: round trips, and garbage that gives a RemoteProtocolError."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.errors import LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi.cipher_suites import CIPHER_SUITES, CipherSuite
from bmcmedic.ipmi.packet import (
    DATAGRAM_BYTES_MAX,
    LegacyPacket,
    Packet,
    PayloadType,
    PresencePing,
    PresencePong,
    decode_datagram,
)
from bmcmedic.ipmi.rakp import (
    OpenSessionRequest,
    OpenSessionResponse,
    Rakp1,
    Rakp2,
    Rakp3,
    Rakp4,
)
from bmcmedic.ipmi.session import BEHIND_MAX, SequenceWindow, Session
from bmcmedic.transport.aes import aes_cbc

BYTE = st.integers(0, 255)
ID = st.integers(0, 0xFFFFFFFF)
SUITE = st.sampled_from(sorted(CIPHER_SUITES.values(), key=lambda suite: suite.id))
T = TypeVar("T")
SUITES = sorted(CIPHER_SUITES)


def attempt(decode: Callable[[bytes], T], data: bytes) -> T | RemoteProtocolError:
    """Return the decoded value, or the one error that decoding may raise."""
    try:
        return decode(data)
    except RemoteProtocolError as error:
        return error


@given(BYTE, st.booleans())
def test_presence_round_trip(tag: int, supports_ipmi: bool) -> None:
    for datagram in (PresencePing(tag), PresencePong(tag, supports_ipmi)):
        assert decode_datagram(datagram.encode()) == datagram


@given(ID, ID, st.binary(max_size=255))
def test_legacy_round_trip(sequence: int, session_id: int, payload: bytes) -> None:
    packet = LegacyPacket(0, sequence, session_id, payload)
    assert decode_datagram(packet.encode()) == packet
    # The pad byte that the specification allows may follow.
    assert decode_datagram(packet.encode() + b"\0") == packet


@given(
    st.sampled_from([kind for kind in PayloadType if kind is not PayloadType.OEM_EXPLICIT]),
    ID,
    ID,
    st.binary(max_size=DATAGRAM_BYTES_MAX - 16),
)
def test_rmcp_plus_round_trip(
    payload_type: PayloadType, session_id: int, sequence: int, payload: bytes
) -> None:
    packet = Packet(payload_type, False, False, session_id, sequence, payload)
    decoded = decode_datagram(packet.encode())
    assert isinstance(decoded, Packet)
    assert decoded._replace(payload_end=0) == packet
    assert decoded.payload_end == len(packet.encode())


def test_only_a_session_encodes_protected_packets() -> None:
    for encrypted, authenticated in ((True, False), (False, True)):
        with pytest.raises(LocalProtocolError):
            Packet(PayloadType.IPMI, encrypted, authenticated, 1, 1, b"").encode()
    with pytest.raises(LocalProtocolError):
        LegacyPacket(2, 0, 0, b"").encode()


@given(
    st.one_of(
        st.binary(max_size=80),
        st.builds(
            lambda head, rest: head + rest,
            st.sampled_from(
                [
                    b"\x06\x00\xff\x07",
                    b"\x06\x00\xff\x06",
                    b"\x06\x00\xff\x07\x06",
                    b"\x06\x00\xff\x07\x00",
                    b"\x06\x00\xff\x06\x00\x00\x11\xbe",
                    b"\x06\x00\xff\x86",
                ]
            ),
            st.binary(max_size=80),
        ),
        st.binary(min_size=DATAGRAM_BYTES_MAX, max_size=DATAGRAM_BYTES_MAX + 3),
    )
)
def test_any_datagram_is_decoded_or_rejected(data: bytes) -> None:
    datagram = attempt(decode_datagram, data)
    if isinstance(datagram, RemoteProtocolError):
        assert datagram.section.startswith("13.")
        assert str(datagram).isprintable()
        return
    assert len(data) <= DATAGRAM_BYTES_MAX
    if isinstance(datagram, Packet | LegacyPacket):
        assert datagram.payload in data


@given(BYTE, st.integers(0, 15), ID, SUITE, st.integers(1, 255), ID)
def test_open_session_round_trips(
    tag: int, privilege: int, console_id: int, suite: CipherSuite, status: int, managed_id: int
) -> None:
    request = OpenSessionRequest.for_suite(tag, privilege, console_id, suite)
    assert OpenSessionRequest.decode(request.encode()) == request
    assert request.suite is suite
    taken = OpenSessionResponse(tag, 0, privilege, console_id, managed_id, request.algorithms)
    assert OpenSessionResponse.decode(taken.encode()) == taken
    assert taken.suite is suite
    refused = OpenSessionResponse(tag, status, privilege, console_id)
    assert OpenSessionResponse.decode(refused.encode()) == refused


@given(BYTE, ID, st.binary(min_size=16, max_size=16), st.integers(0, 31), st.binary(max_size=16))
def test_rakp_1_round_trip(
    tag: int, managed_id: int, console_random: bytes, role: int, name: bytes
) -> None:
    message = Rakp1(tag, managed_id, console_random, role, name)
    assert Rakp1.decode(message.encode()) == message
    # Some clients always send 16 bytes of name.
    assert Rakp1.decode(message.encode().ljust(44, b"\0")) == message


@given(BYTE, ID, SUITE, st.data(), st.integers(1, 255))
def test_rakp_2_to_4_round_trips(
    tag: int, session_id: int, suite: CipherSuite, data: st.DataObject, status: int
) -> None:
    def some(size: int) -> bytes:
        return data.draw(st.binary(min_size=size, max_size=size))

    rakp2 = Rakp2(tag, 0, session_id, some(16), some(16), some(suite.key_exchange_bytes))
    assert Rakp2.decode(rakp2.encode(), suite) == rakp2
    rakp3 = Rakp3(tag, 0, session_id, some(suite.key_exchange_bytes))
    if suite.key_exchange_bytes in (0, 20, 32):
        assert Rakp3.decode(rakp3.encode()) == rakp3
    rakp4 = Rakp4(tag, 0, session_id, some(suite.rakp4_bytes))
    assert Rakp4.decode(rakp4.encode(), suite) == rakp4
    for refusal in (Rakp2(tag, status, session_id), Rakp4(tag, status, session_id)):
        assert type(refusal).decode(refusal.encode(), suite) == refusal


DECODERS: list[Callable[[bytes], object]] = [
    OpenSessionRequest.decode,
    OpenSessionResponse.decode,
    Rakp1.decode,
    Rakp3.decode,
    *(partial(Rakp2.decode, suite=suite) for suite in CIPHER_SUITES.values()),
    *(partial(Rakp4.decode, suite=suite) for suite in CIPHER_SUITES.values()),
]


@given(st.binary(max_size=90))
def test_any_set_up_payload_is_decoded_or_rejected(payload: bytes) -> None:
    for decode in DECODERS:
        message = attempt(decode, payload)
        assert not isinstance(message, RemoteProtocolError) or str(message).isprintable()


def session(suite_id: int, inbound_id: int, outbound_id: int) -> Session:
    counter = iter(range(1, 10_000))
    return Session(
        CIPHER_SUITES[suite_id],
        inbound_id=inbound_id,
        outbound_id=outbound_id,
        k1=bytes(range(32)),
        k2=bytes(range(32, 64)),
        aes=aes_cbc,
        random_bytes=lambda size: next(counter).to_bytes(size, "big"),
        ahead_max=16,
    )


@given(st.sampled_from(SUITES), st.lists(st.binary(max_size=300), min_size=1, max_size=6))
def test_sealed_packets_open_in_any_order_and_only_once(
    suite_id: int, payloads: list[bytes]
) -> None:
    sender, receiver = session(suite_id, 1, 2), session(suite_id, 2, 1)
    sealed = [(payload, sender.seal(payload)) for payload in payloads]
    for payload, datagram in reversed(sealed):
        packet = decode_datagram(datagram)
        assert isinstance(packet, Packet)
        assert receiver.open(packet, datagram) == payload
    for _, datagram in sealed:
        packet = decode_datagram(datagram)
        assert isinstance(packet, Packet)
        with pytest.raises(RemoteProtocolError, match="replayed"):
            receiver.open(packet, datagram)


@given(
    st.sampled_from([2, 3, 16, 17]),
    st.binary(max_size=40),
    st.lists(st.tuples(st.integers(5, 200), st.integers(1, 255)), max_size=4, min_size=1),
    st.integers(0, 60),
)
def test_a_damaged_packet_never_opens_and_never_affects_later_ones(
    suite_id: int, payload: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    sender, receiver = session(suite_id, 1, 2), session(suite_id, 2, 1)
    datagram = sender.seal(payload)
    damaged = bytearray(datagram)
    for position, mask in changes:
        damaged[5 + position % (len(damaged) - 5)] ^= mask
    for broken in (bytes(damaged), datagram[: len(datagram) - 1 - cut % len(datagram)]):
        if broken == datagram:
            continue
        damage = attempt(decode_datagram, broken)
        if isinstance(damage, RemoteProtocolError):
            continue
        assert isinstance(damage, Packet)
        with pytest.raises(RemoteProtocolError):
            receiver.open(damage, broken)
    packet = decode_datagram(datagram)
    assert isinstance(packet, Packet)
    assert receiver.open(packet, datagram) == payload


@given(
    st.integers(0, 0xFFFFFFFF),
    st.lists(st.integers(-60, 60), max_size=60),
    st.sampled_from([16, 1024]),
)
def test_the_window_accepts_each_number_once_and_none_far_off(
    first: int, steps: list[int], ahead_max: int
) -> None:
    window = SequenceWindow(ahead_max)
    assert window.accept(first)
    highest, taken = first, {first}
    for step in steps:
        number = (highest + step) & 0xFFFFFFFF
        expected = number not in taken and -BEHIND_MAX <= step <= ahead_max
        assert window.accept(number) is expected
        if expected:
            taken.add(number)
            highest = number if step > 0 else highest
