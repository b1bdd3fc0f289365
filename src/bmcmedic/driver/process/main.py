"""`bmcmedic driver`: the arguments and the exit status. Standard library only."""

from __future__ import annotations

import argparse
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bmcmedic.driver.process import config as configuration
from bmcmedic.driver.process import realtime
from bmcmedic.driver.process.config import CONFIG_FILE, DriverProgramConfig
from bmcmedic.errors import ConfigurationError
from bmcmedic.host.usage import OneLineParser
from bmcmedic.service import config_commands, startup_signals
from bmcmedic.service.settings_conflicts import ConflictingSettings, SettingsConflict

EXIT_USAGE = 2


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parsed = OneLineParser(
        prog="bmcmedic driver",
        description="Own this host's interface to its BMC: serve clients through a Unix socket, "
        "one request at a time, and send the watchdog's pats before all others. Runs until "
        "SIGTERM; SIGHUP reads the configuration again.",
        epilog="Exit status: 0 ended as asked, 1 a thread died (restart it), 2 usage or "
        "configuration.",
        allow_abbrev=False,
    )
    parsed.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"TOML; default: {CONFIG_FILE}, if it exists. Options override it.",
    )
    config_commands.add_options(parsed.add_mutually_exclusive_group())
    configuration.add_options(parsed)
    return parsed


def read_config(file: Path | None, options: Mapping[str, str]) -> DriverProgramConfig:
    """Return the settings: defaults, then the file, then the options by the settings' names.

    Raises: ConfigurationError with everything that is wrong.
    """
    return configuration.load(file, options, (_device_conflicts, _watchdog_conflicts))


def _device_conflicts(config: DriverProgramConfig) -> Iterable[SettingsConflict]:
    """Refuse a device that exists and is none; one that is missing may come with its module."""
    interface = config.interface
    if interface.kind == "port-io":
        return ()
    try:
        mode = Path(interface.device).stat().st_mode
    except OSError:
        return ()
    if stat.S_ISCHR(mode):
        return ()
    text = f"{interface.device} is no device; give the kernel's, such as /dev/ipmi0"
    return (SettingsConflict(text, ("interface.device", "interface.kind")),)


def _watchdog_conflicts(config: DriverProgramConfig) -> Iterable[SettingsConflict]:
    if config.watchdog.mode == "off":
        return ()
    # Imported only where it is needed: its import takes longer than all other work before the
    # check.
    from bmcmedic.driver.process.watchdog_config import conflicts

    return conflicts(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the driver and return its exit status; see `parser`."""
    startup_signals.hold()
    try:
        return _run(arguments)
    finally:
        startup_signals.release()


def _run(arguments: Sequence[str] | None) -> int:
    parsed = parser().parse_args(arguments)
    file: Path | None = parsed.config
    given = {name: value for name, value in vars(parsed).items() if "." in name}  # the settings
    if file is None and CONFIG_FILE.exists():
        file = CONFIG_FILE

    def read() -> DriverProgramConfig:
        return read_config(file, given)

    try:
        if config_commands.are_given(parsed):
            startup_signals.release()
            config_commands.run(parsed, file, read, configuration.show)
            return 0
        with startup_signals.ends_at_once():
            config = read()
            # On a host with a load of 190, the remaining imports would take minutes at normal
            # priority.
            realtime.schedule_this_thread(config.process.real_time_priority, inherited=True)
            from bmcmedic.driver.process.service import DriverService
        try:
            return DriverService(config, read).run()
        except ConflictingSettings as error:
            raise configuration.located(file, given, error) from None
        finally:
            startup_signals.ignore()
    except ConfigurationError as error:
        sys.stderr.write(f"bmcmedic driver: {error}\n")
        return EXIT_USAGE
