"""Settings as one table of sections: read from TOML, overridden by options, shown as TOML.

All problems are reported at once, each with its line and with advice on what to write instead. A
section is a frozen dataclass whose fields are made with `setting`.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from bmcmedic.errors import ConfigurationError
from bmcmedic.service.settings_conflicts import ConflictingSettings, SettingsConflict
from bmcmedic.service.settings_values import UnusableValue, ValueKind

CONFIG_BYTES_MAX = 64 * 1024

C = TypeVar("C")


def setting(
    default: Any,  # noqa: ANN401 - the field's annotation is its type
    kind: ValueKind,
    option: str | None,
    doc: str,
    *,
    reload: bool = False,
) -> Any:  # noqa: ANN401
    """Return a field of a section. `reload`: SIGHUP changes it; other settings need a restart."""
    about = {"kind": kind, "option": option, "doc": doc, "reload": reload}
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the table."""

    section: str
    key: str
    kind: ValueKind
    option: str | None
    doc: str
    reload: bool

    @property
    def name(self) -> str:
        """The full name: section and key."""
        return f"{self.section}.{self.key}"


class SettingsTable(Generic[C]):
    """All settings of one program."""

    def __init__(
        self, config: type[C], about: str, contradictions: Callable[[C], Iterable[SettingsConflict]]
    ) -> None:
        """`config` is a dataclass of sections.

        `contradictions` checks settings against each other.
        """
        self._config = config
        self._about = about
        self._contradictions = contradictions
        self.sections: dict[str, type[Any]] = {
            each.name: each.default_factory  # type: ignore[misc] # each is a class
            for each in dataclasses.fields(config)  # type: ignore[arg-type] # it is a dataclass
        }
        self.settings = tuple(
            Setting(section, each.name, **each.metadata)
            for section, made_of in self.sections.items()
            for each in dataclasses.fields(made_of)
        )

    # ---------------------------------------------------------------------------------- reading

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add an option for every setting that has one.

        Options not given are not in the namespace.
        """
        for section, made_of in self.sections.items():
            group = parser.add_argument_group(f"[{section}]", made_of.__doc__)
            for each in self.settings:
                if each.section == section and each.option is not None:
                    group.add_argument(
                        each.option,
                        dest=each.name,
                        metavar=each.kind.metavar,
                        default=argparse.SUPPRESS,
                        help=each.doc,
                    )

    def load(
        self,
        file: Path | None,
        options: Mapping[str, str],
        further_contradictions: Iterable[Callable[[C], Iterable[SettingsConflict]]] = (),
    ) -> C:
        """Return the settings: defaults, then the file, then the options by the settings' names.

        `further_contradictions` are more checks, run after the table's own.
        Raises: ConfigurationError with everything that is wrong.
        """
        given = self._given(file, options)
        config = self._config(**given.sections())
        if not given.is_unread:
            for contradictions in (self._contradictions, *further_contradictions):
                given.add(contradictions(config))
        if given.problems:
            raise given.error(file)
        return config

    def located(
        self, file: Path | None, options: Mapping[str, str], found: ConflictingSettings
    ) -> ConfigurationError:
        """Return conflicts that only this host reveals as an error with the file's line numbers."""
        given = self._given(file, options)
        given.add(found.conflicts)
        return given.error(file) if given.problems else found

    def _given(self, file: Path | None, options: Mapping[str, str]) -> _GivenSettings:
        given = _GivenSettings(self.sections, self.settings)
        if file is not None:
            given.read(file)
        given.take_options(options)
        return given

    # ---------------------------------------------------------------------------------- showing

    def show(self, config: C) -> str:
        """Return the configuration as a commented TOML file."""
        import textwrap

        lines = [f"# {line}" for line in textwrap.wrap(self._about, 96)]
        for section, made_of in self.sections.items():
            lines += ["", f"# {made_of.__doc__}", f"[{section}]"]
            for each in self.settings:
                if each.section != section:
                    continue
                lines += [f"# {line}" for line in textwrap.wrap(each.doc, 96)]
                value = _value(config, each)
                if value is None:
                    lines.append(f"# {each.key} =")
                else:
                    lines.append(f"{each.key} = {each.kind.show(value)}")
        return "\n".join(lines) + "\n"

    def changed(self, old: C, new: C) -> tuple[list[Setting], list[Setting]]:
        """Return the settings that differ: those SIGHUP changes, and those that need a restart."""
        different = [each for each in self.settings if _value(old, each) != _value(new, each)]
        return [each for each in different if each.reload], [
            each for each in different if not each.reload
        ]

    def with_reloadable(self, old: C, new: C) -> C:
        """Return the old configuration with the new values of the settings that SIGHUP changes."""
        sections = {}
        for section in self.sections:
            values = {
                each.key: _value(new, each)
                for each in self.settings
                if each.section == section and each.reload
            }
            sections[section] = dataclasses.replace(getattr(old, section), **values)
        return self._config(**sections)


def _value(config: object, each: Setting) -> object:
    value: object = getattr(getattr(config, each.section), each.key)
    return value


def _problem_text(where: str, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{where}: {problems[0]}"
    return f"{where}: {len(problems)} problems\n" + "\n".join(f"  {each}" for each in problems)


class _GivenSettings:
    """The values that the operator gave, and the problems found in them."""

    def __init__(
        self,
        sections: Mapping[str, type[Any]],
        settings: tuple[Setting, ...],
    ) -> None:
        self._sections = sections
        self._settings = settings
        self._values: dict[str, Any] = {}
        self._places: dict[str, str] = {}
        """The place of each given value, for messages."""
        self._unusable: set[str] = set()
        self.problems: list[str] = []
        self.is_unread = False
        """Whether the file could not be read, so that its settings are unknown."""

    def read(self, file: Path) -> None:
        """Take the values of a file."""
        try:
            with file.open("rb") as opened:
                raw = opened.read(CONFIG_BYTES_MAX + 1)
            if len(raw) > CONFIG_BYTES_MAX:
                self._mark_unread(f"has more than {CONFIG_BYTES_MAX} bytes; is it the right file?")
                return
            text = raw.decode()
            document = tomllib.loads(text)
        except OSError as error:
            self._mark_unread(f"cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            self._mark_unread(f"is not UTF-8 text (byte {error.start})")
        except tomllib.TOMLDecodeError as error:
            self._mark_unread(f"is not TOML: {error}")
        except RecursionError:
            self._mark_unread("is not TOML that can be read: it is nested too deeply")
        else:
            self._take_document(document, _TomlLines(text))

    def _mark_unread(self, problem: str) -> None:
        self.problems.append(problem)
        self.is_unread = True

    def _take_document(self, document: dict[str, Any], lines: _TomlLines) -> None:
        for section, content in document.items():
            if section not in self._sections:
                problem = f"there is no section [{section}]{_did_you_mean(section, self._sections)}"
                self.problems.append(f"{lines.of(section)}{problem}")
            elif not isinstance(content, dict):
                self.problems.append(
                    f"{lines.of(section)}{section} is a section: write [{section}]"
                )
                self._unusable |= {each.name for each in self._settings if each.section == section}
            else:
                self._take_section(section, content, lines)

    def _take_section(self, section: str, content: dict[str, Any], lines: _TomlLines) -> None:
        known = {each.key: each for each in self._settings if each.section == section}
        for key, value in content.items():
            where = lines.of(section, key)
            if key not in known:
                problem = f"{section}.{key}: there is no such setting{_did_you_mean(key, known)}"
                self.problems.append(f"{where}{problem}")
            else:
                self._check(known[key], value, f"{where}{section}.{key}")

    def take_options(self, options: Mapping[str, str]) -> None:
        """Take the values of the command line, which override the file."""
        for each in self._settings:
            if each.name in options:
                value = each.kind.parse(options[each.name])
                self._check(each, value, f"{each.option}")

    def _check(self, each: Setting, value: object, place: str) -> None:
        self._places[each.name] = place
        try:
            self._values[each.name] = each.kind.check(value)
        except UnusableValue as error:
            self._unusable.add(each.name)
            self.problems.append(f"{place} {error}")

    def add(self, conflicts: Iterable[SettingsConflict]) -> None:
        """Report contradictions, except those that involve a setting reported as unusable."""
        for text, names in conflicts:
            if self._unusable.isdisjoint(names):
                place = next((self._places[name] for name in names if name in self._places), None)
                self.problems.append(text if place is None else f"{place}: {text}")

    def error(self, file: Path | None) -> ConfigurationError:
        """Return one error with all problems."""
        return ConfigurationError(
            _problem_text(str(file) if file is not None else "the options", self.problems)
        )

    def sections(self) -> dict[str, Any]:
        """Return the sections, with the given values and defaults for the rest."""
        made: dict[str, Any] = {}
        for section, made_of in self._sections.items():
            prefix = f"{section}."
            values = {
                name.removeprefix(prefix): value
                for name, value in self._values.items()
                if name.startswith(prefix)
            }
            made[section] = made_of(**values)
        return made


def _did_you_mean(word: str, known: Mapping[str, object]) -> str:
    """Return a hint at the known word that the operator may have meant."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


_WORD = r"""\s*["']?[\w-]+["']?\s*"""
_HEADER = re.compile(rf"\s*\[\[?({_WORD}(?:\.{_WORD})*)\]")
_KEY = re.compile(rf"({_WORD}(?:\.{_WORD})*)=")


class _TomlLines:
    """The line numbers of sections and keys in a TOML file, which tomllib does not report."""

    def __init__(self, text: str) -> None:
        self._found: dict[tuple[str, ...], int] = {}
        section: tuple[str, ...] = ()
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.match(line):
                section = _words(header[1])
                self._note(section, number)
            elif key := _KEY.match(line):
                self._note(section + _words(key[1]), number)

    def _note(self, names: tuple[str, ...], number: int) -> None:
        """Record the line of a name; `a.b = 1` may also be the first mention of `a`."""
        for length in range(1, len(names) + 1):
            self._found.setdefault(names[:length], number)

    def of(self, *names: str) -> str:
        """Return `line N: `, or nothing.

        A key in an inline table gets the line where the table begins.
        """
        for length in range(len(names), 0, -1):
            if (number := self._found.get(names[:length])) is not None:
                return f"line {number}: "
        return ""


def _words(dotted: str) -> tuple[str, ...]:
    return tuple(word.strip().strip("\"'") for word in dotted.split("."))
