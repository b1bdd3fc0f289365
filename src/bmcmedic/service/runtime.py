"""How the driver's threads wait: with real threads here, in virtual time in a simulation.

Nothing else in the driver blocks or reads a clock, so its code runs unchanged in virtual time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Protocol


class Signal(Protocol):
    """A wake-up from one thread to another; one that is set before the wait is remembered, once."""

    def set(self) -> None:
        """Wake the waiting thread, or the next that waits."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the signal is set, and clear it; return False when the time ran out first."""


class Lock(Protocol):
    """A mutual exclusion lock whose acquire has a time limit."""

    def acquire(self, timeout_s: float | None = None) -> bool:
        """Return whether the lock was acquired in time."""

    def release(self) -> None:
        """Release the lock; any thread may."""


@contextlib.contextmanager
def held(lock: Lock) -> Iterator[None]:
    """Hold a lock for a with block, which must be short."""
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Runtime(Protocol):
    """Time and threads."""

    def monotonic(self) -> float:
        """Return seconds that never jump."""

    def sleep(self, seconds: float) -> None:
        """Sleep for that long."""

    def signal(self) -> Signal:
        """Return a new signal that is not set."""

    def lock(self) -> Lock:
        """Return a new lock that is free."""

    def thread_id(self) -> int:
        """Return the calling thread's id."""


class _ThreadLock:
    """The interpreter's lock; an acquire with a limit allocates nothing."""

    __slots__ = ("_acquire", "_lock", "release")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acquire = self._lock.acquire
        self.release = self._lock.release

    def acquire(self, timeout_s: float | None = None) -> bool:
        return self._acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s))


class _ThreadSignal:
    """A lock that is held while the signal is not set."""

    __slots__ = ("_acquire", "_release")

    def __init__(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        self._acquire = lock.acquire
        self._release = lock.release

    def set(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is set already
            self._release()

    def wait(self, timeout_s: float | None = None) -> bool:
        return self._acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s))


class ThreadRuntime:
    """Real threads and real time."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    thread_id = staticmethod(threading.get_ident)

    def signal(self) -> Signal:
        """Return a new signal that is not set."""
        return _ThreadSignal()

    def lock(self) -> Lock:
        """Return a new lock that is free."""
        return _ThreadLock()
