"""The polled path: a caller that cannot wait for the worker makes the exchange in its own thread.

It is used while the worker is stuck or dead, from a signal handler, and when the process dies. A
poller that does not get `io_lock` in time takes the interface by force: it fences off the holder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from bmcmedic.driver.parking import Parking
from bmcmedic.driver.preemption import DriverClaim
from bmcmedic.driver.requests import ATTEMPTS_MAX, DriverLimits
from bmcmedic.driver.watchdog.pretimeout import WAITING_S_MAX
from bmcmedic.errors import BmcmedicError, NoAnswer, RemoteProtocolError, TransportError
from bmcmedic.service.runtime import Lock, Runtime
from bmcmedic.transport.in_band import InBand, Interrupted


class PolledPath:
    """The lock around the interface, and the exchanges of callers that poll."""

    __slots__ = (
        "generation", "io_lock",
        "_answered", "_counts", "_fence_lock", "_interface", "_io_lock_s", "_parking",
        "_poller_id", "_runtime",
    )  # fmt: skip

    def __init__(
        self,
        interface: InBand,
        runtime: Runtime,
        limits: DriverLimits,
        parking: Parking,
        counts: Counter[str],
        answered: Callable[[], None],
    ) -> None:
        """`answered` is called when the BMC has answered a polled request."""
        self.io_lock: Lock = runtime.lock()
        """Held for one attempt at a time. A poller that fences off the holder replaces it."""
        self.generation = 0
        """How often the interface was taken by force from the thread that held it."""
        self._interface = interface
        self._runtime = runtime
        self._io_lock_s = limits.io_lock_s
        self._parking = parking
        self._counts = counts
        self._answered = answered
        self._fence_lock = runtime.lock()
        self._poller_id: int | None = None
        """The thread that polls now; no other poller takes the interface from it."""

    def current_generation(self) -> int:
        """Return `generation`, for a claim that compares it later."""
        return self.generation

    def driver_request_poll(
        self, data: bytes, deadline: float, waiting: Callable[[], None] | None
    ) -> bytes:
        """Send a request in the caller's own thread, whatever the worker is doing.

        Raises: as `Driver.driver_request`; Parked.
        """
        self._counts["polled"] += 1
        io_lock = self._take_interface(deadline, waiting)
        try:
            self._parking.refuse(self._runtime.monotonic())
            return self.polled_request(data, deadline, waiting)
        finally:
            self._poller_id = None
            io_lock.release()

    def _take_interface(self, deadline: float, waiting: Callable[[], None] | None) -> Lock:
        """Acquire `io_lock`, by force where it takes too long; never by force from a poller."""
        runtime = self._runtime
        thread_id = runtime.thread_id()
        now = runtime.monotonic()
        force_at = now + self._io_lock_s
        while now < deadline:
            held, io_lock = self.io_lock, None
            other_polls = self._poller_id not in (None, thread_id)
            until = deadline if other_polls else min(deadline, max(force_at, now))
            if held.acquire(min(until - now, WAITING_S_MAX)):
                if held is self.io_lock:
                    io_lock = held
                else:
                    held.release()
            elif self._poller_id in (None, thread_id) and runtime.monotonic() >= force_at:
                io_lock = self._fence_off(held)
            if io_lock is not None:
                self._poller_id = thread_id
                return io_lock
            if waiting is not None:
                waiting()
            now = runtime.monotonic()
        raise NoAnswer("the deadline passed before the interface was free")

    def _fence_off(self, held: Lock) -> Lock | None:
        """Take the interface from the thread that holds that lock, and return the new `io_lock`.

        Returns None when another poller was faster. The holder notices the new generation before
        it touches the interface again.
        """
        io_lock = self._runtime.lock()
        io_lock.acquire()
        # The wait is bounded: the holder may be the very thread that a signal interrupted.
        fenced = self._fence_lock.acquire(self._io_lock_s)
        try:
            if held is not self.io_lock:
                return None
            self._counts["fenced_off"] += 1
            # In this order: a thread with a claim of the new generation finds the new lock, and
            # waits for it.
            self.io_lock = io_lock
            self.generation += 1
            self._interface.take_over()
        finally:
            if fenced:
                self._fence_lock.release()
        return io_lock

    def polled_request(
        self, data: bytes, deadline: float, waiting: Callable[[], None] | None = None
    ) -> bytes:
        """Make the attempts in the calling thread, which holds `io_lock`."""
        claim = DriverClaim(self.current_generation, waiting=waiting)
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                response = self._interface.attempt(data, deadline, claim, idempotent=True)
            except Interrupted:
                raise
            except (TransportError, RemoteProtocolError):
                if attempt == ATTEMPTS_MAX or self._runtime.monotonic() >= deadline:
                    raise
            except BmcmedicError:
                raise
            except Exception as error:  # as in the worker: no error may end the pat thread
                raise unforeseen_error(self._interface, self._counts, error) from error
            else:
                self._answered()
                return response
        raise AssertionError("unreachable")


class WorkerState:
    """Which thread is the worker, and when it was last seen to make progress."""

    __slots__ = ("seen_at", "thread_id", "_seen_at_when_stuck")

    def __init__(self, now: float) -> None:
        self.thread_id: int | None = None
        """The worker's thread; None while there is none."""
        self.seen_at = now
        """The worker's last sign of life, on the runtime's monotonic clock."""
        self._seen_at_when_stuck: float | None = None

    @property
    def is_alive(self) -> bool:
        """Whether there is a worker, stuck or not."""
        return self.thread_id is not None

    @property
    def is_stuck(self) -> bool:
        """Whether the worker was found stuck, and has shown no sign of life since."""
        return self.seen_at == self._seen_at_when_stuck

    def mark_stuck(self) -> None:
        """Count the worker as stuck until its next sign of life."""
        self._seen_at_when_stuck = self.seen_at


def unforeseen_error(interface: InBand, counts: Counter[str], error: Exception) -> TransportError:
    """Count an exception that no interface should raise, and return it as a TransportError."""
    counts["unforeseen_errors"] += 1
    return TransportError(f"{interface.name}: {error!r}")
