"""The shipped systemd units: valid, hardened, and without settings that would break them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from bmcmedic.agent import units
from bmcmedic.agent.main import NICE
from bmcmedic.host.relieve.priority import NICE as FIRST

EXPOSURE_MAX = {"bmcmedic-driver.service": 4.0, "bmcmedic-agent.service": 3.1}
"""Greatest exposure that `systemd-analyze security` may report; 10 is the worst.

A tenth of the agent's is `setpriority`: relief has a higher priority on an overloaded host.
"""

BREAKS = {
    "bmcmedic-driver.service": {
        "PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "ProtectKernelTunables",
        "ProtectKernelLogs", "RestrictRealtime", "ProcSubset", "MemoryDenyWriteExecute",
    },
    "bmcmedic-agent.service": {
        "ProtectKernelTunables", "ProcSubset", "PrivateUsers", "PrivateNetwork", "IPAddressDeny",
    },
}  # fmt: skip
"""Settings that take away what the program needs; the unit gives the reason for each."""


def analyze(*words: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("units")
    assert [path.name for path, _ in units.install(folder)] == list(units.NAMES)
    return folder


def settings(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in units.text(name, "/usr/bin/bmcmedic").splitlines():
        if line and line[0] not in "#;[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", units.NAMES)
def test_systemd_finds_nothing_wrong(installed: Path, name: str) -> None:
    said = analyze("verify", str(installed / name))
    # Problems of other units on this machine do not count.
    assert [line for line in said.splitlines() if "bmcmedic" in line] == []


def test_an_installation_reports_what_it_changed(tmp_path: Path) -> None:
    def changes() -> list[units.UnitChange]:
        return [change for _, change in units.install(tmp_path)]

    new, changed, unchanged = units.UnitChange
    assert changes() == [new, new]
    assert changes() == [unchanged, unchanged]
    (tmp_path / units.NAMES[0]).write_text("old")
    assert changes() == [changed, unchanged]
    assert changes() == [unchanged, unchanged]


@pytest.mark.parametrize("name", units.NAMES)
def test_they_are_hardened(installed: Path, name: str) -> None:
    said = analyze("security", "--offline=true", "--no-pager", str(installed / name))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None
    assert float(found[1]) <= EXPOSURE_MAX[name]


@pytest.mark.parametrize("name", units.NAMES)
def test_nothing_is_set_that_would_break_them_and_the_reason_is_given(name: str) -> None:
    assert set(settings(name)) & BREAKS[name] == set()
    text = units.text(name)
    for switch in BREAKS[name] - {"DeviceAllow"}:
        assert f"{switch}=" in text


def test_the_agent_has_a_low_priority_and_may_raise_it_for_relief() -> None:
    found = settings("bmcmedic-agent.service")
    assert found["Nice"] == [str(NICE)]
    assert found["LimitNICE"] == [str(FIRST)]
    # It would turn the cpu controller on for all services of the host.
    assert not {"CPUWeight", "StartupCPUWeight", "CPUQuota"} & set(found)
    assert found["SystemCallFilter"] == [
        "@system-service", "~@resources", "setpriority sched_setaffinity",
    ]  # fmt: skip


@pytest.mark.parametrize("name", units.NAMES)
def test_each_capability_has_its_reason(name: str) -> None:
    (given,) = settings(name)["CapabilityBoundingSet"]
    explained = re.findall(r"^#   (CAP_\w+) +\w", units.text(name), re.MULTILINE)
    assert sorted(given.split()) == sorted(explained)
    assert "CAP_SYS_ADMIN" not in given


def test_an_upgrade_takes_nothing_from_the_other() -> None:
    for name in units.NAMES:
        found = settings(name)
        assert found["RuntimeDirectory"] == ["bmcmedic"]
        assert found["RuntimeDirectoryPreserve"] == ["yes"]
        assert found["Restart"] == ["always"]
        assert found["Type"] == ["notify"]
        assert found["StartLimitIntervalSec"] == ["0"]
        # Who hangs and is ended for it says where.
        assert found["Environment"] == ["PYTHONFAULTHANDLER=1"]
        assert found["SyslogIdentifier"] == [name.removesuffix(".service")]
    driver, agent = (settings(name) for name in units.NAMES)
    assert driver["KillMode"] == ["process"]
    assert int(driver["TimeoutStopSec"][0]) > 30
    assert agent["ExecStopPost"] == ["/usr/bin/bmcmedic agent --undo"]
    assert not {"Requires", "BindsTo", "PartOf"} & (set(agent) | set(driver))


def test_the_program_that_is_started_is_this_one() -> None:
    for name in units.NAMES:
        assert "@BMCMEDIC@" not in units.text(name)
        assert f"ExecStart={units.program()} " in units.text(name)
    assert Path(units.program()).is_absolute()


def test_a_program_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a $HOME 100%s" / "bmcmedic"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    for name in units.NAMES:
        (tmp_path / name).write_text(units.text(name, str(path)))
        said = analyze("verify", str(tmp_path / name))
        assert [line for line in said.splitlines() if "bmcmedic" in line] == []


def test_what_the_services_cannot_see_is_found(tmp_path: Path) -> None:
    visible = ["/usr/bin/bmcmedic", "/opt/bmcmedic/bin/bmcmedic", "/homes/bmcmedic"]
    assert units.hidden(visible) is None
    for folder in ("/home", "/root", "/run/user", "/var/tmp"):  # noqa: S108
        assert units.hidden([*visible, f"{folder}/me"]) == f"{folder}/me"
    link = tmp_path / "python"
    link.symlink_to("/home/me")
    # The folder of the test is one of those itself, on most machines.
    assert units.hidden([str(link)]) in (str(link), "/home/me")
