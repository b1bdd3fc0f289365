"""The set-up scripts, run against stand-ins for apt, dpkg and sudo: nothing is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
PEERS = ["freeipmi-tools", "ipmitool", "openipmi"]


class Machine:
    """A PATH with what every machine has, to which a test adds what its machine has."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.log = folder / "log"
        self.log.touch()
        for program in ("bash", "dirname", "env", "grep", "mkdir", "sed", "tr"):
            found = shutil.which(program)
            assert found
            (self.bin / program).symlink_to(found)

    def has(self, program: str, script: str) -> None:
        """Add a program; each call of it is logged."""
        path = self.bin / program
        path.write_text(f'#!/bin/bash\necho "{program} $*" >>"{self.log}"\n{script}\n')
        path.chmod(0o755)

    def is_debian(self, *, installed: str = "none", uid: int = 0, apt: str = "exit 0") -> None:
        """A Debian machine where the packages in `installed` (a glob) are there."""
        self.has("dpkg-query", f"[[ ${{*: -1}} == {installed} ]] && echo installed 1:1.8-4")
        self.has("apt-get", apt)
        self.has("id", f"echo {uid}")

    def run(self, *command: str, python: str = "python3") -> subprocess.CompletedProcess[str]:
        """Run a script of tools/ with this machine's programs alone."""
        return subprocess.run(
            [str(TOOLS / command[0]), *command[1:]],
            env={"PATH": str(self.bin), "PYTHON": python},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    @property
    def apt_calls(self) -> list[str]:
        """The first words of every call of apt-get, and how it was reached."""
        lines = self.log.read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith("apt-get ")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_missing_asks_apt_nothing(machine: Machine) -> None:
    machine.is_debian(installed="*")
    done = machine.run("setup-debian", "peers")
    assert done.returncode == 0
    assert machine.apt_calls == []
    # The stand-in's versions are nobody's: each package is reported, none is installed.
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["note"] * len(PEERS)


def test_what_is_missing_is_installed_and_explained(machine: Machine) -> None:
    machine.is_debian(installed="ipmitool")
    done = machine.run("setup-debian", "peers")
    assert done.returncode == 0, done.stderr
    assert machine.apt_calls == ["install"]
    call = next(line for line in machine.log.read_text().splitlines() if "apt-get" in line)
    assert "freeipmi-tools openipmi" in call
    assert "ipmitool" not in call
    assert "openipmi: ipmi_sim, a BMC that we did not write" in done.stdout


def test_package_lists_are_refreshed_only_when_apt_cannot_install(machine: Machine) -> None:
    refreshed = machine.log.with_name("refreshed")
    machine.is_debian(
        apt=f'if [ "$1" = update ]; then : >"{refreshed}"; else [ -e "{refreshed}" ]; fi'
    )
    done = machine.run("setup-debian", "peers")
    assert done.returncode == 0, done.stderr
    assert machine.apt_calls == ["install", "update", "install"]


def test_apt_that_cannot_install_is_an_error(machine: Machine) -> None:
    machine.is_debian(apt='[ "$1" = update ]')
    done = machine.run("setup-debian", "peers")
    assert done.returncode == 1
    assert "could not install" in done.stderr


def test_sudo_is_used_by_who_is_not_root(machine: Machine) -> None:
    machine.is_debian(uid=1000)
    machine.has("sudo", 'exec "$@"')
    assert machine.run("setup-debian", "peers").returncode == 0
    assert machine.apt_calls == ["install"]
    assert "sudo env DEBIAN_FRONTEND=noninteractive apt-get" in machine.log.read_text()


def test_neither_root_nor_sudo_says_what_to_run(machine: Machine) -> None:
    machine.is_debian(uid=1000)
    done = machine.run("setup-debian", "peers")
    assert done.returncode == 1
    assert machine.apt_calls == []
    assert "apt-get install --no-install-recommends ipmitool freeipmi-tools" in done.stderr


def test_another_system_is_told_what_is_missing(machine: Machine) -> None:
    machine.has("ipmitool", "exit 0")
    done = machine.run("setup-debian", "peers")
    assert done.returncode == 1
    assert "no apt-get here" in done.stderr
    assert "openipmi: ipmi_sim" in done.stderr
    assert "ipmitool: " not in done.stderr


def test_an_old_python_is_refused(machine: Machine, tmp_path: Path) -> None:
    machine.has("python3", '[ "$1" = --version ] && echo "Python 3.9.2" || exit 1')
    done = machine.run("setup-venv", str(tmp_path / "venv"))
    assert done.returncode == 1
    assert "Python 3.9.2; bmcmedic needs Python 3.11 or later" in done.stderr


def test_a_foreign_python_without_ensurepip_is_refused(machine: Machine, tmp_path: Path) -> None:
    script = 'case "$2" in *ensurepip*) exit 1 ;; *realpath*) echo /usr/local/bin/python3 ;; esac'
    machine.has("python3", script)
    done = machine.run("setup-venv", str(tmp_path / "venv"))
    assert done.returncode == 1
    assert "no ensurepip" in done.stderr
    assert machine.apt_calls == []


def test_debians_python_without_ensurepip_gets_its_package(
    machine: Machine, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    machine.is_debian(installed="python3", apt=f': >"{ready}"')
    machine.has(
        "python3",
        f'case "$2" in *ensurepip*) [ -e "{ready}" ] ;;'
        " *realpath*) echo /usr/bin/python3.11 ;; esac",
    )
    done = machine.run("setup-venv", str(tmp_path / "venv"))
    assert done.returncode == 0, done.stderr
    assert machine.apt_calls == ["install"]
    assert f"python3 -m venv --clear {tmp_path / 'venv'}" in machine.log.read_text()
