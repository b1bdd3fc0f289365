"""A parked interface: let go, nothing sent, nobody waits; and used again in the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmcmedic.driver.breaker import BreakerLimits
from bmcmedic.driver.driver import Driver
from bmcmedic.driver.parking import Parked
from bmcmedic.driver.requests import DriverLimits, Request
from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.errors import NoAnswer, TransportError
from bmcmedic.ipmi.commands.messaging import GetBmcGlobalEnablesReq
from bmcmedic.service.runtime import ThreadRuntime
from bmcmedic.transport.in_band import Interrupted
from tests.support.driver_socket import serving
from tests.support.polling import eventually
from tests.support.scripted_interface import WAIT_S_MAX, Attempt, ScriptedInterface

PAT = b"\x18\x22"
GET_DEVICE_ID = b"\x18\x01"
SET_SOMETHING = b"\x18\x2e\x01"
LIMITS = DriverLimits(
    io_lock_s=0.05, breaker=BreakerLimits(failures_max=1, probe_s_min=0.02, probe_s_max=0.02)
)


def in_a_minute() -> float:
    return time.monotonic() + 60.0


class CountedInterface(ScriptedInterface):
    """Counts how often it was let go, and what was sent since."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_at_close: list[int] = []

    def close(self) -> None:
        self.sent_at_close.append(len(self.requests))


@pytest.fixture
def interface() -> CountedInterface:
    return CountedInterface()


@pytest.fixture
def driver(interface: CountedInterface) -> Iterator[Driver]:
    driver = Driver(interface, ThreadRuntime(), LIMITS)
    worker = threading.Thread(target=driver.kcs_loop)
    worker.start()
    eventually(lambda: driver.status()["worker_alive"])
    yield driver
    interface.by_itself = lambda attempt: attempt.fail(NoAnswer("the test is over"))
    while interface.has_begun:
        interface.next_attempt().fail(NoAnswer("the test is over"))
    driver.stop()
    worker.join(WAIT_S_MAX)
    assert not worker.is_alive()


def ask(driver: Driver, data: bytes) -> Request:
    request = Request(data, deadline=in_a_minute())
    driver.submit(request)
    return request


def is_let_go(driver: Driver) -> bool:
    return bool((driver.status()["parked"] or {}).get("closed"))


def test_while_it_is_parked_nothing_is_sent_and_nobody_waits(
    driver: Driver, interface: CountedInterface
) -> None:
    known = ask(driver, GET_DEVICE_ID)
    interface.next_attempt().answer(data=b"\x20")
    eventually(lambda: known.done)
    driver.parking.begin(60.0)
    eventually(lambda: is_let_go(driver))
    again, other = ask(driver, GET_DEVICE_ID), ask(driver, SET_SOMETHING)
    assert again.response == known.response
    assert again.answer_age_s is not None
    assert isinstance(again.cached_because, Parked)
    assert isinstance(other.error, Parked)
    with pytest.raises(Parked, match="parked by order for"):
        driver.driver_request(PAT, in_a_minute())
    with driver.cannot_sleep(), pytest.raises(Parked):
        driver.driver_request(PAT, in_a_minute())
    assert interface.requests == [GET_DEVICE_ID]
    driver.parking.end()
    assert driver.status()["parked"] is None
    fresh = ask(driver, SET_SOMETHING)
    interface.next_attempt().answer()
    eventually(lambda: fresh.done)
    assert (fresh.error, interface.sent_at_close) == (None, [1])


def test_the_exchange_under_way_ends_first_and_who_waits_behind_it_is_told(
    driver: Driver, interface: CountedInterface
) -> None:
    flying = ask(driver, SET_SOMETHING)
    attempt = interface.next_attempt()
    behind = ask(driver, SET_SOMETHING)
    driver.parking.begin(60.0)
    assert not attempt.interrupt(recovering=False)
    assert not is_let_go(driver)
    attempt.answer()
    eventually(lambda: is_let_go(driver))
    eventually(lambda: behind.done)
    assert flying.error is None
    assert isinstance(behind.error, Parked)


@pytest.mark.parametrize("may_have_run", [True, False])
def test_error_recovery_ends_for_a_park(
    driver: Driver, interface: CountedInterface, *, may_have_run: bool
) -> None:
    flying = ask(driver, SET_SOMETHING)
    attempt = interface.next_attempt()
    driver.parking.begin(60.0)
    assert attempt.interrupt(recovering=True, may_have_run=may_have_run)
    eventually(lambda: is_let_go(driver) and flying.done)
    assert isinstance(flying.error, Interrupted if may_have_run else Parked)


def test_a_park_ends_by_itself_and_a_silent_bmc_is_asked_again(
    driver: Driver, interface: CountedInterface
) -> None:
    interface.by_itself = lambda attempt: attempt.fail(TransportError("silent"))
    failed = ask(driver, SET_SOMETHING)
    eventually(lambda: failed.done)
    driver.parking.begin(60.0)
    eventually(lambda: is_let_go(driver))
    interface.by_itself = Attempt.answer
    driver.parking.begin(1.0)  # it counts from now
    assert driver.breaker.is_open
    eventually(lambda: driver.status()["parked"] is None)
    eventually(lambda: not driver.breaker.is_open)
    fresh = ask(driver, SET_SOMETHING)
    eventually(lambda: fresh.done)
    assert (fresh.error, len(interface.sent_at_close)) == (None, 1)


def test_an_interface_that_fails_to_close_does_not_end_the_worker(
    driver: Driver, interface: CountedInterface, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("no")

    monkeypatch.setattr(interface, "close", fail)
    driver.parking.begin(60.0)
    eventually(lambda: is_let_go(driver))
    assert driver.counts["unforeseen_errors"] == 1
    assert driver.status()["worker_alive"]


def test_a_client_of_the_socket_parks_and_is_told_of_it(driver: Driver, tmp_path: Path) -> None:
    with serving(tmp_path, driver) as served, DriverClient(served.path) as client:
        parked = client.park(30.0)
        assert parked is not None
        assert 0 < parked["ends_in_s"] <= 30
        eventually(lambda: client.status()["driver"]["parked"]["closed"])
        with pytest.raises(Parked, match="parked by order"):
            client.exchange(GetBmcGlobalEnablesReq())
        client.resume()
        assert client.status()["driver"]["parked"] is None
