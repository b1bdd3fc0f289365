"""Pats through the kernel's own watchdog, which blocks for as many exchanges as it likes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from bmcmedic.driver.watchdog.pat_paths import Waiting
from bmcmedic.driver.watchdog.pretimeout import WAITING_S_MAX
from bmcmedic.driver.watchdog.settings import ShutdownKind, WatchdogSettings
from bmcmedic.errors import BmcmedicError, ConfigurationError, NoAnswer
from bmcmedic.ipmi.commands.watchdog import (
    GetWatchdogTimerRsp,
    PretimeoutInterrupt,
    TimeoutAction,
)
from bmcmedic.service.runtime import Runtime
from bmcmedic.transport.dev_watchdog import ModuleParameters

KERNEL_EXCHANGE_S_MAX = 56.0
"""Linux gives an exchange with a wedged BMC up after about 55 s, and takes no pat back."""

_ACTIONS: Final = {
    "none": TimeoutAction.NONE,
    "reset": TimeoutAction.HARD_RESET,
    "power_cycle": TimeoutAction.POWER_CYCLE,
    "power_off": TimeoutAction.POWER_DOWN,
}
_INTERRUPTS: Final = {
    "pre_none": PretimeoutInterrupt.NONE,
    "pre_smi": PretimeoutInterrupt.SMI,
    "pre_nmi": PretimeoutInterrupt.NMI,
    "pre_int": PretimeoutInterrupt.MESSAGING,
}


class KernelWatchdog(Protocol):
    """What is needed of `transport.dev_watchdog.DevWatchdog`; all but `parameters` may block."""

    name: str
    parameters: ModuleParameters

    def set(self, timeout_s: int, pretimeout_s: int = 0) -> None:
        """Give the timer its times."""

    def pat(self) -> None:
        """Start it anew."""

    def disarm(self) -> None:
        """Stop it."""

    def close(self, *, disarm: bool) -> None:
        """Let the device go."""


class _Job:
    """One call into the kernel, and how it ended."""

    __slots__ = ("begun", "call", "done", "error", "signal", "what")

    def __init__(self, what: str, call: Callable[[], None], runtime: Runtime) -> None:
        self.what = what
        self.call = call
        self.signal = runtime.signal()
        self.begun = False
        self.done = False
        self.error: Exception | None = None


class KernelPats:
    """Through /dev/watchdog: `run` is the body of the one thread that blocks in the kernel.

    The pat thread waits for it in slices. A call that the kernel does not come back from cannot be
    taken back: it is left there, and the next waits for it.
    """

    def __init__(
        self,
        device: KernelWatchdog,
        settings: WatchdogSettings,
        runtime: Runtime,
        exchange_s_max: float = KERNEL_EXCHANGE_S_MAX,
    ) -> None:
        """Raises ConfigurationError where the kernel's module was told something else."""
        _require(device.parameters, settings)
        self.name = device.name
        self.exchange_s_max = exchange_s_max
        self._device = device
        self._runtime = runtime
        self._lock = runtime.lock()
        self._wakeup = runtime.signal()
        self._jobs: deque[_Job] = deque()
        self._last: _Job | None = None
        self._stopping = False

    def run(self) -> None:
        """The thread's body, until `stop`."""
        while not self._stopping:
            job = self._take()
            if job is None:
                self._wakeup.wait()
                continue
            try:
                job.call()
            except (BmcmedicError, OSError) as error:
                job.error = error
            finally:
                job.done = True
                job.signal.set()

    def stop(self) -> None:
        """Let `run` return, as soon as the kernel has."""
        self._stopping = True
        self._wakeup.set()

    def close(self, policy: ShutdownKind) -> None:
        """Let the device go, after `run` has returned; blocks as a pat does."""
        self._device.close(disarm=policy is ShutdownKind.DISARM)

    def set(self, settings: WatchdogSettings, deadline: float, waiting: Waiting) -> None:
        """Set the timer; the next pat starts it."""
        timeout_s, pretimeout_s = math.floor(settings.timeout_s), settings.pretimeout_s
        self._do(
            "the setting", lambda: self._device.set(timeout_s, pretimeout_s), deadline, waiting
        )

    def pat(self, deadline: float, waiting: Waiting) -> None:
        """Start the timer, or start it over; the kernel sets it again where it was lost."""
        self._do("a pat", self._device.pat, deadline, waiting)

    def get(self, deadline: float, waiting: Waiting) -> GetWatchdogTimerRsp | None:  # noqa: ARG002
        """None: the kernel does not ask the BMC."""
        return None

    def disarm(self, settings: WatchdogSettings, deadline: float, waiting: Waiting) -> None:  # noqa: ARG002
        """Stop the timer."""
        self._do("the stop", self._device.disarm, deadline, waiting)

    def rearm(self, settings: WatchdogSettings, deadline: float, waiting: Waiting) -> None:
        """Start the timer with the policy's countdown; the action stays the module's."""
        timeout_s = math.floor(settings.rearm_s)
        self._do("the setting", lambda: self._device.set(timeout_s), deadline, waiting)
        self._do("a pat", self._device.pat, deadline, waiting)

    def _take(self) -> _Job | None:
        self._lock.acquire()
        try:
            if not self._jobs:
                return None
            job = self._jobs.popleft()
            job.begun = True
            return job
        finally:
            self._lock.release()

    def _do(self, what: str, call: Callable[[], None], deadline: float, waiting: Waiting) -> None:
        if self._last is not None and not self._last.done:
            self._wait_for(self._last, deadline, waiting)
        job = self._last = _Job(what, call, self._runtime)
        self._jobs.append(job)
        self._wakeup.set()
        self._wait_for(job, deadline, waiting)
        if job.error is not None:
            raise job.error

    def _wait_for(self, job: _Job, deadline: float, waiting: Waiting) -> None:
        """Until the kernel has come back with it; the host is alive while the kernel has it."""
        monotonic = self._runtime.monotonic
        while not job.done:
            left_s = deadline - monotonic()
            if left_s <= 0:
                if self._take_back(job):
                    raise NoAnswer(f"{self.name}: nothing gave {job.what} to the kernel in time")
                raise NoAnswer(f"{self.name}: the kernel still has {job.what}, and no answer")
            job.signal.wait(min(left_s, WAITING_S_MAX))
            if job.begun:
                waiting()

    def _take_back(self, job: _Job) -> bool:
        """Whether it had not been begun; then it never will be."""
        self._lock.acquire()
        try:
            if job.begun:
                return False
            self._jobs.clear()
            job.done = True
            return True
        finally:
            self._lock.release()


def _require(parameters: ModuleParameters, settings: WatchdogSettings) -> None:
    """Refuse what only the module's parameters can say, and do not say."""
    if settings.timeout_s != math.floor(settings.timeout_s):
        raise ConfigurationError(
            f"the kernel's watchdog has whole seconds, not {settings.timeout_s:g} s"
        )
    action = _ACTIONS.get(parameters.action or "")
    if action is not None and action is not settings.action:
        raise ConfigurationError(
            f"the watchdog's action is {settings.action.text} here and {action.text} in the "
            "kernel; change either: ipmi_watchdog's parameter action says it there"
        )
    interrupt = _INTERRUPTS.get(parameters.preaction or "")
    if interrupt is not None and interrupt is not settings.pretimeout_interrupt:
        raise ConfigurationError(
            f"the pretimeout interrupt is {settings.pretimeout_interrupt.name.lower()} here and "
            f"{interrupt.name.lower()} in the kernel; change either: ipmi_watchdog's parameter "
            "preaction says it there"
        )
    if parameters.nowayout and settings.shutdown.kind is ShutdownKind.DISARM:
        raise ConfigurationError(
            "at shutdown the watchdog is to be disarmed, and ipmi_watchdog's nowayout forbids "
            "that: say keep or rearm:SECONDS, or load the module without nowayout"
        )
