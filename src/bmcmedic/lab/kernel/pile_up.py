"""`pile-up`: the first incident on a host without us, and its cure from outside."""

from __future__ import annotations

from bmcmedic.lab.kernel.bench import Bench, LabMachine
from bmcmedic.lab.kernel.scenario import KernelScenario, ScenarioVerdict
from bmcmedic.lab.kernel.scripts import MAINTENANCE_FILES, OLD_MONITORING_FILES, PATTER_FILES
from bmcmedic.lab.kernel.timeline import (
    TIMER_NOT_SET,
    KernelPat,
    Sample,
    highest_percent,
    kipmi_percent,
    lowest_percent,
    percent,
)

MONITORING_PERIOD_S = 6.0
TIME_LAPSE_PERIOD_S = 0.2
"""While the BMC hangs: what piles up in weeks has to be seen in seconds."""

WELL_S = 8.0
HUNG_S = 15.0
MAINTENANCE_S = 8.0
WINDOW_S = 5.0
"""Shares are judged over so long, at least."""

STUCK_MIN = 50
HUNG_PERCENT_MIN = 5.0
SPIN_PERCENT_MIN = 80.0
"""Of a core; the rest is what an emulated one that is shared cannot give."""
HEALED_PERCENT_MAX = 1.0


def machine() -> LabMachine:
    """Room for many users of /dev/ipmi0, and nothing of ours."""
    return LabMachine(
        modules=("ipmi_msghandler max_users=1000", "ipmi_devintf", "ipmi_si"),
        files={**OLD_MONITORING_FILES, **PATTER_FILES, **MAINTENANCE_FILES},
        memory_mib=1024,
    )


def play(bench: Bench, verdict: ScenarioVerdict) -> None:
    """From a host that is well to one that is well again."""
    guest = bench.guest
    guest.begin("exec lab-patter")
    bench.wait_until(lambda: bool(bench.timeline.pats()), "the first pat")
    bench.monitor_every(MONITORING_PERIOD_S)
    bench.say("all is well: monitoring asks now and then, a watchdog daemon pats")
    with bench.phase("before"):
        bench.pass_time(WELL_S)
    bench.bmc.set_faults("kcs-stuck:ibf", "boot:2")
    bench.say("the BMC wedges: its KCS registers are stuck, its LAN side lives")
    bench.monitor_every(TIME_LAPSE_PERIOD_S)
    bench.say("time lapse: what monitoring asks in weeks, it asks in seconds now")
    with bench.phase("hung"):
        since = bench.pass_time(HUNG_S)
        bench.wait_until(lambda: bench.last.stuck >= STUCK_MIN, f"{STUCK_MIN} stuck clients")
        bench.wait_for_share(since, WINDOW_S, HUNG_PERCENT_MIN)
    bench.monitor_every(MONITORING_PERIOD_S)
    bench.say("maintenance mode: the kernel polls without pause, as all did before 5.4")
    guest.run("lab-maintenance 2", check=True)
    with bench.phase("maintenance"):
        since = bench.pass_time(MAINTENANCE_S)
        bench.wait_for_share(since, WINDOW_S, SPIN_PERCENT_MIN)
    guest.run("lab-maintenance 0", check=True)
    stuck_before = bench.last.stuck
    in_band = bench.last.completed
    power = bench.ipmitool("chassis", "power", "status")
    bench.say(f"out of band, ipmitool chassis power status: {power}")
    said = bench.ipmitool("mc", "reset", "cold")
    reset_at = bench.say(f"out of band, ipmitool mc reset cold: {said}")
    with bench.phase("recovery"):
        bench.wait_until(
            lambda: (
                not bench.timeline.has_older_client(reset_at)
                and bool(_answered_since(bench, reset_at))
            ),
            "the clients to end and a pat to be answered",
        )
        bench.wait_until(lambda: _is_calm(bench, reset_at), "kipmi0 to fall below 1 %")
    bench.say("the BMC is back: the clients have ended, kipmi0 rests")
    with bench.phase("after"):
        bench.pass_time(WINDOW_S)
    _judge(bench, verdict, reset_at, stuck_before, in_band)


def _answered_since(bench: Bench, at: float) -> list[KernelPat]:
    return [
        pat
        for sample in bench.timeline.samples
        if sample.at > at
        for pat in sample.pats
        if pat.due_at + pat.latency_s > at
    ]


def _is_calm(bench: Bench, since: float) -> bool:
    now = bench.timeline.now
    seen = bench.timeline.between(max(since, now - 2 * WINDOW_S), now)
    lowest = lowest_percent(seen, WINDOW_S)
    return lowest is not None and lowest < HEALED_PERCENT_MAX


def _judge(
    bench: Bench,
    verdict: ScenarioVerdict,
    reset_at: float,
    stuck_before: int,
    completed_hung: int | None,
) -> None:
    timeline = bench.timeline
    hung = highest_percent(bench.phase_samples("hung"), WINDOW_S)
    verdict.check(
        f"hung, kipmi0 rises above {HUNG_PERCENT_MIN:g} %",
        percent(hung),
        ok=hung is not None and hung > HUNG_PERCENT_MIN,
    )
    spin = highest_percent(bench.phase_samples("maintenance"), WINDOW_S)
    verdict.check(
        "in maintenance mode it takes the whole core",
        percent(spin),
        ok=spin is not None and spin > SPIN_PERCENT_MIN,
    )
    verdict.check(
        f"at least {STUCK_MIN} clients pile up",
        f"{stuck_before} stuck before the reset",
        ok=stuck_before >= STUCK_MIN,
    )
    waited = max((pat.latency_s for pat in timeline.pats()), default=0.0)
    verdict.check(
        "a pat over /dev/ipmi0 starves with them",
        f"the longest took {waited:.1f} s",
        ok=waited > HUNG_S,
    )
    seen: list[Sample] = timeline.between(reset_at, timeline.now)
    after = lowest_percent(seen, WINDOW_S)
    verdict.check(
        f"after the cold reset over LAN kipmi0 falls below {HEALED_PERCENT_MAX:g} %",
        percent(after),
        ok=after is not None and after < HEALED_PERCENT_MAX,
    )
    verdict.check_clients(timeline, reset_at)
    described = bench.bmc.get()
    guest = bench.guest
    verdict.check(
        "one cold reset, and the host never noticed",
        f"{described['cold_resets']} cold reset, {guest.boots} boot, {guest.resets} resets of it",
        ok=(described["cold_resets"], guest.boots, guest.resets) == (1, 1, 0),
    )
    lost = any(pat.completion_code == TIMER_NOT_SET for pat in timeline.pats())
    verdict.facts["kipmi0_percent_over_5_s"] = {
        "hung_max": hung,
        "maintenance_max": spin,
        "after_min": after,
        "before": kipmi_percent(bench.phase_samples("before")),
    }
    verdict.facts["timer_lost_with_the_reset"] = lost
    verdict.facts["completed_while_hung"] = completed_hung


SCENARIO = KernelScenario(
    "a wedged BMC on a host without us: kipmi0 and stuck clients, and the cure over LAN",
    machine,
    play,
)
