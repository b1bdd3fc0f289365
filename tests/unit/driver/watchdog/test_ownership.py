"""Who else has the watchdog, as trees of /proc and /sys show it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bmcmedic.driver.watchdog.ownership import WatchdogMode, require_sole_ownership
from bmcmedic.errors import ConfigurationError

BMC, KERNEL = WatchdogMode.BMC, WatchdogMode.KERNEL


class Machine:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.process(1, "systemd", "/usr/lib/systemd/systemd")
        self.process(2, "kthreadd", "")
        self.process(90, "watchdogd", "")  # the kernel's own thread, on every Linux

    def process(self, pid: int, name: str, command_line: str, *files: str) -> None:
        folder = self.root / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        (folder / "comm").write_text(name + "\n")
        (folder / "cmdline").write_text(command_line and command_line + "\0")
        for number, file in enumerate(files):
            (folder / "fd" / str(number)).symlink_to(file)

    def watchdog(self, name: str, identity: str, state: str = "inactive") -> None:
        folder = self.root / "sys/class/watchdog" / name
        folder.mkdir(parents=True)
        (folder / "identity").write_text(identity + "\n")
        (folder / "state").write_text(state + "\n")

    def module(self) -> None:
        (self.root / "sys/module/ipmi_watchdog").mkdir(parents=True)

    def refusal(self, mode: WatchdogMode) -> str:
        with pytest.raises(ConfigurationError) as refused:
            require_sole_ownership(mode, str(self.root))
        return str(refused.value)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("mode", list(WatchdogMode))
def test_alone_it_may_begin(machine: Machine, mode: WatchdogMode) -> None:
    assert require_sole_ownership(mode, str(machine.root)) == []


@pytest.mark.parametrize("mode", list(WatchdogMode))
def test_systemds_watchdog_is_named_with_its_setting(machine: Machine, mode: WatchdogMode) -> None:
    machine.module()
    machine.process(1, "systemd", "/usr/lib/systemd/systemd", "/dev/null", "/dev/watchdog")
    refusal = machine.refusal(mode)
    assert (
        "systemd (RuntimeWatchdogSec= in its system.conf), process 1, has /dev/watchdog" in refusal
    )
    assert "It may have only one" in refusal


def test_a_watchdog_daemon_is_named(machine: Machine) -> None:
    machine.process(700, "watchdogd", "/usr/sbin/watchdogd", "/dev/watchdog0")
    assert "watchdogd, process 700, has /dev/watchdog0" in machine.refusal(BMC)


def test_freeipmis_daemon_needs_no_device(machine: Machine) -> None:
    machine.process(701, "bmc-watchdog", "/usr/sbin/bmc-watchdog -d")
    assert "bmc-watchdog, process 701" in machine.refusal(BMC)


def test_another_kind_of_watchdog_is_no_hindrance_but_is_told(machine: Machine) -> None:
    machine.watchdog("watchdog0", "iTCO_wdt")
    machine.process(1, "systemd", "/sbin/init", "/dev/watchdog0")
    (note,) = require_sole_ownership(BMC, str(machine.root))
    assert "which is not the BMC's but iTCO_wdt: another timer" in note


def test_the_old_name_may_be_either_ones_while_the_module_is_loaded(machine: Machine) -> None:
    machine.watchdog("watchdog0", "iTCO_wdt")
    machine.process(1, "systemd", "/sbin/init", "/dev/watchdog")
    assert len(require_sole_ownership(KERNEL, str(machine.root))) == 1
    machine.module()
    assert "process 1, has /dev/watchdog" in machine.refusal(KERNEL)


def test_the_kernels_module_has_the_timer_once_it_is_loaded(machine: Machine) -> None:
    machine.module()
    assert "ipmi_watchdog is loaded" in machine.refusal(BMC)
    assert require_sole_ownership(KERNEL, str(machine.root)) == []


def test_a_timer_that_the_kernel_itself_keeps_alive(machine: Machine) -> None:
    machine.watchdog("watchdog0", "IPMI", "active")
    assert "the kernel's watchdogd, which pats watchdog0" in machine.refusal(KERNEL)


def test_what_this_very_process_has_open_is_its_own(machine: Machine) -> None:
    machine.process(os.getpid(), "bmcmedic", "bmcmedic driver", "/dev/watchdog")
    assert require_sole_ownership(KERNEL, str(machine.root)) == []


def test_who_may_not_look_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "proc/1").mkdir(parents=True)  # and no fd
    (note,) = require_sole_ownership(BMC, str(tmp_path))
    assert "only root can see" in note
