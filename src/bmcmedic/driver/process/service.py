"""The driver as a whole: how its parts are put together, started and ended."""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from bmcmedic import __version__
from bmcmedic.driver.driver import Driver
from bmcmedic.driver.process import config as configuration
from bmcmedic.driver.process import realtime
from bmcmedic.driver.process.bmc_status_log import BmcStatus, BmcStatusLog
from bmcmedic.driver.process.config import DriverProgramConfig
from bmcmedic.driver.process.found_interface import FoundInterface, InterfaceMakers
from bmcmedic.driver.process.watchdog_service import URGENCY_WORKER, WatchdogService
from bmcmedic.driver.socket.listener import Listener, listen, passed_socket
from bmcmedic.driver.socket.policy import Access
from bmcmedic.driver.socket.server import SocketServer
from bmcmedic.driver.watchdog.pretimeout_process import StampsFile
from bmcmedic.driver.watchdog.watchdog import Watchdog
from bmcmedic.errors import ConfigurationError
from bmcmedic.service.log import Log
from bmcmedic.service.process_service import ProcessService
from bmcmedic.service.settings_table import Setting
from bmcmedic.transport import dev_ipmi
from bmcmedic.transport.dev_ipmi import DevIpmi
from bmcmedic.transport.in_band import InBand
from bmcmedic.transport.port_io import PortIo

TICK_S = 1.0
"""How often the main thread checks whether the BMC's status has changed, in seconds."""


class HostInterfaces:
    """Makes the interfaces to the BMC that this machine may have."""

    device_exchange_s_max = dev_ipmi.EXCHANGE_S_MAX

    def device(self, path: str) -> InBand:
        """Return the kernel's device."""
        return DevIpmi(path)

    def ports(self, base: int) -> InBand:
        """Return the KCS registers."""
        return PortIo(base=base)


class DriverService(ProcessService[DriverProgramConfig, Log]):
    """The running driver: interface, worker, socket server and watchdog."""

    tick_s = TICK_S

    def __init__(
        self,
        config: DriverProgramConfig,
        reread: Callable[[], DriverProgramConfig],
        *,
        makers: InterfaceMakers | None = None,
        environment: MutableMapping[str, str] = os.environ,
    ) -> None:
        """`reread` returns the configuration as it is now.

        Raises: ConfigurationError for settings that cannot work, before anything is touched.
        """
        super().__init__(config, reread, Log, environment)
        self._reported_parked = False
        _make_runtime_dir(Path(config.process.runtime_dir))
        listener = passed_socket(environment) or listen(config.socket_path, config.socket.group)
        try:
            self._build(config, listener, makers or HostInterfaces())
        except ConfigurationError:
            listener.close()
            raise

    def _build(
        self, config: DriverProgramConfig, listener: Listener, makers: InterfaceMakers
    ) -> None:
        self._interface = FoundInterface(
            config.interface,
            makers,
            self._log.warning,
            self._interface_found,
            self._runtime.monotonic,
        )
        self._driver = Driver(self._interface, self._runtime)
        self._bmc_status = BmcStatusLog(
            self._driver.breaker, lambda: self._interface.name, self._log, self._manager.status
        )
        self._watchdog: WatchdogService | None = None
        self._stamps = StampsFile(Path(config.process.runtime_dir))
        if config.watchdog.mode != "off":
            self._watchdog = WatchdogService(
                config, self._driver, self._stamps, self._runtime, self._log.warning
            )
        self._server = SocketServer(
            listener,
            self._driver,
            self._watchdog,
            self._runtime,
            _access(config),
            report=self._log.warning,
        )
        self._warn_of_unreachable_users(config, listener)

    def _start(self) -> None:
        config, supervisor = self._config, self._supervisor
        for warning in realtime.prepare(
            lock_memory=config.process.lock_memory, oom_score_adj=config.process.oom_score_adj
        ):
            self._log.warning(warning)
        priority = config.process.real_time_priority
        unscheduled = realtime.schedule_this_thread(priority, inherited=True)
        if unscheduled is not None:
            self._log.warning(unscheduled)
        realtime.settle_collector()
        if self._interface.missing is not None:  # it is logged already
            self._bmc_status.reported = BmcStatus.MISSING
        supervisor.start("log", self._log.run)
        supervisor.start("worker", self._driver.kcs_loop, urgency=URGENCY_WORKER)
        supervisor.start("socket", self._server.run)
        self._log.info(f"bmcmedic {__version__}: {self._status_line()}")
        if self._watchdog is not None:
            self._watchdog.start(supervisor)
            self._log.info(self._watchdog.summary())
        else:
            self._stamps.end_older_watcher()
        self._schedule(0)  # processes that the main thread starts from now on have normal priority

    # -------------------------------------------------------------------------- while running

    def _schedule(self, urgency: int) -> str | None:
        priority = self._config.process.real_time_priority
        return realtime.schedule_this_thread(priority + urgency if priority else 0)

    def _tick(self) -> None:
        self._manager.alive()
        if self._watchdog is not None:
            self._watchdog.tick()
        self._report_parked()
        self._bmc_status.update()

    def _report_parked(self) -> None:
        parked = self._driver.parking.describe()
        if parked is not None and not self._reported_parked:
            self._log.warning(
                f"the interface is parked by order, for {parked['ends_in_s']:.0f} s more: nothing"
                " is sent to the BMC"
            )
        elif parked is None and self._reported_parked:
            self._log.warning("the interface is no longer parked")
        self._reported_parked = parked is not None

    def _interface_found(self, interface: InBand) -> None:
        if interface.missing is None:
            self._log.info(f"the interface is {interface.name}")

    def _changed(self, new: DriverProgramConfig) -> tuple[list[Setting], list[Setting]]:
        return configuration.changed(self._config, new)

    def _apply(self, new: DriverProgramConfig) -> None:
        self._config = configuration.with_reloadable(self._config, new)
        self._server.access = _access(self._config)

    def _status_line(self) -> str:
        return self._bmc_status.status()

    # ------------------------------------------------------------------------------- the end

    def _end(self, died: str | None) -> None:
        """End the clients first, then the watchdog by its policy, then the interface."""
        supervisor = self._supervisor
        self._server.stop()
        supervisor.join("socket")
        if self._watchdog is not None:
            self._watchdog.end(supervisor, in_order=died is None)
        self._driver.stop()
        if not supervisor.join("worker"):
            self._log.warning("the worker is still in an exchange; the driver ends without it")
        self._server.close()
        self._interface.close()

    @property
    def watchdog(self) -> Watchdog | None:
        """The watchdog that pats; None while it is off."""
        return None if self._watchdog is None else self._watchdog.watchdog

    def status(self) -> dict[str, Any]:
        """Return the status that clients of the socket get."""
        return self._server.status()

    def _warn_of_unreachable_users(self, config: DriverProgramConfig, listener: Listener) -> None:
        named = config.socket.read_users or config.socket.full_users
        if named and config.socket.group is None and listener.path is not None:
            self._log.warning(
                "users are configured, but only root can open the socket: set socket.group too"
            )


def _access(config: DriverProgramConfig) -> Access:
    """Return the access rights that the configuration grants."""
    socket = config.socket
    group = frozenset() if socket.group is None else frozenset((socket.group,))
    return Access(
        full_uids=frozenset(socket.full_users),
        read_uids=frozenset(socket.read_users),
        full_gids=group if socket.group_rights == "full" else frozenset(),
        read_gids=group if socket.group_rights == "read" else frozenset(),
    )


def _make_runtime_dir(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot make the runtime directory {folder}: {error.strerror}; run as root, or set "
            "process.runtime_dir"
        ) from None
