"""From a host's symptoms to the verdict, as an operator works: triage over ssh, heal, relieve.

The host is a real kernel, its BMC is simulated. bmcmedic is not installed on the host.
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
"""Monitoring clients: `mc info` waits for its answer; `chassis status` lost it and never ends."""

START = """\
ln -f /usr/bin/python3 /usr/bin/ipmitool && cd /usr/lib/monitoring
for i in $(seq {patient}); do setsid ipmitool mc info </dev/null >/dev/null 2>&1 & done
for i in $(seq {forever}); do setsid ipmitool chassis status </dev/null >/dev/null 2>&1 & done
"""


@dataclass(frozen=True)
class OperatorShell:
    """The operator's shell, with `ssh`, `bmcmedic` and the one-file program."""

    guest: Guest
    bmc: SimProcess
    folder: Path

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run an operator's command; assert no traceback and no password in its output."""
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
        """The triage command as heal runs it: without a shell, except for the one in it."""
        return f"sh -c {shlex.quote(self.triage_command)}"

    def triage(self) -> tuple[int, dict[str, Any]]:
        done = self.shell(self.triage_command)
        report: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, report

    def triage_and_heal(self, *options: str) -> tuple[int, dict[str, Any], str]:
        """Run `triage --json | heal TARGET --symptoms -`; return status, JSON and progress."""
        heal = f"bmcmedic heal {self.bmc.target} --symptoms - --yes --json {TIMES}"
        done = self.shell(f"{self.triage_command} | {heal} {shlex.join(options)}")
        assert done.stdout, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, report, done.stderr

    def relieve(self) -> subprocess.CompletedProcess[str]:
        options = f"--yes --json --stuck-after {RELIEF_AFTER_S}"
        return self.shell(f"ssh node7 python3 - relieve {options} <triage.pyz")

    def ask(self, forever: int = 0) -> None:
        """Start clients of the host's monitoring."""
        self.guest.run(START.format(patient=PATIENT, forever=forever), check=True)

    def fall_ill(self, forever: int = 0) -> None:
        """Let the BMC hang towards its host, and wait until the monitoring is stuck."""
        self.bmc.set_faults("kcs-stuck:ibf", "boot:2")
        self.ask(forever)

        def is_seen() -> bool:
            report = self.triage()[1]
            return bool(
                report["stuck_count"] == PATIENT + forever
                and "bmc-not-answering" in report["symptoms"]
            )

        eventually(is_seen, self.triage, timeout_s=SEEN_S_MAX)

    def wait_until_well(self) -> None:
        eventually(lambda: self.triage()[0] == 0, self.triage, timeout_s=SEEN_S_MAX)

    def host_ran_on(self) -> bool:
        boot_id = self.guest.run("cat /proc/sys/kernel/random/boot_id").output.strip()
        return (self.guest.resets, self.guest.boot_ids) == (0, [boot_id])


@pytest.fixture(scope="module")
def operator(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorShell]:
    """Yield the shell for all tests of this module; each leaves host and BMC healthy."""
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
            yield OperatorShell(guest, bmc, tmp_path)


def step(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in report["steps"] if each["name"] == name)


def test_triage_by_ssh_heal_and_relieve(operator: OperatorShell) -> None:
    """Heal without the host's report afterwards, and with it: `healed-lan-only` and `healed`."""
    resets = operator.bmc.get()["cold_resets"]
    status, report, _ = operator.triage_and_heal()
    assert (status, report["verdict"], report["resets_sent"]) == (0, "healthy", 0), report
    assert step(report, "identity")["outcome"] == "proven", report

    operator.fall_ill()
    status, report, progress = operator.triage_and_heal()
    assert (status, report["verdict"]) == (0, "healed-lan-only"), progress
    assert step(report, "identity")["outcome"] == "proven", report
    assert step(report, "diagnose")["outcome"] == "in-band-hung", report
    assert (report["resets_sent"], operator.bmc.get()["cold_resets"]) == (1, resets + 1)
    assert operator.host_ran_on()
    operator.wait_until_well()

    operator.fall_ill(forever=FOREVER)
    status, report, progress = operator.triage_and_heal("--triage-command", operator.triage_again)
    assert (status, report["verdict"]) == (0, "healed"), progress
    assert report["host_untouched"] is True
    assert (report["power_before"], report["power_after"]) == ("on", "on")
    assert (report["resets_sent"], operator.bmc.get()["cold_resets"]) == (1, resets + 2)
    assert operator.host_ran_on()
    assert any("left over" in line for line in report["evidence"]), report

    status, seen = operator.triage()
    assert (status, seen["symptoms"], seen["stuck_count"]) == (1, ["stuck-clients"], FOREVER), seen
    done = operator.relieve()
    assert (done.returncode, json.loads(done.stdout)["outcomes"]) == (0, {"ended": FOREVER})
    assert operator.triage()[0] == 0


def test_a_host_that_is_relieved_first_is_healed_by_the_operators_word(
    operator: OperatorShell,
) -> None:
    """After relief no client may use the BMC; the option says what the operator saw before."""
    resets = operator.bmc.get()["cold_resets"]
    operator.fall_ill()
    eventually(
        lambda: all(each["idle_s"] > WATCHED_S_MIN + 1 for each in operator.triage()[1]["stuck"]),
        lambda: operator.triage()[1]["stuck"],
        timeout_s=SEEN_S_MAX,
    )
    done = operator.relieve()
    report = json.loads(done.stdout)
    assert (done.returncode, report["outcomes"]) == (0, {"ended": PATIENT}), report
    assert report["kipmid_max_busy_us"]["action"] == "set", report

    status, report, progress = operator.triage_and_heal(
        "--in-band-hung", "--triage-command", operator.triage_again
    )
    assert (status, report["verdict"], report["host_untouched"]) == (0, "healed", True), progress
    assert (report["resets_sent"], operator.bmc.get()["cold_resets"]) == (1, resets + 1)
    assert operator.host_ran_on()

    operator.ask()
    eventually(
        lambda: json.loads(operator.relieve().stdout)["kipmid_max_busy_us"]["action"] == "put back",
        lambda: json.loads(operator.relieve().stdout)["kipmid_max_busy_us"],
        timeout_s=SEEN_S_MAX,
    )
    assert operator.triage()[0] == 0
