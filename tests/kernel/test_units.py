"""The units as they ship, under a real systemd on a real kernel."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.agent import units
from bmcmedic.lab.guest.guest import IPMI_MODULES, Guest
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.sim_process import sim_bmc
from tests.support.agent_controller import Authority
from tests.support.pat_watch import PatWatch
from tests.support.systemd_host import DEADLINE_S, LAB_FILES, STRANGER_ADDRESS, UNITS, SystemdHost

TIMEOUT_S = 90
WATCHDOG_S = 10
"""WatchdogSec= in place of the units' 30 and 60 s, to keep the test short."""
RETRY_S_MIN = 10.0
SCHED_RR = 2
DRIVER_TOML = f"""\
[watchdog]
mode = "bmc"
timeout_s = {TIMEOUT_S}
pat_period_s = 1
shutdown = "keep"
"""
AGENT_TOML = """\
[triage]
period_s = 1
[relief]
mode = "act"
stuck_after_s = 5
[doors]
loopback = true
[process]
starts_max = 100
"""
KERNEL_PATH_TOML = """\
[watchdog]
mode = "kernel"
timeout_s = 120
pat_period_s = 1
[check]
command = ["/usr/bin/host-is-well"]
period_s = 1
deadline_s = 5
[pretimeout]
action = "panic"
limit_s = 15
"""
CHECK = b"#!/bin/sh\ntest -e /run/lab/hang && exec sleep 1000\nexit 0\n"
DENIED = {
    "EROFS": {"write /usr", "write /etc", "change a control group"},
    "ENOENT": {"read /tmp of others"},
    "EAFNOSUPPORT": {"AF_NETLINK", "AF_PACKET"},
    "EPERM": {
        "a user namespace", "load a module", "set the clock", "set the host's name", "reboot",
        "set-user-id bit",
    },
}  # fmt: skip
"""What neither unit may do, and the error of each."""
DENIED_SOMEHOW = {"read /root"}
OF_DRIVER_ONLY = {
    "write /dev/kmsg", "open /dev/ipmi0", "open /dev/port", "real-time priority", "lock memory",
    "writable code",
}  # fmt: skip
OF_AGENT_ONLY = {"write /var/lib/bmcmedic", "send to others"}
"""What only the agent may do; a driver that starts first has no /var/lib/bmcmedic at all."""
CAPABILITIES = {"bmcmedic-driver": "18a4021", "bmcmedic-agent": "80025"}


@contextlib.contextmanager
def systemd_host(kernel: Kernel, **options: Any) -> Iterator[SystemdHost]:  # noqa: ANN401 - Guest's
    """Run a host with both units installed as docs/reference/agent.md says, and not started."""
    with (
        sim_bmc("--lan", "127.0.0.1:0") as bmc,
        Guest(
            kernel,
            bmc=bmc.vm_socket,
            files=LAB_FILES,
            programs=("ipmitool",),
            agent=True,
            systemd=True,
            cpus=2,
            memory_mib=1024,
            **options,
        ) as guest,
    ):
        machine = SystemdHost(guest, bmc)
        machine.run(
            "mkdir /run/lab; cd; echo secret >secret; echo secret >/tmp/secret;"
            f" ip address add {STRANGER_ADDRESS}/32 dev lo"
        )
        guest.begin("exec lab-other")
        machine.run("bmcmedic agent --install-units /etc/systemd/system")
        machine.systemctl("enable", *UNITS)
        yield machine


WOULD_BREAK = {
    "bmcmedic-driver": {
        "PrivateDevices=yes": {"open /dev/ipmi0", "open /dev/port", "write /dev/kmsg"},
        "DevicePolicy=closed": {"open /dev/ipmi0", "open /dev/port", "write /dev/kmsg"},
        "ProtectKernelTunables=yes": {"write sysrq-trigger", "write kipmid"},
        "ProcSubset=pid": {"write sysrq-trigger", "read /proc/stat"},
        "ProtectKernelLogs=yes": {"write /dev/kmsg"},
        "RestrictRealtime=yes": {"real-time priority"},
        "MemoryDenyWriteExecute=yes": {"writable code"},
        "ProtectProc=invisible": set(),
    },
    "bmcmedic-agent": {
        "ProtectKernelTunables=yes": {"write sysrq-trigger", "write kipmid"},
        "ProcSubset=pid": {"write sysrq-trigger", "read /proc/stat"},
        "PrivateUsers=yes": {"others' processes"},
        "PrivateNetwork=yes": {"send to others"},
        "IPAddressDeny=any": {"send to others", "send to localhost"},
        "ProtectProc=invisible": set(),
    },
}
"""Settings that the units say they leave out, and what each would take away."""


@pytest.fixture(scope="module")
def host(kernel: Kernel) -> Iterator[SystemdHost]:
    """Yield the host for tests that restore its state."""
    with systemd_host(kernel) as machine:
        yield machine


@pytest.fixture
def clean(host: SystemdHost) -> Iterator[SystemdHost]:
    """Yield the host with both units stopped; stop them and remove drop-ins after the test."""
    yield host
    for unit in UNITS:
        host.drop_in(unit, "")
    host.systemctl("stop", *UNITS)
    host.systemctl("reset-failed")


@pytest.fixture
def started(clean: SystemdHost) -> Iterator[SystemdHost]:
    """Yield the host with both units running, and an armed watchdog that they pat."""
    clean.configure(DRIVER_TOML, AGENT_TOML)
    clean.systemctl("start", *UNITS)
    with PatWatch(clean.bmc) as watch:
        yield clean
    assert not watch.has_expired
    assert watch.gap_s_max() < TIMEOUT_S
    assert (clean.guest.boots, clean.guest.resets) == (1, 0)
    assert clean.bmc.get()["host_power_changes"] == 0
    assert "has not patted its watchdog" not in clean.guest.console


def test_both_come_up_and_may_do_what_they_need_and_nothing_else(clean: SystemdHost) -> None:
    host = clean
    host.configure(DRIVER_TOML, AGENT_TOML)
    for unit in UNITS:
        host.drop_in(unit, f"[Service]\nExecStartPre=/usr/bin/lab-probe {unit}\n")
    host.systemctl("start", *UNITS)
    says = {
        "bmcmedic-driver": ("driving /dev/ipmi0", "30s"),
        "bmcmedic-agent": ("relief acts; no controller", "1min"),
    }
    for unit in UNITS:
        wanted = {"Type": "notify", "ActiveState": "active", "NRestarts": "0"}
        wanted["StatusText"], wanted["WatchdogUSec"] = says[unit]
        assert host.show(unit, *wanted) == wanted
        status = host.process_status(unit)
        assert status["CapBnd"] == status["CapEff"] == CAPABILITIES[unit].rjust(16, "0")
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")

        tried = json.loads(host.run(f"cat /run/bmcmedic/probe.{unit}"))
        others = OF_AGENT_ONLY if unit == "bmcmedic-driver" else OF_DRIVER_ONLY
        denied = {what for group in DENIED.values() for what in group} | others | DENIED_SOMEHOW
        assert {what for what, error in tried.items() if error is not None} == denied
        for error, group in DENIED.items():
            assert {tried[what] for what in group} == {error}, tried

    driver, agent = (host.threads(unit) for unit in UNITS)
    assert sorted(driver) == [(10, SCHED_RR)] * 3 + [(11, SCHED_RR), (12, SCHED_RR)]
    assert set(agent) == {(0, 0)}
    assert int(host.process_status("bmcmedic-driver")["VmLck"].split()[0]) > 0
    adjusted = [host.run(f"cat /proc/{host.main_pid(unit)}/oom_score_adj") for unit in UNITS]
    assert adjusted == ["-900\n", "-500\n"]


@pytest.mark.long
@pytest.mark.parametrize("unit", UNITS)
def test_what_is_not_set_would_take_away_what_the_unit_says(clean: SystemdHost, unit: str) -> None:
    host = clean

    def denied(switch: str) -> set[str]:
        folder = "/etc/systemd/system"
        host.run(f"cp {folder}/{unit}.service {folder}/lab-probe.service")
        host.drop_in(
            "lab-probe",
            "[Service]\nType=oneshot\nRestart=no\nExecStopPost=\nExecStart=\n"
            f"ExecStart=/usr/bin/lab-probe only\n{switch}\n",
        )
        host.systemctl("start", "lab-probe")
        errors = json.loads(host.run("cat /run/bmcmedic/probe.only; rm /run/bmcmedic/probe.only"))
        return {what for what, error in errors.items() if error is not None}

    before = denied("")
    for switch, taken in WOULD_BREAK[unit].items():
        assert denied(switch) - before == taken, switch


def test_sockets_and_files_are_open_to_the_right_users(clean: SystemdHost) -> None:
    host = clean
    group = 'group = "monitor"\n'
    host.configure(f"{DRIVER_TOML}[socket]\n{group}", f"{AGENT_TOML}[metrics]\n{group}")
    host.systemctl("start", *UNITS)
    proxy = (
        "-I lanplus -H 127.0.0.1 -p 6230 -C 17 -U bmcmedic -f /run/bmcmedic/door/password mc info"
    )
    direct = host.run(f"ipmitool {proxy}")
    assert "Firmware Revision         : 3.23" in direct
    assert host.run("bmcmedic ipmitool mc info") == direct
    runs = host.run("ls /run/bmcmedic/shim")
    assert re.search(r"^[0-9a-f]+\.ok$", runs, re.MULTILINE), "it used the proxy"

    in_group = json.loads(host.run("lab-ask 2000"))
    refused = 0xD4
    assert in_group == {"read": 0, "change": refused, "metrics": True, "secret": "PermissionError"}
    stranger = json.loads(host.run("lab-ask 1000"))
    assert set(stranger) == set(in_group)
    assert not {0, True} & set(stranger.values())
    assert host.bmc.get()["cold_resets"] == 0
    listed = host.run("stat -c '%n %a %U:%G' /run/bmcmedic /run/bmcmedic/* /var/lib/bmcmedic")
    modes = dict(line.split(" ", 1) for line in listed.splitlines())
    assert modes.pop("/run/bmcmedic") == "755 root:root"
    for name in ("driver", "metrics"):
        assert modes.pop(f"/run/bmcmedic/{name}.sock") == "660 root:monitor"
    assert modes["/var/lib/bmcmedic"] == modes["/run/bmcmedic/door"] == "700 root:root"
    assert set(modes.values()) == {"700 root:root", "600 root:root"}


@pytest.mark.long
def test_the_agent_relieves_the_host_and_what_killed_it_changes_nothing(
    started: SystemdHost,
) -> None:
    host = started
    before = host.kipmid()
    host.bmc.set_faults("kcs-stuck:ibf")
    host.start_stuck_clients(3)
    stuck = "pidof ipmitool"
    assert len(host.run(stuck).split()) == 3
    host.guest.wait_until(lambda: host.kipmid() != before, DEADLINE_S, "a throttle")
    host.guest.wait_until(lambda: host.guest.run(stuck).status != 0, DEADLINE_S, "their end")
    relieved = host.journal("bmcmedic-agent", "--grep event=relief")
    assert relieved, host.log()
    assert {entry["SYSLOG_IDENTIFIER"] for entry in relieved} == {"bmcmedic-agent"}

    host.configure(DRIVER_TOML, "nonsense = 1\n")
    pid = host.main_pid("bmcmedic-agent")
    host.run(f"kill -KILL {pid}")
    host.guest.wait_until(lambda: host.kipmid() == before, DEADLINE_S, "the undo after a kill")
    host.bmc.set_faults()
    host.configure(DRIVER_TOML, AGENT_TOML)
    host.wait_until_active("bmcmedic-agent", other_than=pid)
    host.guest.wait_until(
        lambda: host.driver_status()["watchdog"]["failure"] is None, DEADLINE_S, "pats again"
    )
    host.systemctl("stop", *UNITS)
    assert host.kipmid() == before


def test_reload_and_restart_lose_no_pat_and_stop_leaves_what_it_should(
    started: SystemdHost,
) -> None:
    host = started
    pids = {unit: host.main_pid(unit) for unit in UNITS}
    host.configure(
        DRIVER_TOML + '[process]\nlog_level = "debug"\n', AGENT_TOML.replace("act", "observe")
    )
    host.systemctl("reload", *UNITS)
    assert {unit: host.main_pid(unit) for unit in UNITS} == pids
    assert host.has_logged("bmcmedic-driver", "the configuration was read again: process.log_level")
    assert host.has_logged("bmcmedic-agent", "the configuration was read again: relief.mode")

    for unit in UNITS:
        host.systemctl("restart", unit)
        assert host.main_pid(unit) != pids[unit]
        assert host.show(unit, "NRestarts") == {"NRestarts": "0"}
    patted = host.bmc.requests("06/22")
    host.guest.wait_until(lambda: host.bmc.requests("06/22") > patted, DEADLINE_S, "a pat")

    before = host.kipmid()
    host.systemctl("stop", *UNITS)
    assert host.bmc.get()["watchdog"]["running"], "keep: it runs on"
    host.configure(DRIVER_TOML.replace("keep", "disarm"), AGENT_TOML)
    host.systemctl("start", "bmcmedic-driver")
    assert host.bmc.get()["watchdog"]["running"]
    host.systemctl("stop", "bmcmedic-driver")
    assert not host.bmc.get()["watchdog"]["running"]

    assert {unit: host.show(unit, "Result", "ActiveState") for unit in UNITS} == {
        unit: {"Result": "success", "ActiveState": "inactive"} for unit in UNITS
    }
    host.guest.wait_until(
        lambda: host.processes() == [], DEADLINE_S, "the last process of bmcmedic to end"
    )
    left = set(host.run("ls /run/bmcmedic").split())
    assert not left & {"driver.sock", "metrics.sock", "undo.json", "agent.acted"}
    assert host.kipmid() == before


@pytest.mark.long
def test_a_stuck_service_is_killed_logs_its_stack_and_comes_back(started: SystemdHost) -> None:
    host = started
    for unit in UNITS:
        host.drop_in(unit, f"[Service]\nWatchdogSec={WATCHDOG_S}\n")
        host.systemctl("restart", unit)
    pids = {unit: host.main_pid(unit) for unit in UNITS}
    host.run("kill -STOP " + " ".join(map(str, pids.values())))
    for unit, pid in pids.items():
        host.wait_until_active(unit, other_than=pid)
        assert host.has_logged(unit, f"Watchdog timeout (limit {WATCHDOG_S}s)!")
        assert host.has_logged(unit, "Fatal Python error: Aborted")
        assert host.has_logged(unit, "/bmcmedic/driver/process/supervisor.py")
    patted = host.bmc.requests("06/22")
    host.guest.wait_until(lambda: host.bmc.requests("06/22") > patted, DEADLINE_S, "a pat")


@pytest.mark.long
def test_a_crash_loop_fails_open_and_what_no_restart_mends_is_tried_now_and_then(
    started: SystemdHost,
) -> None:
    host = started
    host.configure(DRIVER_TOML, AGENT_TOML.replace("starts_max = 100", "starts_max = 2"))
    host.systemctl("restart", "bmcmedic-agent")
    pid = host.main_pid("bmcmedic-agent")
    host.run(f"kill -KILL {pid}")
    host.wait_until_active("bmcmedic-agent", other_than=pid)
    (loud,) = host.journal("bmcmedic-agent", "--grep event=observe-only")
    assert "was started 2 times" in loud["MESSAGE"]
    assert loud["PRIORITY"] == "3"

    host.configure("nonsense = 1\n", AGENT_TOML)
    assert host.try_systemctl("restart", "bmcmedic-driver").status != 0
    said = "there is no section [nonsense]"
    host.guest.wait_until(
        lambda: len([1 for each in host.journal("bmcmedic-driver") if said in each["MESSAGE"]]) > 1,
        DEADLINE_S,
        "a second attempt",
    )
    attempts = [
        int(each["__MONOTONIC_TIMESTAMP"]) / 1e6
        for each in host.journal("bmcmedic-driver")
        if said in each["MESSAGE"]
    ]
    assert attempts[1] - attempts[0] > RETRY_S_MIN
    assert host.state("bmcmedic-agent") == "active"
    host.configure(DRIVER_TOML, AGENT_TOML)
    host.wait_until_active("bmcmedic-driver")


@pytest.mark.long
def test_a_bmc_that_hangs_holds_up_neither_start_nor_stop(clean: SystemdHost) -> None:
    host = clean
    host.configure(DRIVER_TOML.replace("keep", "disarm"), AGENT_TOML)
    host.bmc.set_faults("kcs-stuck:ibf")
    host.systemctl("start", *UNITS)
    assert [host.state(unit) for unit in UNITS] == ["active", "active"]
    assert host.driver_status()["watchdog"]["settled"] is False
    host.systemctl("stop", *UNITS)
    for unit in UNITS:
        ended = host.show(unit, "ActiveState", "Result", "ExecMainCode", "ExecMainStatus")
        assert ended == {
            "ActiveState": "inactive",
            "Result": "success",
            "ExecMainCode": "1",  # it has already ended
            "ExecMainStatus": "0",
        }
    host.bmc.set_faults()


@pytest.mark.long
def test_a_credential_of_systemd_opens_the_way_to_the_controller(
    clean: SystemdHost, tmp_path: Path
) -> None:
    host = clean
    authority = Authority(tmp_path)
    certificate, key = authority.issue("controller")
    for path, content in (
        ("/etc/bmcmedic/ca.pem", authority.file.read_bytes()),
        ("/run/lab/controller.pem", certificate.read_bytes()),
        ("/run/lab/controller.key", key.read_bytes()),
        ("/etc/bmcmedic/controller-token", b"from-systemd\n"),
    ):
        host.guest.write_file(path, content)
    server = host.guest.begin("exec lab-controller")
    host.configure(
        DRIVER_TOML,
        AGENT_TOML
        + '[controller]\nurl = "https://127.0.0.1:8443/"\nca_file = "/etc/bmcmedic/ca.pem"\n',
    )
    shipped = units.text("bmcmedic-agent.service")
    (line,) = re.findall(r"^#(LoadCredential=controller-token:.*)$", shipped, re.MULTILINE)
    host.drop_in("bmcmedic-agent", f"[Service]\n{line}\n")
    host.systemctl("start", "bmcmedic-agent")
    report = "cat /run/lab/report"
    host.guest.wait_until(lambda: host.guest.run(report).status == 0, DEADLINE_S, "a report")
    received = json.loads(host.run(report))
    assert received["authorization"] == "Bearer from-systemd"
    assert received["report"]["driver"] is not None, "the agent wants the driver started, too"
    server.kill()


@pytest.mark.long
def test_the_registers_too_can_be_driven(clean: SystemdHost) -> None:
    host = clean
    host.configure(f'[interface]\nkind = "port-io"\n{DRIVER_TOML}', AGENT_TOML)
    host.run("rmmod ipmi_si ipmi_devintf")
    host.systemctl("start", "bmcmedic-driver")
    assert host.show("bmcmedic-driver", "StatusText")["StatusText"] == "driving port-io 0xca2"
    patted = host.bmc.requests("06/22")
    host.guest.wait_until(lambda: host.bmc.requests("06/22") > patted, DEADLINE_S, "a pat")
    host.systemctl("stop", "bmcmedic-driver")
    assert host.bmc.get()["watchdog"]["running"]


@pytest.mark.long
def test_the_kernels_watchdog_is_patted_and_a_host_that_hangs_ends_in_a_panic(
    kernel: Kernel,
) -> None:
    watchdog = "ipmi_watchdog action=reset timeout=120 nowayout=0"
    with systemd_host(kernel, modules=(*IPMI_MODULES, watchdog)) as host:
        host.guest.write_file("/usr/bin/host-is-well", CHECK)
        host.run("chmod 755 /usr/bin/host-is-well")
        host.configure(KERNEL_PATH_TOML, AGENT_TOML)
        host.systemctl("start", *UNITS)
        patted = host.bmc.requests("06/22")
        host.guest.wait_until(
            lambda: host.bmc.requests("06/22") > patted + 2, DEADLINE_S, "pats through the kernel"
        )
        watchdog = host.driver_status()["watchdog"]
        assert "/dev/watchdog" in watchdog["path"]
        assert (watchdog["check_failure"], watchdog["pretimeout"]["fired"]) == (None, 0)
        host.run("touch /run/lab/hang")
        host.guest.wait_for_console("Kernel panic - not syncing: sysrq triggered crash", DEADLINE_S)
        assert "has not patted its watchdog" in host.guest.console
