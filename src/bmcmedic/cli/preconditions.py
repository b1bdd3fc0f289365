"""Checks that a command makes before a long run, so that it does not fail at the end of it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from bmcmedic.errors import ConfigurationError


def need_module(module: str, what: str) -> None:
    """Raise ConfigurationError if a module of the extra `lab` is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ConfigurationError(
            f"{what} needs {module}, which is not installed: run `make setup`, or "
            "`pip install '.[lab]'`, in a clone of bmcmedic"
        )


def need_writable(path: Path) -> None:
    """Raise ConfigurationError if the file at `path` cannot be written."""
    folder = path.parent
    if path.is_dir():
        raise ConfigurationError(f"cannot write {path}: it is a directory")
    if not folder.is_dir():
        raise ConfigurationError(f"cannot write {path}: there is no directory {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigurationError(f"cannot write {path}: permission denied")
