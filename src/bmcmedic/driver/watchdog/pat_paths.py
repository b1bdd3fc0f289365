"""The paths that a pat can take to the BMC's watchdog timer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from bmcmedic.driver.watchdog.settings import WatchdogSettings
from bmcmedic.errors import RemoteProtocolError, TransportError
from bmcmedic.ipmi.commands.command import Command, R_co
from bmcmedic.ipmi.commands.watchdog import (
    UNINITIALIZED,
    GetWatchdogTimerReq,
    GetWatchdogTimerRsp,
    ResetWatchdogTimerReq,
    SetWatchdogTimerReq,
)

_COMPLETION_CODE_AT: Final = 2

Waiting = Callable[[], None]
"""Called while a request waits for the BMC, at least every `pretimeout.WAITING_S_MAX`, to prove
that the host is alive. It must not block. It is not called while the request could not be queued.
"""


class TimerNotSet(TransportError):
    """The BMC has lost its timer's settings: it restarted (completion code 0x80, 27.5)."""


class PatPath(Protocol):
    """A path to the timer. Every method blocks up to `deadline`, and calls `waiting` meanwhile.

    Units: `deadline` is a point on the runtime's monotonic clock.
    Raises: TransportError, RemoteProtocolError, CompletionCodeError.
    """

    name: str
    exchange_s_max: float
    """Longest time that one exchange can hold the interface, in seconds."""

    def set(self, settings: WatchdogSettings, deadline: float, waiting: Waiting) -> None:
        """Set the timer; the next pat starts it."""

    def pat(self, deadline: float, waiting: Waiting) -> None:
        """Start or restart the timer. Raises TimerNotSet where it must be set first."""

    def get(self, deadline: float, waiting: Waiting) -> GetWatchdogTimerRsp | None:
        """Return the timer's state; None where this path cannot read it."""

    def disarm(self, settings: WatchdogSettings, deadline: float, waiting: Waiting) -> None:
        """Stop the timer."""

    def rearm(self, settings: WatchdogSettings, deadline: float, waiting: Waiting) -> None:
        """Start the timer for a shutdown, with the policy's countdown."""


class DriverRequests(Protocol):
    """The part of the driver that `BmcPats` uses."""

    def driver_request(self, data: bytes, deadline: float, waiting: Waiting | None = None) -> bytes:
        """Send before everybody else's requests, wait, and return the response."""


class BmcPats:
    """Pats through the driver's own queue: Set, Reset and Get Watchdog Timer (chapter 27)."""

    def __init__(self, driver: DriverRequests, interface_name: str, exchange_s_max: float) -> None:
        self.name = interface_name
        self.exchange_s_max = exchange_s_max
        self._driver = driver
        # Built once, so that a pat needs no memory on a host that has none left.
        self._pat = _message(ResetWatchdogTimerReq())
        self._get = _message(GetWatchdogTimerReq())
        self._set_for: WatchdogSettings | None = None
        self._set = b""

    def set(self, settings: WatchdogSettings, deadline: float, waiting: Waiting) -> None:
        """Set the timer; the next pat starts it."""
        if settings is not self._set_for:
            self._set = _message(settings.set_request)
            self._set_for = settings
        response = self._driver.driver_request(self._set, deadline, waiting)
        _decode(SetWatchdogTimerReq, response)

    def pat(self, deadline: float, waiting: Waiting) -> None:
        """Start or restart the timer. Raises TimerNotSet where it must be set first."""
        response = self._driver.driver_request(self._pat, deadline, waiting)
        if response[_COMPLETION_CODE_AT] == UNINITIALIZED:
            raise TimerNotSet("the BMC has lost the watchdog timer's setting, so it restarted")
        if response[_COMPLETION_CODE_AT]:
            _decode(ResetWatchdogTimerReq, response)

    def get(self, deadline: float, waiting: Waiting) -> GetWatchdogTimerRsp | None:
        """Return the timer's state."""
        return _decode(
            GetWatchdogTimerReq, self._driver.driver_request(self._get, deadline, waiting)
        )

    def disarm(self, settings: WatchdogSettings, deadline: float, waiting: Waiting) -> None:
        """Stop the timer."""
        self._send(settings.disarm_request, deadline, waiting)

    def rearm(self, settings: WatchdogSettings, deadline: float, waiting: Waiting) -> None:
        """Start the timer for a shutdown, with the policy's countdown."""
        self._send(settings.rearm_request, deadline, waiting)
        self.pat(deadline, waiting)

    def _send(self, request: SetWatchdogTimerReq, deadline: float, waiting: Waiting) -> None:
        response = self._driver.driver_request(_message(request), deadline, waiting)
        _decode(SetWatchdogTimerReq, response)


def _message(request: Command[R_co]) -> bytes:
    return bytes((request.netfn << 2, request.command)) + request.encode()


def _decode(kind: type[Command[R_co]], response: bytes) -> R_co:
    if len(response) <= _COMPLETION_CODE_AT:
        raise RemoteProtocolError("a response without completion code", section="5.2", raw=response)
    return kind.decode_response(response[_COMPLETION_CODE_AT], response[_COMPLETION_CODE_AT + 1 :])
