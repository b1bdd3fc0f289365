"""`unarmed`: driver and agent with their defaults change nothing on the host, even in a hang."""

from __future__ import annotations

import difflib
from typing import Any

from bmcmedic.lab.kernel.lab_host import LabHost, LabHostSpec
from bmcmedic.lab.kernel.scenario import KernelScenario, ScenarioVerdict
from bmcmedic.lab.kernel.scripts import DRIVER_WATCH_FILES, OLD_MONITORING_FILES

MONITORING_PERIOD_S = 3.0
TIME_LAPSE_PERIOD_S = 0.5
WELL_S = 6.0
STUCK_MIN = 10
CHANGING_REQUESTS = ("06/22", "06/24", "06/02", "06/03", "00/02")
"""Pats, watchdog settings, resets and chassis control, which only an armed bmcmedic sends."""

SNAPSHOT = r"""#!/bin/sh
# What a program could change on a host: files, modules and their parameters, services, sysctls.
find /etc /usr/bin /usr/lib/monitoring /bin /sbin -type f | sort | xargs sha256sum
grep -s . /sys/module/ipmi_*/parameters/* | grep -v hotmod
cut -d' ' -f1 /proc/modules | sort
grep -s . /proc/sys/kernel/panic* /proc/sys/kernel/sysrq /proc/sys/kernel/*watchdog* \
    /proc/sys/kernel/sched_rt_* /proc/sys/vm/overcommit_*
cut -d' ' -f1,2 /proc/mounts | sort
cat /proc/cmdline
ls /dev/watchdog* 2>/dev/null
true
"""


def host_spec() -> LabHostSpec:
    """Return a host with bmcmedic as installed, beside the host's own monitoring."""
    return LabHostSpec(
        modules=("ipmi_msghandler max_users=1000", "ipmi_devintf", "ipmi_si"),
        files={
            **OLD_MONITORING_FILES,
            **DRIVER_WATCH_FILES,
            "/usr/bin/lab-snapshot": SNAPSHOT.encode(),
        },
        bmcmedic=True,
        memory_mib=1024,
    )


def play(host: LabHost, verdict: ScenarioVerdict) -> None:
    """Watch a healthy host, then one whose BMC hangs, and check that nothing was changed."""
    guest, bmc = host.guest, host.bmc
    host.monitor_every(MONITORING_PERIOD_S)
    before = guest.run("lab-snapshot", check=True).output
    host.record_event("the host as it was before; its monitoring runs")
    driver = guest.begin("exec bmcmedic driver")
    guest.begin("exec lab-driver-watch")
    host.wait_until(lambda: bool(host.timeline.driver), "the driver to answer")
    agent = guest.begin("exec bmcmedic agent")
    guest.run("until test -e /run/bmcmedic/metrics.sock; do usleep 100000; done", check=True)
    host.record_event("driver and agent are installed, with their defaults")
    with host.phase("well"):
        host.pass_time(WELL_S)
    well = guest.run("lab-snapshot", check=True).output
    bmc.set_faults("kcs-stuck:ibf", "boot:2")
    host.record_event("the BMC hangs")
    host.monitor_every(TIME_LAPSE_PERIOD_S)
    with host.phase("hung"):
        host.wait_until(lambda: host.last.stuck >= STUCK_MIN, f"{STUCK_MIN} stuck clients")
        clients = host.last.clients
        host.pass_time(WELL_S)
    stuck = host.last.stuck
    hung = guest.run("lab-snapshot", check=True).output
    host.record_event(f"{stuck} clients are stuck, and bmcmedic leaves them alone")
    seen = guest.run("bmcmedic triage --json --stuck-after 5").output
    ends = []
    for job in (agent, driver):
        job.kill("TERM")
        ends.append(job.wait().status)
    host.poll()
    last = guest.run("lab-snapshot", check=True).output
    host.record_event("driver and agent have ended")
    changed = [
        line
        for later in (well, hung, last)
        for line in difflib.unified_diff(before.splitlines(), later.splitlines(), lineterm="", n=0)
        if line.startswith(("+", "-")) and not line.startswith(("+++", "---"))
    ]
    verdict.check(
        "no file, module, parameter, mount or sysctl has changed",
        f"{len(before.splitlines())} compared, {len(changed)} differ"
        + "".join(f"; {line}" for line in changed[:3]),
        ok=not changed,
    )
    verdict.check(
        "no client was ended",
        f"{clients} before, {host.last.clients} at the end",
        ok=host.last.clients >= clients,
    )
    verdict.check(
        "kipmid was not throttled",
        f"kipmid_max_busy_us: {host.last.throttle}",
        ok=all(not sample.throttle for sample in host.timeline.samples),
    )
    sent = bmc.requests(*CHANGING_REQUESTS)
    described = bmc.get()
    verdict.check(
        "the BMC was sent no request that changes anything",
        f"{sent} such requests; its timer: {_timer(described['watchdog'])}",
        ok=sent == 0 and _timer(described["watchdog"]) != "runs",
    )
    verdict.check("triage reports the hang", "bmc-not-answering", ok="bmc-not-answering" in seen)
    verdict.check(
        "both stop on SIGTERM, and the host was not affected",
        f"exit status {ends[0]} and {ends[1]}, {guest.boots} boot, {guest.resets} resets",
        ok=(ends, guest.boots, guest.resets) == ([0, 0], 1, 0),
    )
    verdict.facts["changed"] = changed
    verdict.facts["changing_requests"] = sent


def _timer(watchdog: dict[str, Any] | None) -> str:
    """Format the state of the timer; the simulator shows none before it was set."""
    if watchdog is None:
        return "never set"
    return "runs" if watchdog["running"] else "stopped"


SCENARIO = KernelScenario(
    "driver and agent as installed, with their defaults: nothing on the host changes",
    host_spec,
    play,
)
