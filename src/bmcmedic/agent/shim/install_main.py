"""`bmcmedic shim`: arguments, output and exit status."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bmcmedic.agent.shim.install import ShimError, ShimInstall, ShimState
from bmcmedic.errors import Refused
from bmcmedic.host.usage import OneLineParser

EXIT_DONE = 0
EXIT_NOT = 1
EXIT_REFUSED = 3


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = OneLineParser(
        prog="bmcmedic shim",
        description="Put the shim in the place of /usr/bin/ipmitool, so that all calls go through "
        "the agent's loopback proxy; remove it again; or show whether it is installed.",
        epilog="Exit status: 0 done, or in place; 1 a step failed, or not in place; 2 usage; "
        "3 refused.",
        allow_abbrev=False,
    )
    parsed.add_argument("action", choices=("install", "remove", "status"))
    parsed.add_argument(
        "--json", action="store_true", help="Print the resulting state as one JSON object."
    )
    return parsed


def main(arguments: Sequence[str] | None = None, root: Path = Path("/")) -> int:
    """Carry out the action, and return the exit status."""
    given = parser().parse_args(arguments)
    shim = ShimInstall(root)
    status = EXIT_DONE
    message = ""
    try:
        if given.action == "install":
            message = shim.install()
        elif given.action == "remove":
            message = shim.remove()
        shown = shim.status()
    except (Refused, ShimError) as error:
        sys.stderr.write(f"bmcmedic shim: {error}\n")
        return EXIT_REFUSED if isinstance(error, Refused) else EXIT_NOT
    if given.action == "status":
        message = f"{shown.path}: the shim is {shown.state}"
        status = EXIT_DONE if shown.state is ShimState.INSTALLED else EXIT_NOT
    sys.stdout.write((json.dumps(shown.to_json()) if given.json else message) + "\n")
    return status
