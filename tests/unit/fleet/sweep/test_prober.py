"""The sweep over real UDP: every target gets exactly one result a round, whatever its BMC does."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bmcmedic.errors import NameNotResolved, PortClosed
from bmcmedic.fleet import inventory, link
from bmcmedic.fleet.inventory import Target, parse_targets
from bmcmedic.fleet.sweep import prober, resolver
from bmcmedic.fleet.sweep.prober import ProbeOptions, Prober
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.managed_system import IncomingRequest
from bmcmedic.model.probe import ProbeResult, WatchdogFacts
from tests.support.udp_bmc import (
    CREDENTIALS,
    Answer,
    UdpBmcs,
    chassis_on,
    closed_address,
    silent_address,
    udp_bmcs,
)

PATIENCE_S = 30.0
"""The deadline of a target that answers, on a busy machine, in seconds."""


@pytest.fixture
def server() -> Iterator[UdpBmcs]:
    with udp_bmcs() as running:
        yield running


def named(address: tuple[Any, ...]) -> str:
    return f"[{address[0]}]:{address[1]}" if len(address) == 4 else f"{address[0]}:{address[1]}"


def probe(
    names: list[str],
    *,
    credentials: Credentials = CREDENTIALS,
    on_result: Callable[[ProbeResult], None] = lambda _result: None,
    rounds: int = 1,
    **options: Any,  # noqa: ANN401
) -> dict[str, list[ProbeResult]]:
    """Probe the targets, and check that each has one result a round."""
    found: dict[str, list[ProbeResult]] = {name: [] for name in names}

    def take(result: ProbeResult) -> None:
        found[result.target].append(result)
        on_result(result)

    settings = ProbeOptions(count=rounds, period_s=0.01, **({"timeout_s": PATIENCE_S} | options))
    Prober(parse_targets(names), credentials, settings, take).run()
    assert {name: len(results) for name, results in found.items()} == dict.fromkeys(names, rounds)
    return found


def one(names: dict[str, list[ProbeResult]]) -> ProbeResult:
    ((result,),) = names.values()
    return result


def test_a_bmc_that_is_well(server: UdpBmcs) -> None:
    for host in ("127.0.0.1", "::1"):
        bmc = server.add(host)
        result = one(probe([bmc.target]))
        assert result._replace(latency_s=0) == ProbeResult(
            bmc.target, reachable=True, power="on", latency_s=0
        )
        assert result.latency_s is not None
        assert 0 < result.latency_s < 5
        assert bmc.lets_all_sessions_go()
        assert bmc.executed == {(0, 1): 1}


def test_two_hundred_of_every_kind(server: UdpBmcs) -> None:
    kinds = {
        "well": [server.add().target for _ in range(150)],
        "closed": [named(closed_address()) for _ in range(20)],
        "refusing": [server.add(users=()).target for _ in range(10)],
        "full": [server.add(session_slots=0).target for _ in range(10)],
    }
    with silent_address() as one_silent, silent_address("127.0.0.2") as another:
        kinds["silent"] = [named(one_silent), named(another)]
        names = [name for group in kinds.values() for name in group]
        random.Random(3).shuffle(names)
        found = probe(names, timeout_s=8.0)
    expected = {
        "well": (True, None),
        "closed": (False, "port closed"),
        "refusing": (True, "user name"),
        "full": (True, "no free session slot"),
        "silent": (False, "no answer to Open Session in 8 s"),
    }
    for kind, (reachable, message) in expected.items():
        for name in kinds[kind]:
            (result,) = found[name]
            assert result.reachable is reachable, result
            assert message is None or message in (result.error or ""), result
            assert (result.error is None) is (message is None), result
            assert "\n" not in (result.error or "")


def test_dead_bmcs_do_not_delay_live_ones(server: UdpBmcs) -> None:
    """With a window of four and forty dead BMCs in front, no live BMC waits for a dead one."""
    finished: dict[str, float] = {}
    with silent_address() as dead:
        # Each dead target is another port that never answers.
        socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(40)]
        try:
            for sock in socks:
                sock.bind((dead[0], 0))
            dead_names = [named(sock.getsockname()) for sock in socks]
            live_names = [server.add().target for _ in range(20)]
            started_at = time.monotonic()
            probe(
                [*dead_names, *live_names],
                timeout_s=8.0,
                concurrency=4,
                on_result=lambda r: finished.__setitem__(r.target, time.monotonic() - started_at),
            )
        finally:
            for sock in socks:
                sock.close()
    assert max(finished[name] for name in live_names) < min(finished[name] for name in dead_names)
    assert min(finished[name] for name in dead_names) >= 8.0 * 0.99


def test_names_that_do_not_resolve_and_one_bmc_by_two_names(
    server: UdpBmcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    bmc = server.add()
    port = bmc.address[1]

    def look_up(target: Target) -> tuple[Any, ...]:
        if target.host.startswith("nowhere"):
            raise NameNotResolved(f"host name {target.host!r} not resolved")
        return inventory.resolve(Target("", "127.0.0.1", target.port))

    monkeypatch.setattr(prober, "Resolver", lambda: resolver.Resolver(look_up))
    names = [f"a{n}.oob:{port}" for n in range(20)] + [f"nowhere{n}:{port}" for n in range(20)]
    for options in ({"rounds": 1}, {"rounds": 3, "keep_sessions": True}, {"rounds": 2}):
        found = probe([bmc.target, *names], **options)  # type: ignore[arg-type]
        for name, results in found.items():
            for result in results:
                if name.startswith("nowhere"):
                    assert not result.reachable
                    assert "not resolved" in (result.error or "")
                else:
                    assert (result.reachable, result.power) == (True, "on")
                    assert result.target == name


def test_a_resolver_that_hangs_is_named_at_the_deadline(
    server: UdpBmcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def look_up(_target: Target) -> tuple[Any, ...]:
        release.wait(2 * PATIENCE_S)
        raise NameNotResolved("too late")

    monkeypatch.setattr(prober, "Resolver", lambda: resolver.Resolver(look_up))
    bmc = server.add()
    hanging = [f"hangs{n}" for n in range(100)]
    try:
        started_at = time.monotonic()
        found = probe([*hanging, bmc.target], timeout_s=3.0)
        assert time.monotonic() - started_at < PATIENCE_S
    finally:
        release.set()
    assert found[bmc.target][0].power == "on"
    for name in hanging:
        assert "not resolved in 3 s" in (found[name][0].error or "")


def test_an_interface_that_is_not_there() -> None:
    result = one(probe(["[fe80::1%nosuch0]:1"]))
    assert "nosuch0" in (result.error or "")


def test_wrong_password_is_reachable_and_never_shown(server: UdpBmcs) -> None:
    bmc = server.add()
    result = one(probe([bmc.target], credentials=Credentials("admin", b"wr0ng-secret")))
    assert result.reachable
    assert "wrong password" in (result.error or "")
    assert "wr0ng" not in repr(result)
    assert bmc.lets_all_sessions_go()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((0xC1, b""), "0xc1"),
        ((0xD4, b""), "0xd4"),
        ((0xC0, b""), "try again later"),
        ((0x00, b""), "bytes"),
        ((0x00, bytes(200)), "bytes"),
    ],
)
def test_a_bmc_with_an_unusable_answer_is_reachable(
    server: UdpBmcs, answer: tuple[int, bytes], message: str
) -> None:
    bmc = server.add()
    bmc.execute = lambda _incoming: answer
    result = one(probe([bmc.target]))
    assert result.reachable
    assert message in (result.error or "")
    assert bmc.lets_all_sessions_go()


def test_a_bmc_that_dies_in_the_middle(server: UdpBmcs) -> None:
    bmcs = [server.add() for _ in range(30)]

    def die(number: int) -> Callable[[IncomingRequest], Answer]:
        def execute(_incoming: IncomingRequest) -> Answer:
            if number % 3:
                bmcs[number].loss = 1.0
            return chassis_on(_incoming) if number % 3 != 2 else None

        return execute

    for number, bmc in enumerate(bmcs):
        bmc.execute = die(number)
    found = probe([bmc.target for bmc in bmcs], timeout_s=3.0)
    for number, bmc in enumerate(bmcs):
        (result,) = found[bmc.target]
        assert (result.error is None) is (number % 3 == 0), result
        if result.error:
            assert "request 00/01 in 3 s" in result.error


def test_one_in_five_lost_each_way(server: UdpBmcs) -> None:
    bmcs = [server.add() for _ in range(200)]
    for number, bmc in enumerate(bmcs):
        bmc.loss = 0.2
        bmc.rng.seed(number)
    found = probe([bmc.target for bmc in bmcs], timeout_s=12.0)
    answered = sum(result.power == "on" for (result,) in found.values())
    assert answered >= 199


def test_kept_sessions_serve_every_round(server: UdpBmcs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        link, "RETRANSMIT_FIRST_S", PATIENCE_S
    )  # else a busy machine repeats requests
    bmcs = [server.add() for _ in range(20)]
    found = probe([bmc.target for bmc in bmcs], rounds=5, keep_sessions=True)
    assert all(result.power == "on" for results in found.values() for result in results)
    for bmc in bmcs:
        assert bmc.executed[0, 1] == 5
        # Three to set up, five to ask, one to close.
        assert bmc.datagrams == 9
        assert bmc.lets_all_sessions_go()


def test_kept_sessions_are_set_up_anew_where_a_bmc_restarts_between_rounds(
    server: UdpBmcs,
) -> None:
    bmcs = [server.add() for _ in range(10)]
    targets = {bmc.target: bmc for bmc in bmcs}
    rounds: Counter[str] = Counter()

    def restart(result: ProbeResult) -> None:
        rounds[result.target] += 1
        if rounds[result.target] == 2:
            targets[result.target].restart()

    found = probe(list(targets), rounds=3, keep_sessions=True, on_result=restart)
    assert all(result.power == "on" for results in found.values() for result in results)
    for bmc in bmcs:
        assert bmc.executed[0, 1] == 3


def test_kept_sessions_where_ports_close_between_rounds(server: UdpBmcs) -> None:
    """This includes a port that closes while its session is idle."""
    bmcs = [server.add() for _ in range(10)]
    targets = {bmc.target: bmc for bmc in bmcs}
    rounds: Counter[str] = Counter()

    def close(result: ProbeResult) -> None:
        rounds[result.target] += 1
        if rounds[result.target] == 2:
            targets[result.target].close_port()

    found = probe(list(targets), rounds=4, keep_sessions=True, on_result=close)
    for results in found.values():
        assert [result.power for result in results] == ["on", "on", None, None]
        assert all("port closed" in (result.error or "") for result in results[2:])


def test_an_error_about_an_idle_kept_session_does_not_stop_the_sweep(server: UdpBmcs) -> None:
    bmc = server.add()
    results: list[ProbeResult] = []
    reported: list[int] = []

    def report_an_error() -> None:
        idle = sweep._sweep.idle_probes
        if len(results) == 1 and not reported and idle:
            reported.append(1)
            idle[0].on_transport_error(PortClosed("of an earlier datagram"), 0.0)

    options = ProbeOptions(count=3, period_s=0.3, keep_sessions=True, timeout_s=PATIENCE_S)
    sweep = Prober(
        parse_targets([bmc.target]), CREDENTIALS, options, results.append, on_step=report_an_error
    )
    sweep.run()
    assert reported
    assert [result.power for result in results] == ["on"] * 3


def test_detail_reports_its_findings_and_what_is_not_supported(server: UdpBmcs) -> None:
    bmc = server.add()
    result = one(probe([bmc.target], detail=True))
    # The BMC supports only the power status and the GUID of its channel.
    assert result.power == "on"
    assert result.guid == bytes(range(16)).hex()
    assert result.self_test == "unsupported"
    assert result.watchdog is None
    assert result.device_id is None
    assert result.error is None


OPTIONAL = {
    (0x06, 0x37): "system GUID",
    (0x06, 0x08): "device GUID",
    (0x06, 0x04): "self-test",
    (0x06, 0x25): "watchdog timer",
}
DEVICE_ID = bytes.fromhex("20810321029fa21b000110")


def detailed(
    answers: dict[tuple[int, int], Answer], times: int = 10**9
) -> Callable[[IncomingRequest], Answer]:
    """Answer device id and power well, and other commands as given, for so many times."""
    seen: Counter[tuple[int, int]] = Counter()

    def execute(incoming: IncomingRequest) -> Answer:
        key = incoming.message.netfn, incoming.message.command
        seen[key] += 1
        if key in answers and seen[key] <= times:
            return answers[key]
        if key == (0x06, 0x01):
            return 0, DEVICE_ID
        return (0, b"\x55\x00") if key == (0x06, 0x04) else chassis_on(incoming)

    return execute


@pytest.mark.parametrize("answer", [(0xFF, b""), (0xC0, b""), (0xCC, b""), (0xD4, b""), (0, b"")])
def test_an_optional_question_that_fails_is_noted_and_is_no_fault(
    server: UdpBmcs, answer: Answer
) -> None:
    bmcs = {key: server.add() for key in OPTIONAL}
    for key, bmc in bmcs.items():
        bmc.execute = detailed({key: answer})
    found = probe([bmc.target for bmc in bmcs.values()], detail=True)
    for key, bmc in bmcs.items():
        (result,) = found[bmc.target]
        assert result.error is None, result
        assert result.power == "on"
        if key != (0x06, 0x08) and key != (0x06, 0x37):  # the channel answers the GUID itself
            (note,) = result.notes
            assert note.startswith(OPTIONAL[key])
            assert result.to_json()["notes"] == [note]


@pytest.mark.parametrize("length", [*range(8), 9, 13, 20])
@pytest.mark.parametrize("key", [(0x06, 0x04), (0x06, 0x25)])
def test_optional_answers_of_any_length_are_no_fault(
    server: UdpBmcs, key: tuple[int, int], length: int
) -> None:
    bmc = server.add()
    bmc.execute = detailed({key: (0, (b"\x55" if key[1] == 4 else b"\x44") * length)})
    result = one(probe([bmc.target], detail=True))
    assert result.error is None, result
    assert result.power == "on"
    if key == (0x06, 0x25) and length >= 6:
        assert result.watchdog is not None
        assert result.watchdog.running
        assert (result.watchdog.present_countdown_s is None) is (length < 8)


def test_a_watchdog_timer_with_reserved_values_is_reported(server: UdpBmcs) -> None:
    bmc = server.add()
    bmc.execute = detailed({(0x06, 0x25): (0, bytes.fromhex("4605000058021902"))})
    result = one(probe([bmc.target], detail=True))
    assert result.error is None
    assert result.watchdog == WatchdogFacts(True, 53.7, "reserved 5")
    assert len(result.notes) == 1


def test_silence_to_an_optional_question_is_no_fault(server: UdpBmcs) -> None:
    bmc = server.add()
    bmc.execute = detailed({(0x06, 0x04): None})
    result = one(probe([bmc.target], detail=True, timeout_s=4.0))
    assert result.error is None, result
    assert any(note.startswith("self-test") for note in result.notes)


@pytest.mark.parametrize("code", [0xC0, 0xC3, 0xCE, 0xD2, 0xFF])
@pytest.mark.parametrize("times", [1, 2])
def test_a_refusal_that_passes_is_asked_again(server: UdpBmcs, code: int, times: int) -> None:
    bmc = server.add()
    keys = [(0x00, 0x01), (0x06, 0x01), (0x06, 0x04)]
    bmc.execute = detailed(dict.fromkeys(keys, (code, b"")), times)
    result = one(probe([bmc.target], detail=True))
    assert result.error is None, result
    assert (result.power, result.self_test, result.notes) == ("on", "passed", ())
    assert all(bmc.executed[key] == times + 1 for key in keys)


@pytest.mark.parametrize("key", [(0x00, 0x01), (0x06, 0x01)])
@pytest.mark.parametrize("code", [0xFF, 0xC3, 0xCE])
def test_a_mandatory_command_that_keeps_failing_is_a_fault(
    server: UdpBmcs, key: tuple[int, int], code: int
) -> None:
    bmc = server.add()
    bmc.execute = detailed({key: (code, b"")})
    result = one(probe([bmc.target], detail=True, timeout_s=2.0))
    assert f"0x{code:02x}" in (result.error or "")


def test_a_self_test_that_fails_is_a_fault(server: UdpBmcs) -> None:
    bmc = server.add()
    bmc.execute = detailed({(0x06, 0x04): (0, b"\x58\x00"), (0x06, 0x25): (0xFF, b"")})
    result = one(probe([bmc.target], detail=True))
    assert "self-test failed" in (result.error or "")


def test_a_callback_that_raises_ends_the_sweep_and_closes_the_descriptors(
    server: UdpBmcs,
) -> None:
    class Enough(Exception):
        pass

    def stop(_result: ProbeResult) -> None:
        raise Enough

    targets = parse_targets([server.add().target for _ in range(5)])
    sweep = Prober(targets, CREDENTIALS, ProbeOptions(), stop)
    with pytest.raises(Enough):
        sweep.run()
    assert not sweep._engine._sockets


def test_no_target_is_no_work() -> None:
    results: list[ProbeResult] = []
    Prober([], CREDENTIALS, ProbeOptions(), results.append).run()
    assert results == []
