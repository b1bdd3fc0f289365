"""The real FreeIPMI tools against the simulated BMC: default flags, no workarounds."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.sim import RunningRack, running_bmc

TIMEOUT_S = 60
LOGIN = ("-u", "admin", "-p", "secret", "-D", "LAN_2_0")

pytestmark = pytest.mark.skipif(
    shutil.which("bmc-info") is None, reason="freeipmi-tools is not installed"
)

Say = Callable[..., str]


@pytest.fixture(scope="module")
def rack() -> Iterator[RunningRack]:
    with running_bmc() as running:
        yield running


def freeipmi(rack: RunningRack, *words: str) -> subprocess.CompletedProcess[str]:
    host, port = rack.address()
    return subprocess.run(
        [words[0], "-h", f"{host}:{port}", *LOGIN, *words[1:]],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture(params=["3", "17"], ids=["suite 3", "suite 17"])
def say(request: pytest.FixtureRequest, rack: RunningRack) -> Say:
    def run(*words: str) -> str:
        done = freeipmi(rack, *words, "-I", request.param)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    return run


def fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def columns(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]


def test_bmc_info(rack: RunningRack, say: Say) -> None:
    info = fields(say("bmc-info"))
    assert info["Device ID"] == "32"
    assert info["Firmware Revision"] == "3.23"
    assert info["Chassis Device"] == "supported"
    assert info["Product ID"] == "1"
    assert info["Device Available"] == "yes (normal operation)"
    guid = bytes.fromhex(str(rack.status()["guid"]))
    # FreeIPMI decodes the GUID as the specification defines it: last byte first.
    assert info["System GUID"].replace("-", "") == guid[::-1].hex()


def test_ipmi_chassis(say: Say) -> None:
    status = fields(say("ipmi-chassis", "--get-status"))
    assert status["System Power"] == "on"
    assert status["Power restore policy"] == "Restore"
    assert status["Power fault"] == "false"
    cause = fields(say("ipmi-chassis", "--get-system-restart-cause"))
    assert cause["Restart cause"] == "Power up via power pushbutton"
    hours = fields(say("ipmi-chassis", "--get-power-on-hours-counter"))
    assert hours["Power on hours"] == "9300 Hours 0 Minutes"


def test_ipmi_sel(say: Say, tmp_path: Path) -> None:
    cache = f"--sdr-cache-directory={tmp_path}"
    rows = columns(say("ipmi-sel", cache, "--quiet-cache"))
    assert rows[0][:1] == ["ID"]
    assert [row[4] for row in rows[1:]] == [
        "Event Logging Disabled",
        "System Boot Initiated",
        "OS Boot",
    ]
    info = fields(say("ipmi-sel", cache, "--info"))
    assert info["Number of log entries"] == "3"
    assert info["Reserve SEL Command"] == "supported"


def test_ipmi_sensors(say: Say, tmp_path: Path) -> None:
    out = say("ipmi-sensors", f"--sdr-cache-directory={tmp_path}", "--quiet-cache")
    rows = {row[1]: row for row in columns(out)[1:]}
    assert len(rows) == 19
    assert rows["CPU1 Temp"][2:] == ["Temperature", "47.00", "C", "'OK'"]
    assert rows["FAN2"][2:] == ["Fan", "5550.00", "RPM", "'OK'"]
    assert rows["12V"][2:] == ["Voltage", "12.06", "V", "'OK'"]
    assert rows["CPU1 Margin"][2:] == ["Temperature", "-38.00", "C", "'OK'"]
    assert rows["PSU Current"][2:] == ["Current", "2.10", "A", "'OK'"]
    assert rows["FAN Duty"][2:] == ["Fan", "40.00", "%", "'OK'"]
    assert rows["PS1 Status"][5] == "'Presence detected'"


def test_ipmi_dcmi(say: Say) -> None:
    reading = fields(say("ipmi-dcmi", "--get-system-power-statistics"))
    assert reading["Current Power"] == "232 Watts"
    assert reading["Power Measurement"] == "Active"


def test_ipmi_fru(say: Say, tmp_path: Path) -> None:
    out = say("ipmi-fru", f"--sdr-cache-directory={tmp_path}", "--quiet-cache")
    inventory = fields(out)
    assert inventory["FRU Board Serial Number"] == "B-bmc1"
    assert inventory["FRU Product Name"] == "Simulated server"
    assert inventory["FRU Chassis Type"] == "Rack Mount Chassis"
    assert "checksum" not in out.lower()


def test_ipmipower(rack: RunningRack, say: Say) -> None:
    assert say("ipmipower", "--stat").split(":")[-1].strip() == "on"
    before = rack.status()["host_power_changes"]
    assert say("ipmipower", "--off").split(":")[-1].strip() == "ok"
    assert say("ipmipower", "--stat").split(":")[-1].strip() == "off"
    assert say("ipmipower", "--on").split(":")[-1].strip() == "ok"
    assert say("ipmipower", "--stat").split(":")[-1].strip() == "on"
    assert rack.status()["host_power_changes"] == before + 2
