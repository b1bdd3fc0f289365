"""The reader of the metrics that only the BMC knows: it asks after a scrape, and not too often.

No scrape waits for the BMC: its last answers are served, with their age.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from bmcmedic.agent.metrics.sensor_reader import SensorReader
from bmcmedic.errors import BmcmedicError, CompletionCodeError
from bmcmedic.ipmi.commands.chassis import GetChassisStatusReq
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.dcmi import GetPowerReadingReq
from bmcmedic.ipmi.commands.device import GetDeviceIdReq
from bmcmedic.ipmi.commands.sel import GetSelInfoReq
from bmcmedic.ipmi.commands.watchdog import GetWatchdogTimerReq
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.service.runtime import Runtime

QUESTIONS: dict[str, Command[Any]] = {
    "bmc": GetDeviceIdReq(),
    "bmc-watchdog": GetWatchdogTimerReq(),
    "chassis": GetChassisStatusReq(),
    "dcmi": GetPowerReadingReq(),
    "sel": GetSelInfoReq(),
}
"""The requests, by the names of ipmi_exporter's collectors."""

OPTIONAL = frozenset({"dcmi"})
"""Collectors that many BMCs do not support. If a BMC says so, that is no failure."""


class BmcClient(Protocol):
    """The client of the driver's socket."""

    def exchange(self, request: Command[Any], *, lun: int = 0) -> Any:  # noqa: ANN401 - each has its own
        """Send a request, and return the answer."""


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """The last answer to one question."""

    up: bool
    """Whether the last request was answered."""
    answer: Any = None
    """The last good answer."""
    answered_at: float | None = None
    """When it came, as a monotonic time in seconds."""
    took_s: float = 0.0
    exists: bool = True
    """False if the BMC answered that it does not support the command."""


_UNSUPPORTED = (CompletionCode.INVALID_COMMAND, CompletionCode.INVALID_FOR_LUN)

RETRY_S = 5.0
"""Time to the next attempt if nothing was answered, such as without a driver, in seconds."""


class BmcReader:
    """Asks the BMC from a thread of its own, one question at a time, after a scrape.

    The sensors are many, so they come after everything else.
    """

    def __init__(
        self,
        driver: Callable[[], BmcClient],
        period_s: Callable[[], float],
        runtime: Runtime,
        sensors: SensorReader,
    ) -> None:
        """`driver` makes a client that only this thread uses."""
        self._make_driver = driver
        self._period_s = period_s
        self._runtime = runtime
        self._wanted = runtime.signal()
        self._stopping = False
        self._asked_at: float | None = None
        self.known: dict[str, CachedAnswer] = {}
        self.sensors = sensors

    def request_refresh(self) -> None:
        """Ask for newer answers, without waiting; any thread may call this."""
        self._wanted.set()

    def run(self) -> None:
        """Ask the BMC after each request for newer answers, until `stop`."""
        driver = self._make_driver()
        while not self._stopping:
            if self._wanted.wait(self.sensors.pause_s) and not self._stopping:
                if self.is_due():
                    self.ask(driver)
                self.sensors.begin_if_due()
            if not self._stopping:
                self.sensors.go_on(driver)

    def stop(self) -> None:
        """Ask the thread to end; a question under way ends by its own deadline."""
        self._stopping = True
        self._wanted.set()

    def is_due(self) -> bool:
        """Return whether the period since the last questions has passed."""
        asked_at = self._asked_at
        if self._stopping:
            return False
        pause_s = self._period_s()
        if not any(known.up for known in self.known.values()):
            pause_s = min(pause_s, RETRY_S)
        return asked_at is None or self._runtime.monotonic() >= asked_at + pause_s

    def ask(self, driver: BmcClient) -> None:
        """Ask all questions, one after the other."""
        self._asked_at = self._runtime.monotonic()
        for name, request in QUESTIONS.items():
            if self._stopping:
                return
            self.known[name] = self._ask(driver, name, request, self.known.get(name))

    def _ask(
        self, driver: BmcClient, name: str, request: Command[Any], before: CachedAnswer | None
    ) -> CachedAnswer:
        began_at = self._runtime.monotonic()
        try:
            answer = driver.exchange(request)
        except BmcmedicError as error:
            now = self._runtime.monotonic()
            if name in OPTIONAL and is_unsupported(error):
                return CachedAnswer(up=True, took_s=now - began_at, exists=False)
            if before is None:
                return CachedAnswer(up=False, took_s=now - began_at)
            # Silence does not show that the BMC now supports what it refused before.
            exists = before.exists or isinstance(error, CompletionCodeError)
            return CachedAnswer(False, before.answer, before.answered_at, now - began_at, exists)
        now = self._runtime.monotonic()
        return CachedAnswer(True, answer, now, now - began_at)

    def answers(self) -> Iterator[tuple[str, Any, float]]:
        """Yield each collector's name, its last good answer, and the age of that, in seconds."""
        now = self._runtime.monotonic()
        for name, known in list(self.known.items()):
            if known.answered_at is not None:
                yield name, known.answer, now - known.answered_at


def is_unsupported(error: BmcmedicError) -> bool:
    """Return whether the BMC answered that it does not support a command."""
    return isinstance(error, CompletionCodeError) and error.code in _UNSUPPORTED
