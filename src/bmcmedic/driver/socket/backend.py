"""What the driver's socket needs of the driver and of its watchdog."""

from __future__ import annotations

from typing import Any, Protocol

from bmcmedic.driver.requests import Request


class DriverBackend(Protocol):
    """What the socket needs of the driver."""

    def submit(self, request: Request) -> None:
        """Take a request; raises QueueFull."""

    def abandon(self, request: Request) -> None:
        """Nobody waits for it any more."""

    def expire(self) -> float | None:
        """Tell those whose deadline has passed."""

    def status(self) -> dict[str, Any]:
        """What it is doing."""

    @property
    def parking(self) -> ParkingBackend:
        """Letting the interface go for a while."""


class ParkingBackend(Protocol):
    """What the socket needs of `Parking`; nothing here blocks."""

    def begin(self, seconds: float) -> None:
        """Send nothing for so long, and let the interface go."""

    def end(self) -> None:
        """Use it again."""

    def describe(self) -> dict[str, Any] | None:
        """How it stands; None while it is not parked."""


class WatchdogBackend(Protocol):
    """What the socket needs of the driver's watchdog; nothing here blocks."""

    def status(self) -> dict[str, Any]:
        """How it stands; `in_charge`: whether it is it that sets and pats the BMC's timer."""

    def why_not_parked(self) -> str | None:
        """Why the interface must not be parked now; None: it may."""

    @property
    def needs_interface(self) -> bool:
        """Whether its way to the timer is the driver's interface."""

    def order_lengthen(self, timeout_s: float) -> None:
        """Give the timer a longer time-out until `order_resume`; raises ConfigurationError."""

    def order_disarm(self) -> None:
        """Stop the timer, and pat no more until `order_resume`."""

    def order_resume(self) -> None:
        """Go on as configured."""
