"""Finds other owners of the BMC's watchdog timer: it may have only one."""

from __future__ import annotations

import contextlib
import os
from enum import Enum
from pathlib import Path

from bmcmedic.errors import ConfigurationError
from bmcmedic.transport.dev_watchdog import IDENTITY, holders

DIRECT_DAEMONS = ("bmc-watchdog",)
"""Daemons that talk to the BMC themselves and have no watchdog device open."""
PROCESSES_MAX = 100_000


class WatchdogMode(Enum):
    """How the driver reaches the timer."""

    BMC = "bmc"
    KERNEL = "kernel"


def require_sole_ownership(mode: WatchdogMode, root: str = "/") -> list[str]:
    """Refuse to start while another program owns the timer; return notes for the log.

    The kernel's thread `watchdogd` runs on every Linux. It owns a timer only if the timer runs and
    no process has it open.
    Raises: ConfigurationError that names the owner, and says what to do.
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
        f"the kernel's watchdogd, which pats {name}"
        for name in _patted_by_kernel(root)
        if name not in held
    ]
    if others:
        raise ConfigurationError(
            f"the BMC's watchdog has another owner: {'; '.join(others)}. It may have only one:"
            " end that one, or run the driver with its watchdog off"
        )
    if mode is WatchdogMode.BMC and Path(root, "sys/module/ipmi_watchdog").is_dir():
        raise ConfigurationError(
            "the kernel's ipmi_watchdog is loaded and owns the BMC's timer: pat through it "
            "(kernel instead of bmc), or modprobe -r ipmi_watchdog"
        )
    if not os.access(Path(root, "proc/1/fd"), os.R_OK):
        notes.append("only root can see whether systemd has a watchdog open")
    return notes


def _identity(device: str, root: str) -> str | None:
    """Return a watchdog device's identity; None where it is unknown."""
    name = Path(device).name
    known = _read(Path(root, "sys/class/watchdog", name, "identity"))
    if known is not None or name != "watchdog":
        return known
    # The old name belongs to the first watchdog: ipmi_watchdog, which has no entry in the class, or
    # the first of the class.
    if Path(root, "sys/module/ipmi_watchdog").is_dir():
        return None
    return _read(Path(root, "sys/class/watchdog/watchdog0/identity"))


def _patted_by_kernel(root: str) -> list[str]:
    """Return the BMC's timers that run.

    One that no process holds is patted by the kernel's thread.
    """
    with contextlib.suppress(OSError):
        return [
            entry.name
            for entry in sorted(Path(root, "sys/class/watchdog").iterdir())
            if _read(entry / "identity") == IDENTITY and _read(entry / "state") == "active"
        ]
    return []


def _direct_daemons(root: str) -> list[tuple[int, str]]:
    """Return such processes.

    A kernel thread of that name has no command line and does not count.
    """
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
