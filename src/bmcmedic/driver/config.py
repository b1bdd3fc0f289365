"""The driver's settings: one table, read from a TOML file, overruled by options, shown as TOML.

Whatever is wrong is said at once, all of it, each with its line and with what to give instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bmcmedic.driver.config_values import (
    SUN_PATH_BYTES_MAX,
    Choice,
    CommandLine,
    Flag,
    Group,
    Kind,
    Location,
    Seconds,
    Shutdown,
    Unusable,
    Users,
    Whole,
)
from bmcmedic.errors import ConfigurationError

CONFIG_FILE = Path("/etc/bmcmedic/driver.toml")
CONFIG_BYTES_MAX = 64 * 1024
COUNTDOWN_S_MAX = 6553.5
DAY_S = 86_400.0


def setting(
    default: Any,  # noqa: ANN401 - a field has the type that stands before it
    kind: Kind,
    option: str,
    doc: str,
    *,
    reload: bool = False,
) -> Any:  # noqa: ANN401
    """A field of a section. `reload`: SIGHUP changes it, anything else needs a restart."""
    about = {"kind": kind, "option": option, "doc": doc, "reload": reload}
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """The way to the BMC."""

    kind: str = setting(
        "auto",
        Choice(("auto", "dev-ipmi", "port-io")),
        "--interface",
        "auto takes the kernel's device where there is one, else the KCS registers themselves if"
        " no kernel driver has them.",
    )
    device: str = setting(
        "/dev/ipmi0", Location(), "--device", "The kernel's device, for auto and dev-ipmi."
    )
    port_base: int = setting(
        0xCA2,
        Whole(0x1, 0xFFFE, base=16),
        "--port-base",
        "The KCS data register, for auto and port-io; command and status are the port after it.",
    )


@dataclass(frozen=True, slots=True)
class SocketConfig:
    """The Unix socket that others ask through."""

    path: str | None = setting(
        None,
        Location(optional=True, bytes_max=SUN_PATH_BYTES_MAX),
        "--socket",
        "Where it is; driver.sock in the runtime directory unless set.",
    )
    group: int | None = setting(
        None, Group(), "--socket-group", "The group that may open it, besides root."
    )
    group_rights: str = setting(
        "read",
        Choice(("none", "read", "full")),
        "--socket-group-rights",
        "What its members may ask: what changes nothing, or all that /dev/ipmi0 would give. none:"
        " only those named below.",
        reload=True,
    )
    read_users: tuple[int, ...] = setting(
        (),
        Users(),
        "--read-users",
        "Members of that group, by name or number, who may ask what changes nothing.",
        reload=True,
    )
    full_users: tuple[int, ...] = setting(
        (),
        Users(),
        "--full-users",
        "Members of that group who may ask for all.",
        reload=True,
    )


@dataclass(frozen=True, slots=True)
class WatchdogConfig:
    """The watchdog timer."""

    mode: str = setting(
        "off",
        Choice(("off", "bmc", "kernel")),
        "--watchdog",
        "bmc: the BMC's timer is patted through the interface above. kernel: through the kernel's"
        " ipmi_watchdog, which it serves before everybody who has /dev/ipmi0 open. off: the timer"
        " is left alone.",
    )
    device: str | None = setting(
        None,
        Location(optional=True),
        "--watchdog-device",
        "For kernel: the watchdog device; the one that is ipmi_watchdog's unless set.",
    )
    timeout_s: float | None = setting(
        None,
        Seconds(0.1, COUNTDOWN_S_MAX, optional=True),
        "--watchdog-timeout",
        "Without a pat for this long, the BMC takes its action. As long as the interface needs"
        " unless set: see docs/watchdog.md.",
    )
    action: str = setting(
        "hard-reset",
        Choice(("none", "hard-reset", "power-down", "power-cycle")),
        "--watchdog-action",
        "What the BMC does to this host then.",
    )
    pretimeout_s: float | None = setting(
        None,
        Seconds(0, 255, optional=True),
        "--watchdog-pretimeout",
        "So long before the time-out the BMC interrupts the host.",
    )
    pretimeout_interrupt: str = setting(
        "none",
        Choice(("none", "smi", "nmi", "messaging")),
        "--watchdog-pretimeout-interrupt",
        "How it interrupts; none: not at all.",
    )
    pat_period_s: float | None = setting(
        None,
        Seconds(0.1, COUNTDOWN_S_MAX, optional=True),
        "--pat-period",
        "A pat is sent this often; a part of the time-out unless set.",
    )
    shutdown: str = setting(
        "disarm",
        Shutdown(),
        "--shutdown",
        "When the driver ends: disarm the timer, keep it running as it is, or rearm:SECONDS.",
    )


@dataclass(frozen=True, slots=True)
class CheckConfig:
    """The check command: while it fails or hangs, nothing is patted."""

    command: tuple[str, ...] = setting(
        (), CommandLine(), "--check-command", "Ends with 0 when the host is well. Empty: none."
    )
    period_s: float = setting(
        10.0, Seconds(0.1, DAY_S), "--check-period", "How often it is started."
    )
    deadline_s: float = setting(
        5.0, Seconds(0.1, DAY_S), "--check-deadline", "It is killed then, and has failed."
    )


@dataclass(frozen=True, slots=True)
class PretimeoutConfig:
    """The software pretimeout: the host stopped patting; a silent BMC does not count."""

    limit_s: float | None = setting(
        None,
        Seconds(1, COUNTDOWN_S_MAX, optional=True),
        "--pretimeout-limit",
        "It fires when the host has not patted for this long; before the BMC's timer does unless"
        " set: see docs/watchdog.md.",
    )
    action: str = setting(
        "log",
        Choice(("log", "command", "panic")),
        "--pretimeout-action",
        "What it does then: a message, a command, or a kernel panic through sysrq.",
    )
    command: tuple[str, ...] = setting(
        (), CommandLine(), "--pretimeout-command", "The command, for command."
    )


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """The process itself."""

    real_time_priority: int = setting(
        10,
        Whole(0, 96),
        "--real-time-priority",
        "SCHED_RR priority of all threads; worker, pat and the pretimeout watcher have 1, 2 and 3"
        " more. 0: none.",
    )
    lock_memory: bool = setting(
        True, Flag(), "--lock-memory", "Keep the process in memory (mlockall, pages as used)."
    )
    oom_score_adj: int = setting(
        -900,
        Whole(-1000, 1000),
        "--oom-score-adj",
        "How soon the kernel kills it when memory is short; -1000: never.",
    )
    runtime_dir: str = setting(
        "/run/bmcmedic", Location(), "--runtime-dir", "Where socket and time stamps are."
    )
    log_level: str = setting(
        "info",
        Choice(("debug", "info", "warning", "error")),
        "--log-level",
        "The least that is written to stderr.",
        reload=True,
    )


@dataclass(frozen=True, slots=True)
class Config:
    """All settings."""

    interface: InterfaceConfig = field(default_factory=InterfaceConfig)
    socket: SocketConfig = field(default_factory=SocketConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    pretimeout: PretimeoutConfig = field(default_factory=PretimeoutConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)

    @property
    def socket_path(self) -> str:
        """Where the socket is."""
        return self.socket.path or f"{self.process.runtime_dir}/driver.sock"


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the table."""

    section: str
    key: str
    kind: Kind
    option: str
    doc: str
    reload: bool

    @property
    def name(self) -> str:
        """Section and key."""
        return f"{self.section}.{self.key}"


_SECTIONS: dict[str, type[Any]] = {
    each.name: each.default_factory  # type: ignore[misc] # each of them is a class
    for each in dataclasses.fields(Config)
}
SETTINGS = tuple(
    Setting(section, each.name, **each.metadata)
    for section, made_of in _SECTIONS.items()
    for each in dataclasses.fields(made_of)
)


# ------------------------------------------------------------------------------------- reading it


def add_options(parser: argparse.ArgumentParser) -> None:
    """An option for every setting; what is not given stays out of the namespace."""
    for section, made_of in _SECTIONS.items():
        group = parser.add_argument_group(f"[{section}]", made_of.__doc__)
        for each in SETTINGS:
            if each.section == section:
                group.add_argument(
                    each.option,
                    dest=each.name,
                    metavar=each.kind.metavar,
                    default=argparse.SUPPRESS,
                    help=each.doc,
                )


def load(file: Path | None, options: Mapping[str, str]) -> Config:
    """Defaults, then the file, then the options (by the settings' names).

    Raises: ConfigurationError with everything that is wrong.
    """
    problems: list[str] = []
    given = _Given(problems)
    if file is not None:
        given.read(file)
    given.take_options(options)
    config = given.config()
    if not problems:
        problems.extend(_contradictions(config))
    if problems:
        where = str(file) if file is not None else "the options"
        raise ConfigurationError(_told(where, problems))
    return config


def _told(where: str, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{where}: {problems[0]}"
    return f"{where}: {len(problems)} problems\n" + "\n".join(f"  {each}" for each in problems)


class _Given:
    """The values that somebody gave, and what was wrong with others."""

    def __init__(self, problems: list[str]) -> None:
        self._problems = problems
        self._values: dict[str, Any] = {}

    def read(self, file: Path) -> None:
        """Take a file's values."""
        try:
            with file.open("rb") as opened:
                raw = opened.read(CONFIG_BYTES_MAX + 1)
            if len(raw) > CONFIG_BYTES_MAX:
                self._problems.append(
                    f"has more than {CONFIG_BYTES_MAX} bytes; is it the right file?"
                )
                return
            text = raw.decode()
            document = tomllib.loads(text)
        except OSError as error:
            self._problems.append(f"cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            self._problems.append(f"is not UTF-8 text (byte {error.start})")
        except tomllib.TOMLDecodeError as error:
            self._problems.append(f"is not TOML: {error}")
        except RecursionError:
            self._problems.append("is not TOML that anybody writes: it is nested too deeply")
        else:
            self._take_document(document, _Lines(text))

    def _take_document(self, document: dict[str, Any], lines: _Lines) -> None:
        for section, content in document.items():
            if section not in _SECTIONS:
                say = f"there is no section [{section}]{_meant(section, _SECTIONS)}"
                self._problems.append(f"{lines.of(section)}{say}")
            elif not isinstance(content, dict):
                self._problems.append(
                    f"{lines.of(section)}{section} is a section: write [{section}]"
                )
            else:
                self._take_section(section, content, lines)

    def _take_section(self, section: str, content: dict[str, Any], lines: _Lines) -> None:
        known = {each.key: each for each in SETTINGS if each.section == section}
        for key, value in content.items():
            where = lines.of(section, key)
            if key not in known:
                say = f"{section}.{key}: there is no such setting{_meant(key, known)}"
                self._problems.append(f"{where}{say}")
            else:
                self._check(known[key], value, f"{where}{section}.{key}")

    def take_options(self, options: Mapping[str, str]) -> None:
        """Take what the command line gave; it overrules the file."""
        for each in SETTINGS:
            if each.name in options:
                value = each.kind.parse(options[each.name])
                self._check(each, value, f"{each.option}")

    def _check(self, each: Setting, value: object, name: str) -> None:
        try:
            self._values[each.name] = each.kind.check(value)
        except Unusable as error:
            self._problems.append(f"{name} {error}")

    def config(self) -> Config:
        """What was given, and defaults for the rest."""
        sections: dict[str, Any] = {}
        for section, made_of in _SECTIONS.items():
            prefix = f"{section}."
            values = {
                name.removeprefix(prefix): value
                for name, value in self._values.items()
                if name.startswith(prefix)
            }
            sections[section] = made_of(**values)
        return Config(**sections)


def _meant(word: str, known: Mapping[str, object]) -> str:
    """The known word that somebody may have meant."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


class _Lines:
    """On which line of a TOML file a section or a key stands; tomllib does not say."""

    def __init__(self, text: str) -> None:
        self._found: dict[tuple[str, ...], int] = {}
        section = ""
        for number, line in enumerate(text.splitlines(), 1):
            if header := re.match(r"\s*\[\s*[\"']?([\w-]+)[\"']?\s*\]", line):
                section = header[1]
                self._found.setdefault((section,), number)
            elif key := re.match(r"\s*[\"']?([\w-]+)[\"']?\s*[.=]", line):
                self._found.setdefault((section, key[1]) if section else (key[1],), number)

    def of(self, *names: str) -> str:
        """`line N: ` where it is known."""
        number = self._found.get(names)
        return f"line {number}: " if number is not None else ""


def _contradictions(config: Config) -> Iterator[str]:
    """What only shows when settings are seen together; the watchdog's numbers have their own."""
    if config.pretimeout.action == "command" and not config.pretimeout.command:
        yield "pretimeout.action is command; give pretimeout.command too"
    if config.pretimeout.command and config.pretimeout.action != "command":
        yield (
            f"pretimeout.command is given, but pretimeout.action is {config.pretimeout.action};"
            ' set it to "command"'
        )
    if config.check.command and config.watchdog.mode == "off":
        yield "check.command only keeps pats back: set watchdog.mode to bmc or kernel"
    if len(config.socket_path.encode()) > SUN_PATH_BYTES_MAX:
        yield (
            f"the socket's path {config.socket_path} is longer than {SUN_PATH_BYTES_MAX} bytes:"
            " set socket.path"
        )


# ------------------------------------------------------------------------------------- showing it


def show(config: Config) -> str:
    """The configuration as a commented TOML file."""
    import textwrap

    lines = ["# The in-band driver of bmcmedic. What stands behind a # is not set."]
    for section, made_of in _SECTIONS.items():
        lines += ["", f"# {made_of.__doc__}", f"[{section}]"]
        for each in SETTINGS:
            if each.section != section:
                continue
            lines += [f"# {line}" for line in textwrap.wrap(each.doc, 96)]
            value = getattr(getattr(config, section), each.key)
            if value is None:
                lines.append(f"# {each.key} =")
            else:
                lines.append(f"{each.key} = {each.kind.show(value)}")
    return "\n".join(lines) + "\n"


def changed(old: Config, new: Config) -> tuple[list[Setting], list[Setting]]:
    """What differs: what SIGHUP can change, and what needs a restart."""
    value: Callable[[Config, Setting], object] = lambda config, each: getattr(  # noqa: E731
        getattr(config, each.section), each.key
    )
    different = [each for each in SETTINGS if value(old, each) != value(new, each)]
    return [each for each in different if each.reload], [
        each for each in different if not each.reload
    ]
