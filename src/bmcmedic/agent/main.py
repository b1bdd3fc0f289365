"""`bmcmedic agent`: arguments, and the exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bmcmedic.agent import config as configuration
from bmcmedic.agent import units
from bmcmedic.agent.config import CONFIG_FILE, AgentConfig
from bmcmedic.agent.watch.permission import MARK, has_acted
from bmcmedic.errors import ConfigurationError
from bmcmedic.host.usage import OneLineParser
from bmcmedic.service import config_commands, startup_signals

EXIT_FAILED = 1
EXIT_USAGE = 2

NICE = 5
"""Lowest nice value of the agent's threads, except while one relieves the host."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = OneLineParser(
        prog="bmcmedic agent",
        description="Watch this host for a sick BMC, beside the driver: relieve it (if that is"
        " allowed), serve metrics to Prometheus, report to a controller. Runs until SIGTERM, and"
        " puts back what it changed; SIGHUP reads the configuration again.",
        epilog="Exit status: 0 ended as asked; 1 a part died (start it again), or something could"
        " not be put back; 2 usage or configuration.",
        allow_abbrev=False,
    )
    parsed.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"TOML file; by default {CONFIG_FILE}, if it exists.",
    )
    only = parsed.add_mutually_exclusive_group()
    config_commands.add_options(only)
    only.add_argument(
        "--print-units",
        action="store_true",
        help="Print the systemd units of driver and agent, and exit.",
    )
    only.add_argument(
        "--install-units",
        metavar="DIR",
        type=Path,
        help="Write the units into a directory, such as /etc/systemd/system, and exit.",
    )
    only.add_argument(
        "--undo",
        action="store_true",
        help="Put back what a killed agent has changed, and exit.",
    )
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent, and return its exit status; see `parser`."""
    startup_signals.hold()
    try:
        return _main(arguments)
    finally:
        startup_signals.release()


def _main(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    ends_soon = given.print_units or given.install_units is not None or given.undo
    if ends_soon or config_commands.are_given(given):
        startup_signals.release()  # the program ends soon by itself
    try:
        if given.print_units:
            sys.stdout.write(units.printed())
            return 0
        if given.install_units is not None:
            return _install(given.install_units)
        return _run(given)
    except ConfigurationError as error:
        sys.stderr.write(f"bmcmedic agent: {error}\n")
        return EXIT_USAGE


def _run(given: argparse.Namespace) -> int:
    file: Path | None = given.config
    if file is None and CONFIG_FILE.exists():
        file = CONFIG_FILE

    def read() -> AgentConfig:
        # The files are missed by an agent that starts, and not where settings are only shown.
        is_shown = given.print_config or given.write_config is not None
        return configuration.load(file, {}, () if is_shown else (configuration.file_conflicts,))

    if given.undo:
        return undo(_readable(read))
    if config_commands.are_given(given):
        config_commands.run(given, file, read, configuration.show, configuration.file_warnings)
        return 0
    with startup_signals.ends_at_once():
        config = read()
        lower_priority()  # for an agent that no unit started; the unit sets the same
        from bmcmedic.agent.service import AgentService
    try:
        return AgentService(config, read).run()
    finally:
        startup_signals.ignore()


def lower_priority() -> None:
    """Give the calling thread, and those that it starts, a nice value of at least `NICE`."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def _readable(read: Callable[[], AgentConfig]) -> AgentConfig:
    """Read the configuration, or use the defaults: a broken file must not prevent an undo."""
    try:
        return read()
    except ConfigurationError as error:
        sys.stderr.write(f"bmcmedic agent: {error}; looking for changes in the default place\n")
        return configuration.load(None, {})


def undo(config: AgentConfig) -> int:
    """Put back what an agent left changed, if anything, and return the exit status."""
    from bmcmedic.host.relieve.relieve import HostTrees, Relief

    if not has_acted(config.process.runtime_dir):
        return 0
    trees = HostTrees.here()._replace(journal_directory=config.process.runtime_dir)
    setting = Relief(trees, config.relief.stuck_after_s).undo(may_act=True)
    if setting.failed:
        sys.stderr.write(f"bmcmedic agent: could not put back: {setting.why}\n")
        return EXIT_FAILED
    with contextlib.suppress(OSError):
        (Path(config.process.runtime_dir) / MARK).unlink()
    return 0


def _install(folder: Path) -> int:
    hidden = units.hidden([units.program(), sys.executable, sys.prefix])
    if hidden is not None:
        sys.stderr.write(
            f"bmcmedic agent: warning: the services cannot see {hidden} (ProtectHome=,"
            " PrivateTmp=); install bmcmedic for all users, such as into /opt\n"
        )
    try:
        for path, change in units.install(folder):
            sys.stdout.write(f"{path}: {change}\n")
    except OSError as error:
        raise ConfigurationError(f"cannot write {error.filename}: {error.strerror}") from None
    return 0
