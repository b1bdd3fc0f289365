"""The watchdog's part of the process: pats, check command, time stamps, and their watcher."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from bmcmedic.driver.driver import Driver
from bmcmedic.driver.process.config import DriverProgramConfig
from bmcmedic.driver.process.watchdog_config import watchdog_settings
from bmcmedic.driver.watchdog.check import Checks, ProcessCheck
from bmcmedic.driver.watchdog.kernel_pats import KERNEL_EXCHANGE_S_MAX, KernelPats
from bmcmedic.driver.watchdog.ownership import WatchdogMode, require_sole_charge
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
"""Added to the priority of all other threads. When two want the interpreter, and when the kernel
wakes one of two that wait for it, the more urgent one gets it."""

SHUTDOWN_S_MAX = 30.0
"""The BMC has this long to take the last setting; then the driver ends all the same."""
WATCHER_ENDS_S = 2.0


def watcher_settings(config: DriverProgramConfig) -> WatcherSettings:
    """What the pretimeout watcher is to do; raises ConfigurationError."""
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
        raise ConfigurationError(f"the kernel's watchdog cannot be had: {error}") from None


class WatchdogService:
    """All that keeps the timer patted, and notices when the host stops patting."""

    def __init__(
        self,
        config: DriverProgramConfig,
        driver: Driver,
        stamps: StampsFile,
        runtime: Runtime,
        report: Callable[[str], None],
    ) -> None:
        """Raises ConfigurationError for what cannot work; nothing is armed before `start`."""
        self._report = report
        mode = WatchdogMode(config.watchdog.mode)
        for note in require_sole_charge(mode):
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
        self._checks: Checks | None = None
        if settings.check is not None:
            command = ProcessCheck(settings.check.argv)
            self._checks = Checks(settings.check, command, runtime, report)
        self.watchdog = Watchdog(
            settings, path, runtime, report, callout=self._callout, check=self._checks
        )

    def start(self, supervisor: Supervisor) -> None:
        """Start the watcher and the threads; raises ConfigurationError without the former."""
        self._watcher.start()
        if self._checks is not None:
            supervisor.start("check", self._checks.run)
        if self._kernel_pats is not None:
            supervisor.start("kernel-pat", self._kernel_pats.run, urgency=URGENCY_WORKER)
        supervisor.start("pat", self.watchdog.run, urgency=URGENCY_PAT)

    def tick(self) -> None:
        """Look after the watcher; for the main thread."""
        self._watcher.look_after()

    def end(self, supervisor: Supervisor, *, in_order: bool) -> None:
        """Do as the shutdown policy says, if the end was asked for.

        Else the timer and the watcher are left as they are: the next driver takes them over, and
        when none comes, the host is not watched by anybody, which is what they are there for.
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
            self._report("the pretimeout watcher has not ended yet; it does by itself")
        if self._kernel_pats is not None:
            self._kernel_pats.stop()
            if supervisor.join("kernel-pat"):
                self._kernel_pats.close(self.watchdog.settings.shutdown.kind)
        if self._checks is not None:
            self._checks.stop()

    def told(self) -> str:
        """What it does, for the log."""
        settings = self.watchdog.settings
        return (
            f"the watchdog timer runs out after {settings.timeout_s:g} s "
            f"({settings.action.name.lower().replace('_', ' ')}), and is patted every "
            f"{settings.pat_period_s:g} s; the software pretimeout fires after "
            f"{settings.pretimeout_limit_s:g} s"
        )

    # -------------------------------------------------------------------- what the socket needs

    def status(self) -> dict[str, Any]:
        """What watchdog, check and watcher are doing."""
        return {
            **self.watchdog.status(),
            "check": None if self._checks is None else self._checks.status(),
            "pretimeout": self._watcher.status(),
        }

    @property
    def needs_interface(self) -> bool:
        """Whether its way to the timer is the driver's interface."""
        return self._kernel_pats is None

    def why_not_parked(self) -> str | None:
        """Why the interface must not be parked now; None: it may."""
        if not self.needs_interface or self.watchdog.is_at_rest:
            return None
        if self.watchdog.status()["in_charge"]:
            return (
                "the driver's watchdog pats through this interface, and the timer would run out:"
                " disarm it first (op: watchdog), or let it pat through the kernel"
            )
        return "the driver's watchdog is disarmed, but its timer is not stopped yet (settled)"

    def order_lengthen(self, timeout_s: float) -> None:
        """Give the timer a longer time-out until `order_resume`; raises ConfigurationError."""
        self.watchdog.order_lengthen(timeout_s)

    def order_disarm(self) -> None:
        """Stop the timer, and pat no more until `order_resume`."""
        self.watchdog.order_disarm()

    def order_resume(self) -> None:
        """Go on as configured."""
        self.watchdog.order_resume()
