"""The BMC's watchdog through Linux's /dev/watchdog, where ipmi_watchdog is loaded.

The kernel serves it before every program that has /dev/ipmi0 open. But each call here blocks, and
cannot be interrupted, until the kernel has finished its exchanges with the BMC. That takes minutes
when the BMC is sick, so a caller pats through it in a thread of its own.

Opening the device of any other watchdog arms it. So `find_device` first identifies it in /sys.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bmcmedic.errors import (
    BmcmedicError,
    ConfigurationError,
    LocalProtocolError,
    NoAnswer,
    TransportError,
)
from bmcmedic.transport.dev_ipmi_device import Direction, ioctl_number
from bmcmedic.transport.in_band import InterfaceGone

IDENTITY = "IPMI"
TIMEOUT_S_MAX = 6553
"""Longest timeout, in seconds."""
PRETIMEOUT_S_MAX = 255
"""Longest pretimeout, in seconds."""
PROCESSES_MAX = 100_000
"""Most processes inspected to find the holder of the watchdog."""

INFO = struct.Struct("@II32s")
"""struct watchdog_info: options, firmware version, identity."""
_INT = struct.Struct("@i")
_READ, _READ_WRITE = Direction.READ, Direction.READ_WRITE
GETSUPPORT = ioctl_number(_READ, "W", 0, INFO.size)
SETOPTIONS = ioctl_number(_READ, "W", 4, _INT.size)
KEEPALIVE = ioctl_number(_READ, "W", 5, _INT.size)
SETTIMEOUT = ioctl_number(_READ_WRITE, "W", 6, _INT.size)
GETTIMEOUT = ioctl_number(_READ, "W", 7, _INT.size)
SETPRETIMEOUT = ioctl_number(_READ_WRITE, "W", 8, _INT.size)
GETPRETIMEOUT = ioctl_number(_READ, "W", 9, _INT.size)
DISABLE_CARD: Final = 0x0001
ENABLE_CARD: Final = 0x0002
_MAGIC_CLOSE: Final = b"V"

_SENDS_NOTHING = (
    "ipmi_watchdog has action=none: it accepts pats and sends the BMC nothing; "
    "echo reset > /sys/module/ipmi_watchdog/parameters/action"
)
_NAMES = {
    "systemd": "systemd (RuntimeWatchdogSec= in its system.conf)",
    "init": "init",
    "watchdog": "the watchdog daemon (watchdog.service)",
    "wd_keepalive": "the watchdog daemon (wd_keepalive.service)",
    "watchdogd": "watchdogd",
}


@dataclass(frozen=True, slots=True)
class ModuleParameters:
    """The settings of ipmi_watchdog; None where the kernel does not report one."""

    action: str | None
    """The action when the timer expires: none, reset, power_cycle or power_off."""
    preaction: str | None
    """The action before that, at the pretimeout: pre_none, pre_smi, pre_nmi or pre_int."""
    nowayout: bool | None
    """Whether the kernel refuses to stop the timer."""

    @classmethod
    def read(cls, root: str = "/") -> ModuleParameters:
        """Read the current settings from /sys."""
        folder = Path(root, "sys/module/ipmi_watchdog/parameters")
        nowayout = _read(folder / "nowayout")
        return cls(
            action=_read(folder / "action"),
            preaction=_read(folder / "preaction"),
            nowayout=None if nowayout is None else nowayout in ("1", "Y"),
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a watchdog's device open."""

    pid: int
    name: str
    device: str

    def __str__(self) -> str:
        return f"{_NAMES.get(self.name, self.name)}, process {self.pid}, has {self.device}"


def find_device(root: str = "/") -> str:
    """Return the path of the BMC's watchdog.

    Raises: ConfigurationError when there is none; the message says what to do.
    """
    watchdogs = Path(root, "sys/class/watchdog")
    others = []
    with contextlib.suppress(OSError):
        for entry in sorted(watchdogs.iterdir()):
            identity = _read(entry / "identity") or "unknown"
            if identity == IDENTITY:
                return str(Path(root, "dev", entry.name))
            others.append(f"{entry.name} ({identity})")
    if not Path(root, "sys/module/ipmi_watchdog").is_dir():
        seen = f"; there is {', '.join(others)}, which is not the BMC's" if others else ""
        raise ConfigurationError(
            f"the kernel's ipmi_watchdog is not loaded{seen}: modprobe ipmi_watchdog action=reset, "
            "or pat the BMC directly"
        )
    # ipmi_watchdog has no entry in that class, and gets /dev/watchdog only if it was loaded first.
    if Path(watchdogs, "watchdog0").exists():
        raise ConfigurationError(
            f"/dev/watchdog is that of {', '.join(others)}, so ipmi_watchdog has none: load it "
            "before that driver, blacklist that driver, or pat the BMC directly"
        )
    path = Path(root, "dev/watchdog")
    if not path.exists():
        raise ConfigurationError(
            f"ipmi_watchdog is loaded, but {path} is not there: no BMC was found (dmesg says more)"
        )
    return str(path)


def holders(root: str = "/") -> list[Holder]:
    """Return the processes that have a watchdog's device open, except those we may not inspect."""
    found = []
    processes = [path for path in Path(root, "proc").iterdir() if path.name.isdecimal()]
    for process in sorted(processes, key=lambda path: int(path.name))[:PROCESSES_MAX]:
        with contextlib.suppress(OSError):
            for fd in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    device = str(fd.readlink())
                    if device.startswith("/dev/watchdog"):
                        name = _read(process / "comm") or "?"
                        found.append(Holder(int(process.name), name, device))
    return found


class DevWatchdog:
    """The BMC's watchdog timer, held open, so that no other program can pat it meanwhile.

    Opening it changes nothing, and the first `pat` starts the timer. If the process is killed
    before that, the kernel starts the timer with its current timeout. So call `set` right after.

    Raises: ConfigurationError when there is none, when it would not act, or when another process
    has it; InterfaceGone when it disappeared.
    """

    def __init__(self, path: str | None = None, root: str = "/") -> None:
        self.path = find_device(root) if path is None else path
        self.name = self.path
        self.parameters = parameters = ModuleParameters.read(root)
        if parameters.action == "none":
            raise ConfigurationError(_SENDS_NOTHING)
        self._action = Path(root, "sys/module/ipmi_watchdog/parameters/action")
        self._stopped = False
        self._started = False
        self._int = bytearray(_INT.size)
        self._keepalive = bytearray(_INT.size)
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._open_error(error, root) from None
        try:
            self._check_identity()
        except BmcmedicError:
            self._close()
            raise

    @property
    def can_stop(self) -> bool:
        """Return whether `disarm` works; with nowayout it does not."""
        return not self.parameters.nowayout

    def set(self, timeout_s: int, pretimeout_s: int = 0) -> None:
        """Set the timeout and the pretimeout, in seconds.

        Blocks as a pat does. The kernel forwards both, and ignores the BMC's answer. Only the next
        `pat` shows that the BMC has accepted them.
        Raises: ConfigurationError; NoAnswer, InterfaceGone.
        """
        if not 1 <= timeout_s <= TIMEOUT_S_MAX:
            raise ConfigurationError(f"a watchdog has 1 to {TIMEOUT_S_MAX} s, not {timeout_s}")
        if not 0 <= pretimeout_s <= min(PRETIMEOUT_S_MAX, timeout_s - 1):
            raise ConfigurationError(
                f"a pretimeout is below the timeout ({timeout_s} s) and at most "
                f"{PRETIMEOUT_S_MAX} s, not {pretimeout_s}"
            )
        # The pretimeout must stay below the timeout after each of the calls.
        if self.pretimeout_s() >= timeout_s:
            self._write_int(SETPRETIMEOUT, pretimeout_s, "the pretimeout")
        self._write_int(SETTIMEOUT, timeout_s, "the timeout")
        self._write_int(SETPRETIMEOUT, pretimeout_s, "the pretimeout")

    def timeout_s(self) -> int:
        """What the kernel has; the BMC is not asked."""
        return self._read_int(GETTIMEOUT, "the timeout")

    def pretimeout_s(self) -> int:
        """What the kernel has; the BMC is not asked."""
        return self._read_int(GETPRETIMEOUT, "the pretimeout")

    def pat(self) -> None:
        """Start or restart the timer; the kernel sets it first where that is needed.

        Blocks until the BMC has answered or the kernel gives up. That is two exchanges when the
        kernel has to set the timer as well.
        Raises: NoAnswer, InterfaceGone; TransportError when ipmi_watchdog is set to send nothing.
        """
        if _read(self._action) == "none":
            raise TransportError(_SENDS_NOTHING)
        if self._stopped:
            # The kernel accepts pats of a stopped timer, but sends nothing until it is enabled.
            self._write_int(SETOPTIONS, ENABLE_CARD, "the start")
            self._stopped = False
        self._started = True
        self._ioctl(KEEPALIVE, self._keepalive, "a pat")

    def disarm(self) -> None:
        """Stop the timer; the next `pat` starts it.

        Blocks as a pat does. The kernel ignores the BMC's answer, and the timer of a silent BMC
        keeps running.
        Raises: ConfigurationError with nowayout; NoAnswer, InterfaceGone.
        """
        if not self.can_stop:
            raise ConfigurationError("ipmi_watchdog has nowayout: the timer cannot be stopped")
        self._stopped = True
        self._write_int(SETOPTIONS, DISABLE_CARD, "the stop")

    def close(self, *, disarm: bool) -> None:
        """Close the device; stop the timer where possible, or leave it running after a last pat.

        A timer that was never patted is stopped too, as the kernel would start it on the close.
        Blocks as a pat does. Never raises: if the stop fails, the timer runs until it expires.
        """
        if (disarm or not self._started) and self._fd >= 0 and self.can_stop:
            # Stop it first: writing the magic byte is a pat and would start it.
            with contextlib.suppress(BmcmedicError):
                self.disarm()
            with contextlib.suppress(OSError):
                os.write(self._fd, _MAGIC_CLOSE)
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _check_identity(self) -> None:
        info = bytearray(INFO.size)
        self._ioctl(GETSUPPORT, info, "its name")
        identity = INFO.unpack(info)[2].split(b"\0", 1)[0].decode("ascii", "replace")
        if identity != IDENTITY:
            with contextlib.suppress(OSError):
                os.write(self._fd, _MAGIC_CLOSE)  # opening the device has armed it
            raise ConfigurationError(f"{self.path} is not the BMC's watchdog but {identity!r}")

    def _open_error(self, error: OSError, root: str) -> BmcmedicError:
        what = f"{self.path}: {error.strerror or error}"
        if error.errno == errno.EBUSY:
            found = "; ".join(map(str, holders(root))) or "a process that /proc does not show"
            return ConfigurationError(
                f"{what}: {found}. Only one may be in charge: stop it, or bmcmedic"
            )
        if error.errno in (errno.EACCES, errno.EPERM):
            return ConfigurationError(f"{what}: no right to use it; run as root")
        return InterfaceGone(what)

    def _write_int(self, number: int, value: int, what: str) -> None:
        _INT.pack_into(self._int, 0, value)
        self._ioctl(number, self._int, what)

    def _read_int(self, number: int, what: str) -> int:
        self._ioctl(number, self._int, what)
        value: int = _INT.unpack(self._int)[0]
        return value

    def _ioctl(self, number: int, argument: bytearray, what: str) -> None:
        if self._fd < 0:
            raise InterfaceGone(f"{self.path} is closed")
        try:
            fcntl.ioctl(self._fd, number, argument, True)
        except OSError as error:
            message = f"{self.path}: {what} failed: {error.strerror or error}"
            if error.errno in (errno.ENODEV, errno.ENXIO, errno.EBADF):
                raise InterfaceGone(f"{message}; the kernel's IPMI driver is not there") from None
            if error.errno in (errno.ENOTTY, errno.EFAULT):
                raise LocalProtocolError(message) from None
            raise NoAnswer(message, "the BMC refused or did not answer; dmesg says more") from None


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
