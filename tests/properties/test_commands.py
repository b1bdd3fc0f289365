"""Every command and record round-trips, and garbage never causes more than an error.

There is one table of strategies for each kind; a class without a strategy fails a test here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any, Protocol, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bmcmedic.ipmi.commands
from bmcmedic.errors import CompletionCodeError, LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.registry import COMMANDS
from bmcmedic.ipmi.commands.sdr_records import decode_sdr_record
from bmcmedic.ipmi.commands.sel_records import decode_sel_record
from bmcmedic.ipmi.commands.session import (
    CipherSuiteRecord,
    SessionDetail,
    decode_cipher_suite_records,
    encode_cipher_suite_records,
)
from bmcmedic.ipmi.commands.watchdog import GetWatchdogTimerRsp, SalvagedTimer, salvage_timer
from tests.support.command_strategies import RECORDS, REQUESTS, RESPONSES

STRATEGIES = REQUESTS | RESPONSES | RECORDS
EXAMPLES = 60

PARTS = {CipherSuiteRecord, SalvagedTimer, SessionDetail}
"""Classes without codecs of their own: parts of others, and what a malformed answer shows."""


class Codec(Protocol):
    """The methods that all of them have."""

    def encode(self) -> bytes: ...

    @classmethod
    def decode(cls, data: bytes) -> Self: ...


def name(kind: type) -> str:
    return kind.__name__


def codecs() -> Iterator[type]:
    """Yield every dataclass of the commands package but the base classes in `shared_responses`."""
    package = bmcmedic.ipmi.commands
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if found.name.endswith(".shared_responses"):
            continue
        module = importlib.import_module(found.name)
        for _, kind in inspect.getmembers(module, dataclasses.is_dataclass):
            if inspect.isclass(kind) and kind.__module__ == found.name and kind not in PARTS:
                yield kind


def test_no_class_is_forgotten() -> None:
    found = set(codecs())
    assert len(found) > 100
    assert found == set(STRATEGIES)


def test_commands_are_the_requests_there_are() -> None:
    assert set(COMMANDS.values()) == set(REQUESTS)
    for (netfn, number), command in COMMANDS.items():
        assert (netfn, number) == (command.netfn, command.command)
        assert command.response in RESPONSES


@pytest.mark.parametrize("kind", STRATEGIES, ids=name)
def test_encoded_values_decode_to_the_same_value(kind: type[Codec]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(STRATEGIES[kind])
    def check(value: Codec) -> None:
        assert kind.decode(value.encode()) == value

    check()


@pytest.mark.parametrize("kind", STRATEGIES, ids=name)
def test_garbage_is_an_error_or_a_value_that_can_be_encoded(kind: type[Codec]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(st.binary(max_size=80))
    def check(garbage: bytes) -> None:
        try:
            value = kind.decode(garbage)
        except RemoteProtocolError:
            return
        assert kind.decode(value.encode()) == value

    check()


@pytest.mark.parametrize("kind", STRATEGIES, ids=name)
def test_damaged_bytes_are_an_error_or_a_value_that_can_be_encoded(kind: type[Codec]) -> None:
    # Random bytes seldom pass a header or checksum check; damaged encodings do.
    @settings(max_examples=EXAMPLES)
    @given(STRATEGIES[kind], st.data())
    def check(value: Codec, data: st.DataObject) -> None:
        raw = bytearray(value.encode())
        if raw:
            at = data.draw(st.integers(0, len(raw) - 1))
            raw[at] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(raw)))
        for damaged in (bytes(raw), bytes(raw[:cut])):
            with contextlib.suppress(RemoteProtocolError):
                assert isinstance(kind.decode(damaged), kind)

    check()


@pytest.mark.parametrize("kind", COMMANDS.values(), ids=name)
def test_a_response_is_a_body_or_the_refusal_with_its_code(kind: type[Command[Any]]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(st.just(0) | st.integers(1, 255), st.binary(max_size=24))
    def check(code: int, data: bytes) -> None:
        if code:
            with pytest.raises(CompletionCodeError) as refusal:
                kind.decode_response(code, data)
            assert refusal.value.code == code
            return
        with contextlib.suppress(RemoteProtocolError):
            assert isinstance(kind.decode_response(code, data), kind.response)

    check()


@given(st.binary(max_size=270))
def test_any_bytes_are_an_sdr_or_an_error(garbage: bytes) -> None:
    try:
        record = decode_sdr_record(garbage)
    except RemoteProtocolError:
        return
    assert decode_sdr_record(record.encode()) == record


@given(st.binary(max_size=20) | st.binary(min_size=16, max_size=16))
def test_any_16_bytes_are_a_sel_record(garbage: bytes) -> None:
    if len(garbage) == 16:
        assert decode_sel_record(garbage).encode() == garbage
    else:
        with pytest.raises(RemoteProtocolError):
            decode_sel_record(garbage)


ALGORITHM = st.integers(0, 0x3F)
SUITES = st.lists(
    st.builds(
        CipherSuiteRecord,
        st.integers(0, 255),
        ALGORITHM,
        st.lists(ALGORITHM, max_size=3).map(tuple),
        st.lists(ALGORITHM, max_size=3).map(tuple),
        st.none() | st.integers(0, 0xFFFFFF),
    ),
    max_size=6,
).map(tuple)


@given(SUITES)
def test_cipher_suite_records_round_trip(records: tuple[CipherSuiteRecord, ...]) -> None:
    assert decode_cipher_suite_records(encode_cipher_suite_records(records)) == records


@given(st.binary(max_size=40) | SUITES.map(encode_cipher_suite_records).map(lambda raw: raw[:-1]))
def test_any_bytes_are_cipher_suite_records_or_an_error(garbage: bytes) -> None:
    try:
        records = decode_cipher_suite_records(garbage)
    except RemoteProtocolError:
        return
    assert decode_cipher_suite_records(encode_cipher_suite_records(records)) == records


@given(RESPONSES[GetWatchdogTimerRsp])
def test_a_decoded_timer_can_always_be_set_again(timer: GetWatchdogTimerRsp) -> None:
    try:
        request = timer.set_request()
    except LocalProtocolError as error:  # pragma: no cover - what this test is about
        pytest.fail(str(error))
    assert request.initial_countdown_s == timer.initial_countdown_s
    assert request.action is timer.action


@given(st.binary(max_size=80))
def test_what_a_malformed_timer_shows_never_hides_that_it_runs(data: bytes) -> None:
    salvaged = salvage_timer(data)
    assert (salvaged is None) == (not data)
    if salvaged is not None:
        assert salvaged.timer.running == bool(data[0] & 0x40)
