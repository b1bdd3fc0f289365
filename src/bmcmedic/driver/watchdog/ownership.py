"""Who else has the BMC's watchdog timer: two are never in charge of it."""

from __future__ import annotations

import contextlib
import os
from enum import Enum
from pathlib import Path

from bmcmedic.errors import ConfigurationError
from bmcmedic.transport.dev_watchdog import IDENTITY, holders

DIRECT_DAEMONS = ("bmc-watchdog",)
"""They send to the BMC themselves, and have no watchdog device open."""
PROCESSES_MAX = 100_000


class WatchdogMode(Enum):
    """How the driver reaches the timer."""

    BMC = "bmc"
    KERNEL = "kernel"


def require_sole_charge(mode: WatchdogMode, root: str = "/") -> list[str]:
    """Refuse to start beside somebody who has the timer; the answer is what else is worth saying.

    The kernel's own thread `watchdogd` runs on every Linux, and is in charge of nothing unless a
    timer runs that no process has open.
    Raises: ConfigurationError with the name of who has it, and what to do.
    """
    others, notes = [], []
    held = set()
    for holder in holders(root):
        if holder.pid == os.getpid():
            continue
        held.add(Path(holder.device).name)
        identity = _identity(holder.device, root)
        if identity in (IDENTITY, None):
            others.append(str(holder))
        else:
            notes.append(f"{holder}, which is not the BMC's but {identity}: another timer")
    others += [f"{name}, process {pid}" for pid, name in _direct_daemons(root)]
    others += [
        f"the kernel's watchdogd, which keeps {name} alive"
        for name in _kept_by_kernel(root)
        if name not in held
    ]
    if others:
        raise ConfigurationError(
            f"somebody else is in charge of the BMC's watchdog: {'; '.join(others)}. Two never are:"
            " end that one, or run the driver with its watchdog off"
        )
    if mode is WatchdogMode.BMC and Path(root, "sys/module/ipmi_watchdog").is_dir():
        raise ConfigurationError(
            "the kernel's ipmi_watchdog is loaded, and the BMC's timer is its: pat through it "
            "(kernel instead of bmc), or modprobe -r ipmi_watchdog"
        )
    if not os.access(Path(root, "proc/1/fd"), os.R_OK):
        notes.append("without root, it cannot be seen whether systemd has a watchdog open")
    return notes


def _identity(device: str, root: str) -> str | None:
    """What kind of watchdog a device is; None where that cannot be found out."""
    name = Path(device).name
    known = _read(Path(root, "sys/class/watchdog", name, "identity"))
    if known is not None or name != "watchdog":
        return known
    # The old name is that of the first to come: ipmi_watchdog, which has no entry in the class, or
    # the class's first.
    if Path(root, "sys/module/ipmi_watchdog").is_dir():
        return None
    return _read(Path(root, "sys/class/watchdog/watchdog0/identity"))


def _kept_by_kernel(root: str) -> list[str]:
    """Timers of the BMC's that run; without a process, the kernel's own thread pats them."""
    with contextlib.suppress(OSError):
        return [
            entry.name
            for entry in sorted(Path(root, "sys/class/watchdog").iterdir())
            if _read(entry / "identity") == IDENTITY and _read(entry / "state") == "active"
        ]
    return []


def _direct_daemons(root: str) -> list[tuple[int, str]]:
    """Processes by name; a kernel thread of that name has no command line, and is none."""
    found = []
    processes = [path for path in Path(root, "proc").iterdir() if path.name.isdecimal()]
    for process in processes[:PROCESSES_MAX]:
        name = _read(process / "comm")
        if name in DIRECT_DAEMONS and _read(process / "cmdline"):
            found.append((int(process.name), name))
    return sorted(found)


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
