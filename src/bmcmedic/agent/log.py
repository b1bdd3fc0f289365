"""The agent's messages: the driver's log, with fields behind the text that programs can read.

`… event=relief ended=3 spared=1`: what a person reads is first, and `grep` and the journal's users
find the rest. It stays within the standard library, and is written by a thread of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from bmcmedic.service.log import INFO, Log
from bmcmedic.service.runtime import Runtime

FIELD_CHARACTERS_MAX = 200
_PLAIN = re.compile(r"[\w.:/@+-]+\Z", re.ASCII)


class AgentLog(Log):
    """Messages with fields."""

    def __init__(
        self,
        runtime: Runtime,
        level: int = INFO,
        *,
        fd: int = 2,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        super().__init__(runtime, level, name="agent", fd=fd, environment=environment)

    def event(self, level: int, name: str, message: str, **fields: object) -> None:
        """Say it, with what happened by name, and its numbers."""
        told = "".join(f" {key}={_value(value)}" for key, value in fields.items())
        self(level, f"{message} event={name}{told}")


def _value(value: object) -> str:
    """One word, quoted where it has to be; it cannot pretend to be another field or line."""
    text = str(value)[:FIELD_CHARACTERS_MAX]
    if _PLAIN.match(text):
        return text
    shown = "".join(char if char.isprintable() else "?" for char in text)
    escaped = shown.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
