"""Settings that do not go together: all of them at once, each with the names it is about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bmcmedic.errors import ConfigurationError


class Conflict(NamedTuple):
    """What cannot be, and the settings that it follows from: what would be changed comes first."""

    text: str
    names: tuple[str, ...]


class Conflicts(ConfigurationError):
    """Settings that do not go together; the message has them all."""

    def __init__(self, conflicts: Iterable[Conflict]) -> None:
        self.conflicts = tuple(conflicts)
        super().__init__("\n".join(each.text for each in self.conflicts))
