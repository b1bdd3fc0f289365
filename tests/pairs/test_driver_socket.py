"""Client, socket, driver and watchdog, joined as they ship; the BMC does what the test says."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from bmcmedic.driver.breaker import BreakerLimits
from bmcmedic.driver.driver import Driver
from bmcmedic.driver.requests import DriverLimits
from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.driver.socket.protocol import WatchdogAction
from bmcmedic.driver.watchdog.pat_paths import BmcPats
from bmcmedic.driver.watchdog.settings import WatchdogSettings
from bmcmedic.driver.watchdog.watchdog import Watchdog
from bmcmedic.errors import (
    BreakerOpen,
    CompletionCodeError,
    NoAnswer,
    Refused,
)
from bmcmedic.ipmi.commands.device import ColdResetReq, GetDeviceIdReq
from bmcmedic.ipmi.commands.watchdog import ResetWatchdogTimerReq, SetWatchdogTimerReq
from bmcmedic.service.runtime import ThreadRuntime
from bmcmedic.transport.in_band import Ipmb
from tests.support.driver_socket import (
    GET_DEVICE_ID,
    WAIT_S_MAX,
    LineClient,
    Served,
    serving,
)
from tests.support.polling import eventually
from tests.support.scripted_interface import Attempt, ScriptedInterface

DEVICE_ID = bytes.fromhex("2001017302df570100620100000000")
PAT = b"\x18\x22"
LIMITS = DriverLimits(breaker=BreakerLimits(failures_max=3, probe_s_min=0.02, probe_s_max=0.02))


class WatchdogOfInterface(Watchdog):
    """A watchdog that pats through the driver's interface, as the socket asks about it."""

    needs_interface = True

    def why_not_parked(self) -> str | None:
        return None if self.is_at_rest else "it pats through this interface"


@dataclass
class Host:
    """A driver with its worker, its socket, and perhaps a watchdog."""

    interface: ScriptedInterface
    driver: Driver
    served: Served

    @property
    def path(self) -> str:
        return self.served.path

    def pat(self) -> bytes:
        return self.driver.driver_request(PAT, time.monotonic() + WAIT_S_MAX)


def over(attempt: Attempt) -> None:
    attempt.fail(NoAnswer("the test is over"))


@contextlib.contextmanager
def host(
    directory: Path, limits: DriverLimits = LIMITS, *, watchdog: bool = False
) -> Iterator[Host]:
    interface = ScriptedInterface(exchange_s_max=5.0)
    driver = Driver(interface, ThreadRuntime(), limits)
    dog = None
    threads = [threading.Thread(target=driver.kcs_loop)]
    if watchdog:
        interface.by_itself = lambda attempt: attempt.answer()
        path = BmcPats(driver, interface.name, interface.exchange_s_max)
        settings = WatchdogSettings.for_interface(interface.exchange_s_max, timeout_s=600)
        dog = WatchdogOfInterface(settings, path, ThreadRuntime(), lambda _line: None)
        threads.append(threading.Thread(target=dog.run))
    for thread in threads:
        thread.start()
    eventually(lambda: driver.status()["worker_alive"])
    try:
        with serving(directory, driver, dog) as served:
            yield Host(interface, driver, served)
    finally:
        if dog is not None:
            dog.stop()
        interface.by_itself = over
        while any(thread.is_alive() for thread in threads[1:]) or interface.has_begun:
            if interface.has_begun:
                over(interface.next_attempt())
        driver.stop()
        for thread in threads:
            thread.join(WAIT_S_MAX)
            assert not thread.is_alive()


def echo(attempt: Attempt) -> None:
    """Answer with what was asked, so that a mix-up would show."""
    attempt.answer(data=attempt.request[2:])


def test_a_command_goes_all_the_way_and_back(tmp_path: Path) -> None:
    with host(tmp_path) as bench, DriverClient(bench.path) as client:
        bench.interface.by_itself = lambda attempt: attempt.answer(data=DEVICE_ID)
        assert client.exchange(GetDeviceIdReq()).manufacturer_id == 0x157
        bench.interface.by_itself = lambda attempt: attempt.answer(0xD4)
        with pytest.raises(CompletionCodeError):
            client.exchange(ColdResetReq())
        status = client.status()
        assert status["driver"]["interface"] == "scripted"
        assert status["driver"]["client_requests"] == 0


def test_a_bridged_request_holds_up_nobody(tmp_path: Path) -> None:
    with (
        host(tmp_path) as bench,
        DriverClient(bench.path) as far,
        DriverClient(bench.path) as near,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(far.raw, 4, 0x2D, b"\xbe", bridge=Ipmb(6, 0x2C))
        request, target, done = bench.interface.next_bridged()
        assert (request, target) == (b"\x10\x2d\xbe", Ipmb(6, 0x2C))
        bench.interface.by_itself = echo
        assert near.raw(6, 1, b"\x07").data == b"\x07"
        done(b"\x14\x2d\x00\x33")
        assert asked.result(WAIT_S_MAX).data == b"\x33"


def test_fifty_clients_get_each_its_own_answer_and_pats_pass_them_all(tmp_path: Path) -> None:
    """Some hang up with a request in flight; the pats wait for one exchange, not for a queue."""
    passed_over: list[int] = [0]

    def by_itself(attempt: Attempt) -> None:
        waits = attempt.request != PAT and bench.driver.highpri_waits
        passed_over.append(passed_over[-1] + 1 if waits else 0)
        echo(attempt)

    def ask(number: int) -> int:
        chance = random.Random(number)
        answered = 0
        with DriverClient(bench.path, 60.0) as client:
            for turn in range(12):
                mark = bytes((number, turn))
                if chance.random() < 0.2:
                    with LineClient(bench.path) as dies:
                        dies.say(id=1, netfn=6, command=1, data="ffff")
                answer = client.raw(0x3A, 0x77, mark)
                if answer.reason is None:  # else the queue was full
                    assert answer.data == mark
                    answered += 1
        return answered

    with host(tmp_path) as bench, ThreadPoolExecutor(50) as pool:
        bench.interface.by_itself = by_itself
        futures = [pool.submit(ask, number) for number in range(50)]
        while not all(future.done() for future in futures):
            bench.pat()
        answered = sum(future.result() for future in futures)
        assert answered >= 50
        # A pat can come into its queue between the choice of a request and its exchange.
        assert max(passed_over) <= 1
        eventually(lambda: bench.driver.status()["client_requests"] == 0)
        eventually(lambda: bench.served.socket_status()["in_flight"] == 0)


def test_what_a_dead_client_had_queued_is_never_sent(tmp_path: Path) -> None:
    with host(tmp_path) as bench, LineClient(bench.path) as flying:
        flying.say(id=1, **GET_DEVICE_ID)
        attempt = bench.interface.next_attempt()
        with LineClient(bench.path) as dies, DriverClient(bench.path) as watcher:
            dies.say(id=1, netfn=6, command=2)
            eventually(lambda: watcher.status()["driver"]["client_requests"] == 2)
            dies.close()
            eventually(lambda: watcher.status()["driver"]["client_requests"] == 1)
        attempt.answer(data=b"\x20")
        assert flying.hear()["data"] == "20"
        bench.interface.by_itself = echo
        bench.pat()
        assert bench.interface.requests == [b"\x18\x01", PAT]


def test_the_worker_survives_a_client_that_dies_in_the_middle_of_its_exchange(
    tmp_path: Path,
) -> None:
    with host(tmp_path) as bench, DriverClient(bench.path) as other:
        with LineClient(bench.path) as dies:
            dies.say(id=1, **GET_DEVICE_ID)
            attempt = bench.interface.next_attempt()
        eventually(lambda: other.status()["socket"]["in_flight"] == 0)
        attempt.answer(data=b"\xff")
        bench.interface.by_itself = echo
        assert other.raw(6, 4, b"\x01").data == b"\x01"


def test_who_asks_what_is_being_asked_shares_the_answer(tmp_path: Path) -> None:
    with (
        host(tmp_path) as bench,
        LineClient(bench.path) as first,
        LineClient(bench.path) as second,
        DriverClient(bench.path) as watcher,
    ):
        first.say(id=1, **GET_DEVICE_ID)
        attempt = bench.interface.next_attempt()
        second.say(id=1, **GET_DEVICE_ID)
        eventually(lambda: watcher.status()["driver"]["client_requests"] == 2)
        first.close()
        attempt.answer(data=b"\x20")
        assert second.hear()["data"] == "20"
        assert bench.interface.requests == [b"\x18\x01"]


def test_a_deadline_passes_while_the_interface_is_stuck(tmp_path: Path) -> None:
    with host(tmp_path) as bench, DriverClient(bench.path, 0.2) as client:
        until = time.monotonic() + WAIT_S_MAX
        while not bench.interface.has_begun:  # a busy machine may not send it in time
            assert time.monotonic() < until
            with pytest.raises(NoAnswer, match="deadline passed"):
                client.raw(6, 1)
        stuck = bench.interface.next_attempt()
        with pytest.raises(NoAnswer, match="deadline passed"):
            client.raw(6, 4)
        stuck.answer(data=b"\x20")
        bench.interface.by_itself = echo
        bench.pat()
        assert bench.interface.requests == [b"\x18\x01", PAT]


def test_a_full_queue_is_node_busy_at_once(tmp_path: Path) -> None:
    limits = DriverLimits(client_requests_max=1)
    with (
        host(tmp_path, limits) as bench,
        DriverClient(bench.path) as client,
        LineClient(bench.path) as first,
    ):
        first.say(id=1, **GET_DEVICE_ID)
        attempt = bench.interface.next_attempt()
        answer = client.raw(6, 4)
        assert answer.completion_code == 0xC0
        assert answer.reason == "1 requests are waiting already"
        attempt.answer()
        first.hear()


def test_while_the_bmc_is_silent_nobody_waits(tmp_path: Path) -> None:
    with host(tmp_path) as bench, DriverClient(bench.path) as client:
        bench.interface.by_itself = lambda attempt: attempt.answer(data=DEVICE_ID)
        client.exchange(GetDeviceIdReq())
        bench.interface.by_itself = lambda attempt: attempt.fail(NoAnswer("wedged"))
        with pytest.raises((NoAnswer, BreakerOpen)):
            client.raw(0, 1)
        old = client.raw(6, 1, accept_old=True)
        assert old.data == DEVICE_ID
        assert old.age_s is not None
        with pytest.raises(BreakerOpen, match="accept_old"):
            client.exchange(GetDeviceIdReq())
        with pytest.raises(BreakerOpen, match="wedged"):
            client.exchange(ColdResetReq())
        bench.interface.by_itself = lambda attempt: attempt.answer(data=DEVICE_ID)
        eventually(lambda: not client.status()["driver"]["breaker"]["open"])
        assert client.raw(6, 1).age_s is None


def test_the_watchdog_takes_orders_and_nobody_else_touches_its_timer(tmp_path: Path) -> None:
    with host(tmp_path, watchdog=True) as bench, DriverClient(bench.path) as client:
        eventually(lambda: client.watchdog()["settled"])
        for request in (ResetWatchdogTimerReq(), SetWatchdogTimerReq.decode(b"\x04\0\0\0\0\0")):
            with pytest.raises(Refused, match="watchdog is in charge"):
                client.exchange(request)

        client.watchdog(WatchdogAction.LENGTHEN, 6000)
        eventually(lambda: client.watchdog()["timeout_s"] == 6000 and client.watchdog()["settled"])
        assert last_set(bench).initial_countdown_s == 6000

        client.watchdog(WatchdogAction.DISARM)
        eventually(lambda: not (dog := client.watchdog())["in_charge"] and dog["settled"])
        assert last_set(bench).dont_stop is False
        assert bench.interface.requests[-1][:2] != PAT
        client.exchange(ResetWatchdogTimerReq())  # it is anybody's now

        client.watchdog(WatchdogAction.RESUME)
        eventually(lambda: (dog := client.watchdog())["in_charge"] and dog["settled"])
        assert last_set(bench).initial_countdown_s == 600


def last_set(bench: Host) -> SetWatchdogTimerReq:
    sets = [each for each in bench.interface.requests if each[:2] == b"\x18\x24"]
    return SetWatchdogTimerReq.decode(sets[-1][2:])


def test_a_time_out_that_no_bmc_takes_is_refused_in_words(tmp_path: Path) -> None:
    with (
        host(tmp_path, watchdog=True) as bench,
        DriverClient(bench.path) as client,
        pytest.raises(Refused, match=r"0\.1 s"),
    ):
        client.watchdog(WatchdogAction.LENGTHEN, 0.1)


def test_pats_go_on_under_garbage(tmp_path: Path) -> None:
    ended = threading.Event()

    def rage(seed: int) -> None:
        chance = random.Random(seed)
        while not ended.is_set():
            with LineClient(bench.path) as client, contextlib.suppress(OSError):
                for _ in range(chance.randrange(1, 6)):
                    size = chance.randrange(1, 3000)
                    client.socket.send(chance.choice((chance.randbytes(size), b"x" * size)))
                client.socket.shutdown(socket.SHUT_WR)
                while client.socket.recv(65536):
                    pass

    with host(tmp_path) as bench, ThreadPoolExecutor(4) as pool:
        bench.interface.by_itself = echo
        futures = [pool.submit(rage, seed) for seed in range(4)]
        heard = bench.served.server.counts
        until = time.monotonic() + WAIT_S_MAX
        try:
            while heard["bad_lines"] < 100 or heard["closed_too_long"] < 3:
                assert bench.pat()[2] == 0
                assert time.monotonic() < until, heard
        finally:
            ended.set()
        for future in futures:
            future.result(WAIT_S_MAX)
        with DriverClient(bench.path) as client:
            assert client.raw(6, 1, b"\x09").data == b"\x09"
