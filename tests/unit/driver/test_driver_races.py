"""What the seeded simulation found (`tests/simulation/test_driver_misfortune.py`), one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from bmcmedic.driver.breaker import Breaker, BreakerLimits
from bmcmedic.driver.driver import Driver
from bmcmedic.driver.requests import DriverLimits, Request, RequestQueues
from bmcmedic.driver.watchdog.pretimeout import WAITING_S_MAX
from bmcmedic.errors import BmcmedicError, BreakerOpen, NoAnswer, TransportError
from bmcmedic.sim.virtual_time.runtime import WorldRuntime
from bmcmedic.sim.virtual_time.world import World
from bmcmedic.transport.in_band import InterfaceBusy, InterfaceClaim, Ipmb

PAT = b"\x18\x22"
READ = b"\x10\x2d\x01"
WRITE = b"\x18\x2e\x01"
SATELLITE = Ipmb(6, 0x2C)
LIMITS = DriverLimits(io_lock_s=0.5, breaker=BreakerLimits(failures_max=2, probe_s_min=30.0))


@dataclass
class Interface:
    """Each attempt does what `happens` says, in virtual time."""

    world: World
    name: str = "scripted"
    exchange_s_max: float = 5.0
    happens: Callable[[bytes], bytes] | None = None
    sent: list[tuple[float, bytes]] = field(default_factory=list)
    bridged: list[tuple[float, Callable[[bytes | BmcmedicError], None]]] = field(
        default_factory=list
    )

    def attempt(
        self, request: bytes, deadline: float, claim: InterfaceClaim, *, idempotent: bool
    ) -> bytes:
        del deadline, idempotent
        assert not claim.must_stop(recovering=False)
        self.sent.append((self.world.now, request))
        return answer(request) if self.happens is None else self.happens(request)

    def send_bridged(
        self,
        request: bytes,
        target: Ipmb,
        deadline: float,
        claim: InterfaceClaim,
        done: Callable[[bytes | BmcmedicError], None],
    ) -> None:
        del request, target, claim
        self.bridged.append((deadline, done))

    missing = None

    def take_over(self) -> None:
        return

    def close(self) -> None:
        return


def answer(request: bytes) -> bytes:
    return bytes((request[0] | 4, request[1], 0))


class Bench:
    """A driver in virtual time, and tasks that are tests' steps."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.interface = Interface(world)
        self.driver = Driver(self.interface, WorldRuntime(world), LIMITS)

    def work(self) -> None:
        self.world.spawn(self.driver.kcs_loop, "worker")

    def at(self, when: float, step: Callable[[], object]) -> None:
        def body() -> None:
            self.world.sleep(when)
            step()

        self.world.spawn(body, "step")

    def ask(
        self, when: float, data: bytes, patience_s: float, target: Ipmb | None = None
    ) -> Request:
        request = Request(data, deadline=when + patience_s, target=target)
        self.at(when, lambda: self.driver.submit(request))
        return request

    def poll(self, when: float, outcome: list[object], waiting: list[float] | None = None) -> None:
        def sign() -> None:
            if waiting is not None:
                waiting.append(self.world.now)

        def step() -> None:
            with self.driver.cannot_sleep():
                try:
                    outcome.append(self.driver.driver_request(PAT, when + 10.0, sign))
                except TransportError as error:
                    outcome.append(error)

        self.at(when, step)

    def takes(self, seconds: float) -> Callable[[bytes], bytes]:
        def happens(request: bytes) -> bytes:
            self.world.sleep(seconds)
            return answer(request)

        return happens


@pytest.fixture
def bench() -> Iterator[Bench]:
    world = World(cpus=8)
    yield Bench(world)
    world.close()


def test_an_unforeseen_error_on_the_polled_path_does_not_end_who_pats(bench: Bench) -> None:
    def happens(_: bytes) -> bytes:
        raise ValueError("nobody thought of this")

    bench.interface.happens = happens
    outcome: list[object] = []
    bench.poll(0.0, outcome)
    bench.world.run(1.0)
    assert isinstance(outcome[0], TransportError)
    assert "nobody thought of this" in str(outcome[0])


@pytest.mark.parametrize("is_told", [True, False])
def test_what_becomes_too_late_while_the_worker_waits_for_the_lock_is_not_sent(
    bench: Bench, *, is_told: bool
) -> None:
    bench.interface.happens = bench.takes(0.4)
    bench.work()
    bench.poll(1.0, [])
    request = bench.ask(1.1, WRITE, 0.1)
    if is_told:
        bench.at(1.25, bench.driver.expire)
    bench.world.run(5.0)
    assert isinstance(request.error, NoAnswer)
    assert [data for _, data in bench.interface.sent] == [PAT]


def test_who_polls_says_that_it_is_alive_while_another_polls(bench: Bench) -> None:
    bench.interface.happens = bench.takes(4.0)
    signs: list[float] = []
    outcome: list[object] = []
    bench.poll(1.0, [])
    bench.poll(1.5, outcome, signs)
    bench.world.run(20.0)
    assert outcome == [answer(PAT)]
    waited = [at for at in signs if at < 5.0]
    assert waited[0] <= 1.5 + WAITING_S_MAX
    assert len(waited) >= 3


def test_an_old_answer_after_a_busy_interface_is_as_old_as_it_says(bench: Bench) -> None:
    bench.work()
    bench.ask(0.0, READ, 1.0)

    def busy(_: bytes) -> bytes:
        raise InterfaceBusy("not now")

    bench.at(1.0, lambda: setattr(bench.interface, "happens", busy))
    request = bench.ask(2.0, READ, 9.0)
    told_at: list[float] = []
    request.on_done = lambda _: told_at.append(bench.world.now)
    bench.world.run(5.0)
    assert request.answer_age_s == pytest.approx(told_at[0])


# ---------------------------------------------------------------- behind the BMC


def test_a_bridged_request_is_waited_for_as_long_as_its_followers_do(bench: Bench) -> None:
    bench.interface.happens = bench.takes(2.0)
    bench.work()
    bench.ask(0.0, WRITE, 9.0)
    bench.ask(0.1, READ, 0.5, SATELLITE)  # over before it is its turn
    bench.ask(0.2, READ, 9.0, SATELLITE)
    bench.world.run(3.0)
    assert [deadline for deadline, _ in bench.interface.bridged] == [pytest.approx(9.2)]


def test_a_bridged_read_that_failed_is_sent_again_for_who_came_later(bench: Bench) -> None:
    bench.work()
    first = bench.ask(0.0, READ, 1.0, SATELLITE)
    second = bench.ask(0.5, READ, 9.0, SATELLITE)

    def fails() -> None:
        bench.driver.expire()
        bench.interface.bridged[0][1](NoAnswer("nothing from behind the BMC"))

    bench.at(1.5, fails)
    bench.at(2.0, lambda: bench.interface.bridged[1][1](answer(READ)))
    bench.world.run(3.0)
    assert isinstance(first.error, NoAnswer)
    assert second.response == answer(READ)


def test_a_bridged_answer_that_fails_takes_nothing_from_who_is_in_flight(bench: Bench) -> None:
    """Put back by a thread that is not the worker's, while that has another request."""
    bench.interface.happens = bench.takes(4.0)
    bench.work()
    bench.ask(0.0, READ, 9.0, SATELLITE)
    flying = bench.ask(0.5, WRITE, 1.0)
    bench.at(1.0, lambda: bench.interface.bridged[0][1](NoAnswer("nothing")))
    bench.at(2.0, bench.driver.expire)
    bench.world.run(3.0)
    assert isinstance(flying.error, NoAnswer)


# ---------------------------------------------------------------- the queues, the breaker


def test_followers_who_are_gone_take_nobodys_place() -> None:
    queues = RequestQueues(requests_max=2)
    leader = Request(READ, deadline=60.0)
    queues.enqueue_request(leader, 0.0)
    assert queues.dequeue_request() is leader
    for _ in range(100):
        follower = Request(READ, deadline=60.0)
        queues.enqueue_request(follower, 0.0)
        follower.done = True
        queues.forget_unwanted()
    assert queues.client_requests == 1
    assert leader.followers == []


def test_pats_that_fail_do_not_put_off_the_question_whether_the_bmc_is_back() -> None:
    breaker = Breaker(BreakerLimits(failures_max=1, probe_s_min=1.0, probe_s_max=30.0))
    breaker.failed(100.0, "silent")
    probe_at = breaker.next_probe_at
    breaker.failed(100.5, "a pat")
    assert breaker.next_probe_at == probe_at
    breaker.failed(probe_at, "the probe")
    assert breaker.next_probe_at == probe_at + 2.0


def test_it_opens_once_the_bmc_was_waited_for_too_long_in_a_row() -> None:
    breaker = Breaker(BreakerLimits(failures_max=3, silence_s_max=10.0))
    assert not breaker.failed(108.5, "the first", 8.5)
    breaker.note_wait(200.0, 0.0)  # nothing in flight: nobody waits
    breaker.note_wait(201.4, 1.4)
    assert not breaker.is_open
    breaker.note_wait(201.5, 1.5)
    assert (breaker.is_open, breaker.reason) == (True, "no answer for 10 s")
    breaker.note_wait(202.0, 2.0)  # it is open
    assert (breaker.opened_at, breaker.openings) == (201.5, 1)


def test_a_slow_failure_after_an_answer_is_one_by_itself() -> None:
    breaker = Breaker(BreakerLimits(failures_max=3, silence_s_max=10.0))
    breaker.failed(108.5, "the first", 8.5)
    breaker.succeeded()
    assert not breaker.failed(120.0, "another", 8.5)
    assert breaker.failed(121.5, "in a row", 1.5)


def test_a_breaker_is_described_while_another_thread_closes_it() -> None:
    class ClosedMeanwhile(Breaker):
        """Read once it is open, and then no more."""

        reads = 0

        def __getattribute__(self, name: str) -> object:
            if name == "opened_at":
                ClosedMeanwhile.reads -= 1
                return 1.0 if ClosedMeanwhile.reads >= 0 else None
            return super().__getattribute__(name)

    breaker = ClosedMeanwhile(BreakerLimits())
    for reads in (1, 2):
        ClosedMeanwhile.reads = reads
        assert breaker.describe(3.0)["open_for_s"] == 2.0
    ClosedMeanwhile.reads = 1
    assert isinstance(breaker.refusal(3.0), BreakerOpen)


# ---------------------------------------------------------------- a worker that is gone


class Killed(BaseException):
    """Nothing that the worker may catch."""


def test_what_is_in_flight_when_the_worker_dies_is_refused(bench: Bench) -> None:
    def happens(_: bytes) -> bytes:
        bench.world.sleep(1.0)
        raise Killed

    bench.interface.happens = happens
    died: list[float] = []

    def work() -> None:
        try:
            bench.driver.kcs_loop()
        except Killed:
            died.append(bench.world.now)

    bench.at(0.0, work)
    request = bench.ask(0.5, WRITE, 60.0)
    bench.world.run(2.0)
    assert died == [1.5]
    assert isinstance(request.error, TransportError)
    assert bench.driver.status()["client_requests"] == 0


def test_a_pat_that_comes_as_the_worker_ends_is_polled(bench: Bench) -> None:
    bench.work()
    can_sleep = bench.driver.can_sleep
    outcome: list[bytes] = []

    def ends_meanwhile() -> bool:
        could = can_sleep()
        bench.driver.stop()
        bench.world.sleep(0.1)
        return could

    def pat() -> None:
        bench.driver.can_sleep = ends_meanwhile  # type: ignore[method-assign]
        outcome.append(bench.driver.driver_request(PAT, bench.world.now + 5.0))

    bench.at(1.0, pat)
    bench.world.run(2.0)
    assert outcome == [answer(PAT)]
