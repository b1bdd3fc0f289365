"""The three designs of the driver that the lab compares.

`Direct` models FreeBSD's driver before the cure, and `Queued` half of the cure. `Served` is no
model: it is the driver that ships. None of them knows whether the time is virtual.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from bmcmedic.driver.driver import Driver
from bmcmedic.driver.requests import ATTEMPTS_MAX, Request
from bmcmedic.errors import QueueFull, RemoteProtocolError, TransportError
from bmcmedic.service.runtime import Runtime, Signal
from bmcmedic.transport.in_band import InBand


class UncontestedClaim:
    """A claim that is never contested: before the cure, an attempt ran to its end."""

    def must_stop(self, *, recovering: bool) -> bool:  # noqa: ARG002 - as InterfaceClaim
        """Return False: an attempt is never interrupted."""
        return False


_ALWAYS_MINE: Final = UncontestedClaim()


class InterfaceUnderTest(Protocol):
    """What clients and pats call to send a request."""

    def __call__(self, data: bytes) -> bytes | None:
        """Send a request and return its response, or None when it failed; it blocks."""


class IoLock(Protocol):
    """The lock around an attempt; a thread waits for it without a limit."""

    def acquire(self) -> object:
        """Acquire the lock."""

    def release(self) -> None:
        """Release the lock."""


class Polled:
    """Attempts in the calling thread, under the I/O lock."""

    def __init__(self, interface: InBand, io_lock: IoLock) -> None:
        self._interface = interface
        self._io_lock = io_lock

    def request(self, data: bytes) -> bytes | None:
        """Make up to three attempts; the lock is released between them."""
        for _ in range(ATTEMPTS_MAX):
            self._io_lock.acquire()
            try:
                return self._interface.attempt(data, _NO_DEADLINE, _ALWAYS_MINE, idempotent=True)
            except (TransportError, RemoteProtocolError):
                continue
            finally:
                self._io_lock.release()
        return None


class Direct:
    """Before the cure: every caller polls in its own thread, the thread that pats, too."""

    def __init__(self, interface: InBand, runtime: Runtime, io_lock: IoLock) -> None:  # noqa: ARG002 - as Queued
        self.worker: Callable[[], None] | None = None
        self.ask: InterfaceUnderTest = Polled(interface, io_lock).request


class Queued:
    """Half of the cure: callers that can sleep queue for the one worker, in a single queue."""

    def __init__(self, interface: InBand, runtime: Runtime, io_lock: IoLock) -> None:
        self._runtime = runtime
        self._polled = Polled(interface, io_lock)
        self._pending: deque[tuple[bytes, Signal, list[bytes | None]]] = deque()
        self._wakeup = runtime.signal()
        self.worker: Callable[[], None] | None = self._kcs_loop
        self.ask: InterfaceUnderTest = self._queue

    def _queue(self, data: bytes) -> bytes | None:
        done = self._runtime.signal()
        result: list[bytes | None] = []
        self._pending.append((data, done, result))
        self._wakeup.set()
        done.wait()
        return result[0]

    def _kcs_loop(self) -> None:
        while True:
            while self._pending:
                data, done, result = self._pending.popleft()
                result.append(self._polled.request(data))
                done.set()
            self._wakeup.wait()


class Served:
    """The cure and the gaps that it left: the driver that ships, and its clients."""

    def __init__(self, interface: InBand, runtime: Runtime, patience_s: float) -> None:
        self._runtime = runtime
        self._patience_s = patience_s
        self.driver = Driver(interface, runtime)

    def ask(self, data: bytes) -> bytes | None:
        """Do what the thread of the driver's socket does for a client."""
        done = self._runtime.signal()
        request = Request(
            data,
            deadline=self._runtime.monotonic() + self._patience_s,
            on_done=lambda _: done.set(),
        )
        try:
            self.driver.submit(request)
        except QueueFull:
            return None
        if not done.wait(self._patience_s):
            self.driver.abandon(request)
        return request.response


_NO_DEADLINE: Final = float("inf")
