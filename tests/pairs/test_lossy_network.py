"""Loss, duplicates and reordering: every session and request ends in time, with one event.

Seeds are printed by pytest as part of a failure; each seed is one reproducible run.
"""

from __future__ import annotations

from collections import Counter

import pytest

from bmcmedic.ipmi.events import (
    RequestUnanswered,
    ResponseReceived,
    SessionClosed,
    SessionFailed,
    SessionOpened,
)
from tests.support.session_pair import Pair, make_pair

TIMEOUT_S = 6.0
GRACE_S = 1e-6


def story(pair: Pair) -> str:
    """Open, ask and close, and return how it ended. Every step ends by its deadline."""
    deadline = pair.now + TIMEOUT_S
    event = pair.open(timeout_s=TIMEOUT_S)
    assert pair.now <= deadline + GRACE_S
    if isinstance(event, SessionFailed):
        return f"failed: {type(event.error).__name__}"
    assert isinstance(event, SessionOpened)
    event = pair.ask(b"data", timeout_s=deadline - pair.now)
    assert pair.now <= deadline + GRACE_S
    if isinstance(event, SessionFailed | RequestUnanswered):
        return "unanswered"
    assert isinstance(event, ResponseReceived)
    assert event.response.data == b"data"
    closing_at = pair.now
    assert pair.close() == SessionClosed()
    assert pair.now <= closing_at + 1 + GRACE_S
    events = len(pair.events)
    pair.settle()
    assert len(pair.events) == events, "what arrives later is no event"
    return "answered"


@pytest.mark.parametrize("suite", [3, 17])
def test_one_in_five_lost_each_way(suite: int) -> None:
    ends = Counter(
        story(make_pair(suites=(suite,), loss=0.2, seed=seed, slots=8)) for seed in range(2000)
    )
    assert ends["answered"] >= 1998, ends


def test_loss_with_reordering_and_duplicates() -> None:
    ends: Counter[str] = Counter()
    for seed in range(1000):
        pair = make_pair(loss=0.2, seed=seed, slots=8, bmc_suites=(3,) if seed % 2 else (3, 17))
        pair.duplicates = 0.3
        pair.jitter_s = 0.4
        ends[story(pair)] += 1
    assert ends["answered"] >= 998, ends


def test_half_of_everything_lost_still_ends() -> None:
    ends = Counter(story(make_pair(loss=0.5, seed=seed, slots=8)) for seed in range(500))
    assert ends["answered"] >= 250, ends
    assert set(ends) <= {"answered", "unanswered", "failed: NoAnswer"}, ends


def test_a_command_that_must_run_once_never_runs_twice() -> None:
    ran: Counter[int] = Counter()
    for seed in range(500):
        pair = make_pair(loss=0.0, seed=seed)
        pair.open()
        pair.loss, pair.duplicates, pair.jitter_s = 0.2, 0.5, 0.5
        before = pair.count_sent()
        event = pair.ask(idempotent=False)
        assert pair.count_sent() == before + 1
        pair.settle()
        assert len(pair.executed) <= 1
        if isinstance(event, ResponseReceived):
            assert len(pair.executed) == 1
        ran[len(pair.executed)] += 1
    assert ran[0] > 50
    assert ran[1] > 300


def test_a_reused_session_survives_loss_and_restarts() -> None:
    answered = 0
    for seed in range(100):
        pair = make_pair(loss=0.2, seed=seed, may_reopen=True, slots=16)
        if not isinstance(pair.open(timeout_s=TIMEOUT_S), SessionOpened):
            continue
        for number in range(10):
            if number % 3 == 2:
                pair.managed.forget_sessions()
            event = pair.ask(bytes((number,)), timeout_s=TIMEOUT_S)
            if not isinstance(event, ResponseReceived):
                break
            assert event.response.data == bytes((number,))
            answered += 1
    assert answered >= 970


@pytest.mark.parametrize("lost_answer", range(4))
@pytest.mark.parametrize("lost_request", range(4))
def test_one_loss_at_each_step(lost_request: int, lost_answer: int) -> None:
    pair = make_pair(suites=(17,))
    seen: Counter[str] = Counter()

    def change(way: str, data: bytes) -> list[bytes]:
        number = seen[way]
        seen[way] += 1
        return [] if number == (lost_request if "BMC" in way else lost_answer) else [data]

    pair.change = change
    assert story(pair) == "answered"
    assert len(pair.executed) >= 1
