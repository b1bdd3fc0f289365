"""Whole sessions of real programs, recorded: every code, key and payload is recomputed.

If a test here fails, do not change the bytes.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.errors import RemoteProtocolError
from bmcmedic.ipmi.cipher_suites import CIPHER_SUITES, CipherSuite
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage
from bmcmedic.ipmi.packet import Packet, PayloadType, decode_datagram
from bmcmedic.ipmi.rakp import (
    KeyExchange,
    OpenSessionRequest,
    OpenSessionResponse,
    Rakp1,
    Rakp2,
    Rakp3,
    Rakp4,
)
from bmcmedic.ipmi.session import Session
from bmcmedic.transport.aes import aes_cbc

PASSWORD = b"secret"
RECORDINGS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parents[2] / "vectors" / "sessions.json").read_text()
)
NAMES = sorted(RECORDINGS)


@dataclass
class Recording:
    """One recorded session, decoded."""

    suite: CipherSuite
    open_request: OpenSessionRequest
    open_response: OpenSessionResponse
    rakp1: Rakp1
    rakp2: Rakp2
    rakp3: Rakp3
    rakp4: Rakp4
    in_session: list[tuple[str, bytes, Packet]]
    set_up: dict[PayloadType, bytes]

    @property
    def exchange(self) -> KeyExchange:
        return KeyExchange(
            self.suite,
            console_session_id=self.open_request.console_session_id,
            rakp1=self.rakp1,
            managed_random=self.rakp2.managed_random,
            managed_guid=self.rakp2.managed_guid,
            password=PASSWORD,
            kg=b"",
        )

    def session(self, side: str) -> Session:
        """Return the session of one side, which opens the packets of the other."""
        ids = self.open_request.console_session_id, self.open_response.managed_session_id
        inbound, outbound = ids if side == "console" else ids[::-1]
        sik = self.exchange.sik()
        return Session(
            self.suite,
            inbound_id=inbound,
            outbound_id=outbound,
            k1=self.exchange.k1(sik),
            k2=self.exchange.k2(sik),
            aes=aes_cbc,
            random_bytes=bytes,
            ahead_max=16,
        )


def load(name: str) -> Recording:
    suite = CIPHER_SUITES[RECORDINGS[name]["suite"]]
    set_up: dict[PayloadType, bytes] = {}
    in_session = []
    for side, text in RECORDINGS[name]["datagrams"]:
        data = bytes.fromhex(text)
        packet = decode_datagram(data)
        if isinstance(packet, Packet) and packet.session_id:
            in_session.append((side, data, packet))
        elif isinstance(packet, Packet) and packet.payload_type >= 0x10:
            set_up.setdefault(PayloadType(packet.payload_type), packet.payload)
    return Recording(
        suite,
        OpenSessionRequest.decode(set_up[PayloadType.OPEN_SESSION_REQUEST]),
        OpenSessionResponse.decode(set_up[PayloadType.OPEN_SESSION_RESPONSE]),
        Rakp1.decode(set_up[PayloadType.RAKP_1]),
        Rakp2.decode(set_up[PayloadType.RAKP_2], suite),
        Rakp3.decode(set_up[PayloadType.RAKP_3]),
        Rakp4.decode(set_up[PayloadType.RAKP_4], suite),
        in_session,
        set_up,
    )


@pytest.fixture(params=NAMES)
def recording(request: pytest.FixtureRequest) -> Recording:
    return load(request.param)


def test_every_recording_names_its_source() -> None:
    assert NAMES == ["freeipmi-17", "ipmi_sim-3", "ipmitool-17", "ipmitool-3"]
    assert all(RECORDINGS[name]["source"] for name in NAMES)


def test_the_codes_and_keys_are_those_of_the_specification(recording: Recording) -> None:
    """Recompute from the bytes of the messages, without the code under test (13.28, 13.31)."""
    set_up, digest = recording.set_up, recording.suite.digest
    rakp1, rakp2 = set_up[PayloadType.RAKP_1], set_up[PayloadType.RAKP_2]
    console_id = set_up[PayloadType.OPEN_SESSION_REQUEST][4:8]
    managed_id = set_up[PayloadType.OPEN_SESSION_RESPONSE][8:12]
    console_random, role, name = rakp1[8:24], rakp1[24:25], rakp1[27:]
    managed_random, guid = rakp2[8:24], rakp2[24:40]
    exchange = recording.exchange

    code = hmac.digest(
        PASSWORD,
        console_id + managed_id + console_random + managed_random + guid + role + name,
        digest,
    )
    assert code == rakp2[40:] == exchange.rakp2_code()
    code = hmac.digest(PASSWORD, managed_random + console_id + role + name, digest)
    assert code == set_up[PayloadType.RAKP_3][8:] == exchange.rakp3_code()
    sik = hmac.digest(PASSWORD, console_random + managed_random + role + name, digest)
    assert sik == exchange.sik()
    value = hmac.digest(sik, console_random + managed_id + guid, digest)
    value = value[: len(set_up[PayloadType.RAKP_4]) - 8]
    assert value == set_up[PayloadType.RAKP_4][8:] == exchange.rakp4_value(sik)
    assert exchange.k1(sik) == hmac.digest(sik, b"\x01" * 20, digest)
    assert exchange.k2(sik) == hmac.digest(sik, b"\x02" * 20, digest)


def test_the_messages_encode_to_the_recorded_bytes(recording: Recording) -> None:
    for payload_type, message in (
        (PayloadType.OPEN_SESSION_RESPONSE, recording.open_response),
        (PayloadType.RAKP_1, recording.rakp1),
        (PayloadType.RAKP_2, recording.rakp2),
        (PayloadType.RAKP_3, recording.rakp3),
        (PayloadType.RAKP_4, recording.rakp4),
    ):
        assert message.encode() == recording.set_up[payload_type]
    assert recording.open_request.suite is recording.open_response.suite is recording.suite


@pytest.mark.parametrize("name", NAMES)
def test_every_packet_opens_and_holds_the_recorded_message(name: str) -> None:
    recording = load(name)
    console, managed = recording.session("console"), recording.session("bmc")
    asked: list[tuple[int, int]] = []
    for side, data, packet in recording.in_session:
        reader = managed if side == "console" else console
        payload = reader.open(packet, data)
        if side == "console":
            request = RequestMessage.decode(payload)
            asked.append((request.netfn, request.command))
            assert request.encode() == payload
        else:
            response = ResponseMessage.decode(payload)
            assert (response.netfn - 1, response.command) == asked[-1]
            assert response.completion_code in (0x00, 0xC1)
            assert response.encode() == payload
    assert (0x00, 0x01) in asked
    assert asked[-1] == (0x06, 0x3C)


@pytest.mark.parametrize("name", NAMES)
def test_no_packet_opens_twice_or_with_a_changed_byte(name: str) -> None:
    recording = load(name)
    sessions = {"console": recording.session("bmc"), "bmc": recording.session("console")}
    for side, data, packet in recording.in_session:
        # Change every byte except the RMCP header, which no code covers, and the format byte after
        # it, which would make the datagram another kind of packet.
        for position in range(5, len(data)):
            changed = bytearray(data)
            changed[position] ^= 0x01
            try:
                damaged = decode_datagram(bytes(changed))
                assert isinstance(damaged, Packet)
                sessions[side].open(damaged, bytes(changed))
            except RemoteProtocolError:
                continue
            pytest.fail(f"byte {position} changed, and the packet opened")
        sessions[side].open(packet, data)
        with pytest.raises(RemoteProtocolError, match="replayed"):
            sessions[side].open(packet, data)


@pytest.mark.parametrize("name", NAMES)
def test_another_password_gives_other_codes(name: str) -> None:
    recording = load(name)
    wrong = KeyExchange(
        recording.suite,
        console_session_id=recording.open_request.console_session_id,
        rakp1=recording.rakp1,
        managed_random=recording.rakp2.managed_random,
        managed_guid=recording.rakp2.managed_guid,
        password=b"Secret",
        kg=b"",
    )
    assert wrong.rakp2_code() != recording.rakp2.key_exchange_code
    assert wrong.rakp3_code() != recording.rakp3.key_exchange_code
    assert wrong.sik() != recording.exchange.sik()
