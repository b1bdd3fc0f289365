"""The parts of driver and watchdog that the driver's socket uses."""

from __future__ import annotations

from typing import Any, Protocol

from bmcmedic.driver.requests import Request


class DriverBackend(Protocol):
    """The part of the driver that the socket uses."""

    def submit(self, request: Request) -> None:
        """Queue a request; raises QueueFull."""

    def abandon(self, request: Request) -> None:
        """Give up a request."""

    def expire(self) -> float | None:
        """Complete the requests whose deadline has passed; return the next deadline."""

    def status(self) -> dict[str, Any]:
        """Return the driver's state as JSON data."""

    @property
    def parking(self) -> ParkingBackend:
        """The parking of the interface."""


class ParkingBackend(Protocol):
    """The part of `Parking` that the socket uses; nothing here blocks."""

    def begin(self, seconds: float) -> None:
        """Send nothing for that long, and let the interface go."""

    def end(self) -> None:
        """Use the interface again."""

    def describe(self) -> dict[str, Any] | None:
        """Return the park's state; None while nothing is parked."""


class WatchdogBackend(Protocol):
    """The part of the watchdog that the socket uses; nothing here blocks."""

    def status(self) -> dict[str, Any]:
        """Return the state; `in_charge` is whether the driver sets and pats the BMC's timer."""

    def why_not_parked(self) -> str | None:
        """Return why the interface must not be parked now; None if it may be."""

    @property
    def needs_interface(self) -> bool:
        """Whether pats go through the driver's interface."""

    def order_lengthen(self, timeout_s: float) -> None:
        """Give the timer a longer time-out until `order_resume`; raises ConfigurationError."""

    def order_disarm(self) -> None:
        """Stop the timer and send no pats until `order_resume`."""

    def order_resume(self) -> None:
        """Return to the configured settings."""
