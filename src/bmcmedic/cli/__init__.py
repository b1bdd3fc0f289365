"""The command line: one thin module a command group, loaded when it is used."""

from __future__ import annotations

import errno
import importlib
import os
import sys

import typer

from bmcmedic import __version__
from bmcmedic.errors import ConfigurationError

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_GROUPS = ("probe", "reset", "heal", "sim", "demo")
"""Commands and their modules; the order is that of the help."""


def main() -> None:
    """The `bmcmedic` program."""
    app = typer.Typer(
        name="bmcmedic",
        help="Keeps hosts alive through a sick BMC, and heals the BMC.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    # Only the group that is called is loaded: a probe starts without the simulator's modules.
    wanted = [argument for argument in sys.argv[1:2] if argument in _GROUPS] or _GROUPS
    for name in wanted:
        importlib.import_module(f"bmcmedic.cli.{name}").register(app)
    try:
        app()
    except ConfigurationError as error:
        print(f"bmcmedic: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
    except BrokenPipeError:
        # Whoever read our output has enough.
        _drop_output()
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _drop_output()
        print(f"bmcmedic: cannot write the output: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


def _drop_output() -> None:
    """What is still buffered goes nowhere, so that the interpreter does not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(value: bool) -> None:
    if value:
        print(f"bmcmedic {__version__}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    del version
