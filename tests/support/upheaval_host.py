"""A host in the guest with driver, agent and load, and the pats that its BMC received."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bmcmedic import __version__
from bmcmedic.lab.guest.guest import Guest, Job
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.kernel.scripts import IPMI_DEVICE
from bmcmedic.lab.sim_process import SimProcess, sim_bmc
from tests.support import upheaval_keeper
from tests.support.pat_watch import PatWatch, Seen
from tests.support.upheaval_plan import SEED_VARIABLE, Strike

DEADLINE_S = 120
PAT_PERIOD_S = 1.0
TIMEOUT_S = 180
"""Time-out of the watchdog timer, in seconds.

With twenty other runnable processes in the guest, a driver needs 45 s to start.
"""
PRETIMEOUT_S = 90
SINCE_LAST_PAT_S_MAX = 10
"""Longest time between a driver's last pat and its end by a strike, in seconds."""
HEAL_S = 90
"""A hang ends when a running timer has this much time left, in seconds.

Driver and kernel can recover in that time.
"""
HUNG_S = 3 * PAT_PERIOD_S
UNITS = ("driver", "agent")
KEEPER = "/usr/lib/lab/upheaval_keeper.py"
KEEPER_LOG = "/run/lab/keeper.log"
STOCK = "/usr/lib/python3.*/bmcmedic"

STUCK_CLIENT = b"""\
# This is `ipmitool mc info`: the interpreter's second name is ipmitool, and this file's is mc.
# It asks when the BMC hangs, and waits for ever.
import os, sys, time
sys.path.insert(0, "/usr/lib/lab")
from ipmi_device import Ipmi
device = Ipmi()
open("/run/lab/client." + str(os.getpid()), "w").close()
while not os.path.exists("/run/lab/hangs"):
    time.sleep(0.2)
while True:
    device.ask(0x06, 0x01)
"""

AGENT_TOML = """\
[triage]
period_s = 1
[relief]
mode = "act"
stuck_after_s = 5
[metrics]
listen = {metrics}
[doors]
loopback = {loopback}
[process]
starts_max = 100
"""
"""The agent's settings; `starts_max` is high, as a crash loop would make it observe only."""


def agent_toml(*, all_endpoints: bool) -> bytes:
    metrics = '"unix:/run/bmcmedic/metrics.sock"' if all_endpoints else '"off"'
    return AGENT_TOML.format(metrics=metrics, loopback=str(all_endpoints).lower()).encode()


def driver_toml(kind: str, shutdown: str) -> bytes:
    return f"""\
[interface]
kind = "{kind}"
[watchdog]
mode = "bmc"
timeout_s = {TIMEOUT_S}
pat_period_s = {PAT_PERIOD_S}
shutdown = "{shutdown}"
[pretimeout]
limit_s = {PRETIMEOUT_S}
""".encode()


class Operator(PatWatch):
    """Watches the pats; if `heals` is set, it ends a hang before the timer runs out."""

    def __init__(self, bmc: SimProcess) -> None:
        super().__init__(bmc)
        self.heals = False
        self.has_healed = False

    def _see(self, seen: Seen) -> None:
        super()._see(seen)
        if self.heals and seen.left_s < HEAL_S and not self.has_healed:
            self.has_healed = True
            self._bmc.set_faults()


class Upheaval:
    """A host that runs driver, agent and load."""

    def __init__(self, guest: Guest, bmc: SimProcess, kind: str, seed: int) -> None:
        self.guest = guest
        self.bmc = bmc
        self.kind = kind
        self.seed = seed
        self.watch = Operator(bmc)
        self.events: list[dict[str, Any]] = []
        """All reports of the keeper except its scans."""
        self.last_scan: dict[str, Any] = {}
        self._taken = 0
        self._plans = 0
        self._load: Job | None = None
        self._client: Job | None = None
        self.kipmid_before = guest.run(
            f"cat {upheaval_keeper.KIPMID} 2>/dev/null || echo 0"
        ).output.strip()
        self.kipmid_before = self.kipmid_before or "0"

    # ---------------------------------------------------------------------- the keeper's reports

    def take(self) -> None:
        """Sort the keeper's reports since the last call."""
        reports = self.guest.reports
        while self._taken < len(reports):
            event = json.loads(reports[self._taken])
            self._taken += 1
            if "scan" in event:
                self.last_scan = event
            else:
                self.events.append(event)

    def wait_until(
        self, condition: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S
    ) -> None:
        """Wait until the keeper's reports make the condition true."""

        def has_come() -> bool:
            self.take()
            return condition()

        self.guest.wait_until(has_come, timeout_s, what)

    def events_of(self, kind: str, name: object = None) -> list[dict[str, Any]]:
        """Return the events of one kind, such as `ended`, of all processes or of a named one."""
        self.take()
        found = [event for event in self.events if kind in event]
        return found if name is None else [event for event in found if event[kind] == name]

    def scan(self) -> dict[str, Any]:
        """Return a scan that began after this call."""
        self.take()
        number = self.last_scan.get("scan", 0)
        # The scan under way may have begun before.
        self.wait_until(lambda: self.last_scan.get("scan", 0) >= number + 2, "a scan")
        return self.last_scan

    def figures(self) -> str:
        """Return a summary line for `pytest -rP`; a hang is a gap, but its timer may be frozen."""
        armed = self.watch.armed
        struck = [each["struck"] for each in self.events_of("struck") if each["pid"] is not None]
        return (
            f"seed {self.seed}, {self.kind}: {len(struck)} signals, {armed[-1].pats} pats, the"
            f" longest gap {self.watch.gap_s_max():.1f} s, never less than"
            f" {min(each.left_s for each in armed):.1f} of {TIMEOUT_S} s left\n"
        )

    def story(self) -> str:
        """Return a failure's report: how to repeat it, its events, and the logs."""
        with contextlib.suppress(Exception):
            self.take()
        lines = ["", f"repeat it with {SEED_VARIABLE}={self.seed}", f"last scan: {self.last_scan}"]
        lines += [json.dumps(event) for event in self.events]
        with contextlib.suppress(Exception):
            lines.append(self.guest.run(f"tail -n 60 /run/lab/*.log {KEEPER_LOG}").output)
        return "\n".join(lines)

    # --------------------------------------------------------------------------------- actions

    def order(self, **what: Any) -> None:  # noqa: ANN401 - what JSON can say
        """Send the keeper an order."""
        self.guest.run(
            f"echo {shlex.quote(json.dumps(what))} >{upheaval_keeper.ORDERS}", check=True
        )

    def configure(self, shutdown: str) -> None:
        """Configure what the driver does with the timer when it ends, from its next start on."""
        self.guest.write_file("/etc/bmcmedic/driver.toml", driver_toml(self.kind, shutdown))

    def begin(self, *, loaded: bool = True) -> None:
        """Start both services, then the load."""
        self.guest.run("mkdir -p /run/lab", check=True)
        self.guest.begin(f"exec python3 {KEEPER} >{KEEPER_LOG} 2>&1")
        self.wait_until_well(asks=False)
        self.order(do="ask")
        if loaded:
            self.begin_load()

    def begin_load(self) -> None:
        """Start a busy loop on one of the two processors."""
        self._load = self.guest.begin("while true; do :; done")

    def end_load(self) -> None:
        """End the load, which would take the CPU from kipmi0 (nice 19)."""
        if self._load is not None:
            self._load.kill()
            self._load = None

    def strike(self, plan: Sequence[Strike]) -> None:
        """Carry out a plan, wait for the struck processes to end, and check that no other ended."""
        self._plans += 1
        number = self._plans
        self.order(do="strike", plan=[each.order() for each in plan], number=number)
        self.wait_until(
            lambda: bool(self.events_of("plan_done", number)),
            f"the end of plan {number}",
            upheaval_keeper.MOMENT_S_MAX + DEADLINE_S * len(plan),
        )
        assert self.events_of("missed") == [] or self.watch.has_healed
        killed = {each["pid"] for each in self.events_of("struck") if each["signal"] == "KILL"}
        running = {each["pid"] for each in self.events_of("started")} & killed
        self.wait_until(
            lambda: running <= {each["pid"] for each in self.events_of("ended")},
            "all that was killed to have ended, and to be cleaned up after",
        )
        self.assert_ended_as_struck()

    def assert_ended_as_struck(self) -> None:
        """Check that only struck processes ended: by SIGKILL, or with status 0 after SIGTERM."""
        for end in self.events_of("ended"):
            allowed = {-9} if "KILL" in end["by"] else set()
            allowed |= {0} if "TERM" in end["by"] else set()
            assert end["code"] in allowed, end
            if end["ended"] == "agent":
                assert end["undone"] in ({0, -9} if end["undo_by"] else {0}), end
                if end["undone"] == 0:
                    assert end["kipmid"] == self.kipmid_before, end

    def wait_until_well(self, *, asks: bool = True) -> dict[str, Any]:
        """Wait until both services run, pats arrive, clients get answers, and a watcher watches."""
        before = self.scan()
        pats = self.watch.pats

        def is_well() -> bool:
            now = self.last_scan
            driver, running = now["driver"], now["processes"]
            answered = [a > b for a, b in zip(now["answers"], before["answers"], strict=True)]
            return (
                driver is not None
                and bool(driver["settled"])
                and bool(driver["pretimeout"]["watching"])
                and driver["failure"] is None
                and {name: running.get(name) for name in (*UNITS, "watcher", "undo")}
                == {
                    **{name: [now["ready"][name]] for name in UNITS},
                    "watcher": [driver["pretimeout"]["watcher_pid"]],
                    "undo": None,
                }
                and (all(answered) or not asks)
                and self.watch.pats > pats
            )

        self.wait_until(is_well, "driver and agent to be well")
        return self.last_scan

    def switch_version(self, folder: str, version: str) -> None:
        """Restart into another version, as `systemctl restart` after an upgrade."""
        self._restart(folder)
        self.wait_until_well()
        self._assert_that_runs(version)

    def switch_version_in_a_hang(self, folder: str, version: str) -> None:
        """Restart in a hang: the next version has to wait for the BMC, and its watcher to watch."""

        def hangs() -> bool:
            driver = self.last_scan["driver"]
            return driver is not None and (driver["last_pat_age_s"] or 0.0) > HUNG_S

        self.wait_until(lambda: hangs() or self.watch.has_healed, "no pat to get through")
        pats = self.bmc.requests("06/22")
        self._restart(folder)

        def waits() -> bool:
            now = self.last_scan
            driver, running = now["driver"], now["processes"]
            return (
                driver is not None
                and not driver["settled"]
                and bool(driver["pretimeout"]["watching"])
                and driver["pretimeout"]["fired"] == 0
                and [running.get(name) for name in UNITS]
                == [[now["ready"][name]] for name in UNITS]
                and running.get("watcher") == [driver["pretimeout"]["watcher_pid"]]
            )

        self.wait_until(lambda: waits() or self.watch.has_healed, "the next version to wait")
        patted = self.bmc.requests("06/22")
        assert patted == pats or self.watch.has_healed
        self._assert_that_runs(version)

    def _restart(self, folder: str) -> None:
        ended, started = len(self.events_of("ended")), len(self.events_of("started"))
        self.order(do="restart", folder=folder)
        self.wait_until(
            lambda: (
                len(self.events_of("ended")) >= ended + len(UNITS)
                and len(self.events_of("started")) >= started + len(UNITS)
            ),
            "the former version to end",
        )
        assert [end["code"] for end in self.events_of("ended")[ended:]] == [0] * len(UNITS)
        self.assert_ended_as_struck()

    def _assert_that_runs(self, version: str) -> None:
        for name in UNITS:
            log = self.guest.read_file(f"/run/lab/{name}.log").decode()
            assert f"bmcmedic {version}: " in log.rpartition("--- start ")[2], log

    def add_version(self, folder: str, version: str) -> None:
        """Install another version of bmcmedic, for `switch_version`."""
        self.guest.run(
            f"mkdir {folder}; set -- {STOCK}; cp -r $1 {folder};"
            f" sed -i 's/{__version__}/{version}/' {folder}/bmcmedic/__init__.py;"
            f" rm {folder}/bmcmedic/__pycache__/__init__.*",
            check=True,
        )

    def add_stuck_client(self) -> None:
        """Start a client that sends a request in the hang, and never gets an answer."""
        self.guest.run("ln -f /usr/bin/python3 /usr/bin/ipmitool", check=True)
        self._client = self.guest.begin("cd /usr/lib/lab; exec ipmitool mc info")
        self.guest.run("until ls /run/lab/client.* >/dev/null 2>&1; do usleep 100000; done")

    def hang(self, *, timer_runs: bool) -> None:
        """Let the BMC hang towards its host; its timer is frozen meanwhile, or runs on."""
        self.end_load()
        self.bmc.set_faults("kcs-stuck:ibf", *(() if timer_runs else ("hang",)))
        self.watch.heals = timer_runs
        self.guest.run(": >/run/lab/hangs", check=True)

    def recover(self, *, loaded: bool = True) -> None:
        """Let the BMC answer again; the agent then removes kipmid's throttle."""
        self.watch.heals = False
        if self._client is not None:
            self._client.kill()  # in a hang that was too short, it never got stuck
        self.bmc.set_faults()
        if loaded:
            self.begin_load()

    def end(self) -> None:
        """Stop both services."""
        ended = len(self.events_of("ended"))
        self.order(do="stop")
        self.wait_until(
            lambda: len(self.events_of("ended")) >= ended + len(UNITS), "driver and agent to end"
        )
        assert [end["code"] for end in self.events_of("ended")[ended:]] == [0] * len(UNITS)
        self.assert_ended_as_struck()

    # ---------------------------------------------------------------------------------- checks

    def assert_nothing_is_left(self) -> None:
        left = self.scan()
        assert left["processes"] == {}
        assert left["holders"] == []
        assert left["kipmid"] == self.kipmid_before
        acting = {"driver.sock", "metrics.sock", "agent.acted", "agent.starts", "door/door"}
        files = set(left["runtime"])
        assert not acting & files, files
        assert not [name for name in files if name.startswith("undo.json") or ".new" in name], files

    def driverless_s_max(self) -> float:
        """Return the longest time without a driver that was ready, in seconds."""
        longest, since = 0.0, None
        for event in self.events:
            if event.get("ended") == "driver" and since is None:
                since = event["at"]
            elif event.get("ready") == "driver" and since is not None:
                longest, since = max(longest, event["at"] - since), None
        return longest

    def assert_host_untouched(self) -> None:
        described = self.bmc.get()
        assert not any(each.has_expired for each in self.watch.seen)
        assert all(each.running for each in self.watch.armed), "the timer was not running"
        assert (described["host_power_changes"], self.guest.boots, self.guest.resets) == (0, 1, 0)
        if "has not patted its watchdog" in self.guest.console:
            # The pretimeout has to fire on a host without a driver, and on no other.
            assert self.driverless_s_max() > PRETIMEOUT_S - SINCE_LAST_PAT_S_MAX


@contextlib.contextmanager
def upheaval(
    kernel: Kernel, kind: str, seed: int, *, all_endpoints: bool = False
) -> Iterator[Upheaval]:
    """Run a host with that kind of interface; a failure shows all that was done to it."""
    files = {
        KEEPER: Path(upheaval_keeper.__file__).read_bytes(),
        "/usr/lib/lab/ipmi_device.py": IPMI_DEVICE.encode(),
        "/usr/lib/lab/mc": STUCK_CLIENT,
        "/etc/bmcmedic/driver.toml": driver_toml(kind, "keep"),
        "/etc/bmcmedic/agent.toml": agent_toml(all_endpoints=all_endpoints),
    }
    more: dict[str, Any] = {} if kind == "dev-ipmi" else {"modules": ()}
    with (
        sim_bmc() as bmc,
        Guest(
            kernel, bmc=bmc.vm_socket, files=files, agent=True, cpus=2, memory_mib=768, **more
        ) as guest,
    ):
        host = Upheaval(guest, bmc, kind, seed)
        with host.watch:
            try:
                yield host
                sys.stdout.write(host.figures())
            except BaseException as error:
                error.add_note(host.story())
                raise
