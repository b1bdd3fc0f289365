"""A program of ours in a process of its own, and what it has said so far."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE_S = 90.0
"""On a machine that is busy besides, a start alone takes seconds."""
POLL_S = 0.02


def until(condition: Callable[[], object], what: Callable[[], object]) -> None:
    """Wait for it; `what` says what was seen instead."""
    deadline = time.monotonic() + DEADLINE_S
    with selectors.DefaultSelector() as nothing_to_come:
        while not condition():
            assert time.monotonic() < deadline, what()
            nothing_to_come.select(POLL_S)


class Running:
    """Its standard error is a pipe that is read as it comes."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.said = ""
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)

    def has_said(self, text: str) -> bool:
        assert self.process.stderr is not None
        self.said += (self.process.stderr.read() or b"").decode()
        return text in self.said

    def wait_for(self, text: str) -> None:
        until(lambda: self.has_said(text), lambda: f"{text!r} in {self.said!r}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(DEADLINE_S)
        self.has_said("")
        return status
