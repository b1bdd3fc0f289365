"""The options of driver and agent that show, write or check the configuration, and then exit."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from bmcmedic.errors import ConfigurationError

C = TypeVar("C")

_FILE_MODE = 0o644
_STDOUT = 1


def add_options(group: argparse._MutuallyExclusiveGroup) -> None:
    """Add the three options to a group of options that exclude each other."""
    group.add_argument(
        "--print-config",
        action="store_true",
        help="Print the configuration as a commented TOML file, and exit.",
    )
    group.add_argument(
        "--write-config",
        metavar="FILE",
        type=Path,
        help="Write the configuration to a new file, and exit. An existing file is never replaced.",
    )
    group.add_argument(
        "--check-config",
        action="store_true",
        help="Check the configuration, report every fault in it, and exit.",
    )


def are_given(given: argparse.Namespace) -> bool:
    """Return whether the command line has one of the options."""
    return bool(given.print_config or given.check_config or given.write_config is not None)


def run(
    given: argparse.Namespace,
    file: Path | None,
    read: Callable[[], C],
    show: Callable[[C], str],
    warnings: Callable[[C], Iterable[str]] = lambda _: (),
) -> None:
    """Do what the options ask for.

    `file` is the configuration file in use, `read` reads and checks it, `show` returns it as TOML,
    and `warnings` returns what is allowed but doubtful.
    Raises: ConfigurationError.
    """
    if given.print_config and file is not None and _is_stdout(file):
        raise ConfigurationError(
            f"{file} is the configuration in use and cannot be the output too: the shell empties"
            " it before it is read. Give --write-config NEWFILE instead"
        )
    config = read()
    if given.write_config is not None:
        _write_new(given.write_config, show(config))
    elif given.print_config:
        sys.stdout.write(show(config))
    else:
        for warning in warnings(config):
            sys.stderr.write(f"warning: {warning}\n")
        where = "the defaults" if file is None else str(file)
        sys.stdout.write(f"{where}: no fault found\n")


def _is_stdout(file: Path) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(_STDOUT)) and file.is_file()
    except OSError:
        return False


def _write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet; its directory is created if only that one is missing."""
    try:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    except FileExistsError:
        raise ConfigurationError(
            f"--write-config: {path} exists and is not replaced; give another name"
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"--write-config: {path} cannot be written: {error.strerror}")
