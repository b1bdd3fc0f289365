"""What the log and systemd are told of the way to the BMC: once each time that it changes."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from bmcmedic.driver.breaker import Breaker
from bmcmedic.service.log import Log

_WITHOUT_BMC = "readers get old answers, others an error, until"


class BmcStatus(Enum):
    """How it stands with the BMC."""

    ANSWERING = auto()
    SILENT = auto()
    MISSING = auto()
    """There is no interface to one."""


class BmcStatusLog:
    """Remembers what was said last; used by one thread."""

    def __init__(
        self, breaker: Breaker, name: Callable[[], str], log: Log, status: Callable[[str], None]
    ) -> None:
        """`name` is the interface's now; `status` takes a line for systemd."""
        self._breaker = breaker
        self._name = name
        self._log = log
        self._status = status
        self.said = BmcStatus.ANSWERING
        """As it was said last."""

    def status(self) -> str:
        """What the driver does, in a line."""
        if self.said is BmcStatus.MISSING:
            return "looking for an interface to a BMC"
        return f"driving {self._name()}"

    def look(self) -> None:
        """Say what has changed."""
        breaker, before = self._breaker, self.said
        missing = breaker.interface_missing
        if missing is not None:
            self.said = BmcStatus.MISSING
        else:
            self.said = BmcStatus.SILENT if breaker.is_open else BmcStatus.ANSWERING
        if self.said is before:
            return
        if missing is not None:
            self._log.warning(
                f"there is no interface to a BMC any more: {missing}; {_WITHOUT_BMC} there is"
            )
        elif self.said is BmcStatus.ANSWERING:
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
