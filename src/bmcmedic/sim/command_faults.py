"""Faults of single commands: the BMC refuses one, stays silent, or answers it in an odd way.

Each names the command as NETFN/CMD in hexadecimal digits. With TIMES it ends after so many requests
for the command; without, it never ends.

    refuse:NETFN/CMD:CODE[:TIMES]       answered with this completion code, and not executed
    silent:NETFN/CMD[:TIMES]            neither answered nor executed
    cut:NETFN/CMD:BYTES[:TIMES]         the answer's data end after so many bytes
    flip:NETFN/CMD:OFFSET:BITS[:TIMES]  these bits are inverted in one byte of the answer
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import ClassVar

from bmcmedic.errors import ConfigurationError
from bmcmedic.sim.handler_call import HandlerAnswer

BYTE_MAX = 0xFF
TIMES_MAX = 1_000_000
_OK = 0x00


@dataclass(frozen=True, slots=True)
class _OfCommand:
    """The common part: which command, and how many requests for it."""

    command: str
    """NETFN/CMD, as `GET /bmcs/{name}` counts requests."""
    times: int | None

    @property
    def key(self) -> int:
        """The command as `SimBmc` counts it: NetFn and command in one number."""
        netfn, _, command = self.command.partition("/")
        return int(netfn, 16) << 8 | int(command, 16)

    def apply(self, answer: HandlerAnswer) -> HandlerAnswer | None:
        """Return the answer with the fault in it; None is silence."""
        raise NotImplementedError

    def _text(self, *values: str) -> str:
        times = () if self.times is None else (str(self.times),)
        return ":".join((self.command, *values, *times))


@dataclass(frozen=True, slots=True)
class Refuse(_OfCommand):
    """The BMC answers the command with a completion code and does not execute it."""

    name: ClassVar[str] = "refuse"
    code: int

    executes: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"{self.name}:{self._text(f'{self.code:#04x}')}"

    def apply(self, answer: HandlerAnswer) -> HandlerAnswer:
        """Return the refusal."""
        return answer._replace(completion_code=self.code, data=b"")


@dataclass(frozen=True, slots=True)
class Silent(_OfCommand):
    """The BMC neither answers nor executes the command."""

    name: ClassVar[str] = "silent"
    executes: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"{self.name}:{self._text()}"

    def apply(self, answer: HandlerAnswer) -> None:
        """Return silence."""
        del answer


@dataclass(frozen=True, slots=True)
class Cut(_OfCommand):
    """The data of the answer end too early."""

    name: ClassVar[str] = "cut"
    length: int
    executes: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"{self.name}:{self._text(str(self.length))}"

    def apply(self, answer: HandlerAnswer) -> HandlerAnswer:
        """Return the answer without its end."""
        return answer._replace(data=answer.data[: self.length])


@dataclass(frozen=True, slots=True)
class Flip(_OfCommand):
    """Bits of one byte of the answer are inverted."""

    name: ClassVar[str] = "flip"
    offset: int
    mask: int
    executes: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"{self.name}:{self._text(str(self.offset), f'{self.mask:#04x}')}"

    def apply(self, answer: HandlerAnswer) -> HandlerAnswer:
        """Return the answer with the bits inverted; unchanged where it is too short."""
        data = bytearray(answer.data)
        if self.offset < len(data):
            data[self.offset] ^= self.mask
        return answer._replace(data=bytes(data))


CommandFault = Refuse | Silent | Cut | Flip

_FORMS = {
    Refuse.name: "refuse:06/25:0xC0[:TIMES]",
    Silent.name: "silent:06/25[:TIMES]",
    Cut.name: "cut:06/25:6[:TIMES]",
    Flip.name: "flip:06/25:0:0x03[:TIMES]",
}
_VALUES = {Refuse.name: 1, Silent.name: 0, Cut.name: 1, Flip.name: 2}
"""How many values each fault has between the command and TIMES."""


def parse_command_fault(spec: str, text: str) -> CommandFault:
    """Parse a fault such as `refuse:06/25:0xC0:1`; raises ConfigurationError."""
    name = spec.partition(":")[0]
    wrong = ConfigurationError(f"fault {spec!r}: write {_FORMS[name]}")
    command, *values = text.split(":")
    netfn, _, number = command.partition("/")
    digits = set(string.hexdigits)
    if len(netfn) != 2 or len(number) != 2 or not digits.issuperset(netfn + number):
        raise wrong
    count = _VALUES[name]
    if len(values) not in (count, count + 1):
        raise wrong
    numbers = [_number(value) for value in values]
    times = numbers.pop() if len(numbers) > count else None
    if any(n is None or n > BYTE_MAX for n in numbers):
        raise wrong
    if len(values) > count and (times is None or not 1 <= times <= TIMES_MAX):
        raise wrong
    return _build(name, command.lower(), times, [n for n in numbers if n is not None])


def _build(name: str, command: str, times: int | None, values: list[int]) -> CommandFault:
    if name == Refuse.name:
        return Refuse(command, times, values[0])
    if name == Silent.name:
        return Silent(command, times)
    if name == Cut.name:
        return Cut(command, times, values[0])
    return Flip(command, times, values[0], values[1])


def _number(text: str) -> int | None:
    """Return a number that is written in decimal, or in hexadecimal after 0x."""
    try:
        return int(text, 0) if text.isalnum() and text.isascii() else None
    except ValueError:
        return None
