"""The driver's settings: one table, read from TOML, overridden by options, shown as TOML."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bmcmedic.service.settings_conflicts import SettingsConflict
from bmcmedic.service.settings_table import SettingsTable, setting
from bmcmedic.service.settings_values import (
    SUN_PATH_BYTES_MAX,
    AbsolutePath,
    Choice,
    CommandLine,
    Flag,
    GroupName,
    Seconds,
    ShutdownChoice,
    UserNames,
    WholeNumber,
)

CONFIG_FILE = Path("/etc/bmcmedic/driver.toml")
COUNTDOWN_S_MAX = 6553.5
DAY_S = 86_400.0


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
        "/dev/ipmi0", AbsolutePath(), "--device", "The kernel's device, for auto and dev-ipmi."
    )
    port_base: int = setting(
        0xCA2,
        WholeNumber(0x1, 0xFFFE, base=16),
        "--port-base",
        "The KCS data register, for auto and port-io; command and status are the port after it.",
    )


@dataclass(frozen=True, slots=True)
class SocketConfig:
    """The Unix socket that others ask through."""

    path: str | None = setting(
        None,
        AbsolutePath(optional=True, bytes_max=SUN_PATH_BYTES_MAX),
        "--socket",
        "Where it is; driver.sock in the runtime directory unless set.",
    )
    group: int | None = setting(
        None, GroupName(), "--socket-group", "The group that may open it, besides root."
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
        UserNames(),
        "--read-users",
        "Members of that group, by name or number, who may ask what changes nothing.",
        reload=True,
    )
    full_users: tuple[int, ...] = setting(
        (),
        UserNames(),
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
        AbsolutePath(optional=True),
        "--watchdog-device",
        "For kernel: the watchdog device; the one that is ipmi_watchdog's unless set.",
    )
    timeout_s: float | None = setting(
        None,
        Seconds(0.1, COUNTDOWN_S_MAX, optional=True),
        "--watchdog-timeout",
        "Without a pat for this long, the BMC takes its action. As long as the interface needs"
        " unless set, and 120 s at least.",
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
        ShutdownChoice(),
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
        "It fires when the host has not patted for this long; at half of the time-out unless set.",
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
class DriverProcessConfig:
    """The process itself."""

    real_time_priority: int = setting(
        10,
        WholeNumber(0, 96),
        "--real-time-priority",
        "SCHED_RR priority of all threads; worker, pat and the pretimeout watcher have 1, 2 and 3"
        " more. 0: none.",
    )
    lock_memory: bool = setting(
        True, Flag(), "--lock-memory", "Keep the process in memory (mlockall, pages as used)."
    )
    oom_score_adj: int = setting(
        -900,
        WholeNumber(-1000, 1000),
        "--oom-score-adj",
        "How soon the kernel kills it when memory is short; -1000: never.",
    )
    runtime_dir: str = setting(
        "/run/bmcmedic", AbsolutePath(), "--runtime-dir", "Where socket and time stamps are."
    )
    log_level: str = setting(
        "info",
        Choice(("debug", "info", "warning", "error")),
        "--log-level",
        "The least that is written to stderr.",
        reload=True,
    )


@dataclass(frozen=True, slots=True)
class DriverProgramConfig:
    """All settings."""

    interface: InterfaceConfig = field(default_factory=InterfaceConfig)
    socket: SocketConfig = field(default_factory=SocketConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    pretimeout: PretimeoutConfig = field(default_factory=PretimeoutConfig)
    process: DriverProcessConfig = field(default_factory=DriverProcessConfig)

    @property
    def socket_path(self) -> str:
        """Where the socket is."""
        return self.socket.path or f"{self.process.runtime_dir}/driver.sock"


def _contradictions(config: DriverProgramConfig) -> Iterator[SettingsConflict]:
    """Yield the contradictions between settings, except the watchdog's numbers."""
    action, command = config.pretimeout.action, config.pretimeout.command
    if action == "command" and not command:
        yield SettingsConflict(
            "it is command; give pretimeout.command too",
            ("pretimeout.action", "pretimeout.command"),
        )
    if command and action != "command":
        yield SettingsConflict(
            f'it is given, but pretimeout.action is {action}; set it to "command"',
            ("pretimeout.command", "pretimeout.action"),
        )
    if config.check.command and config.watchdog.mode == "off":
        yield SettingsConflict(
            "it only keeps pats back: set watchdog.mode to bmc or kernel",
            ("check.command", "watchdog.mode"),
        )
    if len(config.socket_path.encode()) > SUN_PATH_BYTES_MAX:
        yield SettingsConflict(
            f"the socket's path {config.socket_path} is longer than {SUN_PATH_BYTES_MAX} bytes:"
            " set socket.path",
            ("process.runtime_dir", "socket.path"),
        )


_TABLE = SettingsTable(
    DriverProgramConfig,
    "The in-band driver of bmcmedic. What stands behind a # is not set.",
    _contradictions,
)
SETTINGS = _TABLE.settings
add_options = _TABLE.add_options
load = _TABLE.load
located = _TABLE.located
show = _TABLE.show
changed = _TABLE.changed
with_reloadable = _TABLE.with_reloadable
