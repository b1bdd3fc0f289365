"""The set-up scripts, run against stand-ins for apt, dpkg and sudo: nothing is installed."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
PEERS = [
    "freeipmi-tools",
    "ipmitool",
    "openipmi",
    "prometheus-ipmi-exporter",
    "pypy3",
    "systemd",
]


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
            timeout=90,
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


# ---- tools/setup-kernel

KERNEL_PACKAGE = "linux-image-6.1.0-9-amd64"
MODULES = ["ipmi_devintf", "ipmi_msghandler", "ipmi_si", "ipmi_watchdog", "softdog", "watchdog"]


def has_a_kernel_to_download(machine: Machine, *, modules: list[str], suffix: str = ".ko") -> None:
    """A Debian machine whose apt downloads a kernel package that holds these modules."""
    for program in ("basename", "cat", "find", "mktemp", "mv", "rm", "tar"):
        found = shutil.which(program)
        assert found
        (machine.bin / program).symlink_to(found)
    files = machine.log.with_name("files.tar")
    with tarfile.open(files, "w") as archive:
        names = ["boot/vmlinuz-6.1.0-9-amd64", "boot/config-6.1.0-9-amd64"]
        names += [f"lib/modules/6.1.0-9-amd64/kernel/drivers/{name}{suffix}" for name in modules]
        names += ["lib/modules/6.1.0-9-amd64/kernel/drivers/other.ko"]
        for name in names:
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    machine.has("dpkg", "echo amd64")
    machine.has("apt-cache", f"echo linux-image-amd64; echo '  Depends: {KERNEL_PACKAGE}'")
    machine.has("apt-get", f'[ "$1" = update ] || echo deb >{KERNEL_PACKAGE}_6.1.1_amd64.deb')
    machine.has("dpkg-deb", f'cat "{files}"')
    machine.has("id", "echo 0")


@pytest.mark.parametrize("suffix", [".ko", ".ko.xz"])
def test_a_kernel_is_unpacked_once_and_not_installed(
    machine: Machine, tmp_path: Path, suffix: str
) -> None:
    has_a_kernel_to_download(machine, modules=MODULES, suffix=suffix)
    target = tmp_path / "build" / "kernel"
    done = machine.run("setup-kernel", str(target))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in target.iterdir()) == ["modules", "package", "vmlinuz"]
    unpacked = sorted(path.name for path in (target / "modules").iterdir())
    assert unpacked == [f"{name}{suffix}" for name in MODULES]
    assert (target / "package").read_text() == f"{KERNEL_PACKAGE}_6.1.1_amd64\n"
    assert machine.apt_calls == ["download"]
    again = machine.run("setup-kernel", str(target))
    assert (again.returncode, again.stdout) == (0, "")
    (target / "modules" / f"softdog{suffix}").unlink()
    assert machine.run("setup-kernel", str(target)).returncode == 0
    assert machine.apt_calls == ["download", "download"]
    assert (target / "modules" / f"softdog{suffix}").exists()


def test_package_lists_without_a_kernel_are_refreshed(machine: Machine, tmp_path: Path) -> None:
    has_a_kernel_to_download(machine, modules=MODULES)
    refreshed = tmp_path / "refreshed"
    machine.has("apt-cache", f"[ -e {refreshed} ] && echo '  Depends: {KERNEL_PACKAGE}'")
    download = f"echo deb >{KERNEL_PACKAGE}_1_amd64.deb"
    machine.has("apt-get", f'if [ "$1" = update ]; then : >{refreshed}; else {download}; fi')
    done = machine.run("setup-kernel", str(tmp_path / "kernel"))
    assert done.returncode == 0, done.stderr
    assert machine.apt_calls == ["update", "download"]


def test_a_kernel_without_a_module_is_refused_and_nothing_is_left(
    machine: Machine, tmp_path: Path
) -> None:
    has_a_kernel_to_download(machine, modules=MODULES[:-1])
    done = machine.run("setup-kernel", str(tmp_path / "kernel"))
    assert done.returncode == 1
    assert "no module watchdog" in done.stderr
    assert not (tmp_path / "kernel" / "package").exists()
    assert not list((tmp_path / "kernel").glob(".unpacking*"))


def test_a_kernel_elsewhere_says_what_to_put_where(machine: Machine, tmp_path: Path) -> None:
    done = machine.run("setup-kernel", str(tmp_path / "kernel"))
    assert done.returncode == 1
    assert "no apt-cache here" in done.stderr
    assert "ipmi_si.ko" in done.stderr
