"""The three designs of the driver that the starvation is shown with.

`Direct` and `Queued` are written from what FreeBSD's driver did, and might have done. `Served` is
no model: it is the driver that ships, on the world's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final, Protocol

from bmcmedic.driver.driver import ATTEMPTS_MAX, Driver
from bmcmedic.driver.requests import Request
from bmcmedic.driver.runtime import Signal
from bmcmedic.errors import QueueFull, RemoteProtocolError, TransportError
from bmcmedic.sim.world import NEVER, Priority, Task, World
from bmcmedic.sim.world_kcs import WorldKcs
from bmcmedic.sim.world_lock import AdaptiveLock
from bmcmedic.sim.world_runtime import WorldRuntime


class AlwaysMine:
    """A claim that nobody contests: before the cure, an attempt ran to its end."""

    def must_stop(self, *, recovering: bool) -> bool:  # noqa: ARG002 - Claim's
        """No."""
        return False


_ALWAYS_MINE: Final = AlwaysMine()


class Asked(Protocol):
    """What clients and pats call: a request, and its response or None."""

    def __call__(self, data: bytes) -> bytes | None:
        """Blocks until it is answered or has failed."""


class Polled:
    """Attempts in the calling thread, under the I/O lock, burning its CPU."""

    def __init__(self, world: World, kcs: WorldKcs, random: Random) -> None:
        self._lock = AdaptiveLock(world, random)
        self._kcs = kcs

    def request(self, data: bytes) -> bytes | None:
        """Up to three attempts; the lock is let go and taken again between them."""
        for _ in range(ATTEMPTS_MAX):
            self._lock.acquire()
            try:
                return self._kcs.attempt(data, NEVER, _ALWAYS_MINE, idempotent=True)
            except (TransportError, RemoteProtocolError):
                continue
            finally:
                self._lock.release()
        return None


class Direct:
    """Before the cure: every caller does it itself, the thread that pats too."""

    def __init__(self, world: World, kcs: WorldKcs, random: Random) -> None:
        self.tasks: list[Task] = []
        self.ask: Asked = Polled(world, kcs, random).request


class Queued:
    """Half of the cure: whoever can sleep queues for the one worker, in one queue."""

    def __init__(self, world: World, kcs: WorldKcs, random: Random) -> None:
        self._world = world
        self._runtime = WorldRuntime(world)
        self._polled = Polled(world, kcs, random)
        self._pending: deque[tuple[bytes, Signal, list[bytes | None]]] = deque()
        self._wakeup = self._runtime.signal()
        self.tasks = [world.spawn(self._kcs_loop, "worker")]
        self.ask: Asked = self._queue

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
    """The cure and what it left open: the driver that ships."""

    def __init__(self, world: World, kcs: WorldKcs, patience_s: float) -> None:
        self._runtime = WorldRuntime(world)
        self._patience_s = patience_s
        self.driver = Driver(kcs, self._runtime)
        self.tasks = [world.spawn(self.driver.kcs_loop, "worker", Priority.REAL_TIME)]

    def ask(self, data: bytes) -> bytes | None:
        """What the socket's thread does for a client."""
        done = self._runtime.signal()
        request = Request(
            data,
            deadline=self._runtime.monotonic() + self._patience_s,
            on_done=_set(done),
        )
        try:
            self.driver.submit(request)
        except QueueFull:
            return None
        if not done.wait(self._patience_s):
            self.driver.abandon(request)
        return request.response


def _set(signal: Signal) -> Callable[[Request], None]:
    return lambda _: signal.set()
