"""The driver among everything that can go wrong: thousands of seeded runs in virtual time.

To play more of them, or others: `python -m tests.support.driver_misfortune --seed 20001`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from bmcmedic.driver.breaker import Breaker
from bmcmedic.driver.driver import Driver
from bmcmedic.driver.parking import Parking
from bmcmedic.driver.preemption import ClientClaim, DriverClaim
from bmcmedic.driver.requests import Request, RequestQueues
from tests.support.driver_misfortune import play, play_all

FIRST_SEED = 1
SEEDS = 2000
FAULTS_SHOWN_MAX = 5
SEEDS_TO_FIND_IT = 300

HAPPENS = (
    "answers", "busy", "fails_at_once", "fenced_off", "gone", "interrupted", "kills",
    "old_answers", "parked", "parks", "polled", "queue_full", "silent", "sticks", "too_late",
    "unforeseen_errors", "worker_stuck",
)  # fmt: skip
"""If one of these never did, the runs would prove less than they seem to."""


def test_nothing_that_must_not_be_happens_and_the_driver_recovers() -> None:
    sys.stdout.write(f"seeds {FIRST_SEED} to {FIRST_SEED + SEEDS - 1}\n")
    totals = play_all(FIRST_SEED, SEEDS)
    assert not totals.faults, "\n".join(totals.faults[:FAULTS_SHOWN_MAX])
    assert [what for what in HAPPENS if totals.counts[what] < 10] == []


def _first_fault() -> str | None:
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS_TO_FIND_IT):
        fault, _ = play(seed)
        if fault is not None:
            assert f"python -m tests.support.driver_misfortune --seed {seed} --trace" in fault
            return fault
    return None


def _clients_first(self: RequestQueues) -> Request | None:
    queue = self.pending_requests or self.pending_requests_highpri
    self._active = queue.popleft() if queue else None
    return self._active


def _never_yields(self: ClientClaim, *, recovering: bool) -> bool:
    del recovering
    return self.is_lost


def _put_off(self: Breaker, now: float, reason: str, *_: float, **__: bool) -> bool:
    del reason
    opens = self.opened_at is None
    self.opened_at = now if opens else self.opened_at
    self.next_probe_at = now + self.limits.probe_s_max
    return opens


def _closes_only(self: Driver) -> None:
    """Close the parked interface, and forget the clients that wait."""
    io_lock = self.polling.io_lock
    if not self.parking.is_closed and io_lock.acquire(self.limits.io_lock_s):
        if io_lock is self.polling.io_lock:
            self._close_parked_interface()
        io_lock.release()
    self._wakeup.wait(1.0)


@pytest.mark.parametrize(
    ("owner", "name", "mutant", "found"),
    [
        (RequestQueues, "dequeue_request", _clients_first, "waited for its turn"),
        (RequestQueues, "requeue_request", lambda *_: None, "clients wait"),
        (RequestQueues, "drain_clients", lambda _: [], "although the breaker is open"),
        (DriverClaim, "is_lost", property(lambda _: False), "touches what was taken from it"),
        (ClientClaim, "must_stop", _never_yields, "is recovered from while"),
        (Breaker, "failed", _put_off, "nothing asks whether the BMC is back"),
        (Driver, "_worker_stuck_at", lambda *_: 1e9, "waited for its turn"),
        (Driver, "abandon", lambda *_: None, "told once too often"),
        (Parking, "refuse", lambda *_: None, "touches what was let go"),
        (Parking, "refresh", lambda *_: False, "the interface is not let go"),
        (Driver, "_stay_parked", _closes_only, "waits although the interface is parked"),
    ],
)
def test_the_same_runs_find_out_a_driver_that(
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    mutant: Callable[..., object] | property,
    found: str,
) -> None:
    monkeypatch.setattr(owner, name, mutant)
    assert found in (_first_fault() or "nothing was found")
