"""Write output: in words for a person, and never lost without an exit status that says so."""

import errno
import os
import sys

from bmcmedic.host.typed import Callable

EXIT_NO_OUTPUT = 2
"""The exit status of a run without a result, which is that of wrong usage."""

_NOT_WRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def until_written(program: str, run: Callable[[], int], *, is_needed: bool = True) -> int:
    """Run a program and write out its output; returns its exit status, or EXIT_NO_OUTPUT.

    `is_needed`: do not run it at all if standard output is closed.
    """
    is_open = getattr(sys, "stdout", None) is not None
    if is_needed and not is_open:
        _say(f"{program}: nothing was done: standard output is closed")
        return EXIT_NO_OUTPUT
    try:
        try:
            return run()
        finally:
            if is_open:
                sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has enough of it.
        _drop_the_rest()
    except OSError as error:
        if error.errno not in _NOT_WRITTEN:
            raise
        _drop_the_rest()
        _say(f"{program}: cannot write the output: {error.strerror}")
    return EXIT_NO_OUTPUT


def _say(line: str) -> None:
    if getattr(sys, "stderr", None) is not None:
        sys.stderr.write(line + "\n")


def _drop_the_rest() -> None:
    """Send the buffered rest nowhere, so that the interpreter does not complain at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def duration(seconds: float) -> str:
    """Return a length of time in an operator's words: its two largest units."""
    whole = int(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    if whole >= 120:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole} s" if seconds >= 10 or seconds == whole else f"{seconds:.1f} s"


def printable(line: str) -> str:
    """Replace what is not printable: no name of another program may control the terminal."""
    return "".join(c if c.isprintable() else "?" for c in line)
