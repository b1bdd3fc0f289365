"""How the driver's threads wait: the machine's own way here, a simulation's in `lab`.

Nothing else in the driver blocks or reads the time, so the code that runs on a host runs in virtual
time as it is.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Protocol


class Signal(Protocol):
    """One thread waits for another; what was set before the wait is remembered, once."""

    def set(self) -> None:
        """Let the waiting thread, or the next that waits, go on."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is set, and take that back; False when the time was over first."""


class Lock(Protocol):
    """A mutual exclusion that is waited for with a limit."""

    def acquire(self, timeout_s: float | None = None) -> bool:
        """Whether it was had in time."""

    def release(self) -> None:
        """Let it go; any thread may."""


@contextlib.contextmanager
def held(lock: Lock) -> Iterator[None]:
    """Have a lock for as long as it takes; what is done meanwhile must be short."""
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Runtime(Protocol):
    """Time and threads."""

    def monotonic(self) -> float:
        """Seconds that never jump."""

    def sleep(self, seconds: float) -> None:
        """Do nothing for that long."""

    def signal(self) -> Signal:
        """A signal that is not set."""

    def lock(self) -> Lock:
        """A lock that nobody has."""

    def thread_id(self) -> int:
        """Which thread this is."""


class _ThreadLock:
    """A lock of the interpreter's: an acquire with a limit allocates nothing."""

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
        with contextlib.suppress(RuntimeError):  # it was set already
            self._release()

    def wait(self, timeout_s: float | None = None) -> bool:
        return self._acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s))


class ThreadRuntime:
    """Real threads, real time."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    thread_id = staticmethod(threading.get_ident)

    def signal(self) -> Signal:
        """A signal that is not set."""
        return _ThreadSignal()

    def lock(self) -> Lock:
        """A lock that nobody has."""
        return _ThreadLock()
