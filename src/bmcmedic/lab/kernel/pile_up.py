"""`pile-up`: the first incident on a host without bmcmedic, and its cure over LAN."""

from __future__ import annotations

from bmcmedic.lab.kernel.lab_host import LabHost, LabHostSpec
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
"""Period of the monitoring during the hang, in seconds: it starts weeks of clients in seconds."""

WELL_S = 8.0
HUNG_S = 15.0
MAINTENANCE_S = 8.0
WINDOW_S = 5.0
"""Shortest window over which kipmi0's share is judged, in seconds."""

STUCK_MIN = 50
HUNG_PERCENT_MIN = 5.0
SPIN_PERCENT_MIN = 80.0
"""Least share of a core in maintenance mode; a shared, emulated core cannot give all of it."""
HEALED_PERCENT_MAX = 1.0


def host_spec() -> LabHostSpec:
    """Return a host that allows many users of /dev/ipmi0, without bmcmedic."""
    return LabHostSpec(
        modules=("ipmi_msghandler max_users=1000", "ipmi_devintf", "ipmi_si"),
        files={**OLD_MONITORING_FILES, **PATTER_FILES, **MAINTENANCE_FILES},
        memory_mib=1024,
    )


def play(host: LabHost, verdict: ScenarioVerdict) -> None:
    """Let the BMC of a healthy host hang, then cure it over LAN."""
    guest = host.guest
    guest.begin("exec lab-patter")
    host.wait_until(lambda: bool(host.timeline.pats()), "the first pat")
    host.monitor_every(MONITORING_PERIOD_S)
    host.record_event("all is well: monitoring asks now and then, a watchdog daemon pats")
    with host.phase("before"):
        host.pass_time(WELL_S)
    host.bmc.set_faults("kcs-stuck:ibf", "boot:2")
    host.record_event("the BMC hangs: its KCS registers are stuck, its LAN side answers")
    host.monitor_every(TIME_LAPSE_PERIOD_S)
    host.record_event("time lapse: monitoring now starts in seconds as many clients as in weeks")
    with host.phase("hung"):
        since = host.pass_time(HUNG_S)
        host.wait_until(lambda: host.last.stuck >= STUCK_MIN, f"{STUCK_MIN} stuck clients")
        host.wait_for_share(since, WINDOW_S, HUNG_PERCENT_MIN)
    host.monitor_every(MONITORING_PERIOD_S)
    host.record_event(
        "maintenance mode: the kernel polls without a pause, as every kernel before 5.4"
    )
    guest.run("lab-maintenance 2", check=True)
    with host.phase("maintenance"):
        since = host.pass_time(MAINTENANCE_S)
        host.wait_for_share(since, WINDOW_S, SPIN_PERCENT_MIN)
    guest.run("lab-maintenance 0", check=True)
    stuck_before = host.last.stuck
    in_band = host.last.completed
    power = host.ipmitool("chassis", "power", "status")
    host.record_event(f"out of band, ipmitool chassis power status: {power}")
    printed = host.ipmitool("mc", "reset", "cold")
    reset_at = host.record_event(f"out of band, ipmitool mc reset cold: {printed}")
    with host.phase("recovery"):
        host.wait_until(
            lambda: (
                not host.timeline.has_older_client(reset_at)
                and bool(_answered_since(host, reset_at))
            ),
            "the clients to end and a pat to be answered",
        )
        host.wait_until(lambda: _is_calm(host, reset_at), "kipmi0 to fall below 1 %")
    host.record_event("the BMC is back: the clients have ended, kipmi0 is idle")
    with host.phase("after"):
        host.pass_time(WINDOW_S)
    _judge(host, verdict, reset_at, stuck_before, in_band)


def _answered_since(host: LabHost, at: float) -> list[KernelPat]:
    return [
        pat
        for sample in host.timeline.samples
        if sample.at > at
        for pat in sample.pats
        if pat.due_at + pat.latency_s > at
    ]


def _is_calm(host: LabHost, since: float) -> bool:
    now = host.timeline.now
    seen = host.timeline.between(max(since, now - 2 * WINDOW_S), now)
    lowest = lowest_percent(seen, WINDOW_S)
    return lowest is not None and lowest < HEALED_PERCENT_MAX


def _judge(
    host: LabHost,
    verdict: ScenarioVerdict,
    reset_at: float,
    stuck_before: int,
    completed_hung: int | None,
) -> None:
    timeline = host.timeline
    hung = highest_percent(host.phase_samples("hung"), WINDOW_S)
    verdict.check(
        f"hung, kipmi0 rises above {HUNG_PERCENT_MIN:g} %",
        percent(hung),
        ok=hung is not None and hung > HUNG_PERCENT_MIN,
    )
    spin = highest_percent(host.phase_samples("maintenance"), WINDOW_S)
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
    described = host.bmc.get()
    guest = host.guest
    verdict.check(
        "one cold reset, and the host was not affected",
        f"{described['cold_resets']} cold reset, {guest.boots} boot, {guest.resets} resets of it",
        ok=(described["cold_resets"], guest.boots, guest.resets) == (1, 1, 0),
    )
    lost = any(pat.completion_code == TIMER_NOT_SET for pat in timeline.pats())
    verdict.facts["kipmi0_percent_over_5_s"] = {
        "hung_max": hung,
        "maintenance_max": spin,
        "after_min": after,
        "before": kipmi_percent(host.phase_samples("before")),
    }
    verdict.facts["timer_lost_with_the_reset"] = lost
    verdict.facts["completed_while_hung"] = completed_hung


SCENARIO = KernelScenario(
    "a hung BMC on a host without bmcmedic: kipmi0, stuck clients, and the cure over LAN",
    host_spec,
    play,
)
