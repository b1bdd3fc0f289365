"""Small JSON files that are replaced as a whole: after a crash the old or the new one is there."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from bmcmedic.errors import StoreError


def read_json(path: Path, bytes_max: int) -> dict[str, Any] | None:
    """Return the object in a file, or None without a file. Raises: StoreError for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            raw = opened.read(bytes_max + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    try:
        if len(raw) > bytes_max:
            raise ValueError
        found = json.loads(raw)
        if not isinstance(found, dict):
            raise TypeError
    except (ValueError, TypeError, RecursionError):
        raise StoreError(f"{path} was not written by this program") from None
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a file, and return when it is on disk.

    Raises: StoreError; the old file is then unchanged.
    """
    new = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(new, flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(json.dumps(content).encode())
                opened.flush()
                os.fsync(opened.fileno())
            new.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        _sync(path.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
