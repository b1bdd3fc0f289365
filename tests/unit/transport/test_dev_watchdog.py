"""The kernel's watchdog: what it is, who has it, and what it is told."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from pathlib import Path

import pytest

from bmcmedic.errors import (
    BmcmedicError,
    ConfigurationError,
    LocalProtocolError,
    NoAnswer,
    TransportError,
)
from bmcmedic.transport import dev_watchdog
from bmcmedic.transport.dev_watchdog import (
    DISABLE_CARD,
    ENABLE_CARD,
    GETPRETIMEOUT,
    GETSUPPORT,
    GETTIMEOUT,
    INFO,
    KEEPALIVE,
    SETOPTIONS,
    SETPRETIMEOUT,
    SETTIMEOUT,
    DevWatchdog,
    Holder,
    ModuleParameters,
    find_device,
    holders,
)
from bmcmedic.transport.in_band import InterfaceGone


class CInfo(ctypes.Structure):
    _fields_ = (
        ("options", ctypes.c_uint32),
        ("firmware_version", ctypes.c_uint32),
        ("identity", ctypes.c_char * 32),
    )


def test_the_numbers_are_those_of_the_headers() -> None:
    """As a C program on x86-64 prints them."""
    assert ctypes.sizeof(CInfo) == INFO.size
    if os.uname().machine in ("x86_64", "aarch64"):
        assert [GETSUPPORT, SETOPTIONS, KEEPALIVE, SETTIMEOUT] == [
            0x80285700, 0x80045704, 0x80045705, 0xC0045706,
        ]  # fmt: skip
        assert [GETTIMEOUT, SETPRETIMEOUT, GETPRETIMEOUT] == [0x80045707, 0xC0045708, 0x80045709]


class Machine:
    """A /sys, /proc and /dev in a folder, and the ioctls of a watchdog."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.identity = b"IPMI"
        self.error: int | None = None
        self.calls: list[tuple[int, int]] = []
        self.values = {GETTIMEOUT: 10, GETPRETIMEOUT: 0}
        for folder in ("sys/class", "sys/module", "dev", "proc"):
            (root / folder).mkdir(parents=True)
        monkeypatch.setattr(fcntl, "ioctl", self.ioctl)

    def load_ipmi_watchdog(self, **parameters: str) -> None:
        folder = self.root / "sys/module/ipmi_watchdog/parameters"
        folder.mkdir(parents=True)
        found = {"action": "reset", "preaction": "pre_none", "nowayout": "N"} | parameters
        for name, value in found.items():
            (folder / name).write_text(f"{value}\n")
        (self.root / "dev/watchdog").touch()

    def add_watchdog(self, name: str, identity: str) -> None:
        folder = self.root / "sys/class/watchdog" / name
        folder.mkdir(parents=True)
        (folder / "identity").write_text(f"{identity}\n")
        (self.root / "dev" / name).touch()

    def add_process(self, pid: int, name: str, *open_files: str) -> None:
        folder = self.root / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        for number, place in enumerate(open_files):
            (folder / "fd" / str(number)).symlink_to(place)

    def ioctl(self, fd: int, number: int, argument: bytearray, mutate: bool) -> int:
        assert fd >= 0
        assert mutate
        if number == GETSUPPORT:
            argument[:] = bytes(CInfo(0x8380, 0, self.identity))
            return 0
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        value = ctypes.c_int.from_buffer(argument)
        if number in self.values:
            value.value = self.values[number]
        else:
            self.calls.append((number, 0 if number == KEEPALIVE else value.value))
            self.values |= {
                SETTIMEOUT: {GETTIMEOUT: value.value},
                SETPRETIMEOUT: {GETPRETIMEOUT: value.value},
            }.get(number, {})
        return 0

    def open(self) -> DevWatchdog:
        return DevWatchdog(root=str(self.root))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


# --------------------------------------------------------------------------------- which one it is


def test_ipmi_watchdog_has_no_class_entry(machine: Machine) -> None:
    machine.load_ipmi_watchdog()
    machine.add_watchdog("watchdog1", "iTCO_wdt")
    assert find_device(str(machine.root)) == str(machine.root / "dev/watchdog")


def test_one_with_a_class_entry_is_known_by_its_identity(machine: Machine) -> None:
    machine.add_watchdog("watchdog0", "iTCO_wdt")
    machine.add_watchdog("watchdog1", "IPMI")
    assert find_device(str(machine.root)) == str(machine.root / "dev/watchdog1")


def test_without_ipmi_watchdog_there_is_none(machine: Machine) -> None:
    with pytest.raises(ConfigurationError, match="not loaded: modprobe ipmi_watchdog"):
        machine.open()
    machine.add_watchdog("watchdog0", "iTCO_wdt")
    with pytest.raises(
        ConfigurationError, match=r"there is watchdog0 \(iTCO_wdt\), which is not the BMC's"
    ):
        machine.open()


def test_a_driver_that_came_before_it_has_the_device(machine: Machine) -> None:
    machine.load_ipmi_watchdog()
    machine.add_watchdog("watchdog0", "Software Watchdog")
    with pytest.raises(ConfigurationError, match=r"is that of watchdog0 \(Software Watchdog\)"):
        machine.open()


def test_loaded_and_without_a_device(machine: Machine) -> None:
    machine.load_ipmi_watchdog()
    (machine.root / "dev/watchdog").unlink()
    with pytest.raises(ConfigurationError, match="no BMC was found"):
        machine.open()


def test_another_watchdog_is_put_back_as_it_was(machine: Machine) -> None:
    machine.load_ipmi_watchdog()
    machine.identity = b"iTCO_wdt"
    with pytest.raises(ConfigurationError, match="not the BMC's watchdog but 'iTCO_wdt'"):
        machine.open()
    assert (machine.root / "dev/watchdog").read_bytes() == b"V"


def test_one_that_sends_nothing_is_refused_or_found_out(machine: Machine) -> None:
    machine.load_ipmi_watchdog(action="none")
    with pytest.raises(ConfigurationError, match="echo reset >"):
        machine.open()
    action = machine.root / "sys/module/ipmi_watchdog/parameters/action"
    action.write_text("reset\n")
    watchdog = machine.open()
    watchdog.pat()
    action.write_text("none\n")
    with pytest.raises(TransportError, match="sends the BMC nothing"):
        watchdog.pat()
    watchdog.close(disarm=False)


def test_what_the_module_was_told(machine: Machine) -> None:
    assert ModuleParameters.read(str(machine.root)) == ModuleParameters(None, None, None)
    machine.load_ipmi_watchdog(action="power_cycle", preaction="pre_nmi", nowayout="1")
    parameters = ModuleParameters.read(str(machine.root))
    assert parameters == ModuleParameters("power_cycle", "pre_nmi", True)
    watchdog = machine.open()
    assert not watchdog.can_stop
    with pytest.raises(ConfigurationError, match="nowayout"):
        watchdog.disarm()
    watchdog.close(disarm=False)


# ----------------------------------------------------------------------------------- who has it


@pytest.mark.parametrize(
    ("pid", "name", "told"),
    [
        (1, "systemd", r"systemd \(RuntimeWatchdogSec= in its system.conf\), process 1, has"),
        (77, "watchdog", r"the watchdog daemon \(watchdog.service\), process 77"),
        (78, "mywdt", "mywdt, process 78"),
    ],
)
def test_who_has_it_already_is_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, pid: int, name: str, told: str
) -> None:
    machine.load_ipmi_watchdog()
    machine.add_process(pid, name, "/dev/null", "/dev/watchdog")
    machine.add_process(1234, "innocent", "/dev/null", "/var/log/watchdog")
    monkeypatch.setattr(os, "open", _refuse(errno.EBUSY))
    with pytest.raises(ConfigurationError, match=f"{told}.*Only one may be in charge"):
        machine.open()


def test_holders(machine: Machine) -> None:
    machine.add_process(10, "b", "/dev/watchdog1")
    machine.add_process(9, "a", "/dev/watchdog", "/dev/null")
    (machine.root / "proc" / "self").mkdir()
    (machine.root / "proc" / "11").mkdir()
    assert holders(str(machine.root)) == [
        Holder(9, "a", "/dev/watchdog"),
        Holder(10, "b", "/dev/watchdog1"),
    ]
    assert isinstance(holders(), list)


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.EBUSY, ConfigurationError, "a process that /proc does not show"),
        (errno.EACCES, ConfigurationError, "run as root"),
        (errno.ENODEV, InterfaceGone, "No such device"),
    ],
)
def test_why_it_cannot_be_opened(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[BmcmedicError],
    told: str,
) -> None:
    machine.load_ipmi_watchdog()
    monkeypatch.setattr(os, "open", _refuse(number))
    with pytest.raises(kind, match=told):
        machine.open()


def _refuse(number: int) -> object:
    def refuse(path: object, flags: int) -> int:  # noqa: ARG001
        raise OSError(number, os.strerror(number))

    return refuse


# ---------------------------------------------------------------------------------- what it is told


def test_times_pats_and_the_end(machine: Machine) -> None:
    machine.load_ipmi_watchdog()
    watchdog = machine.open()
    assert machine.calls == []
    watchdog.set(120, 30)
    watchdog.pat()
    assert (watchdog.timeout_s(), watchdog.pretimeout_s()) == (120, 30)
    watchdog.close(disarm=True)
    assert machine.calls == [
        (SETTIMEOUT, 120),
        (SETPRETIMEOUT, 30),
        (KEEPALIVE, 0),
        (SETOPTIONS, DISABLE_CARD),
    ]
    assert (machine.root / "dev/watchdog").read_bytes() == b"V"
    watchdog.close(disarm=False)


def test_left_running_it_is_closed_without_the_magic(machine: Machine) -> None:
    machine.load_ipmi_watchdog()
    watchdog = machine.open()
    watchdog.pat()
    watchdog.close(disarm=False)
    assert (machine.root / "dev/watchdog").read_bytes() == b""
    assert machine.calls == [(KEEPALIVE, 0)]
    with pytest.raises(InterfaceGone, match="is closed"):
        watchdog.pat()


def test_never_patted_it_is_not_left_to_start(machine: Machine) -> None:
    machine.load_ipmi_watchdog()
    watchdog = machine.open()
    watchdog.set(60)
    machine.calls.clear()
    machine.error = errno.EIO
    watchdog.close(disarm=False)
    machine.error = None
    watchdog = machine.open()
    watchdog.close(disarm=False)
    assert machine.calls == [(SETOPTIONS, DISABLE_CARD)]
    assert (machine.root / "dev/watchdog").read_bytes() == b"V"


def test_one_that_cannot_be_stopped_is_let_go_as_it_is(machine: Machine) -> None:
    machine.load_ipmi_watchdog(nowayout="Y")
    watchdog = machine.open()
    watchdog.pat()
    watchdog.close(disarm=True)
    assert machine.calls == [(KEEPALIVE, 0)]
    assert (machine.root / "dev/watchdog").read_bytes() == b""


def test_a_shorter_timeout_never_stands_below_the_pretimeout(machine: Machine) -> None:
    machine.load_ipmi_watchdog()
    watchdog = machine.open()
    watchdog.set(120, 60)
    machine.calls.clear()
    watchdog.set(50, 10)
    assert machine.calls == [(SETPRETIMEOUT, 10), (SETTIMEOUT, 50), (SETPRETIMEOUT, 10)]
    watchdog.close(disarm=False)


def test_a_stopped_timer_is_enabled_before_it_is_patted(machine: Machine) -> None:
    machine.load_ipmi_watchdog()
    watchdog = machine.open()
    watchdog.disarm()
    watchdog.set(60)
    watchdog.pat()
    watchdog.pat()
    assert machine.calls == [
        (SETOPTIONS, DISABLE_CARD),
        (SETTIMEOUT, 60),
        (SETPRETIMEOUT, 0),
        (SETOPTIONS, ENABLE_CARD),
        (KEEPALIVE, 0),
        (KEEPALIVE, 0),
    ]
    watchdog.close(disarm=False)


@pytest.mark.parametrize(
    ("timeout_s", "pretimeout_s"), [(0, 0), (-1, 0), (6554, 0), (60, 60), (600, 256), (60, -1)]
)
def test_times_that_cannot_be(machine: Machine, timeout_s: int, pretimeout_s: int) -> None:
    machine.load_ipmi_watchdog()
    watchdog = machine.open()
    with pytest.raises(ConfigurationError, match=r"not (0|-1|6554|60|256)$"):
        watchdog.set(timeout_s, pretimeout_s)
    assert machine.calls == []
    watchdog.close(disarm=False)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EINVAL, NoAnswer),
        (errno.EIO, NoAnswer),
        (errno.ENODEV, InterfaceGone),
        (errno.ENOTTY, LocalProtocolError),
    ],
)
def test_what_the_kernels_errors_mean(
    machine: Machine, number: int, kind: type[BmcmedicError]
) -> None:
    machine.load_ipmi_watchdog()
    watchdog = machine.open()
    machine.error = number
    with pytest.raises(kind, match="a pat failed"):
        watchdog.pat()
    with pytest.raises(kind, match="the stop failed"):
        watchdog.disarm()
    machine.error = None
    watchdog.pat()
    assert machine.calls == [(SETOPTIONS, ENABLE_CARD), (KEEPALIVE, 0)]
    watchdog.close(disarm=False)


def test_it_needs_no_ctypes() -> None:
    """Which costs the driver a MiB."""
    assert "ctypes" not in vars(dev_watchdog)
