"""Reports to the log and systemd whether the BMC answers, once each time that it changes."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from bmcmedic.driver.breaker import Breaker
from bmcmedic.service.log import Log

_WITHOUT_BMC = "reads get cached answers and other requests an error until"


class BmcStatus(Enum):
    """Whether the BMC answers."""

    ANSWERING = auto()
    SILENT = auto()
    MISSING = auto()
    """There is no interface to a BMC."""


class BmcStatusLog:
    """Logs changes of the BMC's status; one thread uses it."""

    def __init__(
        self, breaker: Breaker, name: Callable[[], str], log: Log, status: Callable[[str], None]
    ) -> None:
        """`name` returns the interface's name; `status` takes a line for systemd."""
        self._breaker = breaker
        self._name = name
        self._log = log
        self._status = status
        self.reported = BmcStatus.ANSWERING
        """The status that was reported last."""

    def status(self) -> str:
        """Return what the driver is doing, in one line."""
        if self.reported is BmcStatus.MISSING:
            return "looking for an interface to a BMC"
        return f"driving {self._name()}"

    def update(self) -> None:
        """Report the status if it has changed."""
        breaker, before = self._breaker, self.reported
        missing = breaker.interface_missing
        if missing is not None:
            self.reported = BmcStatus.MISSING
        else:
            self.reported = BmcStatus.SILENT if breaker.is_open else BmcStatus.ANSWERING
        if self.reported is before:
            return
        if missing is not None:
            self._log.warning(
                f"there is no interface to a BMC any more: {missing}; {_WITHOUT_BMC} there is"
            )
        elif self.reported is BmcStatus.ANSWERING:
            self._log.info(
                "the BMC answers again"
                if before is BmcStatus.SILENT
                else f"there is an interface to a BMC now: {self._name()}"
            )
        elif before is BmcStatus.MISSING:
            self._log.warning(
                f"there is an interface to a BMC now: {self._name()}, but the BMC does not answer: "
                f"{breaker.reason}; {_WITHOUT_BMC} it does"
            )
        else:
            self._log.warning(
                f"the BMC does not answer any more: {breaker.reason}; {_WITHOUT_BMC} it does"
            )
        self._status(self.status())
