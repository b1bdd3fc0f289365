"""The watchdog's part of the process: pats, check command, time stamps and pretimeout watcher."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from bmcmedic.driver.driver import Driver
from bmcmedic.driver.process.config import DriverProgramConfig
from bmcmedic.driver.process.watchdog_config import watchdog_settings
from bmcmedic.driver.watchdog.check import CheckLoop, ProcessCheck
from bmcmedic.driver.watchdog.kernel_pats import KERNEL_EXCHANGE_S_MAX, KernelPats
from bmcmedic.driver.watchdog.ownership import WatchdogMode, require_sole_ownership
from bmcmedic.driver.watchdog.pat_paths import BmcPats, PatPath
from bmcmedic.driver.watchdog.pretimeout import PretimeoutCallout
from bmcmedic.driver.watchdog.pretimeout_process import (
    PretimeoutAction,
    PretimeoutWatcher,
    StampsFile,
    WatcherSettings,
)
from bmcmedic.driver.watchdog.watchdog import Watchdog
from bmcmedic.errors import ConfigurationError
from bmcmedic.service.runtime import Runtime
from bmcmedic.service.supervisor import Supervisor
from bmcmedic.transport.dev_watchdog import DevWatchdog
from bmcmedic.transport.in_band import InterfaceGone

URGENCY_WORKER = 1
URGENCY_PAT = 2
URGENCY_WATCHER = 3
"""Added to the priority of all other threads. The interpreter and the kernel both give the more
urgent of two waiting threads its turn first."""

SHUTDOWN_S_MAX = 30.0
"""Time that the BMC has to take the last setting, in seconds; then the driver ends anyway."""
WATCHER_ENDS_S = 2.0


def watcher_settings(config: DriverProgramConfig) -> WatcherSettings:
    """Return the settings of the pretimeout watcher; raises ConfigurationError."""
    priority = config.process.real_time_priority
    return WatcherSettings(
        action=PretimeoutAction(config.pretimeout.action),
        command=config.pretimeout.command,
        real_time_priority=priority + URGENCY_WATCHER if priority else 0,
        lock_memory=config.process.lock_memory,
    )


def _kernel_watchdog(path: str | None) -> DevWatchdog:
    try:
        return DevWatchdog(path)
    except InterfaceGone as error:
        raise ConfigurationError(f"the kernel's watchdog cannot be used: {error}") from None


class WatchdogService:
    """Pats the timer, and notices when the host stops patting."""

    def __init__(
        self,
        config: DriverProgramConfig,
        driver: Driver,
        stamps: StampsFile,
        runtime: Runtime,
        report: Callable[[str], None],
    ) -> None:
        """Build the parts without arming anything.

        Raises ConfigurationError for what cannot work.
        """
        self._report = report
        mode = WatchdogMode(config.watchdog.mode)
        for note in require_sole_ownership(mode):
            report(note)
        self._kernel_pats: KernelPats | None = None
        path: PatPath
        if mode is WatchdogMode.KERNEL:
            settings = watchdog_settings(config, KERNEL_EXCHANGE_S_MAX)
            device = _kernel_watchdog(config.watchdog.device)
            path = self._kernel_pats = KernelPats(device, settings, runtime)
        else:
            interface = driver.interface
            settings = watchdog_settings(config, interface.exchange_s_max)
            path = BmcPats(driver, interface.name, interface.exchange_s_max)
        self._callout = PretimeoutCallout(
            stamps.stamps, runtime.monotonic, settings.pretimeout_limit_s, pid=os.getpid()
        )
        self._watcher = PretimeoutWatcher(
            stamps, self._callout.generation, watcher_settings(config), report
        )
        self._checks: CheckLoop | None = None
        if settings.check is not None:
            command = ProcessCheck(settings.check.argv)
            self._checks = CheckLoop(settings.check, command, runtime, report)
        self.watchdog = Watchdog(
            settings, path, runtime, report, callout=self._callout, check=self._checks
        )

    def start(self, supervisor: Supervisor) -> None:
        """Start the watcher and the threads.

        Raises ConfigurationError if the watcher does not start.
        """
        self._watcher.start()
        if self._checks is not None:
            supervisor.start("check", self._checks.run)
        if self._kernel_pats is not None:
            supervisor.start("kernel-pat", self._kernel_pats.run, urgency=URGENCY_WORKER)
        supervisor.start("pat", self.watchdog.run, urgency=URGENCY_PAT)

    def tick(self) -> None:
        """Restart a watcher that has ended; the main thread calls this."""
        self._watcher.restart_if_ended()

    def end(self, supervisor: Supervisor, *, in_order: bool) -> None:
        """Apply the shutdown policy, if the end was asked for.

        Otherwise the timer and the watcher stay as they are, and the next driver takes them over.
        If none comes, nothing watches the host, which is exactly what timer and watcher are for.
        """
        if not in_order:
            return
        self.watchdog.stop()
        if not supervisor.join("pat", SHUTDOWN_S_MAX):
            self._report(
                f"the BMC did not take the watchdog timer's last setting in {SHUTDOWN_S_MAX:g} s; "
                f"if the timer runs, it runs out in {self.watchdog.settings.timeout_s:g} s or "
                "sooner"
            )
            self._callout.end()
        if not self._watcher.wait_until_gone(WATCHER_ENDS_S):
            self._report("the pretimeout watcher has not ended yet; it will end by itself")
        if self._kernel_pats is not None:
            self._kernel_pats.stop()
            if supervisor.join("kernel-pat"):
                self._kernel_pats.close(self.watchdog.settings.shutdown.kind)
        if self._checks is not None:
            self._checks.stop()

    def summary(self) -> str:
        """Return what the watchdog does, in one line for the log."""
        settings = self.watchdog.settings
        return (
            f"the watchdog timer runs out after {settings.timeout_s:g} s "
            f"({settings.action.name.lower().replace('_', ' ')}), and is patted every "
            f"{settings.pat_period_s:g} s; the software pretimeout fires after "
            f"{settings.pretimeout_limit_s:g} s"
        )

    # --------------------------------------------------------------------- for the socket

    def status(self) -> dict[str, Any]:
        """Return the state of watchdog, check command and watcher as JSON data."""
        return {
            **self.watchdog.status(),
            "check": None if self._checks is None else self._checks.status(),
            "pretimeout": self._watcher.status(),
        }

    @property
    def needs_interface(self) -> bool:
        """Whether pats go through the driver's interface."""
        return self._kernel_pats is None

    def why_not_parked(self) -> str | None:
        """Return why the interface must not be parked now; None if it may be."""
        if not self.needs_interface or self.watchdog.is_at_rest:
            return None
        if self.watchdog.status()["in_charge"]:
            return (
                "the driver's watchdog pats through this interface, so the timer would run out:"
                " disarm it first (op: watchdog), or let it pat through the kernel"
            )
        return "the driver's watchdog is disarmed, but its timer is not stopped yet (settled)"

    def order_lengthen(self, timeout_s: float) -> None:
        """Give the timer a longer time-out until `order_resume`; raises ConfigurationError."""
        self.watchdog.order_lengthen(timeout_s)

    def order_disarm(self) -> None:
        """Stop the timer and send no pats until `order_resume`."""
        self.watchdog.order_disarm()

    def order_resume(self) -> None:
        """Return to the configured settings."""
        self.watchdog.order_resume()
