from __future__ import annotations

from dataclasses import replace

import pytest

from bmcmedic.sim.watchdog_timer import SimTimerSettings, WatchdogEvent, WatchdogTimer

SETTINGS = SimTimerSettings(
    timer_use=4,
    timeout_action=1,
    pretimeout_interrupt=2,
    pretimeout_interval_s=5,
    initial_countdown_s=60.0,
)


def is_running(timer: WatchdogTimer) -> bool:
    return timer.running


def test_set_does_not_start_it_and_reset_does() -> None:
    timer = WatchdogTimer(SETTINGS)
    assert not is_running(timer)
    assert timer.next_event_at() is None
    timer.reset(100.0)
    assert is_running(timer)
    assert timer.present_countdown_s(110.0) == pytest.approx(50.0)


def test_it_warns_then_expires_once_and_sets_the_flag_of_its_use() -> None:
    timer = WatchdogTimer(SETTINGS)
    timer.reset(100.0)
    assert timer.next_event_at() == 155.0
    assert timer.handle_timer(154.9) is None
    assert timer.handle_timer(155.0) is WatchdogEvent.PRETIMEOUT
    assert timer.handle_timer(155.0) is None
    assert timer.handle_timer(160.0) is WatchdogEvent.EXPIRED
    assert timer.expiration_flags == 1 << SETTINGS.timer_use
    assert not is_running(timer)
    assert timer.present_countdown_s(160.0) == 0
    assert timer.handle_timer(1_000.0) is None


def test_without_a_pretimeout_interrupt_there_is_no_warning() -> None:
    timer = WatchdogTimer(replace(SETTINGS, pretimeout_interrupt=0))
    timer.reset(0.0)
    assert timer.handle_timer(59.9) is None
    assert timer.handle_timer(60.0) is WatchdogEvent.EXPIRED


def test_a_pat_starts_the_countdown_over() -> None:
    timer = WatchdogTimer(SETTINGS)
    timer.reset(0.0)
    timer.reset(50.0)
    assert timer.handle_timer(60.0) is None
    assert timer.present_countdown_s(60.0) == pytest.approx(50.0)


def test_set_stops_a_running_timer_unless_dont_stop_is_set() -> None:
    longer = replace(SETTINGS, initial_countdown_s=600.0)
    timer = WatchdogTimer(SETTINGS)
    timer.reset(0.0)
    timer.set(longer, dont_stop=True, clear_flags=0, now=30.0)
    assert is_running(timer)
    assert timer.present_countdown_s(30.0) == pytest.approx(600.0)
    timer.set(SETTINGS, dont_stop=False, clear_flags=0, now=40.0)
    assert not is_running(timer)
    assert timer.handle_timer(10_000.0) is None
    timer.set(longer, dont_stop=True, clear_flags=0, now=50.0)
    assert not is_running(timer), "don't stop does not start one that stands"


def test_set_clears_the_expiration_flags_that_it_names() -> None:
    timer = WatchdogTimer(replace(SETTINGS, pretimeout_interrupt=0))
    timer.reset(0.0)
    timer.handle_timer(60.0)
    timer.set(SETTINGS, dont_stop=False, clear_flags=0x02, now=61.0)
    assert timer.expiration_flags == 0x10
    timer.set(SETTINGS, dont_stop=False, clear_flags=0x10, now=62.0)
    assert timer.expiration_flags == 0


def test_frozen_it_stands_still_and_then_goes_on_from_there() -> None:
    timer = WatchdogTimer(SETTINGS)
    timer.reset(0.0)
    timer.freeze(True, 20.0)
    assert is_running(timer)
    assert timer.next_event_at() is None
    assert timer.handle_timer(1_000.0) is None
    assert timer.present_countdown_s(1_000.0) == pytest.approx(40.0)
    timer.freeze(False, 1_000.0)
    assert timer.present_countdown_s(1_010.0) == pytest.approx(30.0)
    assert timer.handle_timer(1_040.0) is WatchdogEvent.PRETIMEOUT
    assert timer.handle_timer(1_040.0) is WatchdogEvent.EXPIRED


def test_a_reset_of_a_frozen_timer_loads_it_and_leaves_it_frozen() -> None:
    timer = WatchdogTimer(SETTINGS, frozen=True)
    timer.reset(0.0)
    assert timer.present_countdown_s(500.0) == pytest.approx(60.0)
    assert timer.next_event_at() is None
