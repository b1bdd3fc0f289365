"""Checks of the files that hold passwords, keys and tokens, before they are used."""

from __future__ import annotations

import stat
from pathlib import Path


def unreadable(path: Path) -> str | None:
    """Return why a file cannot be read, or None if it can."""
    try:
        with path.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return None


def exposed(path: Path) -> str | None:
    """Return a warning if every user of this machine can read the file, or None."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if not stat.S_ISREG(mode) or not mode & stat.S_IROTH:
        return None
    return f"every user of this machine can read {path}; run `chmod o= {path}`"
