"""The systemd units of driver and agent, and the code that prints and installs them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

NAMES = ("bmcmedic-driver.service", "bmcmedic-agent.service")
PROGRAM_DEFAULT = "/usr/bin/bmcmedic"
_PLACEHOLDER = "@BMCMEDIC@"
_HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108
"""Directories that ProtectHome= and PrivateTmp= hide from both services."""


def program() -> str:
    """Return the path of `bmcmedic`: beside this interpreter, or else on the PATH."""
    beside = Path(sys.executable).with_name("bmcmedic")
    if beside.exists():
        return str(beside)
    return shutil.which("bmcmedic") or PROGRAM_DEFAULT


def text(name: str, path: str | None = None) -> str:
    """Return the text of one unit, for the program at `path`."""
    raw = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return raw.replace(_PLACEHOLDER, _escaped(path if path is not None else program()))


def _escaped(path: str) -> str:
    """Return a path as a word of ExecStart=; systemd allows no quotes or backslashes in it."""
    escaped = path.replace("%", "%%")
    return f'"{escaped}"' if " " in path else escaped


def hidden(paths: Iterable[str]) -> str | None:
    """Return the first path that is hidden from the services, links followed, or None."""
    for path in paths:
        for each in (Path(path), Path(path).resolve()):
            if any(each.is_relative_to(folder) for folder in _HIDDEN):
                return str(each)
    return None


def printed() -> str:
    """Return the text of all units, each under its name."""
    return "\n".join(f"# {name}\n{text(name)}" for name in NAMES)


class UnitChange(StrEnum):
    """What the installation of a unit did to its file."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


def install(folder: Path) -> Iterator[tuple[Path, UnitChange]]:
    """Write the units into a directory, and replace those that differ. Raises: OSError."""
    for name in NAMES:
        path = folder / name
        wanted = text(name).encode()
        change = UnitChange.NEW
        if path.exists():
            is_same = path.read_bytes() == wanted
            change = UnitChange.UNCHANGED if is_same else UnitChange.CHANGED
        if change is not UnitChange.UNCHANGED:
            path.write_bytes(wanted)
        path.chmod(0o644)
        yield path, change
