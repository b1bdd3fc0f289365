"""Signals that come before a program of ours can handle them: none is lost, and none kills it.

A reload or an end may be asked for as soon as the process is there, long before all is loaded.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

HELD = (signal.SIGHUP, signal.SIGTERM)


def hold() -> None:
    """The very first thing of a start: they wait until `Supervisor.signals_handled`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def release() -> None:
    """They do again what they do to any program; what has waited does it now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """While nothing is touched yet, SIGTERM is all that an orderly end needs: status 0.

    On a host under load it can take minutes until all is loaded.
    """
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def ignore() -> None:
    """All is ended: one more must not change the exit status."""
    for number in HELD:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: object) -> None:
    """Not by an exception: whoever is being loaded might catch that."""
    del number, frame
    os._exit(0)
