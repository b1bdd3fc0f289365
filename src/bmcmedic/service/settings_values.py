"""What a setting of the driver may be: read from TOML or an option, checked, and written back.

Every kind takes a value as TOML or the command line gives it, and raises Unusable with what to
give instead.
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

COMMAND_WORDS_MAX = 64
USERS_MAX = 256
TEXT_CHARACTERS_MAX = 4096
_SHUTDOWN_ADVICE = "give disarm, keep, or rearm:SECONDS, such as rearm:600"
SUN_PATH_BYTES_MAX = 107
"""What fits into a socket address of Linux, its closing zero left out."""


class Unusable(Exception):
    """A value that cannot be; the message goes on where the setting's name ends."""


class ValueKind(Protocol):
    """What a value may be."""

    @property
    def metavar(self) -> str:
        """How a help text shows it."""

    def check(self, value: object) -> Any:  # noqa: ANN401 - each kind has a type of its own
        """The value as the driver uses it. Raises: Unusable, with what to give instead."""

    def parse(self, text: str) -> object:
        """The value of an option, as TOML would have given it; `check` comes after."""

    def show(self, value: Any) -> str:  # noqa: ANN401
        """The value as TOML has it."""


def quoted(text: str) -> str:
    """Text as a basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'


class Text:
    """What all kinds of text have in common: an option gives it as it stands, TOML quotes it."""

    __slots__ = ()

    def parse(self, text: str) -> object:
        """As it is."""
        return text

    def show(self, value: object) -> str:
        """A string."""
        return quoted(str(value))


class Listed:
    """What lists have in common: an option gives them with commas, TOML has strings in brackets."""

    __slots__ = ()

    def parse(self, text: str) -> object:
        """Words with commas between them."""
        return [word.strip() for word in text.split(",") if word.strip()]

    def show(self, value: Iterable[Any]) -> str:
        """A list of strings."""
        return "[" + ", ".join(map(quoted, value)) + "]"


@dataclass(frozen=True, slots=True)
class Choice(Text):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def metavar(self) -> str:
        """The words, as a help text shows them."""
        return "|".join(self.words)

    def check(self, value: object) -> str:
        """One of the words."""
        if not isinstance(value, str) or value not in self.words:
            raise Unusable(f"is {value!r}; give one of {', '.join(self.words)}")
        return value


@dataclass(frozen=True, slots=True)
class Seconds:
    """A time; None is "unless set", where that is allowed."""

    least: float
    most: float
    optional: bool = False
    metavar: str = "S"

    def check(self, value: object) -> float | None:
        """A number within the limits."""
        if value is None and self.optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Unusable(f"is {value!r}; give a number of seconds")
        if not self.least <= value <= self.most:  # not-a-number is outside, too
            raise Unusable(f"is {value:g} s; give {self.least:g} to {self.most:g} s")
        return float(value)

    def parse(self, text: str) -> object:
        """A number of seconds; anything else is left for `check` to refuse."""
        try:
            return float(text)
        except ValueError:
            return text

    def show(self, value: float) -> str:
        """A number."""
        return f"{value:g}" if abs(value) < 1e6 else repr(value)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number; `base` 16 is for what people write in hexadecimal."""

    least: int
    most: int
    base: int = 10
    metavar: str = "N"

    def check(self, value: object) -> int:
        """A number within the limits."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise Unusable(f"is {value!r}; give a whole number")
        if not self.least <= value <= self.most:
            limits = f"{self.show(self.least)} to {self.show(self.most)}"
            raise Unusable(f"is {self.show(value)}; give {limits}")
        return value

    def parse(self, text: str) -> object:
        """A number, in any base that Python writes; anything else is left for `check`."""
        try:
            return int(text, 0)
        except ValueError:
            return text

    def show(self, value: int) -> str:
        """A number in its base."""
        return f"{value:#x}" if self.base == 16 else str(value)


@dataclass(frozen=True, slots=True)
class Flag:
    """Yes or no."""

    metavar: str = "yes|no"

    def check(self, value: object) -> bool:
        """A boolean."""
        if not isinstance(value, bool):
            raise Unusable(f"is {value!r}; give true or false")
        return value

    def parse(self, text: str) -> object:
        """`yes` or `no`."""
        return {"yes": True, "true": True, "no": False, "false": False}.get(text, text)

    def show(self, value: bool) -> str:
        """A boolean."""
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Location(Text):
    """An absolute path; `bytes_max` where it names a socket."""

    optional: bool = False
    bytes_max: int = TEXT_CHARACTERS_MAX
    metavar: str = "PATH"

    def check(self, value: object) -> str | None:
        """An absolute path."""
        if value is None and self.optional:
            return None
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise Unusable(f"is {value!r}; give an absolute path")
        if len(value.encode()) > self.bytes_max:
            raise Unusable(f"has {len(value.encode())} bytes; {self.bytes_max} is the limit")
        return value


@dataclass(frozen=True, slots=True)
class CommandLine(Listed):
    """A program and its arguments, as a list; no shell reads it. Empty: none."""

    metavar: str = "COMMAND"

    def check(self, value: object) -> tuple[str, ...]:
        """Words without zero bytes, an absolute path first."""
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise Unusable(f'is {value!r}; give a list of words, such as ["/usr/bin/test", "-e"]')
        if len(value) > COMMAND_WORDS_MAX:
            raise Unusable(f"has {len(value)} words; {COMMAND_WORDS_MAX} is the limit")
        if any("\0" in word for word in value):
            raise Unusable("has a zero byte in it, which no program can be given")
        if value and not value[0].startswith("/"):
            raise Unusable(f"begins with {value[0]!r}; give the program by its absolute path")
        return tuple(value)

    def parse(self, text: str) -> object:
        """Words, quoted as in a shell."""
        try:
            return shlex.split(text)
        except ValueError as error:
            return f"{text} ({error})"


@dataclass(frozen=True, slots=True)
class UserNames(Listed):
    """Users of this machine, by name or number."""

    metavar: str = "USER,…"

    def check(self, value: object) -> tuple[int, ...]:
        """Their numbers, each once."""
        if not isinstance(value, list):
            raise Unusable(f'is {value!r}; give a list of users, such as ["monitor", 990]')
        if len(value) > USERS_MAX:
            raise Unusable(f"has {len(value)} users; {USERS_MAX} is the limit (use a group)")
        return tuple(dict.fromkeys(map(self._number, value)))

    def _number(self, user: object) -> int:
        if isinstance(user, str) and not user.isdecimal():
            try:
                return pwd.getpwnam(user).pw_uid
            except (KeyError, ValueError):
                raise Unusable(f"names {user!r}; there is no such user here") from None
        if isinstance(user, bool) or not isinstance(user, int | str) or not 0 <= int(user) < 2**32:
            raise Unusable(f"has {user!r} in it; give users by name or number")
        return int(user)

    def show(self, value: Iterable[int]) -> str:
        """A list of numbers."""
        return "[" + ", ".join(map(str, value)) + "]"


@dataclass(frozen=True, slots=True)
class GroupName(Text):
    """A group of this machine, by name or number."""

    metavar: str = "GROUP"

    def check(self, value: object) -> int | None:
        """Its number."""
        if value is None or value == "":
            return None
        if isinstance(value, str) and not value.isdecimal():
            try:
                return grp.getgrnam(value).gr_gid
            except (KeyError, ValueError):
                raise Unusable(f"names {value!r}; there is no such group here") from None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | str)
            or not 0 <= int(value) < 2**32
        ):
            raise Unusable(f"is {value!r}; give a group by name or number")
        return int(value)

    def show(self, value: object) -> str:
        """A number."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Shutdown(Text):
    """What becomes of the watchdog timer when the driver ends."""

    words = ("disarm", "keep")
    metavar: str = "disarm|keep|rearm:S"
    countdown_s_min: float = 0.1
    countdown_s_max: float = 6553.5

    def check(self, value: object) -> str:
        """One of the words, or `rearm:` and a number of seconds."""
        if isinstance(value, str):
            word, colon, seconds = value.partition(":")
            if value in self.words:
                return value
            if word == "rearm" and colon:
                self._check_countdown(value, seconds)
                return value
        raise Unusable(f"is {value!r}; {_SHUTDOWN_ADVICE}")

    def _check_countdown(self, value: str, text: str) -> None:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if math.isnan(seconds):
            told = f"is {value!r}, and {text!r} is no number of seconds"
            raise Unusable(f"{told}; {_SHUTDOWN_ADVICE}")
        least, most = self.countdown_s_min, self.countdown_s_max
        if not least <= seconds <= most:
            odd = "short" if seconds < least else "long"
            told = f"is {value!r}, and {seconds:g} s is too {odd}"
            raise Unusable(f"{told}; give rearm:{least:g} to rearm:{most:g}")
