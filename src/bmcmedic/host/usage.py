"""Errors of the command line: one line, and the same for every command."""

import argparse
import sys

from bmcmedic.host.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

EXIT_USAGE = 2


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports an error in one line, without the list of all options."""

    def error(self, message: str) -> "NoReturn":
        """Print the message, and end the program with the status of a usage error."""
        sys.stderr.write(f"{self.prog}: {message}; see `{self.prog} --help`\n")
        sys.exit(EXIT_USAGE)
