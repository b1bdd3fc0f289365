"""The pat thread, in virtual time: what it does about a BMC, a host and others that misbehave."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bmcmedic.driver.watchdog.pretimeout import ARMED, ENDED, OFF
from bmcmedic.driver.watchdog.settings import ShutdownPolicy, WatchdogSettings
from bmcmedic.driver.watchdog.watchdog import RETRY_S, Watchdog
from bmcmedic.errors import ConfigurationError
from bmcmedic.ipmi.commands.watchdog import TimeoutAction
from tests.support.virtual_runtime import VirtualRuntime
from tests.support.watchdog_bench import WatchdogBench

SETTINGS = WatchdogSettings(
    timeout_s=60.0, pat_period_s=10.0, pretimeout_limit_s=30.0, verify_every_pats=3
)
LIMIT_S = SETTINGS.pretimeout_limit_s


class Host:
    """A check that says what the test wants, from when the test wants."""

    def __init__(self) -> None:
        self.unwell: str | None = None
        self.well_until: float | None = None

    def failure(self, now: float) -> str | None:  # noqa: ARG002 - HostCheck's
        return self.unwell

    def good_until(self, now: float) -> float:
        return now if self.well_until is None else min(now, self.well_until)


def test_it_sets_the_timer_once_and_pats_each_period() -> None:
    bench = WatchdogBench(SETTINGS)
    bench.run(65.0)
    assert bench.timer.asked[:2] == ["set", "reset"]
    assert bench.timer.asked.count("set") == 2  # the second is the shutdown's
    pats = bench.timer.pats()
    assert [round(at - pats[0]) for at in pats] == [0, 10, 20, 30, 40, 50, 60]
    assert bench.timer.setting is not None
    assert bench.watchdog.counts["pats"] == 7
    assert bench.fired_at == []
    assert bench.said == ["the watchdog timer is stopped"]


def test_what_the_timer_is_set_with() -> None:
    bench = WatchdogBench(SETTINGS)
    seen = []
    bench.runtime.at(bench.after(5.0), lambda: seen.append(bench.timer.setting))
    bench.run(10.0)
    assert seen == [SETTINGS.set_request]
    assert seen[0] is not None
    assert seen[0].encode() == bytes.fromhex("44 01 00 00 58 02")


def test_a_timer_that_a_former_driver_left_running_never_stands_while_it_is_taken_over() -> None:
    former = WatchdogBench(replace(SETTINGS, shutdown=ShutdownPolicy.parse("keep")))
    former.run(15.0)
    bench = WatchdogBench(SETTINGS)
    bench.timer.setting, bench.timer.running = former.timer.setting, former.timer.running
    ran: list[bool] = []
    look_s, until = bench.timer.latency_s / 2, bench.after(1.0)
    bench.runtime.each(look_s, lambda: ran.append(bench.timer.running), until)
    bench.run(5.0)
    # One that is killed between Set and Reset leaves a host that nobody watches otherwise.
    assert bench.timer.asked[:2] == ["set", "reset"]
    assert len(ran) > 4
    assert all(ran)


def test_a_pat_has_a_deadline() -> None:
    bench = WatchdogBench(SETTINGS, exchange_s_max=10.0)
    bench.run(1.0)
    assert bench.timer.deadlines[:2] == [25.0, pytest.approx(25.0, abs=0.1)]


def test_a_bmc_that_restarted_is_set_again_and_patted_on() -> None:
    bench = WatchdogBench(SETTINGS)
    bench.runtime.at(bench.after(15.0), bench.timer.reboot)
    bench.run(35.0)
    first_after = bench.timer.asked.index("reset", 3)
    assert bench.timer.asked[first_after : first_after + 3] == ["reset", "set", "reset"]
    assert bench.watchdog.counts["lost"] == 1
    assert bench.watchdog.counts["failures"] == 0
    assert "it restarted" in bench.said[0]


def test_a_timer_that_somebody_stopped_is_found_reported_and_started_again() -> None:
    bench = WatchdogBench(SETTINGS)

    def stop_timer() -> None:
        bench.timer.running = False

    running = []
    bench.runtime.at(bench.after(22.0), stop_timer)  # after the third pat, before the look
    bench.runtime.at(bench.after(27.0), lambda: running.append(bench.timer.running))
    bench.run(40.0)
    assert running == [True]
    assert bench.watchdog.counts["found_stopped"] == 1
    assert [line for line in bench.said if "stopped the watchdog timer" in line] != []
    assert bench.fired_at == []


def test_a_timer_that_somebody_set_otherwise_is_reported_once_and_set_back() -> None:
    bench = WatchdogBench(SETTINGS)

    def tamper() -> None:
        bench.timer.tampered = replace(SETTINGS.set_request, action=TimeoutAction.POWER_DOWN)

    bench.runtime.at(bench.after(1.0), tamper)
    bench.run(200.0)
    assert bench.watchdog.counts["found_changed"] > 2
    told = [line for line in bench.said if "action is POWER_DOWN, not HARD_RESET" in line]
    assert len(told) == 1


def test_a_bmc_too_slow_to_be_looked_at_before_the_next_pat_is_only_patted() -> None:
    bench = WatchdogBench(SETTINGS)
    bench.timer.latency_s = 3.0
    bench.run(200.0)
    assert bench.timer.asked.count("get") == 0
    assert bench.timer.asked.count("reset") > 15


def test_a_silent_bmc_is_counted_and_retried_and_never_fires_the_pretimeout() -> None:
    bench = WatchdogBench(SETTINGS)

    def silence() -> None:
        bench.timer.silent = True

    def speak() -> None:
        bench.timer.silent = False

    bench.runtime.at(bench.after(15.0), silence)
    bench.runtime.at(bench.after(1015.0), speak)
    bench.run(1100.0)
    assert bench.fired_at == []
    assert bench.watchdog.counts["failures"] >= 1000 / (bench.watchdog.request_s_max + RETRY_S) - 1
    assert [line for line in bench.said if "a pat failed" in line] == ["a pat failed: silent"]
    assert [line for line in bench.said if "can be reached again" in line] != []
    pats = [at for at in bench.timer.pats() if at > bench.after(1015.0 + 25.0)]
    assert pats[0] <= bench.after(1015.0 + 25.0 + 2 * RETRY_S)


def test_a_pat_that_is_never_queued_fires_the_pretimeout() -> None:
    bench = WatchdogBench(SETTINGS)

    def hang() -> None:
        bench.timer.never_queues = True

    bench.runtime.at(bench.after(15.0), hang)
    bench.runtime.each(1.0, lambda: None, bench.after(100.0))
    bench.run(21.0 + LIMIT_S)
    last_good = bench.after(10.0)
    assert bench.fired_at != []
    assert last_good + LIMIT_S < bench.fired_at[0] <= last_good + LIMIT_S + 1.0


def test_a_check_that_fails_stops_the_pats_and_fires_the_pretimeout() -> None:
    host = Host()
    bench = WatchdogBench(SETTINGS, check=host)

    def fail() -> None:
        host.unwell, host.well_until = "ended with 1", bench.runtime.now

    def recover() -> None:
        host.unwell = host.well_until = None

    bench.runtime.at(bench.after(15.0), fail)
    bench.runtime.at(bench.after(85.0), recover)
    bench.run(120.0)
    assert not [at for at in bench.timer.pats() if bench.after(15) < at < bench.after(85)]
    assert [at for at in bench.timer.pats() if at < bench.after(86)][-1] > bench.after(84.9)
    assert bench.fired_at == [pytest.approx(bench.after(10.0 + LIMIT_S), abs=1.0)]
    assert bench.watchdog.counts["pats_withheld"] >= 1


def test_while_a_check_hangs_a_pat_proves_nothing() -> None:
    host = Host()
    bench = WatchdogBench(SETTINGS, check=host)

    def hang() -> None:
        host.well_until = bench.runtime.now

    bench.runtime.at(bench.after(15.0), hang)
    bench.run(60.0)
    assert len(bench.timer.pats()) == 6, "it has not failed yet, so the pats go on"
    assert bench.fired_at == [pytest.approx(bench.after(15.0 + LIMIT_S), abs=1.0)]


def test_a_check_that_hangs_while_the_bmc_is_silent_fires() -> None:
    host = Host()
    bench = WatchdogBench(SETTINGS, check=host)

    def hang() -> None:
        bench.timer.silent = True
        host.well_until = bench.runtime.now

    bench.runtime.at(bench.after(15.0), hang)
    bench.run(60.0)
    assert bench.fired_at == [pytest.approx(bench.after(15.0 + LIMIT_S), abs=1.0)]


def test_a_bmc_that_refuses_is_a_failure_and_no_end() -> None:
    bench = WatchdogBench(SETTINGS)
    bench.timer.completion_code = 0xD4
    bench.run(100.0)
    assert bench.watchdog.counts["pats"] == 0
    assert bench.watchdog.counts["failures"] > 10
    assert "0xd4" in bench.said[0]
    assert bench.fired_at == [], "the host is well"


def test_pats_are_observed_with_when_they_were_due() -> None:
    bench = WatchdogBench(SETTINGS)
    bench.timer.latency_s = 0.5
    bench.run(15.0)
    (first, second) = bench.pats
    assert first == (bench.after(0), bench.after(0), bench.after(1.0), True)
    assert second == (bench.after(10), bench.after(10), bench.after(10.5), True)
    status = bench.watchdog.status()
    assert status["pat_latency_s"] == 0.5
    assert status["pat_latency_max_s"] == 1.0


def test_a_bmc_slower_than_the_period_is_patted_without_a_pause_but_not_faster() -> None:
    bench = WatchdogBench(SETTINGS)
    bench.timer.latency_s = 12.0
    bench.run(100.0)
    pats = bench.timer.pats()
    gaps = [after - before for before, after in itertools.pairwise(pats)]
    assert min(gaps) >= 12.0
    assert bench.fired_at == []


# ------------------------------------------------------------------------------------------ orders


def test_by_order_the_timer_is_stopped_and_later_resumed() -> None:
    bench = WatchdogBench(SETTINGS)
    states = []

    def look() -> None:
        states.append((bench.timer.running, bench.stamps.driver.read().state))

    bench.runtime.at(bench.after(15.0), bench.watchdog.order_disarm)
    bench.runtime.at(bench.after(16.0), look)
    bench.runtime.at(bench.after(100.0), look)
    bench.runtime.at(bench.after(101.0), bench.watchdog.order_resume)
    bench.runtime.at(bench.after(102.0), look)
    bench.run(150.0)
    assert states == [(False, OFF), (False, OFF), (True, ARMED)]
    assert not [at for at in bench.timer.pats() if bench.after(15) < at < bench.after(101)]
    assert bench.fired_at == []


def test_it_is_at_rest_only_when_an_order_to_disarm_is_done() -> None:
    bench = WatchdogBench(SETTINGS)
    rests: list[bool] = []

    def look() -> None:
        rests.append(bench.watchdog.is_at_rest)

    def order(give: Callable[[], None], *, silent: bool) -> None:
        bench.timer.silent = silent
        give()
        look()  # before the pat thread has seen it

    for at, act in (
        (10.0, look),
        (15.0, lambda: order(bench.watchdog.order_disarm, silent=True)),
        (100.0, look),
        (101.0, lambda: setattr(bench.timer, "silent", False)),
        (200.0, look),
        (201.0, lambda: order(bench.watchdog.order_resume, silent=False)),
        (220.0, look),
    ):
        bench.runtime.at(bench.after(at), act)
    bench.run(230.0)
    assert rests == [False, False, False, True, False, False]


def test_an_order_to_stop_a_silent_bmcs_timer_is_tried_until_it_is_done() -> None:
    bench = WatchdogBench(SETTINGS)

    def order() -> None:
        bench.timer.silent = True
        bench.watchdog.order_disarm()

    def speak() -> None:
        bench.timer.silent = False

    bench.runtime.at(bench.after(15.0), order)
    bench.runtime.at(bench.after(200.0), speak)
    bench.run(260.0)
    assert not bench.timer.running
    assert any("could not be stopped: silent" in line for line in bench.said)
    assert bench.timer.asked[-1] == "set"


def test_by_order_the_timer_gets_longer_never_shorter() -> None:
    bench = WatchdogBench(SETTINGS)
    seen = []

    def note() -> None:
        assert bench.timer.setting is not None
        seen.append((bench.timer.setting.initial_countdown_s, bench.timer.running))

    bench.runtime.at(bench.after(15.0), lambda: bench.watchdog.order_lengthen(600.0))
    bench.runtime.at(bench.after(16.0), note)
    bench.runtime.at(bench.after(30.0), bench.watchdog.order_resume)
    bench.runtime.at(bench.after(31.0), note)
    bench.run(40.0)
    assert seen == [(600.0, True), (60.0, True)]
    with pytest.raises(ConfigurationError, match=r"60 s can be lengthened, not shortened to 20 s"):
        bench.watchdog.order_lengthen(20.0)


# ---------------------------------------------------------------------------------------- its end


@pytest.mark.parametrize(
    ("policy", "running", "countdown_s"),
    [("disarm", False, 60.0), ("keep", True, 60.0), ("rearm:300", True, 300.0)],
)
def test_at_shutdown_the_policy_is_done(policy: str, running: bool, countdown_s: float) -> None:
    bench = WatchdogBench(replace(SETTINGS, shutdown=ShutdownPolicy.parse(policy)))
    bench.run(15.0)
    assert bench.timer.running is running
    assert bench.timer.setting is not None
    assert bench.timer.setting.initial_countdown_s == countdown_s
    assert bench.stamps.driver.read().state == ENDED


def test_keep_gives_whoever_comes_next_all_of_the_time() -> None:
    bench = WatchdogBench(replace(SETTINGS, shutdown=ShutdownPolicy.parse("keep")))
    bench.run(17.0)
    assert bench.timer.started_at == pytest.approx(bench.after(17.0), abs=0.1)


def test_keep_does_not_pat_for_a_host_that_is_not_well() -> None:
    host = Host()
    host.unwell = "ended with 1"
    bench = WatchdogBench(replace(SETTINGS, shutdown=ShutdownPolicy.parse("keep")), check=host)
    bench.run(5.0)
    assert bench.timer.asked == []


def test_a_shutdown_that_a_silent_bmc_spoils_is_told_and_ends_in_time() -> None:
    bench = WatchdogBench(SETTINGS)

    def silence() -> None:
        bench.timer.silent = True

    bench.runtime.at(bench.after(15.0), silence)
    bench.run(16.0)
    assert bench.runtime.now <= bench.after(16.0) + 2 * bench.watchdog.request_s_max
    assert "could not be reached; it runs out in 60 s" in bench.said[-1]
    assert bench.stamps.driver.read().state == ENDED


def test_a_timer_that_was_stopped_by_order_stays_so_at_shutdown() -> None:
    bench = WatchdogBench(replace(SETTINGS, shutdown=ShutdownPolicy.parse("rearm:300")))
    bench.runtime.at(bench.after(5.0), bench.watchdog.order_disarm)
    bench.run(16.0)
    assert not bench.timer.running


def test_a_countdown_without_room_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"time-out of 60 s is too short: a pat is sent every 10 s, .* up to 56 s here, and "
        r"takes up to 5 s itself, together 71 s; make the time-out 71 s or more",
    ):
        WatchdogBench(SETTINGS, exchange_s_max=56.0)


def test_without_a_callout_it_pats_all_the_same() -> None:
    bench = WatchdogBench(SETTINGS, runtime=VirtualRuntime())
    watchdog = Watchdog(SETTINGS, bench.watchdog._path, bench.runtime, bench.said.append)
    bench.runtime.at(bench.after(5.0), watchdog.order_disarm)
    bench.runtime.at(bench.after(6.0), watchdog.order_resume)
    bench.runtime.at(bench.after(15.0), watchdog.stop)
    watchdog.run()
    assert watchdog.counts["pats"] == 2


def test_every_key_and_count_of_its_status_is_documented() -> None:
    bench = WatchdogBench(SETTINGS)
    bench.timer.latency_s = 0.0
    bench.run(5.0)
    page = (
        Path(__file__).parents[4].joinpath("docs/reference/watchdog.md").read_text(encoding="utf-8")
    )
    source = Path(inspect.getfile(Watchdog)).read_text(encoding="utf-8")
    counted = {
        name for line in source.splitlines() if "self.counts[" in line
        for name in re.findall(r'"(\w+)"', line)
    }  # fmt: skip
    assert counted >= {"pats", "failures", "found_stopped", "found_changed"}
    shown = set(re.findall(r"`(\w+)`", page))
    assert (counted | set(bench.watchdog.status())) - shown == set()
