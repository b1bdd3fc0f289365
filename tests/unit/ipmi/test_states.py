"""The console's state table, and calls in the wrong state."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bmcmedic.errors import LocalProtocolError
from bmcmedic.ipmi.cipher_suites import CIPHER_SUITES, DEFAULT_CIPHER_SUITES, cipher_suite
from bmcmedic.ipmi.console_options import ConsoleOptions
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.ipmi.rakp import KeyExchange, Rakp1
from bmcmedic.ipmi.remote_console import RemoteConsole
from bmcmedic.ipmi.states import TRANSITIONS, SessionState, SessionTrigger
from bmcmedic.transport.aes import aes_cbc
from tests.support.session_pair import make_pair, opened_pair


def test_every_state_can_be_reached_and_only_two_are_final() -> None:
    reached = {SessionState.IDLE}
    for _ in SessionState:
        reached |= {end for (start, _), end in TRANSITIONS.items() if start in reached}
    assert reached == set(SessionState)
    assert set(SessionState) - {start for start, _ in TRANSITIONS} == {
        SessionState.CLOSED,
        SessionState.FAILED,
    }
    assert {trigger for _, trigger in TRANSITIONS} == set(SessionTrigger)


def test_calls_in_the_wrong_state_are_local_errors_and_change_nothing() -> None:
    console = make_pair().console
    with pytest.raises(LocalProtocolError, match="request in state idle"):
        console.request(RequestMessage(6, 1), 0.0, 1.0)
    with pytest.raises(LocalProtocolError, match="close in state idle"):
        console.close(0.0, 1.0)
    assert console.state is SessionState.IDLE
    assert console.datagrams_to_send() == []

    pair = opened_pair()
    with pytest.raises(LocalProtocolError, match="open in state active"):
        pair.console.open(0.0, 1.0)
    pair.console.request(RequestMessage(0x30, 1), pair.now, pair.now + 5)
    with pytest.raises(LocalProtocolError, match="request in state requesting"):
        pair.console.request(RequestMessage(0x30, 2), pair.now, pair.now + 5)
    pair.run()
    pair.close()
    with pytest.raises(LocalProtocolError, match="in state closed"):
        pair.ask()


def test_an_early_or_needless_timer_call_is_harmless() -> None:
    pair = make_pair()
    assert pair.console.handle_timer(1e9) is None
    pair.console.open(1.0, 6.0)
    assert len(pair.console.datagrams_to_send()) == 1
    timer = pair.console.get_timer()
    assert timer is not None
    assert timer == pytest.approx(1.25)
    assert pair.console.handle_timer(1.1) is None
    assert pair.console.datagrams_to_send() == []
    assert pair.console.handle_timer(timer) is None
    assert len(pair.console.datagrams_to_send()) == 1


def test_retransmissions_slow_down_but_only_a_little() -> None:
    pair = make_pair()
    pair.console.open(0.0, 1000.0)
    times = []
    for _ in range(12):
        timer = pair.console.get_timer()
        assert timer is not None
        times.append(timer)
        pair.console.handle_timer(timer)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == pytest.approx(0.25)
    for earlier, later in pairwise(gaps):
        assert 1.0 < later / earlier <= 1.2


def test_supported_and_unsupported_suites() -> None:
    assert sorted(CIPHER_SUITES) == [0, 1, 2, 3, 15, 16, 17]
    assert DEFAULT_CIPHER_SUITES == (17, 3)
    assert cipher_suite(3).auth_code_bytes == 12
    assert (cipher_suite(17).key_exchange_bytes, cipher_suite(17).rakp4_bytes) == (32, 16)
    assert [s.id for s in CIPHER_SUITES.values() if s.is_encrypted] == [3, 17]
    with pytest.raises(LocalProtocolError, match="no cipher suite"):
        ConsoleOptions(Credentials("a", b""), bytes, aes_cbc, cipher_suites=())


def test_kg_takes_the_passwords_place_in_the_session_key_alone() -> None:
    def exchange(password: bytes, kg: bytes) -> KeyExchange:
        return KeyExchange(
            CIPHER_SUITES[17],
            console_session_id=1,
            rakp1=Rakp1(0, 2, bytes(16), 0x14, b"admin"),
            managed_random=bytes(16),
            managed_guid=bytes(16),
            password=password,
            kg=kg,
        )

    plain, keyed, other = exchange(b"p", b""), exchange(b"p", b"k"), exchange(b"q", b"k")
    assert plain.rakp2_code() == keyed.rakp2_code() != other.rakp2_code()
    assert plain.rakp3_code() == keyed.rakp3_code() != other.rakp3_code()
    assert plain.sik() != keyed.sik() == other.sik()
    assert exchange(b"k", b"").sik() == keyed.sik()


def test_a_console_shows_no_more_than_its_class() -> None:
    assert "secret" not in repr(
        RemoteConsole(ConsoleOptions(Credentials("a", b"secret"), bytes, aes_cbc))
    )
