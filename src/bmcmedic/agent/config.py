"""The agent's settings: one TOML file. As they are, nothing on the host is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from bmcmedic.agent.config_values import HttpsUrl, ListenAddress, Listening, Words
from bmcmedic.agent.proxy_files import (
    SHIM_CACHED_S_MAX,
    SHIM_DEADLINE_S,
    SHIM_LONG_DEADLINE_S,
    SHIM_SHARE_S,
)
from bmcmedic.driver.socket.listener import SOCKET_PATH_DEFAULT
from bmcmedic.host.client.stuck import STUCK_AFTER_S
from bmcmedic.host.relieve.kill_switch import KILL_SWITCH
from bmcmedic.host.relieve.undo_journal import DIRECTORY
from bmcmedic.service.settings_conflicts import SettingsConflict
from bmcmedic.service.settings_table import SettingsTable, setting
from bmcmedic.service.settings_values import (
    AbsolutePath,
    Choice,
    Flag,
    GroupName,
    Seconds,
    WholeNumber,
)

CONFIG_FILE = Path("/etc/bmcmedic/agent.toml")
STATE_DIRECTORY = "/var/lib/bmcmedic"
_METRICS_PLACE = ListenAddress(f"{DIRECTORY}/metrics.sock")

DAY_S = 86_400.0
STUCK_AFTER_S_MIN = 5.0
"""A client that waits for one answer must not be taken for a stuck one."""


SENSOR_PERIOD_S_MIN = 10.0
"""Reading a hundred sensors takes about as long."""


class OrderKind(Enum):
    """What a controller may order, where the configuration allows it."""

    LENGTHEN_WATCHDOG = "lengthen-watchdog"
    DISARM_WATCHDOG = "disarm-watchdog"
    COLD_RESET = "cold-reset"
    PARK = "park"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """The way to the in-band driver, and through it to the BMC."""

    socket: str = setting(SOCKET_PATH_DEFAULT, AbsolutePath(), None, "The driver's socket.")


@dataclass(frozen=True, slots=True)
class TriageConfig:
    """Looking at the host. The BMC is never asked for it."""

    period_s: float = setting(
        5.0,
        Seconds(1, 300),
        None,
        "How often the interface's counters, kipmid and the driver are looked at, which costs next"
        " to nothing. While anything there is odd, all processes are looked at every few seconds.",
        reload=True,
    )
    full_every_s: float = setting(
        300.0,
        Seconds(10, DAY_S),
        None,
        "How often all processes are looked at while nothing is odd.",
        reload=True,
    )


@dataclass(frozen=True, slots=True)
class ReliefConfig:
    """Freeing the host of what hangs with its BMC: see docs/reference/relieve.md."""

    mode: str = setting(
        "observe",
        Choice(("observe", "act")),
        None,
        "observe: only say what would be done. act: end clients that are proven stuck, and"
        " throttle kipmid while the BMC hangs.",
        reload=True,
    )
    stuck_after_s: float = setting(
        STUCK_AFTER_S,
        Seconds(STUCK_AFTER_S_MIN, 30 * DAY_S),
        None,
        "The age from which a client that makes no progress counts as stuck.",
        reload=True,
    )


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """The controller that hears what is seen here."""

    url: str | None = setting(
        None, HttpsUrl(), None, "Where reports are posted. Unset: nowhere.", reload=True
    )
    orders_allowed: tuple[str, ...] = setting(
        (),
        Words(tuple(kind.value for kind in OrderKind)),
        None,
        "The orders that are carried out: " + ", ".join(kind.value for kind in OrderKind) + "."
        " All others are refused, and the report says so.",
        reload=True,
    )
    period_s: float = setting(
        10.0,
        Seconds(1, 3600),
        None,
        "How often a report is posted; a changed symptom is posted at once.",
        reload=True,
    )
    timeout_s: float = setting(
        10.0, Seconds(1, 120), None, "A report takes this long at most.", reload=True
    )
    back_off_s_max: float = setting(
        300.0,
        Seconds(1, 3600),
        None,
        "While the controller is away, the time between attempts doubles up to this.",
        reload=True,
    )
    ca_file: str | None = setting(
        None,
        AbsolutePath(optional=True),
        None,
        "The authorities that the controller's certificate is checked against (PEM); those of the"
        " system unless set.",
        reload=True,
    )
    client_certificate: str | None = setting(
        None,
        AbsolutePath(optional=True),
        None,
        "Our own certificate and its chain (PEM); systemd's credential controller-certificate"
        " unless set, where there is one.",
        reload=True,
    )
    client_key: str | None = setting(
        None,
        AbsolutePath(optional=True),
        None,
        "Its key (PEM); systemd's credential controller-key unless set, where there is one.",
        reload=True,
    )
    token_file: str | None = setting(
        None,
        AbsolutePath(optional=True),
        None,
        "A bearer token; systemd's credential controller-token unless set, where there is one.",
        reload=True,
    )


@dataclass(frozen=True, slots=True)
class LoopbackConfig:
    """The door for tools that speak RMCP+ (lanplus), on 127.0.0.1."""

    loopback: bool = setting(
        False,
        Flag(),
        None,
        "Whether it is open; what is asked through it goes to the driver.",
    )
    port: int = setting(6230, WholeNumber(0, 65535), None, "Its UDP port; 0: any.")
    request_s: float = setting(
        15.0, Seconds(1, 300), None, "A request may take this long; then the tool is told 0xC3."
    )
    old_answer_s_max: float = setting(
        60.0,
        Seconds(0, DAY_S),
        None,
        "While the BMC is silent, reads get answers up to this age.",
    )
    shim_deadline_s: float = setting(
        SHIM_DEADLINE_S,
        Seconds(1, 3600),
        None,
        "A run of ipmitool through the shim may take this long; then it is ended.",
    )
    shim_long_deadline_s: float = setting(
        SHIM_LONG_DEADLINE_S,
        Seconds(1, 3600),
        None,
        "The same for commands that take long, such as sdr and sel.",
    )
    shim_share_s: float = setting(
        SHIM_SHARE_S,
        Seconds(0, 60),
        None,
        "A run that ended this long before the same is asked again is shared through the shim.",
    )
    shim_old_output_s_max: float = setting(
        SHIM_CACHED_S_MAX,
        Seconds(0, DAY_S),
        None,
        "While the BMC is silent, the shim gives output up to this age.",
    )


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Figures for Prometheus."""

    listen: ListenAddress | None = setting(  # noqa: RUF009 - a field like the others; a Place is frozen
        _METRICS_PLACE,
        Listening(),
        None,
        "Where they are served: unix:/PATH, 127.0.0.1:PORT, [::1]:PORT, or off. Nobody on the"
        " network can reach them.",
    )
    group: int | None = setting(
        None, GroupName(), None, "The group that may open the Unix socket, besides root."
    )
    bmc_period_s: float = setting(
        60.0,
        Seconds(5, DAY_S),
        None,
        "What only the BMC can tell is asked for when somebody scrapes, and then at most this"
        " often; between, and while it does not answer, its last answer is served with its age.",
        reload=True,
    )
    sensors: bool = setting(
        True, Flag(), None, "Whether the BMC's sensors are among the figures.", reload=True
    )
    sensor_period_s: float = setting(
        120.0,
        Seconds(SENSOR_PERIOD_S_MIN, DAY_S),
        None,
        "How often all sensors are read, while somebody scrapes: one request each, one at a time,"
        " with pauses in between. While the BMC does not answer, none is served.",
        reload=True,
    )


@dataclass(frozen=True, slots=True)
class AgentProcessConfig:
    """The process itself."""

    kill_switch: str = setting(
        KILL_SWITCH,
        AbsolutePath(),
        None,
        "While this file is there, nothing on the host is changed and no order is carried out.",
    )
    runtime_dir: str = setting(
        DIRECTORY, AbsolutePath(), None, "The journal of changes to be undone, and the lock."
    )
    state_dir: str = setting(
        STATE_DIRECTORY, AbsolutePath(), None, "What must outlive a boot: which orders were done."
    )
    starts_max: int = setting(
        5,
        WholeNumber(2, 100),
        None,
        "An agent that was started this often without an orderly end in between is in a crash loop:"
        " it only observes then.",
    )
    starts_window_s: float = setting(
        600.0, Seconds(10, DAY_S), None, "The time in which those starts are counted."
    )
    log_level: str = setting(
        "info",
        Choice(("debug", "info", "warning", "error")),
        None,
        "The least that is written to stderr.",
        reload=True,
    )


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """All settings."""

    driver: DriverConfig = field(default_factory=DriverConfig)
    triage: TriageConfig = field(default_factory=TriageConfig)
    relief: ReliefConfig = field(default_factory=ReliefConfig)
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    doors: LoopbackConfig = field(default_factory=LoopbackConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    process: AgentProcessConfig = field(default_factory=AgentProcessConfig)


def _contradictions(config: AgentConfig) -> Iterator[SettingsConflict]:
    """What only shows when settings are seen together."""
    controller = config.controller
    if controller.orders_allowed and controller.url is None:
        yield SettingsConflict(
            "it is given; set controller.url, where orders come from",
            ("controller.orders_allowed", "controller.url"),
        )
    if controller.client_key is not None and controller.client_certificate is None:
        yield SettingsConflict(
            "it is given; give controller.client_certificate too",
            ("controller.client_key", "controller.client_certificate"),
        )
    if config.metrics.group is not None and (
        config.metrics.listen is None or config.metrics.listen.unix_path is None
    ):
        yield SettingsConflict(
            "it is for a Unix socket; set metrics.listen to unix:/PATH",
            ("metrics.group", "metrics.listen"),
        )


_TABLE = SettingsTable(
    AgentConfig,
    "The agent of bmcmedic. What stands behind a # is not set. As it is, the agent changes nothing"
    " on this host and tells nobody: it looks, and serves its figures on a Unix socket.",
    _contradictions,
)
SETTINGS = _TABLE.settings
load = _TABLE.load
show = _TABLE.show
changed = _TABLE.changed
with_reloadable = _TABLE.with_reloadable
