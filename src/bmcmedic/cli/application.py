"""The typer application: its help, its version, and the commands that it runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from bmcmedic import __version__
from bmcmedic.cli import EXIT_USAGE, Program

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The base class of all usage errors, which typer itself does not export."""
_PASSWORD_OPTIONS = frozenset({"-P", "--password"})
"""What other programs call the option that has the password on the command line."""
_HINT_AT_SECRETS = (
    "every user of this machine can read a command line: give --password-file FILE, or set"
    " BMCMEDIC_PASSWORD"
)


def run(commands: Sequence[str], programs: Mapping[str, Program]) -> None:
    """Run the command that the command line names; the help lists `programs` as well."""
    app = typer.Typer(
        name="bmcmedic",
        help="Keep hosts alive through a sick BMC, and heal the BMC.",
        epilog="`bmcmedic help COMMAND` shows the help of a command, as `bmcmedic COMMAND --help`.",
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
    try:
        status = app(prog_name="bmcmedic", standalone_mode=False)
    except _UsageError as error:
        line = _one_line(error)
        if line:  # it is empty if no command is given: then the help was printed
            print(line, file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
    raise SystemExit(status)


def _one_line(error: Any) -> str:  # noqa: ANN401 - typer does not export its class
    """Return a usage error in the style of all commands."""
    text = error.format_message()
    if not text:
        return ""
    called = error.ctx.command_path if error.ctx is not None else "bmcmedic"
    hint = f"see `{called} --help`"
    if getattr(error, "option_name", None) in _PASSWORD_OPTIONS:
        hint = _HINT_AT_SECRETS
    return f"{called}: {text.rstrip('.')}; {hint}"


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
