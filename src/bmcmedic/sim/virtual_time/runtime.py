"""The driver's runtime in virtual time: a `service.runtime.Runtime` on top of a `World`."""

from __future__ import annotations

from collections import deque

from bmcmedic.service.runtime import Lock, Signal
from bmcmedic.sim.virtual_time.tasks import NEVER, Task
from bmcmedic.sim.virtual_time.world import World


class WorldRuntime:
    """A `Runtime` whose threads are tasks of the world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.sleep = world.sleep

    def monotonic(self) -> float:
        """Return the world's time, in seconds."""
        return self._world.now

    def signal(self) -> Signal:
        """Return a new signal, which is not set."""
        return _WorldSignal(self._world)

    def lock(self) -> Lock:
        """Return a new lock, which is free."""
        return _WorldLock(self._world)

    def thread_id(self) -> int:
        """Return the number of the running task, or -1 outside of all tasks."""
        return self._world.current.number if self._world.is_in_task else -1


class _WorldSignal:
    __slots__ = ("_is_set", "_waiting", "_world")

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_set = False
        self._waiting: Task | None = None

    def set(self) -> None:
        self._is_set = True
        if self._waiting is not None:
            self._world.unpark(self._waiting)

    def wait(self, timeout_s: float | None = None) -> bool:
        if not self._is_set and (timeout_s is None or timeout_s > 0):
            self._waiting = self._world.current
            self._world.park(timeout_s)
            self._waiting = None
        was_set, self._is_set = self._is_set, False
        return was_set


class _WorldLock:
    __slots__ = ("_is_held", "_waiting", "_world")

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_held = False
        self._waiting: deque[Task] = deque()

    def acquire(self, timeout_s: float | None = None) -> bool:
        if self._is_held and not self._wait(timeout_s):
            return False
        self._is_held = True
        return True

    def _wait(self, timeout_s: float | None) -> bool:
        """Wait until the lock is free; return False when the time-out came first."""
        world = self._world
        limit_at = NEVER if timeout_s is None else world.now + timeout_s
        task = world.current
        while self._is_held:
            if world.now >= limit_at:
                return False
            self._waiting.append(task)
            world.park(None if timeout_s is None else limit_at - world.now)
            if task in self._waiting:
                self._waiting.remove(task)
        return True

    def release(self) -> None:
        if not self._is_held:
            raise RuntimeError("the lock is not held")
        self._is_held = False
        if self._waiting:
            self._world.unpark(self._waiting.popleft())
