"""Pats through the kernel's own watchdog, whose calls block for several exchanges."""

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
"""Linux gives up an exchange with a wedged BMC after about 55 s, and cannot cancel a pat."""

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
    """The part of `transport.dev_watchdog.DevWatchdog` used here.

    All but `parameters` may block.
    """

    name: str
    parameters: ModuleParameters

    def set(self, timeout_s: int, pretimeout_s: int = 0) -> None:
        """Set the timer's times."""

    def pat(self) -> None:
        """Restart the timer's countdown."""

    def disarm(self) -> None:
        """Stop the timer."""

    def close(self, *, disarm: bool) -> None:
        """Close the device."""


class _KernelCall:
    """One call into the kernel, and its result."""

    __slots__ = ("begun", "call", "done", "error", "signal", "what")

    def __init__(self, what: str, call: Callable[[], None], runtime: Runtime) -> None:
        self.what = what
        self.call = call
        self.signal = runtime.signal()
        self.begun = False
        self.done = False
        self.error: Exception | None = None


class KernelPats:
    """Pats through /dev/watchdog; `run` is the body of the only thread that blocks in the kernel.

    The pat thread waits for it in slices. A call that does not return cannot be cancelled: it is
    left there, and the next call waits for it.
    """

    def __init__(
        self,
        device: KernelWatchdog,
        settings: WatchdogSettings,
        runtime: Runtime,
        exchange_s_max: float = KERNEL_EXCHANGE_S_MAX,
    ) -> None:
        """Raise ConfigurationError where the kernel's module was loaded with other parameters."""
        _require_same_parameters(device.parameters, settings)
        self.name = device.name
        self.exchange_s_max = exchange_s_max
        self._device = device
        self._runtime = runtime
        self._lock = runtime.lock()
        self._wakeup = runtime.signal()
        self._jobs: deque[_KernelCall] = deque()
        self._last: _KernelCall | None = None
        self._stopping = False

    def run(self) -> None:
        """Make the queued calls until `stop`; a thread of its own runs this."""
        while not self._stopping:
            job = self._next_job()
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
        """Let `run` return as soon as the call in the kernel has returned."""
        self._stopping = True
        self._wakeup.set()

    def close(self, policy: ShutdownKind) -> None:
        """Close the device after `run` has returned; blocks as a pat does."""
        self._device.close(disarm=policy is ShutdownKind.DISARM)

    def set(self, settings: WatchdogSettings, deadline: float, waiting: Waiting) -> None:
        """Set the timer; the next pat starts it."""
        timeout_s, pretimeout_s = math.floor(settings.timeout_s), settings.pretimeout_s
        self._do(
            "the setting", lambda: self._device.set(timeout_s, pretimeout_s), deadline, waiting
        )

    def pat(self, deadline: float, waiting: Waiting) -> None:
        """Start or restart the timer; the kernel sets it again where the BMC lost it."""
        self._do("a pat", self._device.pat, deadline, waiting)

    def get(self, deadline: float, waiting: Waiting) -> GetWatchdogTimerRsp | None:  # noqa: ARG002
        """Return None: the kernel does not ask the BMC."""
        return None

    def disarm(self, settings: WatchdogSettings, deadline: float, waiting: Waiting) -> None:  # noqa: ARG002
        """Stop the timer."""
        self._do("the stop", self._device.disarm, deadline, waiting)

    def rearm(self, settings: WatchdogSettings, deadline: float, waiting: Waiting) -> None:
        """Start the timer with the policy's countdown; the action stays the module's."""
        timeout_s = math.floor(settings.rearm_s)
        self._do("the setting", lambda: self._device.set(timeout_s), deadline, waiting)
        self._do("a pat", self._device.pat, deadline, waiting)

    def _next_job(self) -> _KernelCall | None:
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
        job = self._last = _KernelCall(what, call, self._runtime)
        self._jobs.append(job)
        self._wakeup.set()
        self._wait_for(job, deadline, waiting)
        if job.error is not None:
            raise job.error

    def _wait_for(self, job: _KernelCall, deadline: float, waiting: Waiting) -> None:
        """Wait until the kernel returns; the host counts as alive while the kernel has the call."""
        monotonic = self._runtime.monotonic
        while not job.done:
            left_s = deadline - monotonic()
            if left_s <= 0:
                if self._cancel(job):
                    raise NoAnswer(f"{self.name}: {job.what} was not given to the kernel in time")
                raise NoAnswer(f"{self.name}: the kernel has not finished {job.what}")
            job.signal.wait(min(left_s, WAITING_S_MAX))
            if job.begun:
                waiting()

    def _cancel(self, job: _KernelCall) -> bool:
        """Return whether the call had not begun; then it never will."""
        self._lock.acquire()
        try:
            if job.begun:
                return False
            self._jobs.clear()
            job.done = True
            return True
        finally:
            self._lock.release()


def _require_same_parameters(parameters: ModuleParameters, settings: WatchdogSettings) -> None:
    """Refuse settings that only the module's parameters determine, and that differ there."""
    if settings.timeout_s != math.floor(settings.timeout_s):
        raise ConfigurationError(
            f"the kernel's watchdog has whole seconds, not {settings.timeout_s:g} s"
        )
    action = _ACTIONS.get(parameters.action or "")
    if action is not None and action is not settings.action:
        raise ConfigurationError(
            f"the watchdog's action is {settings.action.text} here and {action.text} in the "
            "kernel; change one of them: the kernel's is ipmi_watchdog's parameter action"
        )
    interrupt = _INTERRUPTS.get(parameters.preaction or "")
    if interrupt is not None and interrupt is not settings.pretimeout_interrupt:
        raise ConfigurationError(
            f"the pretimeout interrupt is {settings.pretimeout_interrupt.name.lower()} here and "
            f"{interrupt.name.lower()} in the kernel; change one of them: the kernel's is "
            "ipmi_watchdog's parameter preaction"
        )
    if parameters.nowayout and settings.shutdown.kind is ShutdownKind.DISARM:
        raise ConfigurationError(
            "at shutdown the watchdog would be disarmed, and ipmi_watchdog's nowayout forbids "
            "that: set keep or rearm:SECONDS, or load the module without nowayout"
        )
