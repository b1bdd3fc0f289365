"""The kinds of values that settings have: each is read from TOML or an option, and shown.

Each kind checks a value, and raises UnusableValue with what to give instead.
"""

from __future__ import annotations

import grp
import math
import pwd
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from bmcmedic.service.number_text import plain_number

COMMAND_WORDS_MAX = 64
USERS_MAX = 256
TEXT_CHARACTERS_MAX = 4096
_SHUTDOWN_ADVICE = "give disarm, keep, or rearm:SECONDS, such as rearm:600"
SUN_PATH_BYTES_MAX = 107
"""Longest path in a Linux socket address, in bytes without its closing zero."""


class UnusableValue(Exception):
    """A value that cannot be used; the message continues after the setting's name."""


class ValueKind(Protocol):
    """How a setting's value is parsed, checked and shown."""

    @property
    def metavar(self) -> str:
        """The placeholder in a help text."""

    def check(self, value: object) -> Any:  # noqa: ANN401 - each kind has a type of its own
        """Return the value as the program uses it.

        Raises: UnusableValue, with what to give instead.
        """

    def parse(self, text: str) -> object:
        """Return an option's value as TOML would have it; `check` comes next."""

    def show(self, value: Any) -> str:  # noqa: ANN401
        """Return the value as TOML."""


def quoted(text: str) -> str:
    """Return text as a TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'


class PlainText:
    """What all text kinds share: an option is taken literally, TOML has it in quotes."""

    __slots__ = ()

    def parse(self, text: str) -> object:
        """Return the text unchanged."""
        return text

    def show(self, value: object) -> str:
        """Return the text as a TOML string."""
        return quoted(str(value))


class TextList:
    """What list kinds share: an option has commas, TOML has strings in brackets."""

    __slots__ = ()

    def parse(self, text: str) -> object:
        """Return the words between the commas."""
        return [word.strip() for word in text.split(",") if word.strip()]

    def show(self, value: Iterable[Any]) -> str:
        """Return a TOML list of strings."""
        return "[" + ", ".join(map(quoted, value)) + "]"


@dataclass(frozen=True, slots=True)
class Choice(PlainText):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def metavar(self) -> str:
        """The words, separated for a help text."""
        return "|".join(self.words)

    def check(self, value: object) -> str:
        """Return the value if it is one of the words."""
        if not isinstance(value, str) or value not in self.words:
            raise UnusableValue(f"is {value!r}; give one of {', '.join(self.words)}")
        return value


@dataclass(frozen=True, slots=True)
class Seconds:
    """A duration; None means "not set", where that is allowed."""

    least: float
    most: float
    optional: bool = False
    metavar: str = "S"

    def check(self, value: object) -> float | None:
        """Return the number if it is within the limits."""
        if value is None and self.optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnusableValue(f"is {value!r}; give a number of seconds")
        if not self.least <= value <= self.most:  # NaN is outside, too
            least, most = plain_number(self.least), plain_number(self.most)
            raise UnusableValue(f"is {plain_number(value)} s; give {least} to {most} s")
        return float(value)

    def parse(self, text: str) -> object:
        """Return the number of seconds, or the text, which `check` then refuses."""
        try:
            return float(text)
        except ValueError:
            return text

    def show(self, value: float) -> str:
        """Return the number as TOML."""
        return plain_number(value) if value == float(plain_number(value)) else repr(value)


@dataclass(frozen=True, slots=True)
class WholeNumber:
    """A whole number; base 16 is for numbers that people write in hexadecimal."""

    least: int
    most: int
    base: int = 10
    metavar: str = "N"

    def check(self, value: object) -> int:
        """Return the number if it is within the limits."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise UnusableValue(f"is {value!r}; give a whole number")
        if not self.least <= value <= self.most:
            limits = f"{self.show(self.least)} to {self.show(self.most)}"
            raise UnusableValue(f"is {self.show(value)}; give {limits}")
        return value

    def parse(self, text: str) -> object:
        """Return the number, in any base that Python writes, or the text, which `check` refuses."""
        try:
            return int(text, 0)
        except ValueError:
            return text

    def show(self, value: int) -> str:
        """Return the number in its base."""
        return f"{value:#x}" if self.base == 16 else str(value)


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean."""

    metavar: str = "yes|no"

    def check(self, value: object) -> bool:
        """Return the value if it is a boolean."""
        if not isinstance(value, bool):
            raise UnusableValue(f"is {value!r}; give true or false")
        return value

    def parse(self, text: str) -> object:
        """Return the boolean for `yes` or `no`."""
        return {"yes": True, "true": True, "no": False, "false": False}.get(text, text)

    def show(self, value: bool) -> str:
        """Return the boolean as TOML."""
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class AbsolutePath(PlainText):
    """An absolute path; `bytes_max` is lower for a socket."""

    optional: bool = False
    bytes_max: int = TEXT_CHARACTERS_MAX
    metavar: str = "PATH"

    def check(self, value: object) -> str | None:
        """Return the path if it is absolute."""
        if value is None and self.optional:
            return None
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise UnusableValue(f"is {value!r}; give an absolute path")
        if len(value.encode()) > self.bytes_max:
            raise UnusableValue(f"has {len(value.encode())} bytes; {self.bytes_max} is the limit")
        return value


@dataclass(frozen=True, slots=True)
class CommandLine(TextList):
    """A program and its arguments as a list, without a shell. Empty: no command."""

    metavar: str = "COMMAND"

    def check(self, value: object) -> tuple[str, ...]:
        """Return the words if they have no zero bytes and begin with an absolute path."""
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise UnusableValue(
                f'is {value!r}; give a list of words, such as ["/usr/bin/test", "-e"]'
            )
        if len(value) > COMMAND_WORDS_MAX:
            raise UnusableValue(f"has {len(value)} words; {COMMAND_WORDS_MAX} is the limit")
        if any("\0" in word for word in value):
            raise UnusableValue("has a zero byte in it, which no program accepts")
        if value and not value[0].startswith("/"):
            raise UnusableValue(f"begins with {value[0]!r}; give the program by its absolute path")
        return tuple(value)

    def parse(self, text: str) -> object:
        """Return the words, split as by a shell."""
        try:
            return shlex.split(text)
        except ValueError as error:
            return f"{text} ({error})"


@dataclass(frozen=True, slots=True)
class UserNames(TextList):
    """Users of this machine, by name or number."""

    metavar: str = "USER,…"

    def check(self, value: object) -> tuple[int, ...]:
        """Return the users' numbers, each once."""
        if not isinstance(value, list):
            raise UnusableValue(f'is {value!r}; give a list of users, such as ["monitor", 990]')
        if len(value) > USERS_MAX:
            raise UnusableValue(f"has {len(value)} users; {USERS_MAX} is the limit (use a group)")
        return tuple(dict.fromkeys(map(self._number, value)))

    def _number(self, user: object) -> int:
        if isinstance(user, str) and not user.isdecimal():
            try:
                return pwd.getpwnam(user).pw_uid
            except (KeyError, ValueError):
                raise UnusableValue(f"names {user!r}; there is no such user here") from None
        if isinstance(user, bool) or not isinstance(user, int | str) or not 0 <= int(user) < 2**32:
            raise UnusableValue(f"has {user!r} in it; give users by name or number")
        return int(user)

    def show(self, value: Iterable[int]) -> str:
        """Return a TOML list of numbers."""
        return "[" + ", ".join(map(str, value)) + "]"


@dataclass(frozen=True, slots=True)
class GroupName(PlainText):
    """A group of this machine, by name or number."""

    metavar: str = "GROUP"

    def check(self, value: object) -> int | None:
        """Return the group's number."""
        if value is None or value == "":
            return None
        if isinstance(value, str) and not value.isdecimal():
            try:
                return grp.getgrnam(value).gr_gid
            except (KeyError, ValueError):
                raise UnusableValue(f"names {value!r}; there is no such group here") from None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | str)
            or not 0 <= int(value) < 2**32
        ):
            raise UnusableValue(f"is {value!r}; give a group by name or number")
        return int(value)

    def show(self, value: object) -> str:
        """Return the number as TOML."""
        return str(value)


@dataclass(frozen=True, slots=True)
class ShutdownChoice(PlainText):
    """What happens to the watchdog timer when the driver ends."""

    words = ("disarm", "keep")
    metavar: str = "disarm|keep|rearm:S"
    countdown_s_min: float = 0.1
    countdown_s_max: float = 6553.5

    def check(self, value: object) -> str:
        """Return the value if it is one of the words, or `rearm:` and a number of seconds."""
        if isinstance(value, str):
            word, colon, seconds = value.partition(":")
            if value in self.words:
                return value
            if word == "rearm" and colon:
                self._check_countdown(value, seconds)
                return value
        raise UnusableValue(f"is {value!r}; {_SHUTDOWN_ADVICE}")

    def _check_countdown(self, value: str, text: str) -> None:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if math.isnan(seconds):
            problem = f"is {value!r}, and {text!r} is not a number of seconds"
            raise UnusableValue(f"{problem}; {_SHUTDOWN_ADVICE}")
        least, most = self.countdown_s_min, self.countdown_s_max
        if not least <= seconds <= most:
            size = "short" if seconds < least else "long"
            problem = f"is {value!r}, and {seconds:g} s is too {size}"
            raise UnusableValue(f"{problem}; give rearm:{least:g} to rearm:{most:g}")
