"""`guarded`: the same hang on a host with driver, agent and shim; nothing piles up or fires."""

from __future__ import annotations

from functools import partial
from typing import Any

from bmcmedic.lab.guest.guest import Job
from bmcmedic.lab.kernel.lab_host import LabHost, LabHostSpec
from bmcmedic.lab.kernel.scenario import KernelScenario, ScenarioVerdict
from bmcmedic.lab.kernel.scripts import DRIVER_WATCH_FILES, REAL_MONITORING_FILES
from bmcmedic.lab.kernel.timeline import median_percent, pat_facts, percent, seconds

PAT_PERIOD_S = 2.0
PRETIMEOUT_LIMIT_S = 10.0
MONITORING_PERIOD_S = 6.0
TIME_LAPSE_PERIOD_S = 4.0
"""Period of the monitoring during the hang, in seconds.

An emulated processor takes half a second to start a real client.
"""

WELL_S = 8.0
HUNG_S = 3 * PRETIMEOUT_LIMIT_S
"""How long the BMC takes no pat, in seconds: the pretimeout would fire three times."""
WINDOW_S = 5.0
CLIENT_S_MAX = 60.0
"""The shim ends a client that still waits after this time, in seconds."""
CLIENTS_MAX = int(1.25 * 2 * CLIENT_S_MAX / TIME_LAPSE_PERIOD_S) + 8
"""Most clients at once: those started in `CLIENT_S_MAX`, and some that end late."""
CLIENTS_OPEN_MAX = 8
"""Most clients at once while the breaker is open: each is answered at once, and some just start."""
BREAKER_S_MAX = 240.0

THROTTLED_PERCENT_MAX = 5.0
HEALED_PERCENT_MAX = 3.0
"""Highest median of kipmi0's share after the reset; monitoring, driver and agent use the BMC."""
PAT_S_MAX = 2.0

FIRED = "/run/lab/fired"
DRIVER_TOML = f"""\
[interface]
kind = "dev-ipmi"
[watchdog]
mode = "bmc"
timeout_s = 300
pat_period_s = {PAT_PERIOD_S}
[pretimeout]
limit_s = {PRETIMEOUT_LIMIT_S}
action = "command"
command = ["/bin/touch", "{FIRED}"]
"""
AGENT_TOML = """\
[triage]
period_s = 1
[relief]
mode = "act"
stuck_after_s = 10
[doors]
loopback = true
"""

DPKG_FILES = {
    "/var/lib/dpkg/status": b"",
    "/var/lib/dpkg/info/format": b"1\n",
}
"""The files of Debian that `bmcmedic shim install` needs."""


def host_spec() -> LabHostSpec:
    """Return a host with the real ipmitool, and with bmcmedic installed."""
    return LabHostSpec(
        modules=("ipmi_msghandler max_users=1000", "ipmi_devintf", "ipmi_si"),
        files={
            **REAL_MONITORING_FILES,
            **DRIVER_WATCH_FILES,
            **DPKG_FILES,
            "/etc/bmcmedic/driver.toml": DRIVER_TOML.encode(),
            "/etc/bmcmedic/agent.toml": AGENT_TOML.encode(),
        },
        programs=("ipmitool", "dpkg-divert"),
        bmcmedic=True,
        memory_mib=1024,
    )


def play(host: LabHost, verdict: ScenarioVerdict) -> None:
    """Arm the watchdog, let the BMC hang, and wait for the recovery after a cold reset."""
    guest = host.guest
    driver = guest.begin("exec bmcmedic driver")
    guest.begin("exec lab-driver-watch")
    host.wait_until(lambda: _pats(host) > 0, "the driver's first pat")
    agent = guest.begin("exec bmcmedic agent")
    guest.run("until ls /run/bmcmedic/door/* >/dev/null 2>&1; do usleep 100000; done", check=True)
    guest.run("bmcmedic shim install", check=True)
    host.monitor_every(MONITORING_PERIOD_S)
    host.record_event("all is well: the driver pats, monitoring calls the shim")
    with host.phase("before"):
        host.pass_time(WELL_S)
    host.bmc.set_faults("kcs-stuck:ibf", "boot:2")
    wedged_at = host.record_event(
        "the BMC hangs: its KCS registers are stuck, its LAN side answers"
    )
    host.monitor_every(TIME_LAPSE_PERIOD_S)
    with host.phase("hung"):
        opened_at = throttled_at = None
        while opened_at is None or throttled_at is None:
            has_news = partial(_has_news, host, opened_at is None, throttled_at is None)
            host.wait_until(has_news, "the driver's breaker and the agent", BREAKER_S_MAX)
            if opened_at is None and _is_open(host):
                opened_at = host.record_event(
                    "the driver's breaker opens: from now on every client is answered at once"
                )
            if throttled_at is None and host.last.throttle:
                throttled_at = host.record_event(
                    f"the agent throttles kipmid, to {host.last.throttle} us"
                )
        with host.phase("throttled"):
            host.wait_until(
                lambda: host.last.clients <= CLIENTS_OPEN_MAX and host.last.stuck == 0,
                "the clients that still waited to end",
            )
            host.pass_time(2 * WINDOW_S)
            host.wait_until(
                lambda: _silent_s(_driver(host)) >= HUNG_S, f"{HUNG_S:g} s without a pat"
            )
    hung_status = _driver(host)
    host.monitor_every(MONITORING_PERIOD_S)
    clients_hung = host.last.clients
    printed = host.ipmitool("mc", "reset", "cold")
    reset_at = host.record_event(f"out of band, ipmitool mc reset cold: {printed}")
    with host.phase("recovery"):
        host.wait_until(
            lambda: not _is_open(host) and _has_patted_since(host, reset_at),
            "the driver to pat again",
        )
        host.record_event("the driver has set the watchdog again, and pats")
        host.wait_until(lambda: not host.last.throttle, "the agent to restore kipmid's setting")
        host.record_event("the agent has restored kipmid's setting")
        host.wait_until(
            lambda: not host.timeline.has_older_client(reset_at), "the last client to end"
        )
    with host.phase("after"):
        host.pass_time(2 * WINDOW_S)
    verdict.facts["breaker_open_after_s"] = round(opened_at - wedged_at, 1)
    _judge(host, verdict, reset_at, clients_hung, hung_status)
    _end(host, verdict, driver, agent)


def _driver(host: LabHost) -> dict[str, Any]:
    return host.timeline.driver[-1] if host.timeline.driver else {}


def _pats(host: LabHost) -> int:
    watchdog = _driver(host).get("watchdog") or {"counts": {}}
    return int(watchdog["counts"].get("pats", 0))


def _silent_s(status: dict[str, Any]) -> float:
    """Return how long the BMC has taken no pat, in seconds."""
    return float(status["watchdog"]["last_pat_age_s"])


def _is_open(host: LabHost) -> bool:
    return bool(_driver(host)["driver"]["breaker"]["open"])


def _has_news(host: LabHost, waits_for_breaker: bool, waits_for_agent: bool) -> bool:
    is_throttled = bool(host.last.throttle)
    return (waits_for_breaker and _is_open(host)) or (waits_for_agent and is_throttled)


def _has_patted_since(host: LabHost, at: float) -> bool:
    return any(pat.due_at > at for pat in host.timeline.pats())


def _judge(
    host: LabHost,
    verdict: ScenarioVerdict,
    reset_at: float,
    clients_hung: int,
    hung_status: dict[str, Any],
) -> None:
    timeline, guest, described = host.timeline, host.guest, host.bmc.get()
    most = max(sample.clients for sample in timeline.samples)
    verdict.check(
        "nothing piles up",
        f"of {host.last.started} clients at most {most} were there at once, "
        f"and {clients_hung} while the breaker was open",
        ok=most <= CLIENTS_MAX
        and clients_hung <= CLIENTS_OPEN_MAX
        and not timeline.has_older_client(reset_at),
    )
    throttled = median_percent(host.phase_samples("throttled"))
    verdict.check(
        f"kipmi0 is throttled below {THROTTLED_PERCENT_MAX:g} %",
        f"{percent(throttled)} in the median, once the agent had seen the hang",
        ok=throttled is not None and throttled < THROTTLED_PERCENT_MAX,
    )
    watchdog = _driver(host)["watchdog"]
    pretimeout = watchdog["pretimeout"]
    silent_s = _silent_s(hung_status)
    has_fired = guest.run(f"test -e {FIRED}").status == 0
    verdict.check(
        "no false pretimeout, though the BMC was silent for longer than its limit",
        f"{pretimeout['fired']} fired; the BMC took no pat for {seconds(silent_s)}, "
        f"the limit is {PRETIMEOUT_LIMIT_S:g} s",
        ok=pretimeout["fired"] == 0 and not has_fired and silent_s > PRETIMEOUT_LIMIT_S,
    )
    left_s = [
        each["watchdog"]["pretimeout"]["due_in_s"]
        for each in timeline.driver
        if each["watchdog"] and each["watchdog"]["pretimeout"]["due_in_s"] is not None
    ]
    verdict.check(
        "each pat is queued on time, also while the BMC hangs",
        f"the pretimeout was never nearer than {seconds(min(left_s))}",
        ok=min(left_s) > 0,
    )
    well = [pat for sample in host.phase_samples("before") for pat in sample.pats]
    well += [pat for sample in host.phase_samples("after") for pat in sample.pats]
    facts = pat_facts(well)
    verdict.check(
        f"while the BMC answers, a pat takes less than {PAT_S_MAX:g} s",
        f"{facts['answered']} seen, {seconds(facts['latency_max_s'])} at the longest",
        ok=facts["latency_max_s"] is not None and facts["latency_max_s"] < PAT_S_MAX,
    )
    verdict.check(
        "the watchdog runs again, without any action on the host",
        f"running: {described['watchdog']['running']}, "
        f"{watchdog['counts'].get('sets', 0)} times set",
        ok=described["watchdog"]["running"] and watchdog["counts"].get("sets", 0) >= 2,
    )
    after = median_percent(host.phase_samples("after"))
    verdict.check(
        f"after the cold reset kipmi0 is below {HEALED_PERCENT_MAX:g} %",
        f"{percent(after)} in the median",
        ok=after is not None and after < HEALED_PERCENT_MAX,
    )
    verdict.check(
        "one cold reset, and the host was not affected",
        f"{described['cold_resets']} cold reset, {guest.boots} boot, {guest.resets} resets of it",
        ok=(described["cold_resets"], guest.boots, guest.resets) == (1, 1, 0),
    )
    verdict.facts["driver"] = {
        "pats": _pats(host),
        "failures": watchdog["counts"].get("failures", 0),
        "sets": watchdog["counts"].get("sets", 0),
        "pretimeouts_fired": pretimeout["fired"],
        "silent_s": silent_s,
    }
    verdict.facts["pats_while_well"] = facts
    verdict.facts["kipmi0_percent_median"] = {"throttled": throttled, "after": after}


def _end(host: LabHost, verdict: ScenarioVerdict, driver: Job, agent: Job) -> None:
    """Stop driver and agent, remove the shim, and check that this works."""
    guest = host.guest
    guest.run("bmcmedic shim remove", check=True)
    statuses = []
    for job in (agent, driver):
        job.kill("TERM")
        statuses.append(job.wait().status)
    verdict.check(
        "agent and driver stop on SIGTERM, and the shim can be removed",
        f"exit status {statuses[0]} and {statuses[1]}",
        ok=statuses == [0, 0] and not host.bmc.get()["watchdog"]["running"],
    )


SCENARIO = KernelScenario(
    "the same hang with driver, agent and shim: nothing piles up and nothing fires", host_spec, play
)
