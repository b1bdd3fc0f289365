"""`bmcmedic shim`: arguments, output and exit status."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bmcmedic.agent.shim.install import ShimError, ShimInstall
from bmcmedic.errors import Refused

EXIT_DONE = 0
EXIT_NOT = 1
EXIT_REFUSED = 3


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parsed = argparse.ArgumentParser(
        prog="bmcmedic shim",
        description="Put the shim in the place of /usr/bin/ipmitool, so that all calls of it go "
        "through the agent's door; take it away again; or tell how it stands.",
        epilog="Exit status: 0 done, or in place; 1 a step failed, or not in place; 2 usage; "
        "3 refused.",
        allow_abbrev=False,
    )
    parsed.add_argument("action", choices=("install", "remove", "status"))
    parsed.add_argument(
        "--json", action="store_true", help="Print how it stands then as one JSON object."
    )
    return parsed


def main(arguments: Sequence[str] | None = None, root: Path = Path("/")) -> int:
    """Do it, and return the exit status."""
    given = parser().parse_args(arguments)
    shim = ShimInstall(root)
    status = EXIT_DONE
    told = ""
    try:
        if given.action == "install":
            told = shim.install()
        elif given.action == "remove":
            told = shim.remove()
        standing = shim.status()
    except (Refused, ShimError) as error:
        sys.stderr.write(f"bmcmedic shim: {error}\n")
        return EXIT_REFUSED if isinstance(error, Refused) else EXIT_NOT
    if given.action == "status":
        told = f"{standing.path}: the shim is {standing.state}"
        status = EXIT_DONE if standing.state == "installed" else EXIT_NOT
    sys.stdout.write((json.dumps(standing.to_json()) if given.json else told) + "\n")
    return status
