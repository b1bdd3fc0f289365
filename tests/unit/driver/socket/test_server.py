"""The driver's socket, by real sockets: whatever its users do, the others are served."""

from __future__ import annotations

import random
import resource
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bmcmedic.driver.socket.connection import ServerLimits
from bmcmedic.driver.socket.policy import Access, Rights
from bmcmedic.driver.socket.protocol import ANSWER_LINE_BYTES_MAX, LINE_BYTES_MAX
from bmcmedic.errors import NoAnswer, RemoteProtocolError
from bmcmedic.transport.in_band import Interrupted, Ipmb
from tests.support.driver_socket import (
    GET_DEVICE_ID,
    WAIT_S_MAX,
    Everybody,
    FakeDriver,
    FakeWatchdog,
    LineClient,
    Served,
    SetClock,
    serving,
)
from tests.support.polling import eventually

LIMITS = ServerLimits()


class Bench(SimpleNamespace):
    """A server in front of a driver that the test plays."""

    driver: FakeDriver
    watchdog: FakeWatchdog
    served: Served
    clock: SetClock

    def client(self) -> LineClient:
        client = self.served.client()
        self.clients.append(client)
        return client

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.served.wake()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    driver, watchdog, clock = FakeDriver(), FakeWatchdog(), SetClock()
    clients: list[LineClient] = []
    with serving(tmp_path, driver, watchdog, clock=clock) as served:
        yield Bench(driver=driver, watchdog=watchdog, served=served, clock=clock, clients=clients)
        for client in clients:
            client.close()


# --------------------------------------------------------------------------- questions and answers


def test_a_request_reaches_the_driver_and_its_answer_comes_back(bench: Bench) -> None:
    client = bench.client()
    client.say(id=5, netfn=6, command=1, lun=2, data="0a0b", deadline_s=7)
    request = bench.driver.answer(b"\x20\x01")
    assert request.data == b"\x1a\x01\x0a\x0b"
    assert request.deadline == bench.clock.now + 7
    assert request.target is None
    assert client.hear() == {"id": 5, "completion_code": 0, "data": "2001", "age_s": None}


def test_a_bridged_request_says_where_it_goes(bench: Bench) -> None:
    client = bench.client()
    client.say(id=1, netfn=4, command=0x2D, data="be", bridge={"channel": 6, "address": 44})
    assert bench.driver.answer(completion_code=0xC3).target == Ipmb(6, 44)
    assert client.hear()["completion_code"] == 0xC3


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NoAnswer("silent"), {"kind": "no-answer", "message": "silent"}),
        (
            RemoteProtocolError("odd", section="9", raw=b"\x1c"),
            {"kind": "bmc-violation", "message": "odd", "section": "9", "raw": "1c"},
        ),
        (
            Interrupted("a pat came", may_have_run=True),
            {"kind": "interrupted", "message": "a pat came", "may_have_run": True},
        ),
    ],
)
def test_errors_keep_their_kind(bench: Bench, error: Any, told: dict[str, Any]) -> None:  # noqa: ANN401
    client = bench.client()
    client.say(id=1, **GET_DEVICE_ID)
    bench.driver.answer(error=error)
    assert client.hear() == {"id": 1, "error": told}


def test_an_old_answer_is_for_those_who_accept_it(bench: Bench) -> None:
    client = bench.client()
    client.say(id=1, **GET_DEVICE_ID)
    bench.driver.answer(b"\x20", age_s=31.5)
    heard = client.hear()
    assert heard["error"]["kind"] == "breaker-open"
    assert "31.5 s ago" in heard["error"]["message"]
    client.say(id=2, accept_old=True, **GET_DEVICE_ID)
    bench.driver.answer(b"\x20", age_s=31.5)
    assert client.hear() == {"id": 2, "completion_code": 0, "data": "20", "age_s": 31.5}


def test_no_request_is_answered_with_anothers_answer(bench: Bench) -> None:
    clients = [bench.client() for _ in range(6)]
    for frame_id in range(LIMITS.in_flight_max):
        for number, client in enumerate(clients):
            client.say(id=frame_id, netfn=6, command=1, data=f"{number:02x}{frame_id:02x}")
    eventually(lambda: len(bench.driver.open_requests) == 6 * LIMITS.in_flight_max)
    waiting = bench.driver.open_requests
    random.Random(7).shuffle(waiting)
    for request in waiting:
        request.settle(b"\x1c\x01\x00" + request.data[2:], None)
    for number, client in enumerate(clients):
        heard = [client.hear() for _ in range(LIMITS.in_flight_max)]
        assert {answer["id"]: answer["data"] for answer in heard} == {
            frame_id: f"{number:02x}{frame_id:02x}" for frame_id in range(LIMITS.in_flight_max)
        }


def test_an_id_in_flight_cannot_be_used_again(bench: Bench) -> None:
    client = bench.client()
    client.say(id=1, **GET_DEVICE_ID)
    client.say(id=1, **GET_DEVICE_ID)
    heard = client.hear()
    assert heard["id"] is None
    assert heard["error"]["message"] == "id 1 is in flight already"
    bench.driver.answer()
    assert client.hear()["id"] == 1
    client.say(id=1, **GET_DEVICE_ID)
    bench.driver.answer()
    assert client.hear()["completion_code"] == 0


def test_status_tells_of_driver_watchdog_and_socket(bench: Bench) -> None:
    client = bench.client()
    status = client.ask(id=3, op="status")["status"]
    assert status["driver"] == {"interface": "fake", "waiting": 0}
    assert status["watchdog"]["in_charge"] is True
    assert status["socket"]["connections"] == 1


def test_a_request_given_up_is_abandoned_and_both_are_told(bench: Bench) -> None:
    client = bench.client()
    client.say(id=1, **GET_DEVICE_ID)
    request = bench.driver.next_request()
    client.say(id=2, op="cancel", cancel=1)
    cancelled, answer = client.hear(), client.hear()
    assert cancelled["id"] == 1
    assert cancelled["error"]["kind"] == "cancelled"
    assert answer == {"id": 2, "cancelled": True}
    assert bench.driver.abandoned == [request]
    assert client.ask(id=3, op="cancel", cancel=1) == {"id": 3, "cancelled": False}
    assert bench.served.socket_status()["in_flight"] == 0


def test_an_answer_that_crosses_the_giving_up_is_told_to_nobody(bench: Bench) -> None:
    client = bench.client()
    client.say(id=1, **GET_DEVICE_ID)
    request = bench.driver.next_request()
    assert request.on_done is not None
    client.say(id=2, op="cancel", cancel=1)
    assert client.hear()["error"]["kind"] == "cancelled"
    assert client.hear()["cancelled"] is True
    request.response = b"\x1c\x01\x00"
    request.on_done(request)
    assert "status" in client.ask(id=4, op="status")


# ------------------------------------------------------------------------------ the driver says no


def test_a_full_queue_is_node_busy(tmp_path: Path) -> None:
    with serving(tmp_path, FakeDriver(room=0)) as served, served.client() as client:
        heard = client.ask(id=1, **GET_DEVICE_ID)
        assert heard["completion_code"] == 0xC0
        assert heard["reason"] == "0 requests are waiting already"
        assert served.socket_status()["in_flight"] == 0


def test_a_connection_has_so_many_requests_in_flight_and_its_user_too(bench: Bench) -> None:
    clients = [bench.client() for _ in range(7)]
    for client in clients[:6]:
        for frame_id in range(LIMITS.in_flight_max):
            client.say(id=frame_id, **GET_DEVICE_ID)
    full = LIMITS.in_flight_per_uid_max
    eventually(lambda: len(bench.driver.open_requests) == full == 6 * LIMITS.in_flight_max)
    own = clients[0].ask(id=100, **GET_DEVICE_ID)
    assert own["completion_code"] == 0xC0
    assert "8 requests of this connection" in own["reason"]
    users = clients[6].ask(id=100, **GET_DEVICE_ID)
    assert users["completion_code"] == 0xC0
    assert "48 requests of uid" in users["reason"]
    bench.driver.answer()
    assert clients[0].hear()["id"] == 0
    clients[6].say(id=101, **GET_DEVICE_ID)
    eventually(lambda: len(bench.driver.open_requests) == full)


def test_what_is_the_drivers_own_never_reaches_it(bench: Bench) -> None:
    client = bench.client()
    pat = client.ask(id=1, netfn=6, command=0x22)
    assert pat["completion_code"] == 0xD5
    assert "op: watchdog" in pat["reason"]
    assert client.ask(id=2, netfn=6, command=0x33)["completion_code"] == 0xD4
    assert bench.driver.submitted == []
    bench.watchdog.in_charge = False
    client.say(id=3, netfn=6, command=0x22)
    bench.driver.answer(completion_code=0x80)
    assert client.hear() == {"id": 3, "completion_code": 0x80, "data": "", "age_s": None}


def test_a_reader_reads_and_does_no_more(tmp_path: Path) -> None:
    driver, watchdog = FakeDriver(), FakeWatchdog()
    readers = Everybody(given=Rights.READ)
    with (
        serving(tmp_path, driver, watchdog, access=readers) as served,
        served.client() as client,
    ):
        assert client.ask(id=1, netfn=6, command=2)["completion_code"] == 0xD4
        heard = client.ask(id=2, op="watchdog", action="disarm")
        assert heard["error"]["kind"] == "no-rights"
        assert client.ask(id=3, op="watchdog")["watchdog"]["in_charge"] is True
        client.say(id=4, **GET_DEVICE_ID)
        driver.answer()
        assert client.hear()["completion_code"] == 0
    assert watchdog.orders == []


def test_orders_reach_the_watchdog(bench: Bench) -> None:
    client = bench.client()
    client.ask(id=1, op="watchdog", action="lengthen", seconds=3000)
    heard = client.ask(id=2, op="watchdog", action="disarm")
    assert heard == {"id": 2, "watchdog": {"in_charge": False, "settled": True}}
    client.ask(id=3, op="watchdog", action="resume")
    assert bench.watchdog.orders == [("lengthen", 3000.0), ("disarm", None), ("resume", None)]


def test_the_interface_is_parked_by_order_and_not_while_the_watchdog_needs_it(bench: Bench) -> None:
    client = bench.client()
    refused = client.ask(id=1, op="park", seconds=30)
    assert refused["error"]["kind"] == "refused"
    assert "it is in charge" in refused["error"]["message"]
    client.ask(id=2, op="watchdog", action="disarm")
    parked = client.ask(id=3, op="park", seconds=30)["parked"]
    assert parked["closed"] is False
    assert 29 < parked["ends_in_s"] <= 30
    for action in ("resume", "disarm"):
        told = client.ask(id=4, op="watchdog", action=action)
        assert "the interface is parked" in told["error"]["message"]
    assert client.ask(id=5, op="resume") == {"id": 5, "parked": None}
    assert client.ask(id=6, op="resume") == {"id": 6, "parked": None}
    client.ask(id=7, op="watchdog", action="resume")
    assert bench.watchdog.orders == [("disarm", None), ("resume", None)]


def test_a_reader_parks_nothing(tmp_path: Path) -> None:
    driver = FakeDriver()
    with (
        serving(tmp_path, driver, access=Everybody(given=Rights.READ)) as served,
        served.client() as client,
    ):
        for op in ("park", "resume"):
            assert client.ask(id=1, op=op)["error"]["kind"] == "no-rights"
    assert driver.parking.describe() is None


def test_without_a_watchdog_there_is_nothing_to_order(tmp_path: Path) -> None:
    with serving(tmp_path, FakeDriver()) as served, served.client() as client:
        heard = client.ask(id=1, op="watchdog", action="disarm")
        assert heard["error"]["kind"] == "refused"
        assert "off in its configuration" in heard["error"]["message"]
        assert client.ask(id=2, op="status")["status"]["watchdog"] is None


# --------------------------------------------------------------------------------- who goes away


@pytest.mark.parametrize("answered_meanwhile", [False, True])
def test_a_client_that_dies_leaves_nothing(bench: Bench, *, answered_meanwhile: bool) -> None:
    client = bench.client()
    client.say(id=1, **GET_DEVICE_ID)
    client.say(id=2, **GET_DEVICE_ID)
    eventually(lambda: len(bench.driver.open_requests) == 2)
    requests = bench.driver.open_requests
    client.close()
    if answered_meanwhile:
        requests[0].settle(b"\x1c\x01\x00", None)
    eventually(lambda: requests[1] in bench.driver.abandoned)
    eventually(lambda: bench.served.socket_status()["connections"] == 1)
    assert bench.served.socket_status()["in_flight"] == 0


def test_who_has_asked_and_sends_no_more_still_hears_the_answer(bench: Bench) -> None:
    client = bench.client()
    client.say(id=1, **GET_DEVICE_ID)
    client.socket.shutdown(socket.SHUT_WR)
    bench.driver.answer(b"\x20")
    assert client.hear()["data"] == "20"
    assert client.hear() == {}


def test_a_line_without_its_end_is_not_carried_out(bench: Bench) -> None:
    client = bench.client()
    client.socket.sendall(b'{"id":1,"netfn":6,"command":1}')
    client.socket.shutdown(socket.SHUT_WR)
    assert client.hear() == {}
    assert bench.driver.submitted == []


def test_at_the_end_everybody_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    driver = FakeDriver()
    with serving(tmp_path, driver) as served:
        with served.client() as waiting, served.client() as idle:
            waiting.say(id=1, **GET_DEVICE_ID)
            request = driver.next_request()
            idle.ask(id=1, op="status")
            served.stop()
            assert driver.abandoned == [request]
            for client in (waiting, idle):
                assert client.hear()["error"]["kind"] == "stopping"
                assert client.hear() == {}
        assert request.on_done is not None
        request.on_done(request)  # late, and harmless


# ------------------------------------------------------------------------------------ who is slow


@pytest.mark.parametrize("drips", [False, True])
def test_half_a_line_has_its_time(bench: Bench, *, drips: bool) -> None:
    client = bench.client()
    client.ask(id=1, op="status")
    for _ in range(4):
        client.socket.sendall(b'{"id"' if drips else b"")
        if drips:
            assert "status" in bench.client().ask(id=9, op="status")
        bench.pass_time(2.0)
    client.socket.sendall(b" ")
    assert "status" in bench.client().ask(id=9, op="status")
    bench.pass_time(LIMITS.half_line_s_max - (8.0 if drips else 0.0))
    heard = client.hear()
    assert heard["error"] == {"kind": "too-slow", "message": "a line was not finished within 10 s"}
    assert client.hear() == {}


def said_until_full(connected: socket.socket, line: bytes) -> int:
    """Say it until nobody takes it any more; how many bytes were taken."""
    connected.setblocking(False)
    sent = 0
    while True:
        try:
            sent += connected.send(line)
        except BlockingIOError:
            return sent


def test_who_does_not_read_is_not_read_from_and_is_closed_in_the_end(bench: Bench) -> None:
    slow = bench.client()
    slow.ask(id=1, op="status")
    bench.driver.extra = {"filling": "x" * 8000}
    line = b'{"id":1,"op":"status"}\n'
    sent = said_until_full(slow.socket, line)
    held = next(iter(bench.served.server._connections.values()))

    def settled() -> bool:
        assert "status" in other.ask(id=1, op="status")
        return len(held.output) >= LIMITS.output_bytes_max

    with bench.client() as other:
        eventually(settled)
        assert len(held.output) <= LIMITS.output_bytes_max + ANSWER_LINE_BYTES_MAX
        eventually(lambda: held.interest == select.EPOLLOUT)
        assert held.reader.held_bytes <= 2 * LINE_BYTES_MAX
        bench.pass_time(LIMITS.unread_s_max + 1)
        eventually(lambda: held.closing_since is not None)
        bench.pass_time(LIMITS.closing_s_max + 1)
        eventually(lambda: other.ask(id=2, op="status")["status"]["socket"]["connections"] == 1)
    assert sent > 16 * len(line)


def test_who_asks_nothing_is_closed_and_who_waits_is_not(bench: Bench) -> None:
    idle, waiting = bench.client(), bench.client()
    idle.ask(id=1, op="status")
    waiting.say(id=1, deadline_s=300, **GET_DEVICE_ID)
    bench.driver.next_request()
    waiting.ask(id=2, op="status")
    bench.pass_time(299)
    bench.client().ask(id=1, op="status")  # from now on it has seen the time
    bench.driver.answer()
    assert waiting.hear()["id"] == 1
    bench.pass_time(301.5)
    assert idle.hear()["error"]["kind"] == "too-slow"
    assert "status" in waiting.ask(id=3, op="status")


def test_a_deadline_holds_even_where_the_driver_forgets_it(bench: Bench) -> None:
    client = bench.client()
    client.say(id=1, deadline_s=5, **GET_DEVICE_ID)
    request = bench.driver.next_request()
    client.ask(id=2, op="status")
    bench.pass_time(4.9)
    assert client.ask(id=3, op="status")["status"]["socket"]["in_flight"] == 1
    bench.pass_time(0.2)
    assert client.hear()["error"]["kind"] == "no-answer"
    assert bench.driver.abandoned == [request]


# --------------------------------------------------------------------------------- who is hostile


@pytest.mark.parametrize(
    "line", [b"\n", b"hello\n", b"[" * 4000 + b"\n", b"\xff\x00\n", b'{"id":1}\n', b"null\n"]
)
def test_garbage_is_answered_and_the_connection_goes_on(bench: Bench, line: bytes) -> None:
    client = bench.client()
    client.socket.sendall(line)
    assert client.hear()["error"]["kind"] == "bad-request"
    assert "status" in client.ask(id=1, op="status")
    assert bench.driver.submitted == []


def test_a_line_too_long_ends_the_connection_and_its_requests(bench: Bench) -> None:
    client = bench.client()
    client.say(id=1, **GET_DEVICE_ID)
    request = bench.driver.next_request()
    client.socket.sendall(b"x" * LINE_BYTES_MAX)
    assert client.hear()["error"]["kind"] == "too-long"
    assert client.hear() == {}
    assert bench.driver.abandoned == [request]


def test_a_longest_line_is_taken(bench: Bench) -> None:
    client = bench.client()
    line = b'{"id":1,"op":"status"}'
    client.socket.sendall(line.ljust(LINE_BYTES_MAX - 1) + b"\n")
    assert "status" in client.hear()


def test_connections_have_a_limit_a_user(tmp_path: Path) -> None:
    limits = ServerLimits(connections_max=8, connections_per_uid_max=5)
    with serving(tmp_path, FakeDriver(), limits=limits) as served:
        clients = [served.client() for _ in range(5)]
        for client in clients:
            client.ask(id=1, op="status")
        with served.client() as refused:
            heard = refused.hear()
            assert heard["error"]["kind"] == "too-many-connections"
            assert "5 connections already" in heard["error"]["message"]
            assert refused.hear() == {}
        clients.pop().close()
        counts = ("refused_too_many", "accepted")
        eventually(lambda: len(served.server._connections) == 4)
        with served.client() as another:
            assert "status" in another.ask(id=1, op="status")
        assert [served.server.counts[each] for each in counts] == [1, 6]
        for client in clients:
            client.close()
        assert len(served.reports) == 1


def test_connections_have_a_limit_all_together(tmp_path: Path) -> None:
    limits = ServerLimits(connections_max=2)
    with (
        serving(tmp_path, FakeDriver(), limits=limits) as served,
        served.client() as first,
        served.client() as second,
        served.client() as third,
    ):
        assert "status" in first.ask(id=1, op="status")
        assert "status" in second.ask(id=1, op="status")
        assert third.hear()["error"]["message"] == "there are 2 connections already"


def test_two_thousand_connections_leave_room_for_those_who_were_there(tmp_path: Path) -> None:
    driver = FakeDriver()
    with serving(tmp_path, driver) as served, served.client() as early:
        early.ask(id=1, op="status")
        crowd: list[LineClient] = []
        for number in range(2000):
            crowd.append(served.client())
            if number % 100 == 0:
                early.say(id=2, **GET_DEVICE_ID)
                driver.answer(b"\x20")
                assert early.hear()["data"] == "20"
            if len(crowd) > 400:  # our own files are limited as well
                crowd.pop(random.Random(number).randrange(len(crowd))).close()
        status = early.ask(id=3, op="status")["status"]["socket"]
        assert status["connections"] <= LIMITS.connections_per_uid_max
        assert status["counts"]["refused_too_many"] > 0
        assert len(served.server._connections) <= LIMITS.connections_per_uid_max
        for client in crowd:
            client.close()
        eventually(lambda: early.ask(id=4, op="status")["status"]["socket"]["connections"] == 1)
        with served.client() as late:
            assert "status" in late.ask(id=1, op="status")


def test_without_file_descriptors_it_waits_and_goes_on(bench: Bench) -> None:
    early = bench.client()
    early.ask(id=1, op="status")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as late:
        late.settimeout(WAIT_S_MAX)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as lowest_free:
            lowest = lowest_free.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            late.connect(bench.served.path)
            eventually(lambda: bench.served.reports)
            assert "Too many open files" in bench.served.reports[0]
            early.ask(id=2, op="status")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        bench.pass_time(LIMITS.accept_pause_s)
        late.sendall(b'{"id":1,"op":"status"}\n')
        assert b'"status"' in late.recv(65536)


def test_who_has_no_rights_is_told_once_and_closed(tmp_path: Path) -> None:
    nobody = Everybody(given=Rights.NONE)
    with serving(tmp_path, FakeDriver(), access=nobody) as served:
        for _ in range(3):
            with served.client() as client:
                heard = client.hear()
                assert heard["error"]["kind"] == "no-rights"
                assert heard["id"] is None
                assert client.hear() == {}
        assert len(served.reports) == 1
        assert "has no rights on this socket" in served.reports[0]
        assert served.server.counts["refused_no_rights"] == 3


def test_the_kernel_says_who_it_is(tmp_path: Path) -> None:
    """Another user's process, where we may start one; our own is refused as well if not root."""
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if Path(tempfile.gettempdir()) in folder.parents:
            folder.chmod(0o755)
    code = (
        "import os, socket, sys\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(9999).decode())"
    )
    with serving(tmp_path, FakeDriver(), access=Access()) as served:
        Path(served.path).chmod(0o666)
        done = subprocess.run(
            [sys.executable, "-I", "-c", code, served.path],
            capture_output=True,
            text=True,
            timeout=WAIT_S_MAX,
            check=False,
        )
        assert "has no rights on this socket" in done.stdout, done.stderr
        assert served.server.counts["refused_no_rights"] == 1


def test_random_bytes_from_many_at_once_harm_nobody(tmp_path: Path) -> None:
    driver = FakeDriver(room=20)
    pieces = [
        b'{"id":1,"netfn":6,"command":1}\n', b'{"id":2,"op":"status"}\n', b"\n", b"{", b"\xff" * 9,
        b'{"id":3,"op":"cancel","cancel":1}\n', b"9" * 700, b'{"op":"watchdog","id":4}\n', b"\0\n",
    ]  # fmt: skip

    def rage(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(25):
            with LineClient(path) as client:
                try:
                    for _ in range(chance.randrange(12)):
                        client.socket.send(chance.choice(pieces))
                except (BrokenPipeError, ConnectionResetError):
                    pass  # it had enough of us

    with serving(tmp_path, driver) as served:
        path = served.path
        crowd = [threading.Thread(target=rage, args=(seed,)) for seed in range(6)]
        for thread in crowd:
            thread.start()
        with served.client() as client:
            while any(thread.is_alive() for thread in crowd):
                assert "status" in client.ask(id=1, op="status")
            for thread in crowd:
                thread.join()
            eventually(
                lambda: client.ask(id=1, op="status")["status"]["socket"]["connections"] == 1
            )
            assert client.ask(id=1, op="status")["status"]["socket"]["in_flight"] == 0
        assert driver.open_requests == []
        assert served.server.counts["internal_errors"] == 0


def test_a_fault_of_our_own_costs_one_connection(bench: Bench) -> None:
    class Broken(dict[str, Any]):
        def __iter__(self) -> Iterator[str]:
            raise RuntimeError("a bug")

        keys = __iter__  # type: ignore[assignment]

    victim, other = bench.client(), bench.client()
    bench.driver.extra = Broken(x=1)
    assert victim.ask(id=1, op="status")["error"]["kind"] == "failed"
    assert victim.hear() == {}
    bench.driver.extra = {"number": float("nan")}
    assert other.ask(id=1, op="status")["error"]["kind"] == "failed"
    bench.driver.extra = {}
    assert "status" in other.ask(id=2, op="status")
    assert any("a bug" in report for report in bench.served.reports)


def test_no_flood_takes_more_than_its_share_of_a_processor(tmp_path: Path) -> None:
    with serving(tmp_path, FakeDriver()) as served:
        over = threading.Event()

        def flood() -> None:
            with served.client() as client:
                while not over.is_set():
                    client.socket.sendall(b'{"id":1,"op":"status"}\n' * 8)
                    for _ in range(8):
                        client.hear()

        crowd = [threading.Thread(target=flood) for _ in range(3)]
        assert served.thread.ident is not None
        cpu_clock = time.pthread_getcpuclockid(served.thread.ident)
        for thread in crowd:
            thread.start()
        eventually(lambda: time.clock_gettime(cpu_clock) > 0.1)
        wall, cpu = time.monotonic(), time.clock_gettime(cpu_clock)
        eventually(lambda: time.monotonic() >= wall + 0.5 and time.clock_gettime(cpu_clock) > cpu)
        share = (time.clock_gettime(cpu_clock) - cpu) / (time.monotonic() - wall)
        over.set()
        for thread in crowd:
            thread.join()
        assert 0.0 < share < LIMITS.busy_share_max + 0.1
