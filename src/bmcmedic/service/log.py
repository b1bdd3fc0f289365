"""The messages of driver and agent, on stderr; who has one never waits for whoever reads it.

A journal that is stuck on a sick host would otherwise hold back the pat that reports it.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Mapping

from bmcmedic.service.runtime import Runtime

ERROR = 3
WARNING = 4
INFO = 6
DEBUG = 7
LEVELS = {"error": ERROR, "warning": WARNING, "info": INFO, "debug": DEBUG}
"""The names of the configuration, and syslog's numbers."""

MESSAGES_MAX = 256
MESSAGE_CHARACTERS_MAX = 2000
FLUSH_S = 1.0


class Log:
    """Messages wait in a bounded queue for a thread that writes them."""

    def __init__(
        self,
        runtime: Runtime,
        level: int = INFO,
        *,
        name: str = "driver",
        fd: int = 2,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.level = level
        self._name = name
        self._fd = fd
        self._waiting: deque[tuple[int, str]] = deque(maxlen=MESSAGES_MAX)
        self._lost = 0
        self._wakeup = runtime.signal()
        self._flushed = runtime.signal()
        self._stopping = False
        self._prefixed = is_journal(fd, environment)

    def __call__(self, level: int, message: str) -> None:
        """Say it, unless it is less than what is wanted."""
        if level > self.level:
            return
        if len(self._waiting) == MESSAGES_MAX:
            self._lost += 1  # the oldest goes
        self._waiting.append((level, message))
        self._wakeup.set()

    def error(self, message: str) -> None:
        """Something that a person has to see to."""
        self(ERROR, message)

    def warning(self, message: str) -> None:
        """Something that is not as it should be."""
        self(WARNING, message)

    def info(self, message: str) -> None:
        """Something that happened."""
        self(INFO, message)

    def run(self) -> None:
        """What its thread does until `stop`."""
        while not self._stopping:
            self._wakeup.wait()
            self.write_waiting()
        self._flushed.set()

    def write_waiting(self) -> None:
        """Write what waits, in the calling thread."""
        while self._waiting:
            level, message = self._waiting.popleft()
            self._write(level, message)
        if self._lost:
            lost, self._lost = self._lost, 0
            self._write(WARNING, f"{lost} messages were lost: stderr did not take them in time")

    def _write(self, level: int, message: str) -> None:
        prefix = f"<{level}>" if self._prefixed else f"bmcmedic {self._name}: "
        if not self._prefixed and level <= WARNING:
            prefix += "error: " if level == ERROR else "warning: "
        text = message[:MESSAGE_CHARACTERS_MAX].replace("\n", f"\n{prefix}")
        # Nobody is left to be told that there is no stderr.
        with contextlib.suppress(OSError):
            os.write(self._fd, f"{prefix}{text}\n".encode(errors="backslashreplace"))

    def stop(self) -> bool:
        """Write what waits and end the thread; False when stderr does not take it."""
        self._stopping = True
        self._wakeup.set()
        return self._flushed.wait(FLUSH_S)


def is_journal(fd: int, environment: Mapping[str, str]) -> bool:
    """Whether the journal reads what is written there, and understands `<4>` as a warning."""
    try:
        about = os.fstat(fd)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{about.st_dev}:{about.st_ino}"
