"""The agent's log: messages for people, followed by fields that programs can read.

A line ends in fields such as `event=relief ended=3 spared=1`, which `grep` and readers of the
journal can find. The log needs the standard library only, and a thread of its own writes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from bmcmedic.service.log import INFO, Log
from bmcmedic.service.runtime import Runtime

FIELD_CHARACTERS_MAX = 200
"""Longest value of a field, in characters."""
_PLAIN = re.compile(r"[\w.:/@+-]+\Z", re.ASCII)


class AgentLog(Log):
    """A log of messages with fields."""

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
        """Log a message, with the name of the event and its fields."""
        fields_text = "".join(f" {key}={_value(value)}" for key, value in fields.items())
        self(level, f"{message} event={name}{fields_text}")


def _value(value: object) -> str:
    """Return a value as one word, quoted if needed, so that it cannot imitate a field or a line."""
    text = str(value)[:FIELD_CHARACTERS_MAX]
    if _PLAIN.match(text):
        return text
    printable = "".join(char if char.isprintable() else "?" for char in text)
    escaped = printable.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
