"""The one-file program: `triage` and `relieve`, by their own names.

python3 bmcmedic-triage.pyz triage
ssh host python3 - triage --json < bmcmedic-triage.pyz
"""

import importlib
import sys

from bmcmedic.host.output import until_written
from bmcmedic.host.typed import List, Optional

COMMANDS = {
    "triage": "bmcmedic.host.triage.main",
    "relieve": "bmcmedic.host.relieve.main",
}
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

USAGE = """usage: bmcmedic-triage.pyz triage|relieve [options]

  triage    examine this host: stuck IPMI clients, kipmi threads, and what ails its BMC
  relieve   end the clients that are proven stuck

Each has --help."""


def run() -> None:
    """Run the whole program: the command line, and then the exit."""
    try:
        status = until_written("bmcmedic", main)
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    sys.exit(status)


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command that is named first; returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in COMMANDS:
        module = importlib.import_module(COMMANDS[words[0]])
        status = module.main(words[1:])
        return int(status)
    is_help = bool(words) and words[0] in ("-h", "--help", "help")
    print(USAGE, file=sys.stdout if is_help else sys.stderr)
    return 0 if is_help else EXIT_USAGE
