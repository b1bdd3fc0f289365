"""The frozen bytes under `tests/vectors`. If a test with them fails, do not change the bytes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "vectors"


@cache
def _file(name: str) -> dict[str, dict[str, str]]:
    entries: dict[str, dict[str, str]] = json.loads((FOLDER / f"{name}.json").read_text())
    assert all(entry["source"] for entry in entries.values())
    return entries


def vector(file: str, name: str) -> bytes:
    """Return the bytes of one vector."""
    return bytes.fromhex(_file(file)[name]["bytes"])


def vector_names(file: str) -> set[str]:
    """Return the names of all vectors of a file, so that a test can check that all are used."""
    return set(_file(file))
