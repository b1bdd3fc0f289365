"""A program of ours in a process of its own, and what it has said so far."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.support.polling import eventually

DEADLINE_S = 90.0
"""On a machine that is busy besides, a start alone takes seconds."""
POLL_S = 0.02


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
        eventually(lambda: self.has_said(text), lambda: f"{text!r} in {self.said!r}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(DEADLINE_S)
        self.has_said("")
        return status
