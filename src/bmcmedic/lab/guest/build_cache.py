"""Files that take a while to build, kept until what went into them changes."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

FILES_KEPT_MAX = 8
"""Of each kind; the oldest go."""


def version(path: Path) -> str:
    """What tells one version of an input from another."""
    known = path.stat()
    return f"{path} {known.st_size} {known.st_mtime_ns}"


def cached(cache: Path, kind: str, stamp: str, build: Callable[[], bytes]) -> Path:
    """The file that was built for this stamp; two that build it at once do no harm."""
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:20]
    place = cache / f"{kind}-{digest}"
    if place.is_file():
        place.touch()
        return place
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache, prefix="new-", delete=False) as new:
        try:
            new.write(build())
        except BaseException:
            Path(new.name).unlink()
            raise
    Path(new.name).chmod(0o644)
    Path(new.name).replace(place)
    for old in sorted(cache.glob(f"{kind}-*"), key=_last_used)[:-FILES_KEPT_MAX]:
        old.unlink(missing_ok=True)
    return place


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process was quicker
        return 0.0
