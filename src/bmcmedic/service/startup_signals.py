"""Signals that arrive before the program can handle them: none is lost, and none kills it.

A reload or a stop may be requested as soon as the process exists, long before everything is loaded.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

HELD = (signal.SIGHUP, signal.SIGTERM)


def hold() -> None:
    """Block the signals until `Supervisor.signals_handled`.

    A program calls this before all else.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def release() -> None:
    """Unblock the signals, with their default actions; those that have waited act now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Exit with status 0 upon SIGTERM, while nothing has been touched that needs an orderly end.

    Under load it can take minutes to load everything.
    """
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def ignore() -> None:
    """Ignore further signals: the program has ended, and its exit status must not change."""
    for number in HELD:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: object) -> None:
    """Exit without an exception: code that is just being loaded might catch one."""
    del number, frame
    os._exit(0)
