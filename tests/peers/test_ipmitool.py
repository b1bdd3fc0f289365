"""The real ipmitool against the simulated BMC."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from bmcmedic.sim.rack import Account
from tests.support.sim import Json, RunningRack, running_bmc

TIMEOUT_S = 60
PASSWORD = "secret"

pytestmark = pytest.mark.skipif(
    shutil.which("ipmitool") is None, reason="ipmitool is not installed"
)

RunTool = Callable[..., str]


def ipmitool(
    rack: RunningRack, suite: int, *arguments: str, password: str = PASSWORD, user: str = "admin"
) -> subprocess.CompletedProcess[str]:
    host, port = rack.address()
    options = ("-I", "lanplus", "-H", host, "-p", str(port))
    return subprocess.run(
        ["ipmitool", *options, "-U", user, "-E", "-C", str(suite), *arguments],
        env=os.environ | {"IPMITOOL_PASSWORD": password, "TZ": "UTC"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def rack() -> Iterator[RunningRack]:
    with running_bmc() as running:
        yield running


@pytest.fixture(scope="module", params=[3, 17], ids=["suite 3", "suite 17"])
def tool(request: pytest.FixtureRequest, rack: RunningRack) -> RunTool:
    """Run ipmitool with these arguments and return its output; it must succeed."""

    def run(*arguments: str) -> str:
        done = ipmitool(rack, request.param, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def fields(text: str) -> dict[str, str]:
    """Parse `key : value` lines."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def test_chassis_power_status(tool: RunTool) -> None:
    assert tool("chassis", "power", "status") == "Chassis Power is on\n"


def test_chassis_status(tool: RunTool) -> None:
    status = fields(tool("chassis", "status"))
    assert status["System Power"] == "on"
    assert status["Power Restore Policy"] == "previous"
    assert status["Main Power Fault"] == "false"
    assert "pushbutton" in tool("chassis", "restart_cause")


def test_mc_info(tool: RunTool) -> None:
    info = fields(tool("mc", "info"))
    assert info["Device ID"] == "32"
    assert info["Firmware Revision"] == "3.23"
    assert info["IPMI Version"] == "2.0"
    assert info["Manufacturer ID"] == "7154"
    assert info["Device Available"] == "yes"


def test_mc_selftest(tool: RunTool) -> None:
    assert tool("mc", "selftest") == "Selftest: passed\n"


def test_mc_watchdog_get(tool: RunTool) -> None:
    timer = fields(tool("mc", "watchdog", "get"))
    assert timer["Watchdog Timer Is"] == "Stopped"


def test_mc_guid_is_the_hosts(rack: RunningRack, tool: RunTool) -> None:
    _, triage = rack.get("/bmcs/bmc1/triage")
    assert fields(tool("mc", "guid"))["System GUID"] == triage["host_id"]["product_uuid"]


def test_sel_list(tool: RunTool) -> None:
    lines = tool("sel", "list").splitlines()
    assert len(lines) == 3
    assert "Log area reset/cleared" in lines[0]
    assert "Initiated by power up" in lines[1]
    assert "C: boot completed" in lines[2]


def test_sel_info(tool: RunTool) -> None:
    assert fields(tool("sel", "info"))["Entries"] == "3"


def test_sdr_list(tool: RunTool) -> None:
    rows = [
        tuple(cell.strip() for cell in line.split("|")) for line in tool("sdr", "list").splitlines()
    ]
    readings = {name: (reading, state) for name, reading, state in rows}
    assert len(rows) == 19
    assert {state for _, state in readings.values()} == {"ok"}
    assert readings["CPU1 Temp"][0] == "47 degrees C"
    assert readings["FAN1"][0] == "5700 RPM"
    assert readings["12V"][0] == "12.06 Volts"
    assert readings["PSU Power"][0] == "232 Watts"
    assert readings["CPU1 Margin"][0] == "-38 degrees C"
    assert readings["PSU Current"][0] == "2.10 Amps"
    assert readings["FAN Duty"][0] == "40 percent"


def test_sdr_elist_all_shows_controllers_and_states(tool: RunTool) -> None:
    text = tool("sdr", "elist", "all")
    assert re.search(r"^BMC .*Dynamic MC @ 20h$", text, re.M)
    assert re.search(r"^ME .*Dynamic MC @ 2Ch$", text, re.M)
    assert re.search(r"^Builtin FRU .*Logical FRU @00h$", text, re.M)
    assert re.search(r"^PS1 Status .*Presence detected$", text, re.M)


def test_sensor_list_shows_thresholds(tool: RunTool) -> None:
    rows = {line.split("|")[0].strip(): line for line in tool("sensor", "list").splitlines()}
    assert [cell.strip() for cell in rows["CPU1 Temp"].split("|")][-3:] == [
        "85.000",
        "95.000",
        "100.000",
    ]


def test_dcmi_power_reading(tool: RunTool) -> None:
    reading = fields(tool("dcmi", "power", "reading"))
    assert reading["Instantaneous power reading"] == "232 Watts"
    assert reading["Power reading state is"] == "activated"


def test_fru_print(tool: RunTool) -> None:
    inventory = fields(tool("fru", "print"))
    assert inventory["Board Serial"] == "B-bmc1"
    assert inventory["Product Name"] == "Simulated server"
    assert inventory["Product Serial"] == "S-bmc1"
    assert inventory["Chassis Type"] == "Rack Mount Chassis"


def test_raw_get_device_id(tool: RunTool) -> None:
    assert tool("raw", "6", "1").split() == (
        ["20", "81", "03", "23", "02", "8f", "f2", "1b", "00", "01", "00", "00", "01", "00", "00"]
    )


def test_the_bridged_sensor(tool: RunTool) -> None:
    assert tool("-b", "6", "-t", "0x2c", "raw", "0x4", "0x2d", "0xbe").split() == ["33", "c0", "00"]


def test_lan_user_and_channel(tool: RunTool) -> None:
    lan = fields(tool("lan", "print", "1"))
    assert lan["IP Address"] == "127.0.0.1"
    assert lan["MAC Address"] == "02:00:00:00:00:01"
    assert lan["RMCP+ Cipher Suites"] == "3,17"
    assert re.search(r"^2 +admin .*ADMINISTRATOR$", tool("user", "list", "1"), re.M)
    assert fields(tool("channel", "info", "1"))["Channel Medium Type"] == "802.3 LAN"


def test_a_wrong_bridge_target_is_a_nak(rack: RunningRack) -> None:
    done = ipmitool(rack, 3, "-b", "6", "-t", "0x2e", "raw", "0x4", "0x2d", "0xbe")
    assert done.returncode != 0
    assert "rsp=0x83" in done.stderr


def test_wrong_secrets_fail(rack: RunningRack) -> None:
    wrong_password = ipmitool(rack, 17, "mc", "info", password="wrong")
    assert wrong_password.returncode != 0
    wrong_user = ipmitool(rack, 17, "-v", "mc", "info", user="nobody")
    assert wrong_user.returncode != 0
    assert "unauthorized name" in wrong_user.stderr


def test_a_user_a_password_of_20_bytes_and_k_g() -> None:
    password = "x" * 20
    account = Account.single("ops", password.encode(), kg=b"k" * 20)
    with running_bmc(account=account) as rack:
        done = ipmitool(rack, 17, "-k", "k" * 20, "mc", "info", user="ops", password=password)
        assert done.returncode == 0, done.stderr
        without = ipmitool(rack, 17, "mc", "info", user="ops", password=password)
        assert without.returncode != 0


def test_mc_reset_cold_restarts_the_bmc_and_not_the_host() -> None:
    with running_bmc("boot:0.5", "hang") as rack:
        assert rack.status()["state"] == "hung"
        done = ipmitool(rack, 17, "mc", "reset", "cold")
        assert done.returncode == 0, done.stderr
        assert "Sent cold reset command to MC" in done.stdout
        status = wait_until(rack, "state", "up")
        assert status["cold_resets"] == 1
        assert status["requests"]["06/02"] == 1
        assert (status["host_power_changes"], status["host_boots"]) == (0, 0)
        assert status["faults"] == ["boot:0.5"]


def test_sel_add_and_clear_and_power_actions() -> None:
    with running_bmc() as rack:
        add_entry = bytes.fromhex("0a44 0000 02 00000000 2000 04 01 30 01 59555a")
        record = [hex(byte) for byte in add_entry]
        assert ipmitool(rack, 3, "raw", *record).returncode == 0
        assert "Temperature" in ipmitool(rack, 3, "sel", "list").stdout
        assert ipmitool(rack, 3, "sel", "clear").returncode == 0
        assert len(ipmitool(rack, 3, "sel", "list").stdout.splitlines()) == 1
        assert ipmitool(rack, 3, "chassis", "power", "off").returncode == 0
        assert ipmitool(rack, 3, "chassis", "power", "status").stdout == "Chassis Power is off\n"
        assert ipmitool(rack, 3, "chassis", "power", "on").returncode == 0
        assert rack.status()["host_power_changes"] == 2


def wait_until(rack: RunningRack, key: str, value: object) -> Json:
    """Poll the control endpoint until it reports the wanted state."""
    deadline = time.monotonic() + TIMEOUT_S
    while (status := rack.status())[key] != value or not status["cold_resets"]:
        assert time.monotonic() < deadline, status
        time.sleep(0.02)
    return status
