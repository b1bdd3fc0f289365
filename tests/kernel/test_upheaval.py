"""Driver and agent killed at random, upgraded and rolled back, under an armed watchdog."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from bmcmedic import __version__
from bmcmedic.lab.guest.guest import Guest, Job
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.sim_process import SimProcess, sim_bmc
from tests.support.pat_watch import PatWatch

DEADLINE_S = 120
PAT_PERIOD_S = 1.0
TIMEOUT_S = {"dev-ipmi": 90, "port-io": 40}
"""Not far above the least that the driver takes; the kernel may take nearly a minute to give up."""
THROTTLED_S_MAX = 60
"""How soon the agent has to see a hang; the timer runs on meanwhile."""
STOPPED_S_MAX = 3.0
"""Set Watchdog Timer stops the timer for the moment until it is started."""
SEED = 4711
AGENT_RESTARTS_S = 2
"""A little sooner than our unit does it."""
NEXT_VERSION = f"{__version__}+next"
KIPMID = "/sys/module/ipmi_si/parameters/kipmid_max_busy_us"

UNIT = rb"""#!/bin/sh
# As systemd keeps our units: Restart=always, RestartSec=, KillMode=process, ExecStopPost=, and a
# runtime directory that stays. The version is a folder, so that an upgrade is another folder.
name=$1 restart_s=$2
mkdir -p /run/bmcmedic /var/lib/bmcmedic
while true; do
    mv -f /run/lab/$name.log /run/lab/$name.log.former 2>/dev/null
    PYTHONPATH=$(cat /run/lab/version) bmcmedic $name >/run/lab/$name.log 2>&1 &
    echo $! >/run/lab/$name.pid
    wait $!
    status=$?
    undone=
    if [ $name = agent ]; then
        PYTHONPATH=$(cat /run/lab/version) bmcmedic agent --undo >>/run/lab/$name.log 2>&1
        undone=$?
        now=$(cat /sys/module/ipmi_si/parameters/kipmid_max_busy_us 2>/dev/null)
        undone="$undone ${now:-0}"
    fi
    echo "$status $undone" >>/run/lab/$name.ends
    test -e /run/lab/stop && exit 0
    sleep $restart_s
done
"""

KILLER = rb"""#!/usr/bin/python3
# Kills driver and agent at times that the seed decides: while they start, pat, look, or ask.
import os, random, signal, sys, time

dice = random.Random(int(sys.argv[1]))
victims = sys.argv[2:]
dice.shuffle(victims)
killed = set()

def living(name):
    while True:
        try:
            with open(f"/run/lab/{name}.pid") as file:
                pid = int(file.read())
            os.kill(pid, 0)
            if pid not in killed:
                return pid
        except (OSError, ValueError):
            pass
        time.sleep(0.02)

for name in victims:
    pid = living(name)
    time.sleep(dice.uniform(0.1, 4.0))
    os.kill(pid, signal.SIGKILL)
    killed.add(pid)
    print(name, flush=True)
"""

CLIENTS = b"""#!/usr/bin/python3
# Monitoring that asks through the driver, and counts the answers.
import os, threading, time
from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.errors import BmcmedicError

def ask(number):
    answers = 0
    while True:
        try:
            with DriverClient(timeout_s=20) as client:
                while True:
                    client.raw(0x04, 0x2D, bytes((number,)))
                    answers += 1
                    with open(f"/run/lab/answers.{number}.new", "w") as file:
                        file.write(f"{answers}\\n")
                    os.rename(f"/run/lab/answers.{number}.new", f"/run/lab/answers.{number}")
                    time.sleep(0.1)
        except BmcmedicError:
            time.sleep(0.1)

for number in range(3):
    threading.Thread(target=ask, args=(number,)).start()
"""

LOOK = rb"""#!/usr/bin/python3
# What is there of ours on this host, again and again: to start an interpreter each time is slow.
import glob, json, os, re, time
from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.errors import BmcmedicError

def driver():
    try:
        with DriverClient(timeout_s=5) as client:
            return client.status()
    except BmcmedicError:
        return None

def agent():
    started = re.search(r"bmcmedic (\d\S*): .*event=start", text("/run/lab/agent.log") or "")
    return started and started[1]

def processes():
    ours, holders = {}, []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                words = file.read().split("\0")
            with open(f"/proc/{pid}/stat") as file:
                state = file.read().rpartition(")")[2].split()[0]
            for link in glob.glob(f"/proc/{pid}/fd/*"):
                if os.readlink(link) in ("/dev/ipmi0", "/dev/port", "/dev/watchdog"):
                    holders.append(int(pid))
        except OSError:
            continue
        if "python" in words[0] and "bmcmedic" in " ".join(words):
            is_watcher = any(word.endswith("pretimeout_watcher.py") for word in words)
            kind = "watcher" if is_watcher else words[2]
            ours.setdefault(kind, []).append([int(pid), state])
    return ours, holders

def text(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None

number = 0
while True:
    number += 1
    ours, holders = processes()
    told = {
        "number": number, "driver": driver(), "agent": agent(), "ours": ours, "holders": holders,
        "runtime": sorted(os.listdir("/run/bmcmedic")),
        "answers": [int(text(path) or 0) for path in sorted(glob.glob("/run/lab/answers.?"))],
    }
    with open("/run/lab/look.new", "w") as file:
        json.dump(told, file)
    os.rename("/run/lab/look.new", "/run/lab/look")
    time.sleep(0.3)
"""

AGENT_TOML = b"""\
[triage]
period_s = 1
[relief]
mode = "act"
[metrics]
listen = "off"
[process]
starts_max = 100
"""
"""A crash loop would make it observe only; that is tested elsewhere, and so are the figures, which
are the slowest to load."""


def driver_toml(kind: str, shutdown: str) -> bytes:
    return f"""\
[interface]
kind = "{kind}"
[watchdog]
mode = "bmc"
timeout_s = {TIMEOUT_S[kind]}
pat_period_s = {PAT_PERIOD_S}
shutdown = "{shutdown}"
""".encode()


class Upheaval:
    """A host with driver, agent and load on it."""

    def __init__(self, guest: Guest, bmc: SimProcess, kind: str) -> None:
        self.guest = guest
        self.bmc = bmc
        self.kind = kind
        self.kipmid_before = self.kipmid()
        guest.run("mkdir -p /run/lab; : >/run/lab/version", check=True)
        self.configure("keep")
        self._units: dict[str, Job] = {}

    def configure(self, shutdown: str) -> None:
        self.guest.write_file("/etc/bmcmedic/driver.toml", driver_toml(self.kind, shutdown))

    def kipmid(self) -> str:
        """Where nobody has set it yet, the kernel tells nothing, and means 0."""
        return self.guest.run(f"cat {KIPMID} 2>/dev/null").output.strip() or "0"

    def look(self) -> dict[str, Any]:
        """What is there now: the look under way may have begun before."""
        first = self._last_look().get("number", 0)
        self.guest.wait_until(
            lambda: self._last_look().get("number", 0) >= first + 2, DEADLINE_S, "a look"
        )
        return self._last_look()

    def _last_look(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(
            self.guest.run("cat /run/lab/look 2>/dev/null || echo {}").output
        )
        return told

    def begin(self, watch: PatWatch) -> None:
        """Both services first, then what burdens the host."""
        self._units = {
            "driver": self.guest.begin("exec lab-unit driver 1"),
            "agent": self.guest.begin(f"exec lab-unit agent {AGENT_RESTARTS_S}"),
        }
        self.guest.begin("exec lab-look")
        self.wait_until_well(watch)
        self.load = self.guest.begin("while true; do :; done")
        self.guest.begin("exec lab-clients")

    def wait_until_well(self, watch: PatWatch, version: str = __version__) -> dict[str, Any]:
        """Both are there, the pats arrive, and one watcher watches."""
        last: dict[str, Any] = {}

        def is_well() -> bool:
            pats = watch.pats
            last.clear()
            last.update(self.look())
            driver, agent, ours = last["driver"], last["agent"], last["ours"]
            return (
                driver is not None
                and bool(driver["watchdog"]["settled"])
                and bool(driver["watchdog"]["pretimeout"]["watching"])
                and driver["watchdog"]["failure"] is None
                and agent == version
                and [len(ours.get(kind, ())) for kind in ("driver", "agent", "watcher")]
                == [1, 1, 1]
                and watch.pats > pats
            )

        try:
            self.guest.wait_until(is_well, DEADLINE_S, "driver and agent to be well")
        except BaseException as error:
            error.add_note(json.dumps(last) + self.logs())
            raise
        return last

    def signal(self, name: str, signal: str) -> None:
        self.guest.run(f"kill -{signal} $(cat /run/lab/{name}.pid)", check=True)

    def ends(self, name: str) -> list[list[str]]:
        """Of each end: the status, and for the agent the undo's status and kipmid's setting."""
        told = self.guest.run(f"cat /run/lab/{name}.ends 2>/dev/null").output
        return [line.split() for line in told.splitlines()]

    def switch_version(self, watch: PatWatch, folder: str, version: str) -> None:
        """As `systemctl restart` after an upgrade."""
        self.guest.run(f"echo {folder} >/run/lab/version", check=True)
        ended = {name: len(self.ends(name)) for name in self._units}
        for name in self._units:
            self.signal(name, "TERM")
        self.guest.wait_until(
            lambda: all(len(self.ends(name)) > count for name, count in ended.items()),
            DEADLINE_S,
            "the former version to end",
        )
        assert {name: self.ends(name)[-1][0] for name in self._units} == dict.fromkeys(
            self._units, "0"
        ), self.logs()
        self.wait_until_well(watch, version)
        assert f"bmcmedic {version} drives" in self.logs()

    def end(self) -> None:
        self.guest.run("touch /run/lab/stop", check=True)
        for name in self._units:
            self.signal(name, "TERM")
        for job in self._units.values():
            assert job.wait(DEADLINE_S).status == 0, self.logs()

    def logs(self) -> str:
        return self.guest.run("tail -n 40 /run/lab/*.log /run/lab/*.ends").output

    def assert_nothing_is_left(self) -> None:
        left = self.look()
        assert left["ours"] == {}
        assert left["holders"] == []
        assert self.kipmid() == self.kipmid_before
        acting = {"driver.sock", "metrics.sock", "undo.json", "agent.acted", "undo.json.new"}
        assert not acting & set(left["runtime"]), left["runtime"]

    def assert_host_untouched(self, watch: PatWatch) -> None:
        described = self.bmc.get()
        assert not watch.has_expired
        assert watch.gap_s_max() < TIMEOUT_S[self.kind]
        assert watch.stopped_s_max() < STOPPED_S_MAX
        assert (described["host_power_changes"], self.guest.boots, self.guest.resets) == (0, 1, 0)
        assert "has not patted its watchdog" not in self.guest.console


@contextlib.contextmanager
def upheaval(kernel: Kernel, kind: str) -> Iterator[Upheaval]:
    files = {
        "/usr/bin/lab-unit": UNIT,
        "/usr/bin/lab-killer": KILLER,
        "/usr/bin/lab-clients": CLIENTS,
        "/usr/bin/lab-look": LOOK,
        "/etc/bmcmedic/driver.toml": b"",
        "/etc/bmcmedic/agent.toml": AGENT_TOML,
    }
    more: dict[str, Any] = {} if kind == "dev-ipmi" else {"modules": ()}
    with (
        sim_bmc() as bmc,
        Guest(
            kernel,
            bmc=bmc.vm_socket,
            files=files,
            agent=True,
            cpus=2,
            memory_mib=768,
            **more,
        ) as guest,
    ):
        yield Upheaval(guest, bmc, kind)


def kill_at_random(host: Upheaval, watch: PatWatch, *victims: str) -> None:
    """At times that the seed decides; then both have to be back, and clients to be served."""
    ended = {name: len(host.ends(name)) for name in ("driver", "agent")}
    killer = host.guest.begin(f"lab-killer {SEED} {' '.join(victims)}")
    assert sorted(killer.wait(2 * DEADLINE_S).output.split()) == sorted(victims)
    answers = host.wait_until_well(watch)["answers"]
    for name, count in ended.items():
        ends = host.ends(name)[count:]
        undone = {"driver": [], "agent": ["0", host.kipmid_before]}[name]
        assert ends == [["137", *undone]] * victims.count(name), host.logs()
    host.guest.wait_until(
        lambda: all(
            now > before for now, before in zip(host.look()["answers"], answers, strict=True)
        ),
        DEADLINE_S,
        "each client to be answered again",
    )


@pytest.mark.long
def test_after_kills_all_is_patted_served_and_put_back(kernel: Kernel) -> None:
    with upheaval(kernel, "dev-ipmi") as host, PatWatch(host.bmc) as watch:
        host.begin(watch)
        kill_at_random(host, watch, *["driver", "agent"] * 2)
        host.load.kill()  # it would keep kipmi0, at nice 19, from being busy
        ends = len(host.ends("agent"))
        host.bmc.set_faults("kcs-stuck:ibf")
        host.guest.wait_until(
            lambda: host.kipmid() != host.kipmid_before, THROTTLED_S_MAX, "a throttle"
        )
        throttled = host.kipmid()
        host.signal("agent", "KILL")
        host.guest.wait_until(
            lambda: len(host.ends("agent")) > ends, DEADLINE_S, "the agent's changes to be undone"
        )
        host.bmc.set_faults()
        assert host.ends("agent")[-1] == ["137", "0", host.kipmid_before], throttled
        host.wait_until_well(watch)
        host.guest.wait_until(
            lambda: host.kipmid() == host.kipmid_before, DEADLINE_S, "kipmid's setting as before"
        )
        host.end()
        left = host.bmc.get()["watchdog"]
        assert left["running"], "keep: it runs on"
        host.assert_nothing_is_left()
        host.assert_host_untouched(watch)


@pytest.mark.long
def test_an_upgrade_and_a_roll_back_lose_no_pat(kernel: Kernel) -> None:
    with upheaval(kernel, "port-io") as host:
        guest = host.guest
        guest.run(
            "mkdir /opt; set -- /usr/lib/python3.*/bmcmedic; cp -r $1 /opt;"
            f" sed -i 's/{__version__}/{NEXT_VERSION}/' /opt/bmcmedic/__init__.py;"
            " rm /opt/bmcmedic/__pycache__/__init__.*",
            check=True,
        )
        with PatWatch(host.bmc) as watch:
            host.begin(watch)
            host.switch_version(watch, "/opt", NEXT_VERSION)
            host.switch_version(watch, "", __version__)
            guest.run("rm -r /opt", check=True)
            host.configure("disarm")
            kill_at_random(host, watch, *["driver"] * 3)
        host.assert_host_untouched(watch)
        host.end()
        assert not host.bmc.get()["watchdog"]["running"]
        host.assert_nothing_is_left()
