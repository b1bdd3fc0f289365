"""Parking: for a limited time nothing is sent, and another program can use the interface.

A park ends by itself, and when the driver ends. It is ordered and ended with the driver's lock
held. Only the worker closes the interface, so every exchange of the worker's ends before the park
or begins after it.
"""

from __future__ import annotations

from typing import Any

from bmcmedic.service.runtime import Lock, Runtime, Signal, held
from bmcmedic.transport.in_band import InterfaceBusy

PARK_S_DEFAULT = 600.0
PARK_S_MIN = 1.0
PARK_S_MAX = 3600.0
"""Longest park, in seconds. Most firmware updates are shorter; a longer one needs another order."""


class Parked(InterfaceBusy):
    """Nothing is sent, by order: the driver has let the interface go."""


class Parking:
    """Whether the interface is parked, and until when."""

    __slots__ = ("is_closed", "_lock", "_runtime", "_since", "_until", "_wakeup")

    def __init__(self, runtime: Runtime, lock: Lock, wakeup: Signal) -> None:
        """`lock` guards the request queues; `wakeup` wakes the worker."""
        self.is_closed = False
        """Whether the interface has been closed for this park."""
        self._runtime = runtime
        self._lock = lock
        self._wakeup = wakeup
        self._since = 0.0
        self._until: float | None = None

    def begin(self, seconds: float) -> None:
        """Park the interface for that long from now on, or prolong the park.

        Any thread may call it.
        """
        with held(self._lock):
            now = self._runtime.monotonic()
            if not self.is_on(now):
                self.is_closed = False
                self._since = now
            self._until = now + seconds
        self._wakeup.set()

    def end(self) -> None:
        """End the park; the next request opens the interface. Any thread may call it."""
        with held(self._lock):
            self._until = None
        self._wakeup.set()

    def is_on(self, now: float) -> bool:
        """Return whether nothing may be sent."""
        until = self._until
        return until is not None and now < until

    @property
    def ends_at(self) -> float | None:
        """When the park ends by itself; None while nothing is parked."""
        return self._until

    @property
    def is_awaited(self) -> bool:
        """Whether the interface is to be closed as soon as the exchange in flight has ended."""
        return self._until is not None and not self.is_closed

    def refuse(self, now: float) -> None:
        """Raise Parked while the interface is parked."""
        if self.is_on(now):
            raise self.refusal(now)

    def refusal(self, now: float) -> Parked:
        """Return the error for a request that is not sent."""
        left_s = max(0.0, (self._until or now) - now)
        return Parked(f"the interface is parked by order for {left_s:.0f} s more: nothing is sent")

    def refresh(self, now: float) -> bool:
        """End a park whose time is over, and return whether the interface is parked.

        The worker calls it with the lock held.
        """
        if self._until is not None and now >= self._until:
            self._until = None
        return self._until is not None

    def describe(self) -> dict[str, Any] | None:
        """Return the park's state as JSON data, durations in seconds.

        None while nothing is parked.
        """
        now = self._runtime.monotonic()
        until = self._until  # read once: another thread may end the park meanwhile
        if until is None or now >= until:
            return None
        return {
            "closed": self.is_closed,
            "parked_for_s": now - self._since,
            "ends_in_s": until - now,
        }
