"""From a host's symptoms to the verdict, as an operator does it: triage by ssh, heal, relieve.

A real kernel is the host, the simulator is its BMC. Nothing of ours is installed on the host.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.host.client.stuck import WATCHED_S_MIN
from bmcmedic.lab.guest.guest import Guest, GuestOptions
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.kernel.scripts import LAB_FILES
from bmcmedic.lab.sim_process import SimProcess, sim_bmc
from tests.support.guest_ssh import ssh_to
from tests.support.polling import eventually
from tests.support.programs import PASSWORD
from tools import build_pyz

PYZ = "/opt/bmcmedic-triage.pyz"
STUCK_AFTER_S = 3
RELIEF_AFTER_S = 5
PATIENT, FOREVER = 2, 1
SEEN_S_MAX = 150
SHELL_S_MAX = 200
TIMES = "--quiet-time 3 --return-time 60 --steady-time 2"

ASK = "import sys; sys.path.insert(0, '/usr/lib/lab'); from ipmi_device import Ipmi; "
CLIENTS = {
    "/usr/lib/monitoring/mc": ASK + "Ipmi().ask(6, 1)",
    "/usr/lib/monitoring/chassis": ASK
    + "import select; device = Ipmi(); select.select([device.fd], [], [])",
}
"""`mc info` waits for its answer, however long; that of `chassis status` was lost, so it stays."""

START = """\
ln -f /usr/bin/python3 /usr/bin/ipmitool && cd /usr/lib/monitoring
for i in $(seq {patient}); do setsid ipmitool mc info </dev/null >/dev/null 2>&1 & done
for i in $(seq {forever}); do setsid ipmitool chassis status </dev/null >/dev/null 2>&1 & done
"""


@dataclass(frozen=True)
class Desk:
    """Where the operator sits: a shell with `ssh`, `bmcmedic` and the one file."""

    guest: Guest
    bmc: SimProcess
    folder: Path

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run what an operator types; never with a traceback, never with the password shown."""
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "BMCMEDIC_USER": "admin",
                "BMCMEDIC_PASSWORD": PASSWORD,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SHELL_S_MAX,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        return done

    @property
    def triage_command(self) -> str:
        options = f"--json --interval 1 --stuck-after {STUCK_AFTER_S}"
        return f"ssh node7 python3 - triage {options} <triage.pyz"

    @property
    def triage_again(self) -> str:
        """As heal runs it: without a shell, but for the one that it names."""
        return f"sh -c {shlex.quote(self.triage_command)}"

    def triage(self) -> tuple[int, dict[str, Any]]:
        done = self.shell(self.triage_command)
        told: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, told

    def triage_and_heal(self, *options: str) -> tuple[int, dict[str, Any], str]:
        """`triage --json | heal TARGET --symptoms -`."""
        heal = f"bmcmedic heal {self.bmc.target} --symptoms - --yes --json {TIMES}"
        done = self.shell(f"{self.triage_command} | {heal} {shlex.join(options)}")
        assert done.stdout, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, told, done.stderr

    def relieve(self) -> subprocess.CompletedProcess[str]:
        options = f"--yes --json --stuck-after {RELIEF_AFTER_S}"
        return self.shell(f"ssh node7 python3 - relieve {options} <triage.pyz")

    def ask(self, forever: int = 0) -> None:
        """The host's monitoring asks its BMC."""
        self.guest.run(START.format(patient=PATIENT, forever=forever), check=True)

    def fall_ill(self, forever: int = 0) -> None:
        """The BMC hangs towards its host, whose monitoring gets stuck."""
        self.bmc.set_faults("kcs-stuck:ibf", "boot:2")
        self.ask(forever)

        def is_seen() -> bool:
            told = self.triage()[1]
            return bool(
                told["stuck_count"] == PATIENT + forever and "bmc-not-answering" in told["symptoms"]
            )

        eventually(is_seen, self.triage, timeout_s=SEEN_S_MAX)

    def wait_until_well(self) -> None:
        eventually(lambda: self.triage()[0] == 0, self.triage, timeout_s=SEEN_S_MAX)

    def host_ran_on(self) -> bool:
        boot_id = self.guest.run("cat /proc/sys/kernel/random/boot_id").output.strip()
        return (self.guest.resets, self.guest.boot_ids) == (0, [boot_id])


@pytest.fixture(scope="module")
def desk(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """For all tests here; each leaves host and BMC well."""
    tmp_path = tmp_path_factory.mktemp("desk")
    script = build_pyz.script().encode()
    (tmp_path / "triage.pyz").write_bytes(script)
    own = tmp_path / "bmcmedic"
    own.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m bmcmedic "$@"\n')
    own.chmod(0o755)
    with sim_bmc("--lan", "127.0.0.1:0") as bmc:
        options = GuestOptions(
            bmc=bmc.vm_socket,
            uuid=bmc.host_uuid,
            bmcmedic=False,
            files={
                PYZ: script,
                **LAB_FILES,
                **{path: text.encode() for path, text in CLIENTS.items()},
            },
        )
        with Guest(kernel, options) as guest, ssh_to(guest, tmp_path, {script: PYZ}):
            yield Desk(guest, bmc, tmp_path)


def step(told: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in told["steps"] if each["name"] == name)


def test_triage_by_ssh_heal_and_relieve(desk: Desk) -> None:
    """With what the host says afterwards, and without: `healed` and `healed-lan-only`."""
    resets = desk.bmc.get()["cold_resets"]
    status, told, _ = desk.triage_and_heal()
    assert (status, told["verdict"], told["resets_sent"]) == (0, "healthy", 0), told
    assert step(told, "identity")["outcome"] == "proven", told

    desk.fall_ill()
    status, told, progress = desk.triage_and_heal()
    assert (status, told["verdict"]) == (0, "healed-lan-only"), progress
    assert step(told, "identity")["outcome"] == "proven", told
    assert step(told, "diagnose")["outcome"] == "in-band-hung", told
    assert (told["resets_sent"], desk.bmc.get()["cold_resets"]) == (1, resets + 1)
    assert desk.host_ran_on()
    desk.wait_until_well()

    desk.fall_ill(forever=FOREVER)
    status, told, progress = desk.triage_and_heal("--triage-command", desk.triage_again)
    assert (status, told["verdict"]) == (0, "healed"), progress
    assert told["host_untouched"] is True
    assert (told["power_before"], told["power_after"]) == ("on", "on")
    assert (told["resets_sent"], desk.bmc.get()["cold_resets"]) == (1, resets + 2)
    assert desk.host_ran_on()
    assert any("left over" in line for line in told["evidence"]), told

    status, seen = desk.triage()
    assert (status, seen["symptoms"], seen["stuck_count"]) == (1, ["stuck-clients"], FOREVER), seen
    done = desk.relieve()
    assert (done.returncode, json.loads(done.stdout)["outcomes"]) == (0, {"ended": FOREVER})
    assert desk.triage()[0] == 0


def test_a_host_that_is_relieved_first_is_healed_by_the_operators_word(desk: Desk) -> None:
    """After relief nobody may be asking the BMC: the word stands for what was seen before."""
    resets = desk.bmc.get()["cold_resets"]
    desk.fall_ill()
    eventually(
        lambda: all(each["idle_s"] > WATCHED_S_MIN + 1 for each in desk.triage()[1]["stuck"]),
        lambda: desk.triage()[1]["stuck"],
        timeout_s=SEEN_S_MAX,
    )
    done = desk.relieve()
    told = json.loads(done.stdout)
    assert (done.returncode, told["outcomes"]) == (0, {"ended": PATIENT}), told
    assert told["kipmid_max_busy_us"]["action"] == "set", told

    status, told, progress = desk.triage_and_heal(
        "--in-band-hung", "--triage-command", desk.triage_again
    )
    assert (status, told["verdict"], told["host_untouched"]) == (0, "healed", True), progress
    assert (told["resets_sent"], desk.bmc.get()["cold_resets"]) == (1, resets + 1)
    assert desk.host_ran_on()

    desk.ask()
    eventually(
        lambda: json.loads(desk.relieve().stdout)["kipmid_max_busy_us"]["action"] == "put back",
        lambda: json.loads(desk.relieve().stdout)["kipmid_max_busy_us"],
        timeout_s=SEEN_S_MAX,
    )
    assert desk.triage()[0] == 0
