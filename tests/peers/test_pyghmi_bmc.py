"""The program against pyghmi's `Bmc`, which has no GUID, self-test or watchdog.

It restarts only if the test makes it restart.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.foreign import serving
from tests.support.ports import unused_port
from tests.support.programs import run

TIMES = ("--quiet-time", "2", "--return-time", "60", "--steady-time", "1")
IN_VAIN = ("--return-time", "15")
"""Timeout for a BMC that does not restart; one that does returns with a new interpreter."""
GUID = "c0ffee00-1234-4bcd-8def-0123456789ab"
COLD_RESET = "06/02"
READS = {"06/01", "06/04", "06/08", "06/25", "06/37", "06/38", "00/01"}

_PROGRAM = Path(__file__).parent.parent / "support" / "pyghmi_bmc.py"
_TRIAGE = """
import json, pathlib, time
log = pathlib.Path({log!r})
is_hung = not log.exists() or "06/02" not in log.read_text().split()
print(json.dumps({{
    "host_id": {{"hostname": "node7", "product_uuid": {uuid!r}, "bmc_guid": None,
                "boot_id": {boot_id!r}}},
    "captured_at": time.time(),
    "kipmi": [{{"name": "kipmi0", "pid": 300, "cpu_percent": 99.0 if is_hung else 0.0}}],
    "stuck": [],
    "direct_openers": [],
    "guests": None,
    "symptoms": ["bmc-not-answering"] if is_hung else [],
    "hung_since": None,
}}))
raise SystemExit(1 if is_hung else 0)
"""


@dataclass(frozen=True)
class PyghmiBmc:
    """A running `Bmc` that records the requests it gets."""

    target: str
    directory: Path

    @property
    def log(self) -> Path:
        return self.directory / "log.txt"

    def requests(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def triage_command(self, uuid: str | None = None) -> str:
        """A host that stays up, and whose `kipmi0` is busy until the BMC gets a restart command."""
        program = self.directory / "triage.py"
        boot_id = "5a0b1c2d-0000-4000-8000-000000000001"
        program.write_text(_TRIAGE.format(log=str(self.log), uuid=uuid, boot_id=boot_id))
        return shlex.join([sys.executable, str(program)])


@contextlib.contextmanager
def pyghmi_bmc(directory: Path, mode: str, *options: str) -> Iterator[PyghmiBmc]:
    port = unused_port()
    bmc = PyghmiBmc(f"127.0.0.1:{port}", directory)
    arguments = [sys.executable, str(_PROGRAM), "127.0.0.1", str(port), mode]
    with serving([*arguments, "--log", str(bmc.log), *options], port, directory):
        yield bmc


def heal(bmc: PyghmiBmc, *options: str) -> tuple[int, dict[str, Any]]:
    done = run("heal", bmc.target, "--yes", "--json", *TIMES, *options)
    (line,) = done.stdout.splitlines()
    return done.returncode, json.loads(line)


def outcomes(output: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["outcome"] for step in output["steps"]}


def test_it_is_healthy_although_it_lacks_much(tmp_path: Path) -> None:
    with pyghmi_bmc(tmp_path, "stays") as bmc:
        done = run("probe", bmc.target, "--detail", "--json")
        assert done.returncode == 0, done.stdout
        output = json.loads(done.stdout)
        assert 0 < output.pop("latency_s") < 5
        assert output == {
            "target": bmc.target,
            "reachable": True,
            "power": "on",
            "device_id": 0,
            "firmware": "1.00",
            "manufacturer_id": 0,
            "guid": None,
            "self_test": "unsupported",
            "watchdog": None,
            "error": None,
        }
        done = run("probe", bmc.target, "--session", "warm", "--count", "4", "--period", "0.1")
        assert done.returncode == 0, done.stdout
        assert done.stdout.count("power on") == 4


def test_refusals_are_clear(tmp_path: Path) -> None:
    with pyghmi_bmc(tmp_path, "stays") as bmc:
        wrong_password = run("probe", bmc.target, password="not-it")
        assert wrong_password.returncode == 1
        assert "wrong password for user 'admin'" in wrong_password.stdout
        # It answers every proposal with suite 3.
        other_suite = run("probe", bmc.target, "--cipher-suite", "17")
        assert other_suite.returncode == 1
        assert "try --cipher-suite 3" in other_suite.stdout
        # It does not answer at all for an unknown user.
        wrong_user = run("probe", bmc.target, "--user", "nobody", "--timeout", "2")
        assert wrong_user.returncode == 1
        assert "check the user" in wrong_user.stdout


def test_a_bmc_key_is_required_if_one_is_set(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("a key of the BMC's\n")
    wrong.write_text("another key")
    with pyghmi_bmc(tmp_path, "stays", "--kg", "a key of the BMC's") as bmc:
        assert run("probe", bmc.target, "--kg-file", str(right)).returncode == 0
        for options in ((), ("--kg-file", str(wrong))):
            done = run("probe", bmc.target, *options)
            assert done.returncode == 1
            assert "K_g" in done.stdout
            assert "key of" not in done.stdout


def test_heal_leaves_a_healthy_one_alone(tmp_path: Path) -> None:
    with pyghmi_bmc(tmp_path, "restarts") as bmc:
        status, output = heal(bmc)
        assert (status, output["verdict"], output["resets_sent"]) == (0, "healthy-lan-only", 0)
        assert set(bmc.requests()) <= READS


def test_a_bmc_that_accepts_the_reset_and_does_not_restart_needs_repair(tmp_path: Path) -> None:
    with pyghmi_bmc(tmp_path, "stays") as bmc:
        status, output = heal(bmc, "--in-band-hung", *IN_VAIN)
        assert (status, output["verdict"]) == (1, "needs-repair")
        assert "did not restart" in output["reason"]
        assert outcomes(output)["cold-reset"] == "accepted"
        assert outcomes(output)["restart-evidence"] == "disproven"
        assert bmc.requests().count(COLD_RESET) == 1


def test_a_bmc_that_dies_of_the_reset_needs_repair(tmp_path: Path) -> None:
    with pyghmi_bmc(tmp_path, "dies") as bmc:
        status, output = heal(bmc, "--in-band-hung", "--return-time", "5")
        assert (status, output["verdict"]) == (1, "needs-repair")
        assert outcomes(output)["cold-reset"] == "accepted"
        assert outcomes(output)["poll"] == "not-back"
        assert bmc.requests().count(COLD_RESET) == 1


def test_a_bmc_that_restarts_is_healed_as_far_as_lan_shows(tmp_path: Path) -> None:
    with pyghmi_bmc(tmp_path, "restarts") as bmc:
        status, output = heal(bmc, "--in-band-hung")
        assert (status, output["verdict"]) == (0, "healed-lan-only")
        assert output["host_untouched"] is None
        assert (output["power_before"], output["power_after"]) == ("on", "on")
        assert outcomes(output)["restart-evidence"] == "proven"
        assert bmc.requests().count(COLD_RESET) == 1
        assert set(bmc.requests()) <= READS | {COLD_RESET, "06/07", "00/07", "0a/40", "0a/43"}


def test_a_bmc_without_a_guid_is_healed_if_the_operator_vouches(tmp_path: Path) -> None:
    with pyghmi_bmc(tmp_path, "restarts") as bmc:
        triage = ("--triage-command", bmc.triage_command(GUID))
        status, output = heal(bmc, *triage)
        assert (status, output["verdict"], output["resets_sent"]) == (3, "refused", 0)
        assert COLD_RESET not in bmc.requests()
        status, output = heal(bmc, *triage, "--in-band-hung")
        assert (status, output["verdict"]) == (0, "healed")
        assert output["host_untouched"] is True
        assert bmc.requests().count(COLD_RESET) == 1


def test_a_bmc_with_a_guid_is_healed_on_the_hosts_symptoms_alone(tmp_path: Path) -> None:
    with pyghmi_bmc(tmp_path, "restarts", "--guid", GUID) as bmc:
        status, output = heal(bmc, "--triage-command", bmc.triage_command(GUID))
        assert (status, output["verdict"]) == (0, "healed"), output
        assert outcomes(output)["identity"] == "proven"
        assert outcomes(output)["host"] == "untouched"
        assert output["host_untouched"] is True
        assert bmc.requests().count(COLD_RESET) == 1


def test_the_symptoms_of_another_host_touch_nothing(tmp_path: Path) -> None:
    other = GUID.replace("c0ffee00", "c0ffee01")
    with pyghmi_bmc(tmp_path, "restarts", "--guid", GUID) as bmc:
        status, output = heal(bmc, "--in-band-hung", "--triage-command", bmc.triage_command(other))
        assert (status, output["verdict"], output["resets_sent"]) == (3, "refused", 0)
        assert set(bmc.requests()) <= READS


@pytest.mark.parametrize("kind", ["--cold", "--warm"])
def test_an_ordered_reset(tmp_path: Path, kind: str) -> None:
    with pyghmi_bmc(tmp_path, "restarts") as bmc:
        times = TIMES if kind == "--cold" else TIMES + IN_VAIN
        done = run("reset", bmc.target, kind, "--yes", "--json", *times)
        output = json.loads(done.stdout)
        if kind == "--cold":
            assert (done.returncode, output["verdict"]) == (0, "back")
        else:  # it does not support warm reset
            assert (done.returncode, output["verdict"]) == (3, "refused")
            assert "--cold" in output["reason"]
        assert bmc.requests().count(COLD_RESET) == (kind == "--cold")
