"""The pat thread under random misfortune, in virtual time."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.driver.watchdog.pretimeout import ENDED
from bmcmedic.driver.watchdog.settings import ShutdownPolicy, WatchdogSettings
from bmcmedic.driver.watchdog.watchdog import RETRY_S
from tests.support.watchdog_bench import WatchdogBench

SETTINGS = WatchdogSettings(
    timeout_s=60.0,
    pat_period_s=10.0,
    pretimeout_limit_s=15.0,
    verify_every_pats=2,
    shutdown=ShutdownPolicy.parse("keep"),
)
TROUBLE_S = 600.0
MISFORTUNES = ("silent", "speaks", "slow", "fast", "reboots", "stopped", "refuses", "takes")
LATENCY_S_MAX = 20.0

misfortunes = st.lists(
    st.tuples(st.floats(0.0, TROUBLE_S), st.sampled_from(MISFORTUNES), st.floats(0, LATENCY_S_MAX)),
    max_size=20,
)


def befall(bench: WatchdogBench, what: str, seconds: float) -> None:
    timer = bench.timer
    if what in ("silent", "speaks"):
        timer.silent = what == "silent"
    elif what in ("slow", "fast"):
        timer.latency_s = seconds if what == "slow" else 0.01
    elif what in ("refuses", "takes"):
        timer.completion_code = 0xC0 if what == "refuses" else 0
    elif what == "reboots":
        timer.reboot()
    else:
        timer.running = False


@given(misfortunes)
def test_whatever_a_bmc_does_a_healthy_host_is_not_reset_and_is_soon_guarded_again(
    events: list[tuple[float, str, float]],
) -> None:
    bench = WatchdogBench(SETTINGS)
    for at, what, seconds in events:
        bench.runtime.at(bench.after(at), partial(befall, bench, what, seconds))

    def all_well() -> None:
        bench.timer.silent = False
        bench.timer.latency_s = 0.01
        bench.timer.completion_code = 0

    bench.runtime.at(bench.after(TROUBLE_S), all_well)
    # Time for the exchange in progress, a retry and a pat.
    settled_s = bench.watchdog.request_s_max + LATENCY_S_MAX + RETRY_S + SETTINGS.pat_period_s
    guarded = []
    bench.runtime.at(
        bench.after(TROUBLE_S + settled_s), lambda: guarded.append(bench.timer.running)
    )
    bench.run(TROUBLE_S + settled_s + 60.0)
    assert bench.fired_at == []
    assert guarded == [True]
    assert bench.timer.setting == SETTINGS.set_request
    assert bench.stamps.driver.read().state == ENDED


@given(misfortunes, st.floats(0.0, TROUBLE_S))
def test_whatever_a_bmc_does_a_stopped_host_is_reset_within_its_limit_plus_1_s(
    events: list[tuple[float, str, float]], stops_s: float
) -> None:
    bench = WatchdogBench(SETTINGS)
    for at, what, seconds in events:
        bench.runtime.at(bench.after(at), partial(befall, bench, what, seconds))

    class Stopped(Exception):
        """There is no error: the thread just never continues."""

    def stop() -> None:
        raise Stopped

    end = bench.after(TROUBLE_S + 100.0)
    bench.runtime.each(0.25, bench.look, end)
    bench.runtime.at(bench.after(stops_s), stop)
    try:
        bench.watchdog.run()
    except Stopped:
        bench.runtime.advance_to(bench.after(stops_s) + SETTINGS.pretimeout_limit_s + 1.0)
    assert len(bench.fired_at) == 1
    assert bench.after(stops_s) < bench.fired_at[0]
