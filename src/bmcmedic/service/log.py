"""The log of driver and agent on stderr; a caller never waits for the program that reads it.

On a sick host the journal can be stuck. Without the queue it would delay the very pat that reports
the problem.
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
"""The configuration's names of the levels, with syslog's numbers."""

MESSAGES_MAX = 256
MESSAGE_CHARACTERS_MAX = 2000
FLUSH_S = 1.0


class Log:
    """A bounded queue of messages, and the thread's body that writes them."""

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
        """Queue a message, unless its level is below the configured one."""
        if level > self.level:
            return
        if len(self._waiting) == MESSAGES_MAX:
            self._lost += 1  # the queue drops the oldest
        self._waiting.append((level, message))
        self._wakeup.set()

    def error(self, message: str) -> None:
        """Log a problem that a person has to fix."""
        self(ERROR, message)

    def warning(self, message: str) -> None:
        """Log a condition that is not normal."""
        self(WARNING, message)

    def info(self, message: str) -> None:
        """Log an ordinary event."""
        self(INFO, message)

    def run(self) -> None:
        """Write messages until `stop`; the log's thread runs this."""
        while not self._stopping:
            self._wakeup.wait()
            self.write_waiting()
        self._flushed.set()

    def write_waiting(self) -> None:
        """Write the queued messages in the calling thread."""
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
        # Without stderr, nobody can read a complaint about it.
        with contextlib.suppress(OSError):
            os.write(self._fd, f"{prefix}{text}\n".encode(errors="backslashreplace"))

    def stop(self) -> bool:
        """Write the queued messages and end the thread; return False when stderr is blocked."""
        self._stopping = True
        self._wakeup.set()
        return self._flushed.wait(FLUSH_S)


def is_journal(fd: int, environment: Mapping[str, str]) -> bool:
    """Return whether the journal reads that descriptor, so that `<4>` marks a warning."""
    try:
        about = os.fstat(fd)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{about.st_dev}:{about.st_ino}"
