"""Parking: for a while nothing is sent, and the interface is let go for somebody else to have it.

A park ends by itself, and with the driver. It is ordered and ended with the driver's lock held, and
the worker alone lets the interface go: what it does with it comes before that or after the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bmcmedic.service.runtime import Lock, Runtime, Signal, held
from bmcmedic.transport.in_band import InterfaceBusy

if TYPE_CHECKING:
    from bmcmedic.driver.driver import Driver

PARK_S_DEFAULT = 600.0
PARK_S_MIN = 1.0
PARK_S_MAX = 3600.0
"""Longer than most firmware updates; who needs more says so again."""


class Parked(InterfaceBusy):
    """Nothing is sent, by order: the interface is let go."""


class Parking:
    """Whether the interface is parked, and until when."""

    __slots__ = ("is_closed", "_lock", "_runtime", "_since", "_until", "_wakeup")

    def __init__(self, runtime: Runtime, lock: Lock, wakeup: Signal) -> None:
        """`lock` is the one that requests are taken under, `wakeup` the worker's."""
        self.is_closed = False
        """Whether the interface has been let go, for this park."""
        self._runtime = runtime
        self._lock = lock
        self._wakeup = wakeup
        self._since = 0.0
        self._until: float | None = None

    def begin(self, seconds: float) -> None:
        """Park from now on, or go on being parked, for so long; any thread."""
        with held(self._lock):
            now = self._runtime.monotonic()
            if not self.is_on(now):
                self.is_closed = False
                self._since = now
            self._until = now + seconds
        self._wakeup.set()

    def end(self) -> None:
        """Use the interface again; the next request opens it. Any thread."""
        with held(self._lock):
            self._until = None
        self._wakeup.set()

    def is_on(self, now: float) -> bool:
        """Whether nothing may be sent."""
        until = self._until
        return until is not None and now < until

    @property
    def is_awaited(self) -> bool:
        """Whether the interface is to be let go as soon as the exchange under way has ended."""
        return self._until is not None and not self.is_closed

    def refuse(self, now: float) -> None:
        """Raises Parked while it is."""
        if self.is_on(now):
            raise self.refusal(now)

    def refusal(self, now: float) -> Parked:
        """What they are told whose requests are not sent."""
        left_s = max(0.0, (self._until or now) - now)
        return Parked(f"the interface is parked by order for {left_s:.0f} s more: nothing is sent")

    def look(self, now: float) -> bool:
        """Whether it is parked; what is over is forgotten. For the worker, with the lock held."""
        if self._until is not None and now >= self._until:
            self._until = None
        return self._until is not None

    def stay(self, driver: Driver) -> None:
        """The worker's turn while it is parked: let the interface go, and wait."""
        if not self.is_closed:
            io_lock = driver.io_lock
            if io_lock.acquire(driver.limits.io_lock_s):
                try:
                    if io_lock is driver.io_lock:
                        self._let_go(driver)
                finally:
                    io_lock.release()
        now = self._runtime.monotonic()
        with held(self._lock):
            driver.give_up_clients(self.refusal(now), now)
            until = self._until
        if self.is_closed and until is not None:
            self._wakeup.wait(until - now)

    def _let_go(self, driver: Driver) -> None:
        try:
            driver.interface.close()
        except Exception:  # noqa: BLE001 - as in an exchange: no error ends the worker
            driver.counts["unforeseen_errors"] += 1
        driver.counts["parks"] += 1
        self.is_closed = True

    def describe(self) -> dict[str, Any] | None:
        """How it stands, durations in seconds; None while it is not parked."""
        now = self._runtime.monotonic()
        until = self._until  # once: another thread may end it meanwhile
        if until is None or now >= until:
            return None
        return {
            "closed": self.is_closed,
            "parked_for_s": now - self._since,
            "ends_in_s": until - now,
        }
