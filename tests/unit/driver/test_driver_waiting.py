"""While the driver's own request waits its caller is told, so that it can say that it is alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from bmcmedic.driver.driver import Driver
from bmcmedic.driver.requests import DriverLimits
from bmcmedic.driver.watchdog.pretimeout import WAITING_S_MAX
from bmcmedic.errors import NoAnswer
from bmcmedic.service.runtime import ThreadRuntime
from tests.support.scripted_interface import WAIT_S_MAX, Attempt, ScriptedInterface
from tests.support.virtual_runtime import VirtualRuntime

PAT = b"\x18\x22"


class Waiting:
    def __init__(self) -> None:
        self.at: list[float] = []
        self.often = threading.Semaphore(0)

    def __call__(self) -> None:
        self.at.append(time.monotonic())
        self.often.release()

    def times(self, count: int) -> None:
        for _ in range(count):
            assert self.often.acquire(timeout=WAIT_S_MAX)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_while_a_request_is_in_flight_and_the_bmc_silent(pool: ThreadPoolExecutor) -> None:
    interface, waiting = ScriptedInterface(), Waiting()
    driver = Driver(interface, ThreadRuntime(), DriverLimits())
    worker = pool.submit(driver.kcs_loop)
    while not driver.can_sleep():
        time.sleep(0.001)
    begun = time.monotonic()
    pat = pool.submit(driver.driver_request, PAT, begun + WAIT_S_MAX, waiting)
    attempt = interface.next_attempt()
    waiting.times(2)
    attempt.answer()
    assert pat.result(WAIT_S_MAX) == b"\x1c\x22\x00"
    driver.stop()
    worker.result(WAIT_S_MAX)
    # Not sooner, either: a caller that asks for less than it gets would be woken for nothing.
    assert waiting.at[0] >= begun + WAITING_S_MAX


def test_not_when_the_request_could_not_be_queued() -> None:
    runtime, waiting = VirtualRuntime(), Waiting()
    driver = Driver(ScriptedInterface(), runtime, DriverLimits())
    driver._worker.thread_id = runtime.thread_id() + 1

    class Stuck(Exception):
        """No error: the caller just never comes back from the lock."""

    def stay() -> bool:
        runtime.advance_to(runtime.now + 10 * WAITING_S_MAX)
        raise Stuck

    driver._requests_lock = SimpleNamespace(acquire=stay, release=lambda: None)
    with pytest.raises(Stuck):
        driver.driver_request(PAT, runtime.now + 60.0, waiting)
    assert waiting.at == []


def test_while_the_caller_polls_by_itself() -> None:
    interface, waiting = ScriptedInterface(), Waiting()
    driver = Driver(interface, ThreadRuntime(), DriverLimits())  # and no worker
    asked: list[bool] = []

    def poll(attempt: Attempt) -> None:
        asked.extend(attempt.claim.must_stop(recovering=False) for _ in range(3))
        attempt.fail(NoAnswer("silent"))

    interface.by_itself = poll
    with pytest.raises(NoAnswer):
        driver.driver_request(PAT, time.monotonic() + WAIT_S_MAX, waiting)
    assert asked != []
    assert not any(asked)
    assert len(waiting.at) == len(asked)
