"""The BMC's watchdog through Linux's /dev/watchdog, where ipmi_watchdog is loaded.

The kernel serves it before everybody who has /dev/ipmi0 open. But each call here blocks, and cannot
be interrupted, until the kernel has had its exchanges with the BMC: minutes, when that is sick. So
whoever pats through it does so in a thread of its own.

Opening any other watchdog's device arms it, so what it is gets looked up first, in /sys.
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
PRETIMEOUT_S_MAX = 255
PROCESSES_MAX = 100_000
"""How many are looked at, at most, to find who has the watchdog."""

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
    "ipmi_watchdog has action=none: it takes pats and sends the BMC nothing; "
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
    """How ipmi_watchdog was told to behave; None where the kernel does not say."""

    action: str | None
    """What happens when the time is over: none, reset, power_cycle or power_off."""
    preaction: str | None
    """What comes before: pre_none, pre_smi, pre_nmi or pre_int."""
    nowayout: bool | None
    """Whether it cannot be stopped any more."""

    @classmethod
    def read(cls, root: str = "/") -> ModuleParameters:
        """What /sys says now."""
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
    """The path of the watchdog that is the BMC's.

    Raises: ConfigurationError when there is none, with what to do.
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
    # ipmi_watchdog has no entry in that class, and takes /dev/watchdog only if it came first.
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
    """Who has a watchdog's device open; those whom we may not look at are left out."""
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
    """The BMC's watchdog timer, held open: nobody else can pat it meanwhile.

    Opening it changes nothing, and the first `pat` starts the timer. But where the process is
    killed before that, the kernel starts it, with the time that it has: so `set` comes right after.

    Raises: ConfigurationError when there is none, when it would not act, or when somebody else has
    it; InterfaceGone when it vanished.
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
            raise self._not_opened(error, root) from None
        try:
            self._check_identity()
        except BmcmedicError:
            self._close()
            raise

    @property
    def can_stop(self) -> bool:
        """Whether `disarm` works: not with nowayout."""
        return not self.parameters.nowayout

    def set(self, timeout_s: int, pretimeout_s: int = 0) -> None:
        """Give the timer its times.

        Blocks as a pat does. The kernel sends them on, and does not look at what the BMC answers:
        that it has them is known with the next `pat`.
        Raises: ConfigurationError; NoAnswer, InterfaceGone.
        """
        if not 1 <= timeout_s <= TIMEOUT_S_MAX:
            raise ConfigurationError(f"a watchdog has 1 to {TIMEOUT_S_MAX} s, not {timeout_s}")
        if not 0 <= pretimeout_s <= min(PRETIMEOUT_S_MAX, timeout_s - 1):
            raise ConfigurationError(
                f"a pretimeout is below the timeout ({timeout_s} s) and at most "
                f"{PRETIMEOUT_S_MAX} s, not {pretimeout_s}"
            )
        # Whichever comes first, the pretimeout must stay below the timeout all the time.
        if self.pretimeout_s() >= timeout_s:
            self._put(SETPRETIMEOUT, pretimeout_s, "the pretimeout")
        self._put(SETTIMEOUT, timeout_s, "the timeout")
        self._put(SETPRETIMEOUT, pretimeout_s, "the pretimeout")

    def timeout_s(self) -> int:
        """What the kernel has; the BMC is not asked."""
        return self._get(GETTIMEOUT, "the timeout")

    def pretimeout_s(self) -> int:
        """What the kernel has; the BMC is not asked."""
        return self._get(GETPRETIMEOUT, "the pretimeout")

    def pat(self) -> None:
        """Start the timer, or start it over; the kernel sets it first where that is needed.

        Blocks until the BMC has answered, or the kernel gives it up: for two exchanges, when the
        timer has to be set as well.
        Raises: NoAnswer, InterfaceGone; TransportError when somebody has told the kernel to send
        nothing.
        """
        if _read(self._action) == "none":
            raise TransportError(_SENDS_NOTHING)
        if self._stopped:
            # A stopped timer takes pats, and sends nothing, until it is enabled.
            self._put(SETOPTIONS, ENABLE_CARD, "the start")
            self._stopped = False
        self._started = True
        self._ioctl(KEEPALIVE, self._keepalive, "a pat")

    def disarm(self) -> None:
        """Stop the timer; the next `pat` starts it.

        Blocks as a pat does. The kernel does not look at what the BMC answers: a BMC that is silent
        keeps its timer running.
        Raises: ConfigurationError with nowayout; NoAnswer, InterfaceGone.
        """
        if not self.can_stop:
            raise ConfigurationError("ipmi_watchdog has nowayout: the timer cannot be stopped")
        self._stopped = True
        self._put(SETOPTIONS, DISABLE_CARD, "the stop")

    def close(self, *, disarm: bool) -> None:
        """Let it go; the timer is stopped, where that can be, or runs on after a last pat.

        One that was never patted is stopped too: the kernel would start it when it is let go.
        Blocks as a pat does. Never raises: the timer's own end is then the answer.
        """
        if (disarm or not self._started) and self._fd >= 0 and self.can_stop:
            # Stopped first, as writing the magic byte is a pat, and would start it.
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
                os.write(self._fd, _MAGIC_CLOSE)  # opening it has armed it
            raise ConfigurationError(f"{self.path} is not the BMC's watchdog but {identity!r}")

    def _not_opened(self, error: OSError, root: str) -> BmcmedicError:
        what = f"{self.path}: {error.strerror or error}"
        if error.errno == errno.EBUSY:
            who = "; ".join(map(str, holders(root))) or "somebody whom /proc does not show"
            return ConfigurationError(f"{what}: {who}. Only one may be in charge: end it, or us")
        if error.errno in (errno.EACCES, errno.EPERM):
            return ConfigurationError(f"{what}: no right to use it; run as root")
        return InterfaceGone(what)

    def _put(self, number: int, value: int, what: str) -> None:
        _INT.pack_into(self._int, 0, value)
        self._ioctl(number, self._int, what)

    def _get(self, number: int, what: str) -> int:
        self._ioctl(number, self._int, what)
        value: int = _INT.unpack(self._int)[0]
        return value

    def _ioctl(self, number: int, argument: bytearray, what: str) -> None:
        if self._fd < 0:
            raise InterfaceGone(f"{self.path} is closed")
        try:
            fcntl.ioctl(self._fd, number, argument, True)
        except OSError as error:
            told = f"{self.path}: {what} failed: {error.strerror or error}"
            if error.errno in (errno.ENODEV, errno.ENXIO, errno.EBADF):
                raise InterfaceGone(f"{told}; the kernel's IPMI driver is not there") from None
            if error.errno in (errno.ENOTTY, errno.EFAULT):
                raise LocalProtocolError(told) from None
            raise NoAnswer(told, "the BMC refused or did not answer; dmesg says more") from None


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
