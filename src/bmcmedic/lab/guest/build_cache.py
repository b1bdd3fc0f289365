"""A cache of files that take a while to build; a file is rebuilt when its inputs change."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

FILES_PER_KIND_MAX = 8
"""Most files of one kind in the cache; the oldest are deleted."""


def version(path: Path) -> str:
    """Return text that differs between two versions of an input: path, size and time."""
    known = path.stat()
    return f"{path} {known.st_size} {known.st_mtime_ns}"


def cached(cache: Path, kind: str, stamp: str, build: Callable[[], bytes]) -> Path:
    """Return the file of this stamp, and build it if needed; parallel builds do no harm."""
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:20]
    file = cache / f"{kind}-{digest}"
    if file.is_file():
        file.touch()
        return file
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache, prefix="new-", delete=False) as new:
        try:
            new.write(build())
        except BaseException:
            Path(new.name).unlink()
            raise
    Path(new.name).chmod(0o644)
    Path(new.name).replace(file)
    for old in sorted(cache.glob(f"{kind}-*"), key=_last_used)[:-FILES_PER_KIND_MAX]:
        old.unlink(missing_ok=True)
    return file


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process deleted it first
        return 0.0
