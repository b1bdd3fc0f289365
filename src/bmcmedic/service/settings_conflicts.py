"""Settings that contradict each other, reported all at once with their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bmcmedic.errors import ConfigurationError


class SettingsConflict(NamedTuple):
    """One contradiction and its settings; the one that should be changed comes first."""

    text: str
    names: tuple[str, ...]


class ConflictingSettings(ConfigurationError):
    """All contradictions between the settings; the message lists every one."""

    def __init__(self, conflicts: Iterable[SettingsConflict]) -> None:
        self.conflicts = tuple(conflicts)
        super().__init__("\n".join(each.text for each in self.conflicts))
