"""Ten thousand incidents: the shipped driver never lets a healthy host be shot.

To play more of them, or others: `python -m tests.support.starvation_seeds --seed 20001`.
"""

from __future__ import annotations

import sys

import pytest

from bmcmedic.driver.requests import Request, RequestQueues
from bmcmedic.lab.starvation.run import simulate
from bmcmedic.lab.starvation.scenario import (
    PAT_WAIT_S_MAX,
    Design,
    Pretimeout,
    StarvationRecord,
    StarvationScenario,
    Wait,
)
from tests.support.starvation_seeds import fault_of, play, play_all

FIRST_SEED = 1
SEEDS = 10_000
FAULTS_SHOWN_MAX = 5


def test_no_seed_starves_the_shipped_driver() -> None:
    sys.stdout.write(f"seeds {FIRST_SEED} to {FIRST_SEED + SEEDS - 1}\n")
    faults = list(play_all(FIRST_SEED, SEEDS))
    assert not faults, "\n".join(faults[:FAULTS_SHOWN_MAX])


@pytest.mark.parametrize("design", [Design.DIRECT, Design.QUEUED])
def test_the_same_check_finds_the_other_designs_out(design: Design) -> None:
    faults = [fault for seed in range(1, 21) if (fault := play(design, seed)) is not None]
    assert len(faults) > 10
    assert any("on a healthy host" in fault for fault in faults)
    assert f"bmcmedic lab starvation --design {design.value} --seed " in faults[0]


def test_the_same_check_finds_a_driver_out_that_has_lost_its_priority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything that ships, but clients are served first."""

    def dequeue_clients_first(self: RequestQueues) -> Request | None:
        queue = self.pending_requests or self.pending_requests_highpri
        self._active = queue.popleft() if queue else None
        return self._active

    monkeypatch.setattr(RequestQueues, "dequeue_request", dequeue_clients_first)
    waits = [simulate(Design.PRIORITY, StarvationScenario(s, load=40)) for s in range(1, 6)]
    assert any("waited" in (fault_of(record) or "") for record in waits)


def test_the_check_can_fail_for_each_of_its_reasons() -> None:
    record = StarvationRecord(Design.PRIORITY, StarvationScenario(1))
    assert fault_of(record) == "no pat was ever answered"
    record.waits.append(Wait(1.0, 1.0 + PAT_WAIT_S_MAX + 0.001))
    assert "a pat waited for 10.301 s" in (fault_of(record) or "")
    record.pretimeouts.append(Pretimeout(9.0, is_false=True))
    assert "healthy host at 9.000 s" in (fault_of(record) or "")
