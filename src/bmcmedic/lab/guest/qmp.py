"""QEMU's monitor protocol (QMP): the machine's events, and the few commands that a lab needs."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bmcmedic.errors import BmcmedicError

ANSWER_TIMEOUT_S = 20.0
EVENTS_MAX = 10_000
_POLL_S = 0.01


class QmpError(BmcmedicError):
    """QEMU refused a command, or is gone."""


class Qmp:
    """One connection to the monitor. A thread reads the events, which are kept in order."""

    def __init__(self, path: Path, changed: threading.Condition, alive: Callable[[], bool]) -> None:
        """Connect to a QEMU that was just started; `changed` is notified of every event."""
        self.events: list[dict[str, Any]] = []
        self._changed = changed
        self._answers: dict[int, dict[str, Any]] = {}
        self._last_id = 0
        self._closed = False
        self._socket = _connected(path, alive)
        self._file = self._socket.makefile("rb")
        self._file.readline()  # the greeting
        self._thread = threading.Thread(target=self._read, name="qmp", daemon=True)
        self._thread.start()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """Execute a command and return its result.

        Raises: QmpError.
        """
        with self._changed:
            self._last_id += 1
            number = self._last_id
        message = {"execute": command, "arguments": arguments, "id": number}
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise QmpError(f"QEMU is gone: {error.strerror}") from None
        with self._changed:
            self._changed.wait_for(
                lambda: number in self._answers or self._closed, ANSWER_TIMEOUT_S
            )
            answer = self._answers.pop(number, None)
        if answer is None:
            raise QmpError(f"QEMU did not answer {command}")
        if "error" in answer:
            raise QmpError(f"QEMU refuses {command}: {answer['error'].get('desc')}")
        return answer["return"]

    def times(self, event: str) -> list[float]:
        """Return when that event happened, each time, in epoch seconds."""
        stamps = [each["timestamp"] for each in self.events if each["event"] == event]
        return [stamp["seconds"] + stamp["microseconds"] / 1e6 for stamp in stamps]

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._file.close()
        self._socket.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._file:
                message = json.loads(line)
                with self._changed:
                    if "event" in message:
                        self.events.append(message)
                        del self.events[:-EVENTS_MAX]
                    else:
                        self._answers[message.get("id", 0)] = message
                    self._changed.notify_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _connected(path: Path, alive: Callable[[], bool]) -> socket.socket:
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    while True:
        try:
            connection.connect(str(path))
            return connection
        except OSError:
            if not alive() or time.monotonic() > deadline:
                connection.close()
                raise QmpError("QEMU is not running") from None
        time.sleep(_POLL_S)
