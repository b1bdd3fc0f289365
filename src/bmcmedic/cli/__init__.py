"""The command line: a thin module for each command, loaded only if that command is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial

from bmcmedic.errors import ConfigurationError
from bmcmedic.host.output import until_written
from bmcmedic.host.typed import NamedTuple

EXIT_USAGE = 2
"""The exit status after an error in the command line or the configuration."""
EXIT_INTERRUPTED = 130
"""The exit status after Ctrl-C."""

COMMANDS = ("probe", "reset", "heal", "sim", "lab", "demo")
"""The commands that typer runs; each has a module of its name here. The help shows this order."""


class Program(NamedTuple):
    """A command that runs on a host, perhaps a sick one: it loads argparse, but no typer or rich.

    Its module has `parser()`, and `main(arguments)`, which returns the exit status. This is not a
    dataclass: loading `dataclasses` alone takes a tenth of the time that a whole triage may take.
    """

    module: str
    help: str
    prints_result: bool = True
    """Whether its output is its purpose: then it does not run while standard output is closed."""
    is_service: bool = False
    """Whether it runs until a signal ends it."""

    def main(self, arguments: Sequence[str]) -> int:
        """Load the program and run it; return its exit status."""
        if self.is_service:  # a signal may come before the program is loaded
            importlib.import_module("bmcmedic.service.startup_signals").hold()
        run: Callable[[Sequence[str]], int] = importlib.import_module(self.module).main
        return run(arguments)


PROGRAMS = {
    "triage": Program(
        "bmcmedic.host.triage.main",
        "Examine this host: stuck IPMI clients, kipmi threads, and what they show about its BMC.",
    ),
    "relieve": Program(
        "bmcmedic.host.relieve.main",
        "End this host's IPMI clients that are proven stuck, and throttle kipmid in a hang.",
    ),
    "driver": Program(
        "bmcmedic.driver.process.main",
        "Own this host's interface to its BMC: serve its clients, and pat the watchdog.",
        prints_result=False,
        is_service=True,
    ),
    "agent": Program(
        "bmcmedic.agent.main",
        "Watch this host beside the driver: relieve it, serve metrics, report to a controller.",
        prints_result=False,
        is_service=True,
    ),
    "ipmitool": Program(
        "bmcmedic.agent.shim.main",
        "Run the real ipmitool through the agent's proxy: it always ends, and none pile up.",
        prints_result=False,
    ),
    "shim": Program(
        "bmcmedic.agent.shim.install_main",
        "Install the shim in place of /usr/bin/ipmitool, or remove it.",
    ),
}


def main() -> None:
    """The `bmcmedic` program."""
    sys.argv[1:] = _asked_for_help(sys.argv[1:])
    program = PROGRAMS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        is_needed = program is None or program.prints_result
        raise SystemExit(until_written("bmcmedic", partial(_run, program), is_needed=is_needed))
    except ConfigurationError as error:
        print(f"{_called(sys.argv[1:])}: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


def _asked_for_help(words: list[str]) -> list[str]:
    """Return `help COMMAND` as the command with `--help`, and other words as they are."""
    return [*words[1:], "--help"] if words[:1] == ["help"] else words


def _called(words: Sequence[str]) -> str:
    """Return the program and its command, as a message begins."""
    return " ".join(["bmcmedic", *(word for word in words[:1] if word in COMMANDS)])


def _run(program: Program | None) -> int:
    if program is not None:
        return program.main(sys.argv[2:])
    importlib.import_module("bmcmedic.cli.application").run(COMMANDS, PROGRAMS)
    return 0
