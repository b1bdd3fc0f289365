"""The systemd units of driver and agent, as they are shipped: each switch with its reason."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

NAMES = ("bmcmedic-driver.service", "bmcmedic-agent.service")
PROGRAM_DEFAULT = "/usr/bin/bmcmedic"
_PLACEHOLDER = "@BMCMEDIC@"
_HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108
"""What ProtectHome= and PrivateTmp= hide from both."""


def program() -> str:
    """Where the program is that is to be started: beside this interpreter, else on the path."""
    beside = Path(sys.executable).with_name("bmcmedic")
    if beside.exists():
        return str(beside)
    return shutil.which("bmcmedic") or PROGRAM_DEFAULT


def text(name: str, path: str | None = None) -> str:
    """One unit, for the program at `path`."""
    raw = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return raw.replace(_PLACEHOLDER, _escaped(path if path is not None else program()))


def _escaped(path: str) -> str:
    """As a word of ExecStart=; quotes and backslashes systemd takes in no program's name."""
    escaped = path.replace("%", "%%")
    return f'"{escaped}"' if " " in path else escaped


def hidden(paths: Iterable[str]) -> str | None:
    """The first of these, links followed, that the services would not see; None: they see all."""
    for path in paths:
        for each in (Path(path), Path(path).resolve()):
            if any(each.is_relative_to(folder) for folder in _HIDDEN):
                return str(each)
    return None


def printed() -> str:
    """All of them, each under its name."""
    return "\n".join(f"# {name}\n{text(name)}" for name in NAMES)


def install(folder: Path) -> Iterator[Path]:
    """Write them; what of that name is there is replaced. Raises: OSError."""
    for name in NAMES:
        path = folder / name
        path.write_text(text(name), encoding="utf-8")
        path.chmod(0o644)
        yield path
