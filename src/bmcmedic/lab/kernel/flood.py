"""`flood`: the host writes to port 0x80 endlessly, until the BMC's own watchdog reboots it."""

from __future__ import annotations

from bmcmedic.lab.kernel.lab_host import LabHost, LabHostSpec
from bmcmedic.lab.kernel.scenario import KernelScenario, ScenarioVerdict
from bmcmedic.lab.kernel.scripts import FLOOD_FILES, OLD_MONITORING_FILES, PATTER_FILES
from bmcmedic.lab.kernel.timeline import TIMER_NOT_SET, highest_percent, pat_facts, seconds

BMC_MEMORY_MIB = 256
BMC_BOOT_S = 5.0
MONITORING_PERIOD_S = 3.0
WELL_S = 6.0
WINDOW_S = 3.0
SLOW_S = 0.3
"""When the BMC takes this long to answer, in seconds, the torrent of writes becomes a trickle."""
TRICKLE_WRITES_PER_S = 4000
SLOW_PAT_S = 1.0
PATS_AFTER = 2


def host_spec() -> LabHostSpec:
    """Return a host whose BMC has little memory and gets its writes to port 0x80."""
    return LabHostSpec(
        modules=("ipmi_msghandler max_users=1000", "ipmi_devintf", "ipmi_si"),
        files={**OLD_MONITORING_FILES, **PATTER_FILES, **FLOOD_FILES},
        bmc_options=("--memory", str(BMC_MEMORY_MIB)),
        bmc_boot_s=BMC_BOOT_S,
        port80=True,
        memory_mib=768,
    )


def play(host: LabHost, verdict: ScenarioVerdict) -> None:
    """Flood a healthy BMC until it reboots, and wait for its return."""
    guest, bmc = host.guest, host.bmc
    guest.begin("exec lab-patter")
    host.wait_until(lambda: bool(host.timeline.pats()), "the first pat")
    host.monitor_every(MONITORING_PERIOD_S)
    host.record_event("all is well: monitoring asks every 3 s, a watchdog daemon pats")
    with host.phase("before"):
        host.pass_time(WELL_S)
    flood = guest.begin("exec lab-flood")
    host.record_event("a program on the host begins to write to port 0x80 endlessly")
    with host.phase("flood"):
        host.wait_until(
            lambda: bmc.get()["answer_latency_s"] >= SLOW_S or _reboots(host) > 0,
            "the BMC to get slow",
        )
        flood.kill()
        flood = guest.begin(f"exec lab-flood {TRICKLE_WRITES_PER_S}")
        host.record_event(
            f"the BMC has {100 * bmc.get()['memory_free_fraction']:.0f} % of its memory left; "
            f"from now on {TRICKLE_WRITES_PER_S} writes a second"
        )
        host.wait_until(lambda: _reboots(host) > 0, "the BMC's own watchdog to reboot it")
    flood.kill()
    writes = bmc.get()["port80"]["writes"]
    rebooted_at = host.record_event(f"after {writes:,} writes the BMC's own watchdog reboots it")
    with host.phase("reboot"):
        host.wait_until(lambda: bmc.get()["state"] == "up", "the BMC to come back")
        host.wait_until(
            lambda: len(host.timeline.pats(rebooted_at)) >= PATS_AFTER, "pats after that"
        )
    back_at = host.record_event(
        "the BMC is back without its watchdog setting; the daemon sets it again"
    )
    with host.phase("after"):
        host.wait_until(
            lambda: not host.timeline.has_older_client(back_at), "the last client to end"
        )
        host.pass_time(WINDOW_S)
    _judge(host, verdict, writes, back_at)


def _reboots(host: LabHost) -> int:
    reboots: int = host.bmc.get()["own_watchdog_reboots"]
    return reboots


def _judge(host: LabHost, verdict: ScenarioVerdict, writes: int, back_at: float) -> None:
    timeline, guest, described = host.timeline, host.guest, host.bmc.get()
    reboots = described["own_watchdog_reboots"]
    verdict.check(
        "the flood takes the BMC down, by its own watchdog",
        f"{writes:,} writes, {reboots} reboot of the BMC",
        ok=reboots >= 1,
    )
    before, flooded = (
        pat_facts([pat for sample in host.phase_samples(name) for pat in sample.pats])
        for name in ("before", "flood")
    )
    longest = max((pat.latency_s for pat in timeline.pats()), default=0.0)
    verdict.check(
        "the BMC answers slower and slower, then not at all",
        f"a pat took {seconds(before['latency_max_s'])} before, {seconds(longest)} at the longest",
        ok=longest >= SLOW_PAT_S,
    )
    codes = [pat.completion_code for pat in timeline.pats()]
    verdict.check(
        "its watchdog setting is lost (0x80), and set again",
        f"{codes.count(TIMER_NOT_SET)} times 0x80, and the last pat 0x{codes[-1]:02x}",
        ok=TIMER_NOT_SET in codes and codes[-1] == 0,
    )
    verdict.check(
        "the host is not affected",
        f"{guest.boots} boot, {guest.resets} resets, {described['cold_resets']} cold resets, "
        f"{described['host_power_changes']} changes of power",
        ok=(
            guest.boots,
            guest.resets,
            described["cold_resets"],
            described["host_power_changes"],
        )
        == (1, 0, 0, 0),
    )
    verdict.check_clients(timeline, back_at)
    verdict.facts["pats_before"] = before
    verdict.facts["pats_in_flood"] = flooded
    sick = [*host.phase_samples("flood"), *host.phase_samples("reboot")]
    verdict.facts["kipmi0_percent_sick_max"] = highest_percent(sick, WINDOW_S)


SCENARIO = KernelScenario(
    "writes to port 0x80 from the host, to the BMC's own reboot", host_spec, play
)
