"""The stamps in shared memory, and the rule that looks at them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.driver.watchdog.pretimeout import (
    ARMED,
    ENDED,
    LATE_CHECKS_MAX,
    MAGIC,
    OFF,
    STAMPS_BYTES,
    PretimeoutCallout,
    PretimeoutRule,
    Stamp,
    Stamps,
)

LIMIT_S = 30.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Both:
    """A driver's and a watcher's view of the same memory."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.memory = bytearray(STAMPS_BYTES)
        self.callout = PretimeoutCallout(Stamps(self.memory), self.clock, LIMIT_S, pid=42)
        self.seen = Stamps(self.memory)

    def stamp(self) -> Stamp:
        return self.seen.driver.read()

    def restarted(self) -> PretimeoutCallout:
        return PretimeoutCallout(Stamps(self.memory), self.clock, LIMIT_S, pid=43)


def test_nothing_is_overdue_before_it_is_armed() -> None:
    both = Both()
    assert both.stamp().state == OFF
    assert not both.stamp().is_overdue(1e9)


def test_a_stamp_says_who_when_and_for_how_long() -> None:
    both = Both()
    both.callout.arm()
    stamp = both.stamp()
    assert (stamp.state, stamp.generation, stamp.pid) == (ARMED, 1, 42)
    assert (stamp.at, stamp.limit_s, stamp.due_at) == (1000.0, LIMIT_S, 1030.0)


def test_it_is_overdue_when_the_limit_has_passed() -> None:
    both = Both()
    both.callout.arm()
    assert not both.stamp().is_overdue(1030.0)
    assert both.stamp().is_overdue(1030.1)
    both.clock.now = 1020.0
    both.callout.reset()
    assert not both.stamp().is_overdue(1050.0)
    assert both.stamp().is_overdue(1050.1)


def test_a_sign_of_life_reaches_as_far_as_the_host_is_known_to_be_well_and_never_back() -> None:
    both = Both()
    both.callout.arm()
    both.clock.now = 1020.0
    both.callout.reset(good_until=1015.0)
    assert both.stamp().at == 1015.0
    both.callout.reset(good_until=1001.0)
    assert both.stamp().at == 1015.0
    both.callout.reset(good_until=1e9)
    assert both.stamp().at == 1020.0


def test_disarmed_it_takes_no_signs_of_life_and_is_never_overdue() -> None:
    both = Both()
    both.callout.arm()
    both.callout.disarm()
    both.clock.now = 2000.0
    both.callout.reset()
    assert both.stamp().at == 1000.0
    assert not both.stamp().is_overdue(2000.0)
    both.callout.arm()
    assert both.stamp().at == 2000.0
    both.callout.end()
    assert both.stamp().state == ENDED


def test_a_stamp_from_the_future_is_another_boots() -> None:
    both = Both()
    both.callout.arm()
    assert not both.stamp().is_overdue(5.0)


def test_a_driver_that_died_leaves_its_stamp_until_the_next_one_arms() -> None:
    both = Both()
    both.callout.arm()
    both.clock.now = 1010.0
    restarted = both.restarted()
    assert both.stamp().is_overdue(1030.1), "nobody has taken its place yet"
    restarted.arm()
    stamp = both.stamp()
    assert (stamp.generation, stamp.pid, stamp.at) == (2, 43, 1010.0)


def test_memory_of_another_layout_is_begun_anew() -> None:
    both = Both()
    both.callout.arm()
    validity = [both.seen.is_valid]
    both.memory[: len(MAGIC)] = b"bmcmedic stamps0"
    validity.append(both.seen.is_valid)
    assert Stamps(both.memory).driver.read().state == OFF
    validity.append(both.seen.is_valid)
    assert validity == [True, False, True]


@given(
    torn=st.integers(0, 60),
    rubbish=st.binary(min_size=60, max_size=60),
    writes=st.integers(1, 5),
)
def test_a_half_written_stamp_leaves_the_one_before(torn: int, rubbish: bytes, writes: int) -> None:
    both = Both()
    both.callout.arm()
    for number in range(writes):
        both.clock.now = 1001.0 + number
        both.callout.reset()
    kept = both.clock.now
    before = bytes(both.memory)
    both.clock.now += 1.0
    both.callout.reset()
    after = bytes(both.memory)
    changed = [at for at in range(STAMPS_BYTES) if before[at] != after[at]]
    # Of what the writer changed, only the first bytes have arrived; or what never was, arrived.
    partly = bytearray(before)
    partly[changed[0] : changed[0] + torn] = after[changed[0] : changed[0] + torn]
    seen = Stamps(partly).driver.last
    assert seen.at in (kept, both.clock.now)
    assert seen.at == kept or partly == after
    partly[changed[0] : changed[0] + 60] = rubbish
    assert Stamps(partly).driver.last.at == kept


def test_a_writer_that_died_in_the_middle_is_followed_by_one_that_goes_on() -> None:
    both = Both()
    both.callout.arm()
    both.clock.now = 1001.0
    before = bytes(both.memory)
    both.callout.reset()
    first = next(at for at in range(STAMPS_BYTES) if before[at] != both.memory[at])
    both.memory[first + 8 : first + 60] = bytes(52)  # its number has arrived, nothing else
    seen = Stamps(both.memory)
    assert seen.driver.last.at == 1000.0
    both.clock.now = 1002.0
    both.restarted().arm()
    assert seen.driver.read().at == 1002.0


# -------------------------------------------------------------------------------------- the rule


def looks(both: Both, rule: PretimeoutRule, *times: float) -> list[float]:
    return [now for now in times if rule.should_fire(both.stamp(), now)]


def steps(start: float, end: float, step: float = 0.25) -> list[float]:
    return [start + step * number for number in range(round((end - start) / step) + 1)]


def test_it_fires_once_an_episode_and_again_after_a_recovery() -> None:
    both, rule = Both(), PretimeoutRule()
    both.callout.arm()
    assert looks(both, rule, *steps(1000.0, 1100.0)) == [1030.25]
    firing = [rule.has_fired]
    both.clock.now = 1100.0
    both.callout.reset()
    assert looks(both, rule, *steps(1100.25, 1130.0)) == []
    firing.append(rule.has_fired)
    assert firing == [True, False]
    assert looks(both, rule, *steps(1130.25, 1200.0)) == [1130.25]


def test_a_sign_of_life_that_is_overdue_already_is_no_recovery() -> None:
    both, rule = Both(), PretimeoutRule()
    both.callout.arm()
    assert looks(both, rule, *steps(1000.0, 1100.0)) == [1030.25]
    both.clock.now = 1100.0
    both.callout.reset(good_until=1050.0)
    assert looks(both, rule, *steps(1100.25, 1200.0)) == []


def test_a_watcher_that_was_held_up_itself_gives_the_driver_one_more_look() -> None:
    both, rule = Both(), PretimeoutRule()
    both.callout.arm()
    assert looks(both, rule, 1000.0, 1000.25, 1090.0) == []  # the machine was paused for 90 s
    both.clock.now = 1090.1
    both.callout.reset()
    assert looks(both, rule, *steps(1090.25, 1119.0)) == []


def test_a_watcher_that_was_held_up_fires_all_the_same_when_the_driver_stays_away() -> None:
    both, rule = Both(), PretimeoutRule()
    both.callout.arm()
    assert looks(both, rule, 1000.0, 1000.25, 1090.0, 1090.25, 1090.5) == [1090.25]


def test_a_watcher_that_is_always_held_up_fires_all_the_same() -> None:
    """A host so busy that every look is late, and a driver that is dead."""
    both, rule = Both(), PretimeoutRule()
    both.callout.arm()
    late = [1000.0 + 1.5 * number for number in range(40)]
    fired = looks(both, rule, *late)
    assert len(fired) == 1
    assert 1000.0 + LIMIT_S < fired[0] <= 1000.0 + LIMIT_S + LATE_CHECKS_MAX * 1.5


def test_a_watcher_that_comes_late_fires_at_its_first_look() -> None:
    both, rule = Both(), PretimeoutRule()
    both.callout.arm()
    assert looks(both, rule, 1031.0) == [1031.0]


@pytest.mark.parametrize("state", [OFF, ENDED])
def test_only_what_is_armed_fires(state: int) -> None:
    rule = PretimeoutRule()
    assert not rule.should_fire(Stamp(state=state, at=1000.0, limit_s=1.0), 2000.0)
