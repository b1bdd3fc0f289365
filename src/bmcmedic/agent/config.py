"""The agent's settings, in one TOML file. With the defaults it changes nothing on the host."""

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
from bmcmedic.service import secret_files
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
_METRICS_ADDRESS = ListenAddress(f"{DIRECTORY}/metrics.sock")

DAY_S = 86_400.0
STUCK_AFTER_S_MIN = 5.0
"""Lower limit of `stuck_after_s`, in seconds: a client may have to wait for one answer."""
SENSOR_PERIOD_S_MIN = 10.0
"""Lower limit of `sensor_period_s`, in seconds: reading a hundred sensors takes about as long."""


class OrderKind(Enum):
    """The orders that a controller may give, if the configuration allows them."""

    LENGTHEN_WATCHDOG = "lengthen-watchdog"
    DISARM_WATCHDOG = "disarm-watchdog"
    COLD_RESET = "cold-reset"
    PARK = "park"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """The connection to the in-band driver, and through it to the BMC."""

    socket: str = setting(SOCKET_PATH_DEFAULT, AbsolutePath(), None, "The driver's socket.")


@dataclass(frozen=True, slots=True)
class TriageConfig:
    """How often the host is examined, without any request to the BMC."""

    period_s: float = setting(
        5.0,
        Seconds(1, 300),
        None,
        "How often a sample is taken of the interface's counters, kipmid and the driver, which"
        " costs next to nothing. While a sample shows an anomaly, all processes are scanned every"
        " few seconds.",
        reload=True,
    )
    full_every_s: float = setting(
        300.0,
        Seconds(10, DAY_S),
        None,
        "How often all processes are scanned while there is no anomaly.",
        reload=True,
    )


@dataclass(frozen=True, slots=True)
class ReliefConfig:
    """Relief of the host from clients that hang with its BMC, as `bmcmedic relieve` does it."""

    mode: str = setting(
        "observe",
        Choice(("observe", "act")),
        None,
        "observe: only log what would be done. act: end clients that are proven stuck, and throttle"
        " kipmid while the BMC hangs.",
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
    """The controller to which the agent reports."""

    url: str | None = setting(
        None,
        HttpsUrl(),
        None,
        "The URL to which reports are posted; none are posted if it is unset.",
        reload=True,
    )
    orders_allowed: tuple[str, ...] = setting(
        (),
        Words(tuple(kind.value for kind in OrderKind)),
        None,
        "The orders that this host carries out, out of "
        + ", ".join(kind.value for kind in OrderKind)
        + "."
        " Other orders are refused, and the report gives the reason.",
        reload=True,
    )
    period_s: float = setting(
        10.0,
        Seconds(1, 3600),
        None,
        "How often a report is posted. A changed symptom is reported at once.",
        reload=True,
    )
    timeout_s: float = setting(
        10.0, Seconds(1, 120), None, "Longest time for posting a report.", reload=True
    )
    back_off_s_max: float = setting(
        300.0,
        Seconds(1, 3600),
        None,
        "While the controller is away, the time between attempts doubles up to this limit.",
        reload=True,
    )
    ca_file: str | None = setting(
        None,
        AbsolutePath(optional=True),
        None,
        "The authorities (PEM) that verify the controller's certificate; those of the system if"
        " unset.",
        reload=True,
    )
    client_certificate: str | None = setting(
        None,
        AbsolutePath(optional=True),
        None,
        "The agent's own certificate and its chain (PEM); if unset, systemd's credential"
        " controller-certificate, if there is one.",
        reload=True,
    )
    client_key: str | None = setting(
        None,
        AbsolutePath(optional=True),
        None,
        "The key of that certificate (PEM); if unset, systemd's credential controller-key, if there"
        " is one.",
        reload=True,
    )
    token_file: str | None = setting(
        None,
        AbsolutePath(optional=True),
        None,
        "A file with a bearer token; if unset, systemd's credential controller-token, if there is"
        " one.",
        reload=True,
    )


@dataclass(frozen=True, slots=True)
class LoopbackConfig:
    """The loopback proxy: RMCP+ (lanplus) on 127.0.0.1, and the shim that uses it."""

    loopback: bool = setting(
        False,
        Flag(),
        None,
        "Whether the loopback proxy is open. It forwards requests to the driver.",
    )
    port: int = setting(
        6230,
        WholeNumber(0, 65535),
        None,
        "The UDP port of the loopback proxy; 0 for any free port.",
    )
    request_s: float = setting(
        15.0,
        Seconds(1, 300),
        None,
        "Longest time for a request; after it the tool gets completion code 0xC3.",
    )
    old_answer_s_max: float = setting(
        60.0,
        Seconds(0, DAY_S),
        None,
        "While the BMC is silent, reads get stale answers up to this age.",
    )
    shim_deadline_s: float = setting(
        SHIM_DEADLINE_S,
        Seconds(1, 3600),
        None,
        "Longest run of ipmitool through the shim; after it the run is ended.",
    )
    shim_long_deadline_s: float = setting(
        SHIM_LONG_DEADLINE_S,
        Seconds(1, 3600),
        None,
        "The same for commands with many requests, such as sdr and sel.",
    )
    shim_share_s: float = setting(
        SHIM_SHARE_S,
        Seconds(0, 60),
        None,
        "The shim shares a run with a caller that asks the same this long after its end.",
    )
    shim_old_output_s_max: float = setting(
        SHIM_CACHED_S_MAX,
        Seconds(0, DAY_S),
        None,
        "While the BMC is silent, the shim prints cached answers up to this age.",
    )


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """The metrics for Prometheus."""

    listen: ListenAddress | None = setting(  # noqa: RUF009 - a field like the others; a ListenAddress is frozen
        _METRICS_ADDRESS,
        Listening(),
        None,
        "Where metrics are served: unix:/PATH, 127.0.0.1:PORT, [::1]:PORT, or off. The network"
        " cannot reach them.",
    )
    group: int | None = setting(
        None, GroupName(), None, "The group that may open the Unix socket, in addition to root."
    )
    bmc_period_s: float = setting(
        60.0,
        Seconds(5, DAY_S),
        None,
        "How often the BMC is asked at most, and only when metrics are scraped. In between, and"
        " while it does not answer, its last answer is served with its age.",
        reload=True,
    )
    sensors: bool = setting(
        True, Flag(), None, "Whether the metrics include the BMC's sensors.", reload=True
    )
    sensor_period_s: float = setting(
        120.0,
        Seconds(SENSOR_PERIOD_S_MIN, DAY_S),
        None,
        "How often all sensors are read while metrics are scraped, with one request for each, one"
        " at a time, and with pauses. While the BMC does not answer, no sensor is served.",
        reload=True,
    )


@dataclass(frozen=True, slots=True)
class AgentProcessConfig:
    """The agent process."""

    kill_switch: str = setting(
        KILL_SWITCH,
        AbsolutePath(),
        None,
        "While this file exists, nothing on the host is changed and no order is carried out.",
    )
    runtime_dir: str = setting(
        DIRECTORY,
        AbsolutePath(),
        None,
        "The directory of the lock, and of the journal of changes to undo.",
    )
    state_dir: str = setting(
        STATE_DIRECTORY,
        AbsolutePath(),
        None,
        "The directory of what must survive a reboot: the orders that were carried out.",
    )
    starts_max: int = setting(
        5,
        WholeNumber(2, 100),
        None,
        "An agent that was started this often without an orderly end in between is in a crash loop,"
        " and only observes.",
    )
    starts_window_s: float = setting(
        600.0, Seconds(10, DAY_S), None, "The time window in which those starts are counted."
    )
    log_level: str = setting(
        "info",
        Choice(("debug", "info", "warning", "error")),
        None,
        "The lowest level that is written to stderr.",
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
    """Yield conflicts between settings."""
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


_CONTROLLER_FILES = ("ca_file", "client_certificate", "client_key", "token_file")
_SECRET_FILES = ("client_key", "token_file")


def file_conflicts(config: AgentConfig) -> Iterator[SettingsConflict]:
    """Yield the named files that cannot be read on this host."""
    for key in _CONTROLLER_FILES:
        path: str | None = getattr(config.controller, key)
        problem = None if path is None else secret_files.unreadable(Path(path))
        if problem is not None:
            yield SettingsConflict(problem, (f"controller.{key}",))


def file_warnings(config: AgentConfig) -> Iterator[str]:
    """Yield a warning for each file with a secret that every user can read."""
    for key in _SECRET_FILES:
        path: str | None = getattr(config.controller, key)
        warning = None if path is None else secret_files.exposed(Path(path))
        if warning is not None:
            yield f"controller.{key}: {warning}"


_TABLE = SettingsTable(
    AgentConfig,
    "The agent of bmcmedic. A line behind a # is not set. With the defaults the agent changes"
    " nothing on this host and reports to nobody: it watches, and serves metrics on a Unix socket.",
    _contradictions,
)
SETTINGS = _TABLE.settings
load = _TABLE.load
show = _TABLE.show
changed = _TABLE.changed
with_reloadable = _TABLE.with_reloadable
