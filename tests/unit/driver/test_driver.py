"""The driver on real threads; what the BMC does, and when, the test says step by step."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from bmcmedic.driver.breaker import BreakerLimits
from bmcmedic.driver.driver import Driver
from bmcmedic.driver.requests import ATTEMPTS_MAX, DriverLimits, Request
from bmcmedic.errors import (
    BreakerOpen,
    NoAnswer,
    QueueFull,
    Refused,
    RemoteProtocolError,
    TransportError,
)
from bmcmedic.ipmi.kcs import KcsPhase
from bmcmedic.ipmi.kcs_errors import KcsEvidence, KcsFault, NothingThere
from bmcmedic.service.runtime import ThreadRuntime
from bmcmedic.transport.in_band import InterfaceBusy, InterfaceGone, Interrupted, Ipmb
from tests.support.polling import eventually
from tests.support.scripted_interface import WAIT_S_MAX, Attempt, ScriptedInterface

PAT = b"\x18\x22"
GET_DEVICE_ID = b"\x18\x01"
GET_SELF_TEST = b"\x18\x04"
SET_SOMETHING = b"\x18\x2e\x01"
"""Set BMC Global Enables: not a read."""

LIMITS = DriverLimits(
    client_requests_max=8,
    io_lock_s=0.05,
    breaker=BreakerLimits(failures_max=3, probe_s_min=0.02, probe_s_max=0.02),
)


def in_a_minute() -> float:
    return time.monotonic() + 60.0


class Bench(SimpleNamespace):
    """A driver whose worker runs."""

    interface: ScriptedInterface
    driver: Driver
    pool: ThreadPoolExecutor
    worker: threading.Thread

    def pat(self, deadline: float | None = None) -> Future[bytes]:
        return self.pool.submit(self.driver.driver_request, PAT, deadline or in_a_minute())

    def queued_pat(self) -> Future[bytes]:
        pat = self.pat()
        eventually(lambda: self.driver.highpri_waits)
        return pat

    def ask(self, data: bytes = GET_DEVICE_ID, deadline: float | None = None) -> Request:
        request = Request(data, deadline=deadline or in_a_minute())
        self.driver.submit(request)
        return request

    def asked(self, data: bytes = GET_DEVICE_ID) -> tuple[Request, Attempt]:
        """A client's request that is in flight."""
        request = self.ask(data)
        return request, self.interface.next_attempt()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with running(ScriptedInterface()) as bench:
        yield bench


@contextlib.contextmanager
def running(interface: ScriptedInterface) -> Iterator[Bench]:
    driver = Driver(interface, ThreadRuntime(), LIMITS)
    worker = threading.Thread(target=driver.kcs_loop)
    worker.start()
    eventually(lambda: bool(driver.status()["worker_alive"]))
    with ThreadPoolExecutor(4) as pool:
        yield Bench(interface=interface, driver=driver, worker=worker, pool=pool)
        interface.by_itself = lambda attempt: attempt.fail(NoAnswer("the test is over"))
        while interface.has_begun:
            interface.next_attempt().fail(NoAnswer("the test is over"))
        driver.stop()
        worker.join(WAIT_S_MAX)
        assert not worker.is_alive()


def silent() -> NoAnswer:
    return NoAnswer("silent")


# ------------------------------------------------------------------------------- who is served when


def test_a_pat_is_served_before_every_client_that_waits(bench: Bench) -> None:
    first, flying = bench.asked()
    bench.ask(GET_SELF_TEST)
    pat = bench.queued_pat()
    flying.answer(data=b"\x20")
    served = bench.interface.next_attempt()
    assert served.request == PAT
    served.answer()
    assert pat.result(WAIT_S_MAX) == b"\x1c\x22\x00"
    assert first.response == b"\x1c\x01\x00\x20"
    bench.interface.next_attempt().answer()


def test_a_pat_finds_its_place_where_the_clients_queue_is_full(bench: Bench) -> None:
    _, flying = bench.asked(SET_SOMETHING)
    for _ in range(LIMITS.client_requests_max - 1):
        bench.ask(SET_SOMETHING)
    with pytest.raises(QueueFull, match="8 requests are waiting already"):
        bench.ask(SET_SOMETHING)
    pat = bench.queued_pat()
    flying.answer()
    served = bench.interface.next_attempt()
    assert served.request == PAT
    served.answer()
    pat.result(WAIT_S_MAX)
    bench.interface.by_itself = Attempt.answer


def test_a_pat_does_not_cut_an_exchange_short_but_interrupts_its_error_recovery(
    bench: Bench,
) -> None:
    asked, flying = bench.asked()
    pat = bench.queued_pat()
    assert not flying.interrupt(recovering=False)
    assert flying.interrupt(recovering=True)
    served = bench.interface.next_attempt()
    assert served.request == PAT
    assert not served.interrupt(recovering=True)  # its own recovery is its own
    served.answer()
    pat.result(WAIT_S_MAX)
    bench.interface.next_attempt().answer(data=b"\x20")
    eventually(lambda: asked.done)
    assert asked.response == b"\x1c\x01\x00\x20"


def test_what_may_have_run_is_not_sent_again_after_an_interruption(bench: Bench) -> None:
    asked, flying = bench.asked(SET_SOMETHING)
    pat = bench.queued_pat()
    flying.interrupt(recovering=True, may_have_run=True)
    bench.interface.next_attempt().answer()
    pat.result(WAIT_S_MAX)
    eventually(lambda: asked.done)
    assert isinstance(asked.error, Interrupted)
    assert bench.interface.requests == [SET_SOMETHING, PAT]


def test_a_pat_has_a_deadline_and_leaves_nothing_queued(bench: Bench) -> None:
    _, flying = bench.asked()
    pat = bench.pat(deadline=time.monotonic() + 0.05)
    with pytest.raises(NoAnswer, match="not answered in time"):
        pat.result(WAIT_S_MAX)
    assert not bench.driver.highpri_waits
    flying.answer()
    eventually(lambda: bench.driver.status()["client_requests"] == 0)
    assert bench.interface.requests == [GET_DEVICE_ID]


def test_a_pat_is_tried_again_and_then_fails_with_the_last_error(bench: Bench) -> None:
    pat = bench.pat()
    for _ in range(ATTEMPTS_MAX):
        bench.interface.next_attempt().fail(silent())
    with pytest.raises(NoAnswer, match="silent"):
        pat.result(WAIT_S_MAX)


# ------------------------------------------------------------------------------------------ clients


def test_a_client_is_told_once_and_by_name(bench: Bench) -> None:
    told: list[Request] = []
    request = Request(GET_DEVICE_ID, deadline=in_a_minute(), on_done=told.append)
    bench.driver.submit(request)
    bench.interface.next_attempt().answer(0xC1)
    eventually(lambda: bool(told))
    bench.driver.abandon(request)
    bench.driver.expire()
    assert told == [request]
    assert request.response == b"\x1c\x01\xc1"
    assert request.answer_age_s is None


def test_who_asks_what_is_being_asked_shares_the_answer(bench: Bench) -> None:
    first, flying = bench.asked()
    others = [bench.ask() for _ in range(3)]
    flying.answer(data=b"\x20")
    eventually(lambda: all(request.done for request in (first, *others)))
    assert {request.response for request in (first, *others)} == {b"\x1c\x01\x00\x20"}
    assert bench.interface.requests == [GET_DEVICE_ID]


def test_what_changes_something_is_never_shared(bench: Bench) -> None:
    _, flying = bench.asked(SET_SOMETHING)
    bench.ask(SET_SOMETHING)
    flying.answer()
    bench.interface.next_attempt().answer()
    eventually(lambda: bench.driver.status()["client_requests"] == 0)
    assert bench.interface.requests == [SET_SOMETHING] * 2


def test_a_follower_does_not_end_with_the_one_it_follows(bench: Bench) -> None:
    _, flying = bench.asked(SET_SOMETHING)
    leader, follower = bench.ask(), bench.ask()
    bench.driver.abandon(leader)
    flying.answer()
    bench.interface.next_attempt().answer(data=b"\x20")
    eventually(lambda: follower.done)
    assert follower.response == b"\x1c\x01\x00\x20"
    assert leader.response is None


def test_a_request_past_its_deadline_is_dropped_before_it_is_sent(bench: Bench) -> None:
    _, flying = bench.asked(SET_SOMETHING)
    late = bench.ask(deadline=time.monotonic() + 0.01)
    eventually(lambda: bench.driver.expire() is None or late.done)
    assert isinstance(late.error, NoAnswer)
    flying.answer()
    eventually(lambda: bench.driver.status()["client_requests"] == 0)
    assert bench.interface.requests == [SET_SOMETHING]


def test_an_abandoned_request_is_never_sent(bench: Bench) -> None:
    _, flying = bench.asked(SET_SOMETHING)
    bench.driver.abandon(bench.ask())
    assert bench.driver.status()["pending_requests"] == 0
    flying.answer()
    eventually(lambda: bench.driver.status()["client_requests"] == 0)
    assert bench.interface.requests == [SET_SOMETHING]


@pytest.mark.parametrize("question", [b"\xb0\x00\x00", b"\xb0\x3e\x00\x00"], ids=bytes.hex)
def test_what_ipmitool_begins_with_is_asked_once_for_all_who_begin(
    bench: Bench, question: bytes
) -> None:
    first, flying = bench.asked(question)
    others = [bench.ask(question) for _ in range(5)]
    flying.answer(0xC1)
    eventually(lambda: all(other.done for other in others))
    assert {other.response for other in others} == {first.response}
    assert bench.interface.requests == [question]


def test_an_exchange_goes_on_when_its_caller_is_gone_and_its_answer_is_kept(bench: Bench) -> None:
    gone, flying = bench.asked()
    bench.driver.abandon(gone)
    follower = bench.ask()
    flying.answer(data=b"\x20")
    eventually(lambda: follower.done)
    assert follower.response == b"\x1c\x01\x00\x20"


def test_a_request_that_is_no_read_is_tried_again_only_if_it_did_not_run(bench: Bench) -> None:
    asked, flying = bench.asked(SET_SOMETHING)
    flying.fail(silent())
    eventually(lambda: asked.done)
    assert isinstance(asked.error, NoAnswer)
    again, flying = bench.asked(SET_SOMETHING)
    flying.fail(InterfaceBusy("maintenance mode"))
    bench.interface.next_attempt().answer()
    eventually(lambda: again.done)
    assert again.response == b"\x1c\x2e\x00"


def test_an_unforeseen_error_ends_the_request_and_not_the_worker(bench: Bench) -> None:
    asked, flying = bench.asked(SET_SOMETHING)
    flying.fail(ZeroDivisionError("a bug"))
    eventually(lambda: asked.done)
    assert "a bug" in str(asked.error)
    again, flying = bench.asked(SET_SOMETHING)
    flying.answer()
    eventually(lambda: again.done)
    assert again.response == b"\x1c\x2e\x00"


def test_a_bridged_request_frees_the_worker(bench: Bench) -> None:
    bridged = Request(b"\x10\x2d\xbe", deadline=in_a_minute(), target=Ipmb(6, 0x2C))
    bench.driver.submit(bridged)
    _, _, done = bench.interface.next_bridged()
    pat = bench.pat()
    bench.interface.next_attempt().answer()
    pat.result(WAIT_S_MAX)
    assert not bridged.done
    done(b"\x14\x2d\x00\x33")
    assert bridged.response == b"\x14\x2d\x00\x33"
    assert bench.driver.status()["client_requests"] == 0


def test_a_bridged_request_whose_caller_gave_up_is_done_when_the_answer_comes(
    bench: Bench,
) -> None:
    bridged = Request(b"\x10\x2d\xbe", deadline=in_a_minute(), target=Ipmb(6, 0x2C))
    bench.driver.submit(bridged)
    _, _, done = bench.interface.next_bridged()
    bench.driver.abandon(bridged)
    done(silent())
    assert bridged.error is None
    assert bench.driver.status()["client_requests"] == 0


def test_what_the_interface_cannot_do_is_no_silence_of_the_bmc(bench: Bench) -> None:
    for _ in range(LIMITS.breaker.failures_max):
        asked, flying = bench.asked(SET_SOMETHING)
        flying.fail(Refused("bridged requests need /dev/ipmi0"))
        eventually(lambda asked=asked: asked.done)  # type: ignore[misc]
        assert isinstance(asked.error, Refused)
    assert bench.driver.breaker.failures == 0


# -------------------------------------------------------------------------------------- the breaker


def open_breaker(bench: Bench) -> None:
    """Three attempts without an answer."""
    asked = bench.ask()
    for _ in range(LIMITS.breaker.failures_max):
        bench.interface.next_attempt().fail(silent())
    eventually(lambda: asked.done)
    assert bench.driver.breaker.is_open


def test_while_it_is_open_readers_get_the_last_good_answer_with_its_age(bench: Bench) -> None:
    asked, flying = bench.asked()
    flying.answer(data=b"\x20")
    eventually(lambda: asked.done)
    open_breaker(bench)
    old = bench.ask()
    assert old.done
    assert old.response == b"\x1c\x01\x00\x20"
    assert old.answer_age_s is not None
    assert 0 <= old.answer_age_s < WAIT_S_MAX


@pytest.mark.parametrize(
    ("change", "is_kept"),
    [
        (b"\x00\x02\x00", False),  # Chassis Control
        (b"\xb8\x77", False),  # an OEM's
        (b"\x28\x22", True),  # Reserve SDR Repository
        (b"\xb0\x02\xdc", True),  # DCMI Get Power Reading
    ],
)
@pytest.mark.parametrize("may_have_run", [False, True])
def test_after_a_change_no_answer_from_before_is_given(
    bench: Bench, change: bytes, is_kept: bool, may_have_run: bool
) -> None:
    power, flying = bench.asked(b"\x00\x01")
    flying.answer(data=b"\x01")
    eventually(lambda: power.done)
    _, flying = bench.asked(change)
    if may_have_run:
        flying.fail(silent())
    else:
        flying.answer()
    eventually(lambda: bench.driver.status()["client_requests"] == 0)
    asked_again = bench.ask(b"\x00\x01")
    for _ in range(LIMITS.breaker.failures_max - may_have_run):
        bench.interface.next_attempt().fail(silent())
    eventually(lambda: asked_again.done)
    assert (asked_again.response is not None) == is_kept


@pytest.mark.parametrize("walk", [b"\x28\x23", b"\x28\x43", b"\x10\x21"], ids=bytes.hex)
def test_a_walk_pushes_no_last_answer_out(bench: Bench, walk: bytes) -> None:
    """Get SDR, SEL Entry, Device SDR: the next to ask will have another reservation."""
    asked, flying = bench.asked()
    flying.answer(data=b"\x20")
    for number in range(bench.driver.limits.cached_answers_max):
        asked, flying = bench.asked(walk + b"\x4d\x00" + number.to_bytes(2, "little") + b"\x00\xff")
        flying.answer(data=b"\xff\xff")
    eventually(lambda: asked.done)
    open_breaker(bench)
    assert bench.ask().response == b"\x1c\x01\x00\x20"
    assert isinstance(bench.ask(asked.data).error, BreakerOpen)


def test_while_it_is_open_all_else_fails_at_once(bench: Bench) -> None:
    open_breaker(bench)
    never_seen, change = bench.ask(GET_SELF_TEST), bench.ask(SET_SOMETHING)
    assert isinstance(never_seen.error, BreakerOpen)
    assert isinstance(change.error, BreakerOpen)
    assert "silent" in str(change.error)


def test_who_waits_when_it_opens_waits_no_longer(bench: Bench) -> None:
    _, flying = bench.asked()
    waiting = bench.ask(SET_SOMETHING)
    flying.fail(silent())
    bench.interface.next_attempt().fail(silent())
    bench.interface.next_attempt().fail(silent())
    eventually(lambda: waiting.done)
    assert isinstance(waiting.error, BreakerOpen)
    assert SET_SOMETHING not in bench.interface.requests


def test_it_asks_by_itself_whether_the_bmc_is_back(bench: Bench) -> None:
    open_breaker(bench)
    bench.interface.next_attempt().fail(silent())
    probe = bench.interface.next_attempt()
    assert probe.request == GET_DEVICE_ID
    probe.answer()
    eventually(lambda: not bench.driver.breaker.is_open)
    asked, flying = bench.asked(SET_SOMETHING)
    flying.answer()
    eventually(lambda: asked.done)
    assert asked.error is None


def test_pats_go_on_while_it_is_open_and_close_it(bench: Bench) -> None:
    open_breaker(bench)
    bench.interface.by_itself = lambda attempt: (
        attempt.answer() if attempt.request == PAT else attempt.fail(silent())
    )
    while bench.interface.has_begun:
        bench.interface.next_attempt().fail(silent())
    bench.pat().result(WAIT_S_MAX)
    assert not bench.driver.breaker.is_open


def test_it_opens_for_an_exchange_that_takes_too_long_before_that_fails() -> None:
    interface = ScriptedInterface()
    interface.by_itself = Attempt.answer
    driver = Driver(
        interface, ThreadRuntime(), DriverLimits(breaker=BreakerLimits(silence_s_max=0.05))
    )
    worker = threading.Thread(target=driver.kcs_loop)
    worker.start()
    seen = Request(GET_DEVICE_ID, deadline=in_a_minute())
    driver.submit(seen)
    eventually(lambda: seen.done)
    interface.by_itself = None
    driver.submit(Request(b"\x00\x01", deadline=in_a_minute()))
    flying = interface.next_attempt()
    waiting = Request(GET_DEVICE_ID, deadline=in_a_minute())
    driver.submit(waiting)
    eventually(lambda: driver.expire() is None or waiting.done)
    assert waiting.response == seen.response
    assert waiting.answer_age_s is not None
    assert driver.breaker.is_open
    assert "no answer for" in driver.breaker.reason
    refused = Request(GET_SELF_TEST, deadline=in_a_minute())
    driver.submit(refused)
    assert isinstance(refused.error, BreakerOpen)
    flying.answer()  # late, but it does answer
    eventually(lambda: not driver.breaker.is_open)
    driver.stop()
    worker.join(WAIT_S_MAX)
    assert not worker.is_alive()


def test_an_interface_that_is_gone_opens_it_at_once(bench: Bench) -> None:
    asked, flying = bench.asked()
    flying.fail(InterfaceGone("/dev/ipmi0 is gone"))
    eventually(lambda: asked.done)
    assert bench.driver.breaker.is_open
    assert bench.driver.status()["breaker"]["reason"] == "/dev/ipmi0 is gone"
    assert bench.driver.status()["interface_missing"] == "/dev/ipmi0 is gone"


def test_whoever_asks_while_there_is_no_interface_is_told_that(bench: Bench) -> None:
    asked, flying = bench.asked()
    flying.fail(InterfaceGone("/dev/ipmi0 is gone"))
    eventually(lambda: asked.done)
    late = bench.ask(SET_SOMETHING)
    assert isinstance(late.error, InterfaceGone)
    assert "/dev/ipmi0 is gone" in str(late.error)
    bench.interface.next_attempt().answer()  # the driver's own question
    eventually(lambda: not bench.driver.breaker.is_open)
    assert bench.driver.status()["interface_missing"] is None


def test_an_interface_that_is_there_and_silent_is_not_missing(bench: Bench) -> None:
    asked, flying = bench.asked()
    flying.fail(InterfaceGone("/dev/ipmi0 is gone"))
    eventually(lambda: asked.done)
    bench.interface.next_attempt().fail(NoAnswer("silent"))
    eventually(lambda: bench.driver.status()["interface_missing"] is None)
    assert bench.driver.breaker.is_open
    assert isinstance(bench.ask(SET_SOMETHING).error, BreakerOpen)


def nothing_there() -> NothingThere:
    evidence = KcsEvidence(KcsFault.NOTHING_THERE, KcsPhase.IDLE, 0xFF, 0, None, may_have_run=False)
    return NothingThere(evidence)


def test_registers_where_nobody_ever_answered_are_no_interface(bench: Bench) -> None:
    asked, flying = bench.asked()
    flying.fail(nothing_there())
    eventually(lambda: asked.done)
    assert "no BMC at this address" in bench.driver.status()["interface_missing"]


def test_registers_where_a_bmc_has_answered_are_those_of_one_that_restarts(bench: Bench) -> None:
    _, flying = bench.asked()
    flying.answer()
    for _ in range(LIMITS.breaker.failures_max):
        bench.asked(SET_SOMETHING)[1].fail(nothing_there())
    eventually(lambda: bench.driver.breaker.is_open)
    assert bench.driver.status()["interface_missing"] is None


def test_a_driver_that_starts_without_an_interface_knows_it_before_it_is_asked() -> None:
    interface = ScriptedInterface()
    interface.is_missing = "/dev/ipmi0 is not there"
    with running(interface) as bench:
        eventually(lambda: bench.driver.breaker.is_open)
        assert bench.driver.status()["interface_missing"] == "/dev/ipmi0 is not there"
        interface.next_attempt().answer()  # it looks on by itself
        eventually(lambda: not bench.driver.breaker.is_open)


def test_a_completion_code_is_an_answer_but_for_the_one_that_says_time_out(bench: Bench) -> None:
    for _ in range(LIMITS.breaker.failures_max):
        _, flying = bench.asked(SET_SOMETHING)
        flying.answer(0xC0)
    assert bench.driver.breaker.failures == 0
    for _ in range(LIMITS.breaker.failures_max):
        asked, flying = bench.asked(SET_SOMETHING)
        flying.answer(0xC3)
        eventually(lambda asked=asked: asked.done)  # type: ignore[misc]
        assert asked.response == b"\x1c\x2e\xc3"
    eventually(lambda: bench.driver.breaker.is_open)


def test_what_breaks_the_protocol_counts_as_no_answer(bench: Bench) -> None:
    asked, _ = bench.asked(SET_SOMETHING), None
    request, flying = asked
    flying.fail(RemoteProtocolError("another's answer", section="9"))
    eventually(lambda: request.done)
    assert bench.driver.breaker.failures == 1


# ---------------------------------------------------------------------------------- the polled path


def test_before_the_worker_runs_a_request_is_polled() -> None:
    interface = ScriptedInterface()
    interface.by_itself = Attempt.answer
    driver = Driver(interface, ThreadRuntime(), LIMITS)
    assert not driver.can_sleep()
    assert driver.driver_request(PAT, in_a_minute()) == b"\x1c\x22\x00"


def test_who_cannot_sleep_takes_the_interface_from_the_worker(bench: Bench) -> None:
    asked, flying = bench.asked()

    def cannot_sleep() -> bytes:
        with bench.driver.cannot_sleep():
            return bench.driver.driver_request(PAT, in_a_minute())

    pat = bench.pool.submit(cannot_sleep)
    polled = bench.interface.next_attempt()
    assert polled.request == PAT
    assert bench.interface.taken_over == 1
    assert flying.claim.must_stop(recovering=False)  # the worker cannot come back into the middle
    assert not polled.claim.must_stop(recovering=False)
    flying.interrupt(recovering=False)
    polled.answer()
    assert pat.result(WAIT_S_MAX) == b"\x1c\x22\x00"
    bench.interface.next_attempt().answer(data=b"\x20")  # the worker asks anew, and is served
    eventually(lambda: asked.done)
    assert asked.response == b"\x1c\x01\x00\x20"


def test_the_fenced_off_worker_waits_until_the_poller_is_done(bench: Bench) -> None:
    _, flying = bench.asked()

    def cannot_sleep() -> bytes:
        with bench.driver.cannot_sleep():
            return bench.driver.driver_request(PAT, in_a_minute())

    pat = bench.pool.submit(cannot_sleep)
    polled = bench.interface.next_attempt()
    flying.interrupt(recovering=False)
    eventually(lambda: bench.driver.counts["interrupted"] == 1)
    assert not bench.interface.has_begun
    polled.answer()
    pat.result(WAIT_S_MAX)
    bench.interface.next_attempt().answer()


def test_a_pat_that_finds_the_worker_stuck_is_polled() -> None:
    interface = ScriptedInterface(exchange_s_max=0.02)
    limits = DriverLimits(io_lock_s=0.02, worker_slack_s=0.02)
    driver = Driver(interface, ThreadRuntime(), limits)
    worker = threading.Thread(target=driver.kcs_loop)
    worker.start()
    driver.submit(Request(SET_SOMETHING, deadline=in_a_minute()))
    stuck = interface.next_attempt()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):  # the second one need not find it out anew
            pat = pool.submit(driver.driver_request, PAT, in_a_minute())
            polled = interface.next_attempt()
            assert polled.request == PAT
            polled.answer()
            assert pat.result(WAIT_S_MAX) == b"\x1c\x22\x00"
    assert driver.counts["worker_stuck"] == 1
    assert stuck.interrupt(recovering=False, may_have_run=True)
    eventually(driver.can_sleep)
    driver.stop()
    worker.join(WAIT_S_MAX)
    assert not worker.is_alive()


def test_two_who_poll_do_not_take_the_interface_from_each_other(bench: Bench) -> None:
    bench.driver.dying = True
    first, second = bench.pat(), bench.pat()
    bench.interface.next_attempt().answer()
    bench.interface.next_attempt().answer()
    first.result(WAIT_S_MAX)
    second.result(WAIT_S_MAX)
    assert bench.driver.counts["fenced_off"] == 0


# ------------------------------------------------------------------------------------------ the end


def test_stop_tells_everybody_who_waits(bench: Bench) -> None:
    flying_request, flying = bench.asked()
    waiting = bench.ask(SET_SOMETHING)
    bench.driver.stop()
    assert flying.interrupt(recovering=False)
    eventually(lambda: flying_request.done and waiting.done)
    assert isinstance(waiting.error, TransportError)
    late = bench.ask()
    assert isinstance(late.error, TransportError)


def test_who_asks_how_it_stands_is_told_of_an_exchange_that_takes_too_long() -> None:
    interface = ScriptedInterface()
    driver = Driver(
        interface, ThreadRuntime(), DriverLimits(breaker=BreakerLimits(silence_s_max=0.05))
    )
    worker = threading.Thread(target=driver.kcs_loop, daemon=True)
    worker.start()
    driver.submit(Request(GET_DEVICE_ID, deadline=in_a_minute()))
    flying = interface.next_attempt()
    eventually(lambda: driver.status()["breaker"]["open"])
    flying.answer()
    eventually(lambda: not driver.status()["breaker"]["open"])
    driver.stop()
    worker.join(WAIT_S_MAX)
    assert not worker.is_alive()


def test_what_was_in_flight_when_it_opened_is_not_sent_again() -> None:
    interface = ScriptedInterface()
    limits = DriverLimits(breaker=BreakerLimits(silence_s_max=0.05, probe_s_min=WAIT_S_MAX))
    driver = Driver(interface, ThreadRuntime(), limits)
    worker = threading.Thread(target=driver.kcs_loop, daemon=True)
    worker.start()
    asked = Request(GET_SELF_TEST, deadline=in_a_minute())
    driver.submit(asked)
    flying = interface.next_attempt()
    eventually(lambda: driver.status()["breaker"]["open"])
    flying.fail(Interrupted("a pat came", may_have_run=False))
    eventually(lambda: asked.done)
    assert isinstance(asked.error, BreakerOpen)
    assert not interface.has_begun
    driver.stop()
    worker.join(WAIT_S_MAX)
    assert not worker.is_alive()
