"""The loopback proxy in front of a driver that the test plays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from bmcmedic.agent import proxy_files
from bmcmedic.agent.loopback import server as loopback
from bmcmedic.agent.loopback.driver_link import IN_FLIGHT_MAX, WAITING_MAX, DriverLink
from bmcmedic.agent.loopback.duplicates import (
    AGE_S_MAX,
    READ_AGE_S_MAX,
    DuplicateFilter,
    SentAnswer,
    Work,
)
from bmcmedic.agent.loopback.flood_filter import DATAGRAMS_A_WINDOW_MAX
from bmcmedic.agent.loopback.server import SESSIONS_MAX, LoopbackSettings
from bmcmedic.agent.proxy_files import PASSWORD_BYTES, NoProxy, ProxyFiles
from bmcmedic.driver.socket.errors import ErrorKind
from bmcmedic.driver.socket.protocol import (
    AnswerFrame,
    RequestFrame,
    ServerFrame,
    decode_question,
    encode_answer,
)
from bmcmedic.errors import (
    BmcmedicError,
    BreakerOpen,
    CompletionCodeError,
    ConfigurationError,
    NoAnswer,
    QueueFull,
    RemoteProtocolError,
    RmcpPlusStatusError,
    TransportError,
)
from bmcmedic.ipmi.bridge import Bridge
from bmcmedic.ipmi.cipher_suites import cipher_suite
from bmcmedic.ipmi.constants import CompletionCode, PrivilegeLevel
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.managed_system import IncomingRequest
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage
from bmcmedic.ipmi.packet import Packet, PayloadType
from bmcmedic.ipmi.rakp import OpenSessionRequest
from bmcmedic.transport.addresses import Address
from bmcmedic.transport.in_band import InterfaceBusy, InterfaceGone, Interrupted, Ipmb
from bmcmedic.transport.lanplus import LanPlus
from tests.support.driver_socket import FakeDriver, FakeWatchdog, serving
from tests.support.polling import eventually, eventually_in_loop
from tests.support.sim_host import RunningProxy, running_proxy

DEADLINE_S = 20.0
POLL_S = 0.05
DATAGRAMS_NO_BUFFER_HOLDS = 20_000
NOBODY = ("127.0.0.1", 9)


@dataclass
class Bench:
    driver: FakeDriver
    proxy: RunningProxy
    pool: ThreadPoolExecutor

    def ask(
        self,
        netfn: int,
        command: int,
        data: bytes = b"",
        *,
        lun: int = 0,
        bridge: Bridge | None = None,
    ) -> Future[ResponseMessage]:
        """Ask it as a tool would, in another thread."""
        return self.pool.submit(
            lambda: asyncio.run(asked(self.proxy, netfn, command, data, lun, bridge))
        )

    def forward(self, incoming: IncomingRequest) -> None:
        """As if it had come in a session."""
        server = self.proxy.server
        self.proxy.call(lambda: server._forward(incoming, self.proxy.loop.time()))


async def asked(
    proxy: RunningProxy,
    netfn: int,
    command: int,
    data: bytes,
    lun: int,
    bridge: Bridge | None,
    user: str = "bmcmedic",
) -> ResponseMessage:
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    credentials = Credentials(user, proxy.password.encode())
    async with await LanPlus.connect(
        ("127.0.0.1", proxy.port),
        credentials,
        deadline=deadline,
        privilege=PrivilegeLevel.ADMINISTRATOR,
    ) as bmc:
        return await bmc.raw(netfn, command, data, deadline, lun=lun, bridge=bridge)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    driver = FakeDriver()
    with (
        serving(tmp_path, driver, FakeWatchdog()) as served,
        running_proxy(served.path, tmp_path / "run") as proxy,
        ThreadPoolExecutor() as pool,
    ):
        yield Bench(driver, proxy, pool)


# ------------------------------------------------------------------------------------- answers


def test_a_request_and_its_answer_are_passed_on_as_they_are(bench: Bench) -> None:
    answer = bench.ask(0x2E, 0x77, b"\x01\x02", lun=2)
    bench.driver.answer(b"\x03\x04", 0xC9)
    request = bench.driver.submitted[0]
    assert (request.data, request.target) == (bytes((0x2E << 2 | 2, 0x77, 1, 2)), None)
    response = answer.result()
    assert (response.completion_code, response.data) == (0xC9, b"\x03\x04")


def test_a_bridged_request_is_answered_in_two_parts(bench: Bench) -> None:
    answer = bench.ask(4, 0x2D, b"\xbe", bridge=Bridge(6, 0x2C, 1))
    bench.driver.answer(b"\x33\xc0", 0)
    request = bench.driver.submitted[0]
    assert request.target == Ipmb(6, 0x2C, 1)
    assert (request.data[0] >> 2, request.data[1:]) == (4, b"\x2d\xbe")
    response = answer.result()
    assert (response.netfn, response.command, response.data) == (5, 0x2D, b"\x33\xc0")


def test_a_satellites_refusal_is_its_own_and_the_drivers_is_the_bmcs(bench: Bench) -> None:
    answer = bench.ask(4, 0x2D, b"\xbe", bridge=Bridge(6, 0x2C))
    bench.driver.answer(b"", 0xCB)
    assert answer.result().completion_code == 0xCB
    answer = bench.ask(4, 0x2D, b"\xbe", bridge=Bridge(6, 0x2C))
    bench.driver.answer(error=NoAnswer("silence"))
    with pytest.raises(CompletionCodeError) as refused:
        answer.result()
    assert refused.value.code == CompletionCode.TIMEOUT


def test_garbage_in_a_send_message_is_refused(bench: Bench) -> None:
    assert bench.ask(6, 0x34, b"\x46garbage").result().completion_code == 0xCC
    assert bench.ask(6, 0x34).result().completion_code == 0xCC
    assert bench.driver.submitted == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoAnswer("x"), 0xC3),
        (BreakerOpen("x"), 0xD3),
        (InterfaceGone("x"), 0xD3),
        (InterfaceBusy("x"), 0xC0),
        (QueueFull("x"), 0xC0),
        (Interrupted("x", may_have_run=True), 0xC3),
        (Interrupted("x", may_have_run=False), 0xC0),
        (RemoteProtocolError("x", section="9"), 0xCE),
        (TransportError("x"), 0xFF),
    ],
)
def test_a_refusal_of_the_driver_is_a_completion_code(
    bench: Bench, error: BmcmedicError, code: int
) -> None:
    answer = bench.ask(6, 1)
    bench.driver.answer(error=error)
    assert answer.result().completion_code == code
    assert bench.proxy.status()["counts"]["requests"] == 1


def test_a_command_that_the_driver_reserves_is_refused_with_its_code(bench: Bench) -> None:
    assert bench.ask(6, 0x22).result().completion_code == 0xD5
    assert bench.ask(6, 0x33).result().completion_code == 0xD4
    assert bench.driver.submitted == []


def test_a_stale_answer_is_given_for_a_minute(bench: Bench) -> None:
    for age_s, code in ((59.0, 0), (61.0, 0xD3)):
        answer = bench.ask(6, 1)
        bench.driver.answer(b"\x20", age_s=age_s)
        assert answer.result().completion_code == code


def test_with_stale_answers_off_none_is_given(tmp_path: Path) -> None:
    driver = FakeDriver()
    settings = LoopbackSettings(port=0, stale_answer_s_max=0.0)
    with (
        serving(tmp_path, driver) as served,
        running_proxy(served.path, tmp_path / "run", settings) as proxy,
        ThreadPoolExecutor() as pool,
    ):
        answer = Bench(driver, proxy, pool).ask(6, 1)
        driver.answer(b"\x20", age_s=1.0)
        assert answer.result().completion_code == 0xD3


def test_the_shim_gets_no_stale_answer_and_finds_the_new_state_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback, "STATUS_PERIOD_S", 1000.0)
    driver = FakeDriver()
    with (
        serving(tmp_path, driver) as served,
        running_proxy(served.path, tmp_path / "run") as proxy,
        ThreadPoolExecutor() as pool,
    ):
        eventually(lambda: proxy.state() == "well")
        answer = pool.submit(
            lambda: asyncio.run(asked(proxy, 6, 1, b"", 0, None, user="bmcmedic-shim"))
        )
        driver.answer(b"\x20", age_s=1.0)
        assert answer.result().completion_code == CompletionCode.DESTINATION_UNAVAILABLE
        assert proxy.state() == "silent"


def test_the_state_is_renewed_while_the_proxy_lives(bench: Bench) -> None:
    eventually(lambda: bench.proxy.state() == "well")
    path = bench.proxy.runtime_dir / "door" / "state"
    first = path.read_text(encoding="utf-8")
    eventually(lambda: path.read_text(encoding="utf-8") != first)
    assert path.read_text(encoding="utf-8").splitlines()[:2] == ["well", ""]


def test_session_commands_are_the_proxys_and_channel_commands_the_bmcs(bench: Bench) -> None:
    assert bench.ask(6, 0x3D, b"\0").result().completion_code == 0
    assert bench.driver.submitted == []
    answer = bench.ask(6, 0x38, b"\x0e\x04")
    bench.driver.answer(b"\x0f")
    assert answer.result().data == b"\x0f"


# ---------------------------------------------------------------------------------- the driver


def test_without_a_driver_the_answer_comes_at_once(tmp_path: Path) -> None:
    with (
        running_proxy(str(tmp_path / "none"), tmp_path / "run") as proxy,
        ThreadPoolExecutor() as pool,
    ):
        answer = Bench(FakeDriver(), proxy, pool).ask(6, 1)
        assert answer.result().completion_code == CompletionCode.DESTINATION_UNAVAILABLE
        assert proxy.state() == "no-driver"


def test_a_driver_that_goes_away_is_reported_and_the_next_one_found(tmp_path: Path) -> None:
    driver = FakeDriver()
    with ThreadPoolExecutor() as pool:
        with serving(tmp_path, driver) as served:
            path = served.path
            proxy_of = running_proxy(path, tmp_path / "run")
            proxy = proxy_of.__enter__()
            bench = Bench(driver, proxy, pool)
            answer = bench.ask(6, 1)
            driver.next_request()
        try:
            # It may have been carried out, or the driver said that it stops.
            assert answer.result().completion_code in (0xC3, 0xD3)
            assert bench.ask(6, 1).result().completion_code == 0xD3
            driver = bench.driver = FakeDriver()
            with serving(tmp_path, driver):
                answer = bench.ask(6, 1)
                driver.answer(b"\x20")
                assert answer.result().data == b"\x20"
                eventually(lambda: proxy.state() == "well")
        finally:
            proxy_of.__exit__(None, None, None)


def test_something_else_at_the_drivers_place_is_no_driver(tmp_path: Path) -> None:
    path = str(tmp_path / "other")
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor() as pool:
        listener.bind(path)
        listener.listen()
        with running_proxy(path, tmp_path / "run") as proxy:
            answer = Bench(FakeDriver(), proxy, pool).ask(6, 1)
            listener.settimeout(0.05)
            while not answer.done():
                with contextlib.suppress(TimeoutError):
                    connected, _ = listener.accept()
                    with connected:
                        connected.recv(1)
                        connected.sendall(b"220 mail.example ESMTP\r\n")
            assert answer.result().completion_code == CompletionCode.TIMEOUT


def test_the_state_of_the_bmc_is_published(bench: Bench) -> None:
    eventually(lambda: bench.proxy.state() == "well")
    bench.driver.extra = {"breaker": {"open": True, "reason": "no answer"}}
    eventually(lambda: bench.proxy.state() == "silent")
    assert proxy_files.read_state(str(bench.proxy.runtime_dir)) == ("silent", "no answer")
    assert bench.proxy.status()["reason"] == "no answer"
    bench.driver.extra = {
        "breaker": {"open": True, "reason": "no device"},
        "interface_missing": "no device",
    }
    eventually(lambda: bench.proxy.state() == "no-interface")
    assert bench.proxy.status()["reason"] == "no device"
    bench.driver.extra = {"parked": {"closed": True}}
    eventually(lambda: "parked by an order" in bench.proxy.status().get("reason", ""))
    assert bench.proxy.state() == "silent"
    bench.driver.extra = {}
    eventually(lambda: bench.proxy.state() == "well")


def test_no_more_is_in_flight_than_the_driver_takes_and_the_rest_waits(bench: Bench) -> None:
    count = 3 * IN_FLIGHT_MAX
    for number in range(count):
        bench.forward(incoming(RequestMessage(0x2E, number, sequence=number)))
    eventually(lambda: len(bench.driver.submitted) == IN_FLIGHT_MAX)
    # The question for the state is not kept waiting by them.
    bench.driver.extra = {"breaker": {"open": True, "reason": "x"}}
    eventually(lambda: bench.proxy.state() == "silent")
    assert len(bench.driver.submitted) == IN_FLIGHT_MAX
    for _ in range(count):
        bench.driver.answer()
    assert [request.data[1] for request in bench.driver.submitted] == list(range(count))
    eventually(lambda: bench.proxy.status()["unanswered"] == 0)


def test_a_waiting_request_that_reads_the_same_gets_the_answer_too(bench: Bench) -> None:
    reads = 3 * IN_FLIGHT_MAX
    for number in range(reads):
        bench.forward(incoming(RequestMessage(6, 1, sequence=number)))
    others = [(6, 1, b"\x00"), (6, 4, b""), (6, 2, b"")]  # another read, another, and a change
    for netfn, command, data in others:
        bench.forward(incoming(RequestMessage(netfn, command, data)))
    eventually(lambda: len(bench.driver.submitted) == IN_FLIGHT_MAX)
    bench.driver.answer(b"\x20")
    eventually(lambda: len(bench.driver.submitted) == IN_FLIGHT_MAX + 1)
    for _ in range(IN_FLIGHT_MAX - 1 + len(others)):
        bench.driver.answer(b"\x20")
    eventually(lambda: bench.proxy.status()["unanswered"] == 0)
    asked = [request.data for request in bench.driver.submitted]
    assert asked[IN_FLIGHT_MAX:] == [
        bytes((netfn << 2, command)) + data for netfn, command, data in others
    ]
    assert bench.proxy.status()["counts"]["shared"] == reads - IN_FLIGHT_MAX


def test_neither_changes_nor_errors_nor_stale_answers_are_shared(bench: Bench) -> None:
    commands = [1] * IN_FLIGHT_MAX + [2, 1, 2, 1]
    for sequence, command in enumerate(commands):
        bench.forward(incoming(RequestMessage(6, command, sequence=sequence)))
    bench.driver.answer(error=NoAnswer("silence"))
    bench.driver.answer(b"\x20", age_s=3.0)
    for _ in commands[2:]:
        bench.driver.answer(error=NoAnswer("silence"))
    eventually(lambda: bench.proxy.status()["unanswered"] == 0)
    assert [request.data[1] for request in bench.driver.submitted] == commands
    assert "shared" not in bench.proxy.status()["counts"]


def test_a_read_is_not_answered_from_before_it_was_asked_nor_by_the_driver(tmp_path: Path) -> None:
    """An earlier answer may be older than a change whose author then asks here."""
    asked: list[RequestFrame] = []
    answers: dict[str, ServerFrame] = {}

    def ask(link: DriverLink, name: str, command: int) -> None:
        frame = RequestFrame(0, 6, command, deadline_s=DEADLINE_S)
        link.ask(frame, lambda answer: answers.__setitem__(name, answer))

    async def story() -> None:
        writers: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            while line := await reader.readline():
                asked.append(cast("RequestFrame", decode_question(line.rstrip(b"\n"))))

        def answer(data: bytes, code: int = 0, reason: str | None = None) -> None:
            first = next(frame for frame in asked if frame.command == GET_DEVICE_ID.command)
            asked.remove(first)
            writers[0].write(encode_answer(AnswerFrame(first.frame_id, code, data, None, reason)))

        path = str(tmp_path / "driver")
        server = await asyncio.start_unix_server(serve, path)
        link = DriverLink(path)
        for number in range(IN_FLIGHT_MAX):
            ask(link, f"before {number}", 2 if number else GET_DEVICE_ID.command)
        await eventually_in_loop(lambda: len(asked) == IN_FLIGHT_MAX)
        answer(b"old")  # lies in the socket: nothing here has read it yet
        ask(link, "after", GET_DEVICE_ID.command)
        await eventually_in_loop(lambda: len(asked) == IN_FLIGHT_MAX)
        assert "after" not in answers
        ask(link, "last", GET_DEVICE_ID.command)
        await eventually_in_loop(lambda: link._waiting[0].may_share)
        answer(b"", CompletionCode.NODE_BUSY, "too many of yours are in flight")
        await eventually_in_loop(lambda: len(asked) == IN_FLIGHT_MAX)
        answer(b"new")
        await eventually_in_loop(lambda: "last" in answers)
        await link.close()
        server.close()
        for writer in writers:
            writer.close()
        await server.wait_closed()

    asyncio.run(story())
    assert cast("AnswerFrame", answers["before 0"]).data == b"old"
    assert cast("AnswerFrame", answers["after"]).reason is not None
    assert cast("AnswerFrame", answers["last"]).data == b"new"


def test_no_more_than_so_many_wait(bench: Bench) -> None:
    def fill() -> None:
        for number in range(IN_FLIGHT_MAX + WAITING_MAX + 1):
            request = RequestMessage(0x2E, number & 0xFF, bytes((number >> 8,)))
            bench.proxy.server._forward(incoming(request), bench.proxy.loop.time())

    eventually(lambda: bench.proxy.state() == "well")
    bench.proxy.call(fill)
    eventually(lambda: bench.proxy.status()["counts"].get("error queue-full") == 1)


def test_a_request_that_had_no_turn_before_its_deadline_fails(tmp_path: Path) -> None:
    driver = FakeDriver()
    settings = LoopbackSettings(port=0, request_s=0.3)
    with (
        serving(tmp_path, driver) as served,
        running_proxy(served.path, tmp_path / "run", settings) as proxy,
        ThreadPoolExecutor() as pool,
    ):
        bench = Bench(driver, proxy, pool)
        for number in range(IN_FLIGHT_MAX):
            bench.forward(incoming(RequestMessage(0x2E, number)))
        assert bench.ask(6, 1).result().completion_code == CompletionCode.TIMEOUT
        eventually(lambda: proxy.status()["unanswered"] == 0)
        counts = proxy.status()["counts"]
        assert counts[f"error {ErrorKind.NO_ANSWER.value}"] == IN_FLIGHT_MAX + 1


# ---------------------------------------------------------------------------------- duplicates


def incoming(message: RequestMessage) -> IncomingRequest:
    return IncomingRequest(message, NOBODY, PrivilegeLevel.ADMINISTRATOR, 77)


def test_a_change_runs_once_even_if_it_is_repeated_after_its_answer(
    bench: Bench,
) -> None:
    cold_reset = incoming(RequestMessage(6, 2, sequence=5))
    bench.forward(cold_reset)
    bench.driver.answer()
    eventually(lambda: bench.proxy.status()["unanswered"] == 0)
    bench.forward(cold_reset)
    assert len(bench.driver.submitted) == 1
    assert bench.proxy.status()["counts"]["duplicates"] == 1
    # Asked another time, it is another request.
    bench.forward(incoming(RequestMessage(6, 2, sequence=6)))
    eventually(lambda: len(bench.driver.submitted) == 2)


def test_the_same_change_asked_anew_runs_each_time_though_rqseq_comes_round(bench: Bench) -> None:
    for number in range(140):
        bench.forward(incoming(RequestMessage(0x0A, 0x42, sequence=number % 64)))
        bench.driver.answer()
        eventually(lambda: bench.proxy.status()["unanswered"] == 0)
    assert len(bench.driver.submitted) == 140
    assert bench.proxy.status()["counts"].get("duplicates", 0) == 0


def test_a_repeat_is_known_a_few_requests_later_and_while_it_is_under_way(bench: Bench) -> None:
    first = incoming(RequestMessage(6, 2, sequence=0))
    bench.forward(first)
    bench.forward(incoming(RequestMessage(0x2E, 1, sequence=1)))
    bench.forward(first)
    for _ in range(2):
        bench.driver.answer()
    eventually(lambda: bench.proxy.status()["unanswered"] == 0)
    bench.forward(first)
    assert len(bench.driver.submitted) == 2
    assert bench.proxy.status()["counts"]["duplicates"] == 2


def test_a_bridged_change_runs_once_though_it_came_again_after_its_answer(bench: Bench) -> None:
    inner = RequestMessage(0x2E, 0x65, b"\x57\x01\0", 9, responder=0x2C, requester=0x20)
    wrapped = Bridge(6, 0x2C).wrap(inner)
    for sequence in (5, 5, 6):
        bench.forward(incoming(wrapped.with_sequence(sequence)))
        if sequence == 6 or not bench.driver.submitted:
            bench.driver.answer()
        eventually(lambda: bench.proxy.status()["unanswered"] == 0)
    assert len(bench.driver.submitted) == 2
    assert bench.proxy.status()["counts"]["duplicates"] == 1


def test_a_request_that_was_refused_as_busy_is_no_duplicate_later(bench: Bench) -> None:
    for error in (QueueFull("x"), None):
        bench.forward(incoming(RequestMessage(6, 2, sequence=5)))
        bench.driver.answer(error=error)
        eventually(lambda: bench.proxy.status()["unanswered"] == 0)
    assert len(bench.driver.submitted) == 2


GET_DEVICE_ID, COLD_RESET = RequestMessage(6, 1, sequence=5), RequestMessage(6, 2, sequence=5)


def test_a_read_whose_answer_crossed_with_its_repeat_is_not_read_twice(bench: Bench) -> None:
    for _ in range(2):
        bench.forward(incoming(GET_DEVICE_ID))
        if not bench.driver.submitted:
            bench.driver.answer(b"\x20")
        eventually(lambda: bench.proxy.status()["unanswered"] == 0)
    assert len(bench.driver.submitted) == 1
    assert bench.proxy.status()["counts"]["duplicates"] == 1


def test_a_read_that_comes_after_something_else_runs_again(bench: Bench) -> None:
    for number, message in enumerate((GET_DEVICE_ID, COLD_RESET, GET_DEVICE_ID), 1):
        bench.forward(incoming(message))
        bench.driver.answer(b"\x20")
        eventually(lambda: bench.proxy.status()["unanswered"] == 0)
        assert len(bench.driver.submitted) == number


@pytest.mark.parametrize(
    ("message", "kept_s"), [(GET_DEVICE_ID, READ_AGE_S_MAX), (COLD_RESET, AGE_S_MAX)]
)
def test_a_read_is_a_repeat_for_a_moment_and_a_change_for_longer(
    message: RequestMessage, kept_s: float
) -> None:
    duplicates, answer = DuplicateFilter(1), SentAnswer(0, b"\x20")
    asked = incoming(message)
    assert duplicates.take(asked, 0.0) is Work.NEW
    assert duplicates.take(asked, 1.0) is Work.UNDER_WAY
    duplicates.answered(asked, answer, 2.0, is_read=message is GET_DEVICE_ID)
    assert duplicates.take(asked, 2.0 + 0.9 * kept_s) == answer
    assert duplicates.take(asked, 2.0 + kept_s) is Work.NEW


# ------------------------------------------------------------------------------------- hostile


def test_a_forged_address_does_not_mute_the_session_of_that_address(bench: Bench) -> None:
    server = bench.proxy.server

    def flood() -> None:
        (slot,) = server._managed_system._slots
        for _ in range(3 * DATAGRAMS_A_WINDOW_MAX):
            server._receive(b"noise", cast("Address", slot.peer), 100.0)

    async def story() -> None:
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        credentials = Credentials("bmcmedic", bench.proxy.password.encode())
        async with await LanPlus.connect(
            ("127.0.0.1", bench.proxy.port), credentials, deadline=deadline
        ) as bmc:
            bench.proxy.call(flood)
            answered = asyncio.create_task(bmc.raw(6, 1, b"", deadline))
            await asyncio.to_thread(bench.driver.answer, b"\x20")
            assert (await answered).data == b"\x20"

    asyncio.run(story())


def open_session(number: int) -> bytes:
    """Half a set-up."""
    message = OpenSessionRequest.for_suite(0, PrivilegeLevel.USER, number + 1, cipher_suite(17))
    return Packet(PayloadType.OPEN_SESSION_REQUEST, False, False, 0, 0, message.encode()).encode()


def test_half_a_set_up_in_any_number_keeps_nobody_out(bench: Bench) -> None:
    a_sender = DATAGRAMS_A_WINDOW_MAX // 2
    for _ in range(2 * SESSIONS_MAX // a_sender):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            flood.settimeout(DEADLINE_S)
            for number in range(a_sender):
                flood.sendto(open_session(number), ("127.0.0.1", bench.proxy.port))
                flood.recv(512)
    assert bench.proxy.status()["sessions"] == SESSIONS_MAX
    answer = bench.ask(6, 1)
    bench.driver.answer(b"\x20")
    assert answer.result().data == b"\x20"


def test_a_client_that_opens_sessions_over_and_over_loses_only_its_own(bench: Bench) -> None:
    slots = bench.proxy.server._managed_system._slots
    loud, other = ("127.0.0.1", 1), ("127.0.0.1", 2)

    def receive(peer: tuple[str, int], number: int) -> None:
        bench.proxy.call(
            lambda: bench.proxy.server._receive(open_session(number), peer, bench.proxy.loop.time())
        )

    receive(other, 0)
    for number in range(SESSIONS_MAX):
        receive(loud, number)
    assert [slot.peer for slot in slots] == [other] + [loud] * (SESSIONS_MAX - 1)
    receive(("127.0.0.1", 3), 0)
    assert len(slots) == SESSIONS_MAX
    assert other not in {slot.peer for slot in slots}, "the oldest, where one's own is not there"


def test_a_flood_from_one_address_takes_no_room_from_the_others(bench: Bench) -> None:
    held, until = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        until.wait(DEADLINE_S)

    address = ("127.0.0.1", bench.proxy.port)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        other.settimeout(DEADLINE_S)
        for _ in range(DATAGRAMS_A_WINDOW_MAX + 1):
            flood.sendto(b"noise", address)
        eventually(lambda: bench.proxy.status()["discarded_datagrams"] > DATAGRAMS_A_WINDOW_MAX)
        bench.proxy.loop.call_soon_threadsafe(hold)  # as on a busy machine
        assert held.wait(DEADLINE_S)
        for _ in range(DATAGRAMS_NO_BUFFER_HOLDS):
            flood.sendto(b"noise", address)
        other.sendto(open_session(0), address)
        while not select.select([bench.proxy.server._socket], [], [], POLL_S)[0]:
            other.sendto(open_session(0), address)
        until.set()
        assert other.recv(512)
    assert bench.proxy.status()["sessions"] == 1


def test_garbage_is_dropped_and_counted(bench: Bench) -> None:
    noise = random.Random(1)
    address = ("127.0.0.1", bench.proxy.port)
    for _ in range(10):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(30):
                data = noise.randbytes(noise.randrange(1, 600))
                sender.sendto(data, address)
                sender.sendto(b"\x06\0\xff\x07" + data, address)
    answer = bench.ask(6, 1)
    bench.driver.answer(b"\x20")
    assert answer.result().data == b"\x20"
    eventually(lambda: bench.proxy.status()["discarded_datagrams"] >= 600)
    assert len(bench.driver.submitted) == 1


def test_a_wrong_secret_is_refused(bench: Bench) -> None:
    async def connect(user: str, password: bytes) -> None:
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        await LanPlus.connect(
            ("127.0.0.1", bench.proxy.port), Credentials(user, password), deadline=deadline
        )

    with pytest.raises(BmcmedicError):
        asyncio.run(connect("bmcmedic", b"wrong"))
    with pytest.raises(RmcpPlusStatusError):
        asyncio.run(connect("admin", bench.proxy.password.encode()))


# --------------------------------------------------------------------------------------- files


def test_the_files_are_roots_alone_and_hold_one_secret_a_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ProxyFiles(str(tmp_path / "run"))
    assert files.acquire()
    password = files.password()
    assert len(password) == PASSWORD_BYTES
    assert files.password() == password
    files.publish_state("well")
    files.publish("127.0.0.1", 6230, 15.0, {"deadline_s": "7"})
    folder = Path(files.folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}
    proxy = proxy_files.find_proxy(str(tmp_path / "run"))
    assert (proxy.host, proxy.port, proxy.settings) == ("127.0.0.1", 6230, {"deadline_s": "7"})
    assert not ProxyFiles(str(tmp_path / "run")).acquire()

    files.release()
    with pytest.raises(NoProxy):
        proxy_files.find_proxy(str(tmp_path / "run"))
    assert proxy_files.read_state(str(tmp_path / "run"))[0] == "no-driver"
    assert files.acquire()
    assert files.password() == password
    monkeypatch.setattr(proxy_files, "_boot_id", lambda: "another")
    assert files.password() != password
    files.release()


@pytest.mark.parametrize("corrupt", [b"", b"short\nboot\n", b"\xff" * 30])
def test_a_corrupt_password_is_made_anew(tmp_path: Path, corrupt: bytes) -> None:
    files = ProxyFiles(str(tmp_path / "run"))
    assert files.acquire()
    (Path(files.folder) / "password").write_bytes(corrupt)
    assert len(files.password()) == PASSWORD_BYTES
    files.release()


def test_two_agents_do_not_serve_the_same_proxy(bench: Bench) -> None:
    runtime_dir = bench.proxy.runtime_dir
    with (
        pytest.raises(ConfigurationError, match="another agent serves the proxy"),
        running_proxy("none", runtime_dir),
    ):
        pass
    other = runtime_dir.with_name("other")
    settings = LoopbackSettings(port=bench.proxy.port)
    with (
        pytest.raises(ConfigurationError, match="something listens there already"),
        running_proxy("none", other, settings),
    ):
        pass
    assert proxy_files.find_proxy(str(runtime_dir)).port == bench.proxy.port


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "door").mkdir(parents=True)
    (tmp_path / "run" / "door").chmod(0o777)
    with (
        pytest.raises(ConfigurationError, match="others may write to it"),
        running_proxy("none", tmp_path / "run"),
    ):
        pass


def test_a_full_disk_is_reported_and_the_proxy_stays_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    eventually(lambda: bench.proxy.state() == "well")

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(ProxyFiles, "publish_state", full)
    bench.driver.extra = {"breaker": {"open": True, "reason": "x"}}
    eventually(lambda: bench.proxy.reports)
    assert "No space left" in bench.proxy.reports[0]
    answer = bench.ask(6, 1)
    bench.driver.answer(b"\x20")
    assert answer.result().data == b"\x20"
