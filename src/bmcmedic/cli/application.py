"""The typer application: its help, its version, and the commands that it runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence

import typer

from bmcmedic import __version__
from bmcmedic.cli import Program


def run(commands: Sequence[str], programs: Mapping[str, Program]) -> None:
    """Run the command that the command line names; the help lists `programs` as well."""
    app = typer.Typer(
        name="bmcmedic",
        help="Keep hosts alive through a sick BMC, and heal the BMC.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    # Only the command that is called is loaded: a probe starts without the simulator's modules.
    wanted = [argument for argument in sys.argv[1:2] if argument in commands] or commands
    for name in wanted:
        importlib.import_module(f"bmcmedic.cli.{name}").register(app)
    for name, program in programs.items():
        _list_program(app, name, program)
    app()


def _list_program(app: typer.Typer, name: str, program: Program) -> None:
    """List a program in the help; a call with its name as the first word never gets here."""

    def listed(context: typer.Context) -> None:
        raise SystemExit(program.main(context.args))

    anything = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(name, help=program.help, context_settings=anything, add_help_option=False)(listed)


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
