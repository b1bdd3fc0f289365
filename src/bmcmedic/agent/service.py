"""The agent as a process: it builds the parts, starts their threads, and ends them in order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmcmedic import __version__
from bmcmedic.agent import config as configuration
from bmcmedic.agent.config import AgentConfig, ControllerConfig
from bmcmedic.agent.controller.order_queue import OrderQueue, Rules
from bmcmedic.agent.controller.report import About
from bmcmedic.agent.controller.reporter import Reporter, ReportLink
from bmcmedic.agent.log import AgentLog
from bmcmedic.agent.state import DriverView, HostState
from bmcmedic.agent.watch.host_loop import Host, HostLoop
from bmcmedic.agent.watch.permission import Permission
from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.errors import BmcmedicError, ConfigurationError
from bmcmedic.host.relieve.relieve import HostTrees
from bmcmedic.host.triage.host_facts import read_host_facts
from bmcmedic.service.log import ERROR, INFO, WARNING
from bmcmedic.service.process_service import ProcessService
from bmcmedic.service.settings_table import Setting

if TYPE_CHECKING:
    from bmcmedic.agent.loopback.thread import LoopbackThread
    from bmcmedic.agent.metrics.bmc_reader import BmcReader
    from bmcmedic.agent.metrics.endpoint import MetricsEndpoint

TICK_S = 2.0
"""Period in which the process checks the host loop, in seconds."""
STATUS_S_MAX = 1.0
"""Longest wait for the driver's status, in seconds; the driver answers without asking the BMC."""
EXCHANGE_S_MAX = 15.0
"""Longest wait for an exchange with the BMC through the driver, in seconds."""
LOOP_SILENT_S_MAX = 60.0
"""Time without progress after which the host loop counts as stuck, in seconds.

Systemd then gets no more keep-alives, and restarts the agent.
"""
LOOP_ENDS_S = 12.0
"""Longest wait for the host loop to end, in seconds: a relief takes 5 s at most, a triage 2 s."""


class AgentService(ProcessService[AgentConfig, AgentLog]):
    """The agent process."""

    tick_s = TICK_S

    def __init__(
        self,
        config: AgentConfig,
        reread: Callable[[], AgentConfig],
        *,
        trees: HostTrees | None = None,
        environment: MutableMapping[str, str] = os.environ,
    ) -> None:
        """`reread` reads the configuration again; `trees` are the host.

        Raises: ConfigurationError before anything is changed, if the configuration cannot work.
        """
        super().__init__(config, reread, AgentLog, environment)
        self._started_at = time.time()
        self._state: HostState | None = None
        self._first_driver_view: DriverView | None = None
        base = trees if trees is not None else HostTrees.here()
        self._trees = base._replace(
            kill_switch=config.process.kill_switch, journal_directory=config.process.runtime_dir
        )
        self._permission = Permission(config.process, _since_boot_s)
        self._host_id: dict[str, str | None] = dict(
            read_host_facts(self._trees.proc, self._trees.sys).host_id._asdict()
        )
        self._status_client = DriverClient(config.driver.socket, STATUS_S_MAX)
        try:
            self._build(config)
        except ConfigurationError:
            self._permission.close(in_order=True)
            raise

    def _build(self, config: AgentConfig) -> None:
        self._orders = OrderQueue(
            Path(config.process.state_dir),
            Rules(
                allowed=lambda: self._config.controller.orders_allowed,
                why_not=self._permission.why_not,
                host_id=lambda: self._host_id,
                epoch_s=time.time,
            ),
            self._client,
            self._log,
            self._runtime,
            self._report_soon,
        )
        self._reporter = Reporter(
            lambda: self._config,
            self._about,
            self._orders,
            self._link,
            self._log,
            self._runtime,
            time.time,
        )
        self._loop = HostLoop(
            Host(self._trees, self._driver_view, time.thread_time, time.time),
            lambda: self._config,
            self._permission,
            self._publish,
            self._log,
            self._runtime,
        )
        self._metrics_endpoint: MetricsEndpoint | None = None
        self._bmc_reader: BmcReader | None = None
        if config.metrics.listen is not None:
            self._build_metrics(config)
        self._loopback: LoopbackThread | None = None
        if config.doors.loopback:
            from bmcmedic.agent.loopback.thread import LoopbackThread

            self._loopback = LoopbackThread(
                config, lambda line: self._log.event(WARNING, "door", line)
            )

    def _build_metrics(self, config: AgentConfig) -> None:
        """Build the metrics; their modules are a fifth of the agent's memory, so they load here."""
        from bmcmedic.agent.metrics.bmc_reader import BmcReader
        from bmcmedic.agent.metrics.collector import AgentCollector, Metrics
        from bmcmedic.agent.metrics.endpoint import MetricsEndpoint
        from bmcmedic.agent.metrics.sensor_reader import SensorReader

        assert config.metrics.listen is not None
        sensors = SensorReader(
            self._sensor_period_s,
            lambda: None if self._state is None else self._state.driver.restarts,
            lambda line: self._log.event(WARNING, "sensors", line),
            self._runtime,
        )
        reader = BmcReader(
            self._client, lambda: self._config.metrics.bmc_period_s, self._runtime, sensors
        )
        collector = AgentCollector(
            lambda: self._state, lambda: self._first_driver_view, self._own_counters, reader
        )
        metrics = Metrics(collector, reader)
        self._bmc_reader = reader
        self._metrics_endpoint = MetricsEndpoint(
            config.metrics.listen, config.metrics.group, metrics.text
        )

    # ------------------------------------------------------------- callbacks that the parts get

    def _sensor_period_s(self) -> float | None:
        metrics = self._config.metrics
        return metrics.sensor_period_s if metrics.sensors else None

    def _client(self) -> DriverClient:
        return DriverClient(self._config.driver.socket, EXCHANGE_S_MAX)

    def _link(self, config: ControllerConfig) -> ReportLink:
        # Loaded only if there is a controller: TLS is a third of the agent's memory.
        from bmcmedic.agent.controller.https_link import ControllerLink

        return ControllerLink(config, self._environment)

    def _driver_view(self) -> DriverView:
        try:
            view = DriverView(self._status_client.status())
        except BmcmedicError as error:
            view = DriverView(None, str(error))
        self._first_driver_view = self._first_driver_view or view
        return view

    def _report_soon(self) -> None:
        self._reporter.report_soon()  # queue and reporter refer to each other

    def _publish(self, state: HostState) -> None:
        self._state = state
        self._reporter.publish(state)

    def _about(self) -> About:
        config = self._config
        return About(
            host_id=self._host_id,
            started_at=self._started_at,
            mode=config.relief.mode,
            why_not=self._permission.why_not(),
            orders_allowed=config.controller.orders_allowed,
        )

    def _own_counters(self) -> Any:  # noqa: ANN401 - AgentCounters is loaded with the metrics
        from bmcmedic.agent.metrics.collector import AgentCounters

        return AgentCounters(
            reports=dict(self._reporter.counts),
            last_report_at=self._reporter.last_accepted_at,
            orders=dict(self._orders.states),
            acts=self._config.relief.mode == "act" and self._permission.why_not() is None,
        )

    # ---------------------------------------------------------------------------------- running it

    def _start(self) -> None:
        supervisor = self._supervisor
        supervisor.start("log", self._log.run)
        self._log_start()
        supervisor.start("host", self._loop.run)
        supervisor.start("orders", self._orders.run)
        supervisor.start("report", self._reporter.run)
        if self._bmc_reader is not None and self._metrics_endpoint is not None:
            supervisor.start("bmc", self._bmc_reader.run)
            supervisor.start("metrics", self._metrics_endpoint.run)
        if self._loopback is not None:
            supervisor.start("loopback", self._loopback.run)

    def _log_start(self) -> None:
        config = self._config
        self._log.event(INFO, "start", f"bmcmedic {__version__}: {self._status_line()}")
        why_not = self._permission.why_not()
        if why_not is not None:
            level = ERROR if self._permission.failed_open else WARNING
            self._log.event(level, "observe-only", f"nothing is changed on this host: {why_not}")
        for warning in configuration.file_warnings(config):
            self._log.event(WARNING, "secrets", warning)
        if config.controller.orders_allowed:
            allowed = ", ".join(config.controller.orders_allowed)
            self._log.event(INFO, "orders", f"the controller may order {allowed}")
        if os.geteuid() != 0:
            self._log.event(
                WARNING,
                "rights",
                "not root: the agent can neither judge nor end the processes of other users",
            )

    def _status_line(self) -> str:
        config = self._config
        where = "no controller"
        if config.controller.url is not None:
            where = f"reports to {config.controller.url.partition('?')[0]}"
        return f"relief {config.relief.mode}s; {where}"

    def _tick(self) -> None:
        silent_s = self._runtime.monotonic() - self._loop.progressed_at
        if silent_s < LOOP_SILENT_S_MAX:
            self._manager.alive()

    def _changed(self, new: AgentConfig) -> tuple[list[Setting], list[Setting]]:
        return configuration.changed(self._config, new)

    def _apply(self, new: AgentConfig) -> None:
        self._config = configuration.with_reloadable(self._config, new)
        self._loop.wake()
        self._reporter.report_soon()

    # ------------------------------------------------------------------------------------- the end

    def _end(self, died: str | None) -> None:
        """End the parts, and put back what was changed; the watchdog belongs to the driver."""
        supervisor = self._supervisor
        self._loop.stop()
        self._orders.stop()
        self._reporter.stop()
        if self._bmc_reader is not None and self._metrics_endpoint is not None:
            self._bmc_reader.stop()
            self._metrics_endpoint.stop()
            supervisor.join("metrics")
            self._metrics_endpoint.close()
        if self._loopback is not None:
            self._loopback.stop()
            supervisor.join("loopback")
        if not supervisor.join("host", LOOP_ENDS_S):
            self._log.warning("the host loop does not end; changes are put back without it")
            died = died or "host"
        if died is not None:
            self._loop.undo("the agent ends")
        self._permission.close(in_order=died is None)


def _since_boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
