"""The right to the interface, as the driver gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bmcmedic.driver.driver import Driver


class DriverClaim:
    """A `transport.in_band.Claim` for one attempt, lost when the driver's generation grows."""

    __slots__ = ("_driver", "_generation", "_waiting", "_yields")

    def __init__(
        self, driver: Driver, *, yields: bool, waiting: Callable[[], None] | None = None
    ) -> None:
        """`yields`: to the driver's own requests and to a park, as soon as there is to be recovery.

        `waiting` is called each time that the claim is asked.
        """
        self._driver = driver
        self._generation = driver.generation
        self._yields = yields
        self._waiting = waiting

    def must_stop(self, *, recovering: bool) -> bool:
        """Whether somebody else has the interface, or is to have it."""
        driver = self._driver
        if self._waiting is not None:
            self._waiting()
        if self._generation != driver.generation:
            return True
        if not self._yields:
            return False
        wanted = driver.highpri_waits or driver.parking.is_awaited
        return driver.stopping or (recovering and wanted)
