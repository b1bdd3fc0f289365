"""The command line: one thin module a command group, loaded when it is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial

from bmcmedic.errors import ConfigurationError
from bmcmedic.host.output import until_written
from bmcmedic.host.typed import NamedTuple

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_GROUPS = ("probe", "reset", "heal", "sim", "lab", "demo")
"""Commands and their modules; the order is that of the help."""


class Program(NamedTuple):
    """A command that runs on a sick host: argparse, and neither typer nor rich are loaded for it.

    Its module has `parser()`, and `main(arguments)`, which returns the exit status. No dataclass:
    loading those alone takes a tenth of what a whole triage may.
    """

    module: str
    help: str
    is_told: bool = True
    """Whether it is run for what it prints."""
    is_service: bool = False
    """It runs until a signal ends it."""

    def main(self, arguments: Sequence[str]) -> int:
        """Load it and run it."""
        if self.is_service:  # loading it takes a while, and a signal may come at once
            importlib.import_module("bmcmedic.service.startup_signals").hold()
        run: Callable[[Sequence[str]], int] = importlib.import_module(self.module).main
        return run(arguments)


PROGRAMS = {
    "triage": Program(
        "bmcmedic.host.triage.main",
        "Look at this host: stuck IPMI clients, kipmi threads, and what they say about its BMC.",
    ),
    "relieve": Program(
        "bmcmedic.host.relieve.main",
        "End this host's IPMI clients that are proven stuck, and throttle kipmid in a hang.",
    ),
    "driver": Program(
        "bmcmedic.driver.process.main",
        "Own this host's interface to its BMC: serve who asks, and pat the watchdog.",
        is_told=False,
        is_service=True,
    ),
    "agent": Program(
        "bmcmedic.agent.main",
        "Watch this host beside the driver: relieve it, serve figures, report to a controller.",
        is_told=False,
        is_service=True,
    ),
    "ipmitool": Program(
        "bmcmedic.agent.shim.main",
        "Run the real ipmitool through the agent's door: it ends, and nothing piles up.",
        is_told=False,
    ),
    "shim": Program(
        "bmcmedic.agent.shim.install_main",
        "Put the shim in the place of /usr/bin/ipmitool, or take it away.",
    ),
}


def main() -> None:
    """The `bmcmedic` program."""
    program = PROGRAMS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        is_needed = program is None or program.is_told
        raise SystemExit(until_written("bmcmedic", partial(_run, program), is_needed=is_needed))
    except ConfigurationError as error:
        print(f"bmcmedic: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


def _run(program: Program | None) -> int:
    if program is not None:
        return program.main(sys.argv[2:])
    importlib.import_module("bmcmedic.cli.groups").run(_GROUPS, PROGRAMS)
    return 0
