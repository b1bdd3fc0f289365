"""One module a chapter of the specification; `COMMANDS` finds a command by its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from bmcmedic.ipmi.commands import channel, chassis, device, messaging, session, watchdog
from bmcmedic.ipmi.commands._command import Command


def _commands_of(*modules: ModuleType) -> Iterator[type[Command[Any]]]:
    for module in modules:
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, Command)
                and value.__module__ == module.__name__
            ):
                yield value


COMMANDS: Mapping[tuple[int, int], type[Command[Any]]] = {
    (command.netfn, command.command): command
    for command in _commands_of(channel, chassis, device, messaging, session, watchdog)
}
"""Every command this package speaks, by network function and command number."""
