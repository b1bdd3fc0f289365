"""`bmcmedic lab kernel` as a user calls it: each scenario ends as it should, with its figures."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.lab.kernel.scenario import ScenarioName
from tests.kernel.conftest import KERNEL_FOLDER
from tests.support.programs import bmcmedic as program

RUN_S_MAX = 600
PNG = b"\x89PNG\r\n"


def play(name: str, *options: str) -> tuple[int, dict[str, Any], str]:
    words = ("lab", "kernel", "--scenario", name, "--kernel", str(KERNEL_FOLDER), "--json")
    done = subprocess.run(
        program(*words, *options), capture_output=True, text=True, timeout=RUN_S_MAX, check=False
    )
    (line,) = done.stdout.splitlines() or [done.stderr]
    return done.returncode, json.loads(line), done.stderr


@pytest.mark.parametrize("name", ScenarioName)
def test_each_scenario_ends_as_it_should(name: ScenarioName, tmp_path: Path) -> None:
    picture = tmp_path / "run.png"
    status, record, shown = play(name.value, "--plot", str(picture))
    wrong = [check for check in record["checks"] if not check["ok"]]
    assert (status, record["ok"], wrong) == (0, True, []), shown
    assert record["scenario"] == name.value
    assert (record["host"]["boots"], record["host"]["resets"]) == (1, 0)
    assert not record["host"]["panicked"]
    assert record["bmc"]["host_power_changes"] == 0
    assert picture.read_bytes().startswith(PNG)
    assert f"{name.value} ended as it should" in shown
    assert "kipmi0" in shown
    for key, least in LEAST.get(name, {}).items():
        part, _, inner = key.partition(".")
        assert record[part][inner] >= least, record[part]


LEAST = {
    ScenarioName.PILE_UP: {
        "kipmi0_percent_over_5_s.hung_max": 5,
        "kipmi0_percent_over_5_s.maintenance_max": 80,
        "clients.stuck_max": 50,
        "pats.latency_max_s": 15,
        "bmc.cold_resets": 1,
    },
    ScenarioName.FLOOD: {"bmc.own_watchdog_reboots": 1, "bmc.port80_writes": 100_000},
    ScenarioName.GUARDED: {"driver.silent_s": 30, "driver.sets": 2, "clients.started": 16},
    ScenarioName.UNARMED: {"clients.stuck_max": 10},
}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    words = ("lab", "kernel", "--kernel", str(tmp_path))
    done = subprocess.run(
        program(*words), capture_output=True, text=True, timeout=RUN_S_MAX, check=False
    )
    assert done.returncode == 2
    assert "vmlinuz, package, modules missing; run `make setup`" in done.stderr
