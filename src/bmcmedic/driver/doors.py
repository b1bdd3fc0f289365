"""What the driver's socket needs of the driver and of its watchdog."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from bmcmedic.driver.protocol import WatchdogAction
from bmcmedic.driver.requests import Request
from bmcmedic.errors import BmcmedicError


class DriverDoor(Protocol):
    """What the socket needs of the driver."""

    def submit(self, request: Request) -> None:
        """Take a request; raises QueueFull."""

    def abandon(self, request: Request) -> None:
        """Nobody waits for it any more."""

    def expire(self) -> float | None:
        """Tell those whose deadline has passed."""

    def status(self) -> dict[str, Any]:
        """What it is doing."""


class WatchdogDoor(Protocol):
    """What the socket needs of the driver's watchdog; nothing here blocks."""

    @property
    def in_charge(self) -> bool:
        """Whether it sets and pats the BMC's timer, so that nobody else may."""

    def status(self) -> dict[str, Any]:
        """How it stands, as far as known without asking the BMC."""

    def order(
        self,
        action: WatchdogAction,
        seconds: float | None,
        done: Callable[[dict[str, Any] | BmcmedicError], None],
    ) -> None:
        """Begin to lengthen (`seconds`), disarm or resume; `done` gets the status, or the error.

        `done` may be called in any thread; it is short and does not raise.
        Raises: Refused when the order cannot be taken; then `done` is not called.
        """
