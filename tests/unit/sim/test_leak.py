from __future__ import annotations

from itertools import pairwise

import pytest

from bmcmedic.sim.faults import FLOOD_WRITES_PER_S_DEFAULT
from bmcmedic.sim.leak import FREE_FRACTION_FRESH, LATENCY_S_MAX, MemoryLeak


def test_memory_falls_in_proportion_to_the_rate_of_writes() -> None:
    slow, fast = MemoryLeak(0.0, 10_000), MemoryLeak(0.0, 20_000)
    lost = FREE_FRACTION_FRESH - slow.free_fraction(10.0)
    assert lost > 0
    assert FREE_FRACTION_FRESH - fast.free_fraction(10.0) == pytest.approx(2 * lost)


def test_latency_grows_smoothly_and_steeply_at_the_end() -> None:
    leak = MemoryLeak(0.0, FLOOD_WRITES_PER_S_DEFAULT)
    end = leak.exhausted_at()
    assert end is not None
    latencies = [leak.latency_s(end * share / 100) for share in range(101)]
    assert latencies[0] == 0
    assert all(before < after for before, after in pairwise(latencies[:99]))
    assert latencies[50] < 0.02
    assert latencies[90] < 1
    assert latencies[99] > 5
    assert max(latencies) <= LATENCY_S_MAX


def test_a_default_flood_takes_a_few_minutes_and_a_fast_one_seconds() -> None:
    default = MemoryLeak(0.0, FLOOD_WRITES_PER_S_DEFAULT).exhausted_at()
    fast = MemoryLeak(0.0, 1_000_000).exhausted_at()
    assert default is not None
    assert fast is not None
    assert 120 < default < 300
    assert fast < 3


def test_what_has_leaked_stays_leaked_when_the_flood_ends() -> None:
    leak = MemoryLeak(0.0, 10_000)
    left = leak.free_bytes(50.0)
    leak.set_rate(0, 50.0)
    assert leak.free_bytes(5_000.0) == left
    assert leak.exhausted_at() is None
    leak.set_rate(20_000, 6_000.0)
    assert leak.free_bytes(6_001.0) < left
