"""Output that does not arrive: a result that nobody gets must not look like one."""

import errno
import os
import sys

from bmcmedic.host.typed import Callable

EXIT_NO_OUTPUT = 2
"""As for wrong usage: there is no result."""

_NOT_WRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def until_written(program: str, run: Callable[[], int], *, is_needed: bool = True) -> int:
    """Run something and see its output off; returns its exit status, or that of no result.

    `is_needed`: where standard output is closed it is not run at all.
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
        # Whoever read our output has enough.
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
    """What is still buffered goes nowhere, so that the interpreter does not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
