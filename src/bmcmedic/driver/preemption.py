"""Preemption: when an exchange in flight must give up the interface to a pat, a park or a poller.

A client's exchange is never cut short while it makes progress. Its error recovery is: a pat that
waits for the interface would be late otherwise.
"""

from __future__ import annotations

from collections.abc import Callable


class DriverClaim:
    """The `InterfaceClaim` of one attempt at a request of the driver's own, such as a pat.

    It is lost only when a caller that polls fences the attempt off.
    """

    __slots__ = ("_current_generation", "_generation", "_waiting")

    def __init__(
        self, generation: Callable[[], int], *, waiting: Callable[[], None] | None = None
    ) -> None:
        """`generation` returns how often the interface has been taken by force so far.

        `waiting` is called each time that the interface asks the claim.
        """
        self._current_generation = generation
        self._generation = generation()
        self._waiting = waiting

    def must_stop(self, *, recovering: bool) -> bool:
        """Return whether the attempt must end now, because the interface was taken from it."""
        del recovering  # nothing goes before the driver's own request
        if self._waiting is not None:
            self._waiting()
        return self.is_lost

    @property
    def is_lost(self) -> bool:
        """Whether another thread has taken the interface since the claim was made."""
        return self._generation != self._current_generation()


class ClientClaim(DriverClaim):
    """The `InterfaceClaim` of one attempt at a client's request, which gives way to the driver."""

    __slots__ = ("_is_wanted", "_stopping")

    def __init__(
        self,
        generation: Callable[[], int],
        *,
        is_wanted: Callable[[], bool],
        stopping: Callable[[], bool],
    ) -> None:
        """`is_wanted` returns whether a pat or a park waits for the interface.

        `stopping` returns whether the driver ends.
        """
        super().__init__(generation)
        self._is_wanted = is_wanted
        self._stopping = stopping

    def must_stop(self, *, recovering: bool) -> bool:
        """Return whether the attempt must end now.

        An attempt whose error recovery has begun also ends for a pat or a park that waits.
        """
        return self.is_lost or self._stopping() or (recovering and self._is_wanted())
