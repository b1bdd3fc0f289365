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


def test_writes_that_are_counted_leak_as_those_of_a_rate() -> None:
    flooded, counted = MemoryLeak(0.0, 10_000), MemoryLeak(0.0, 0)
    counted.add_writes(60_000, 4.0)
    counted.add_writes(40_000, 10.0)
    assert counted.free_bytes(10.0) == flooded.free_bytes(10.0)
    assert counted.exhausted_at() is None
    counted.add_writes(10_000_000, 11.0)
    assert counted.exhausted_at() == 11.0
    assert counted.free_bytes(11.0) == 0


def test_counted_writes_hasten_the_end_of_a_flood() -> None:
    alone, both = MemoryLeak(0.0, 10_000), MemoryLeak(0.0, 10_000)
    both.add_writes(100_000, 5.0)
    end, hastened = alone.exhausted_at(), both.exhausted_at()
    assert end is not None
    assert hastened is not None
    assert end - hastened == pytest.approx(10.0)


def test_less_memory_is_gone_sooner() -> None:
    small = MemoryLeak(0.0, 10_000, 16 << 20).exhausted_at()
    assert small is not None
    assert 4 < small < 6


def test_what_has_leaked_stays_leaked_when_the_flood_ends() -> None:
    leak = MemoryLeak(0.0, 10_000)
    left = leak.free_bytes(50.0)
    leak.set_rate(0, 50.0)
    assert leak.free_bytes(5_000.0) == left
    assert leak.exhausted_at() is None
    leak.set_rate(20_000, 6_000.0)
    assert leak.free_bytes(6_001.0) < left
