"""One thread of the driver's in virtual time: what it waits for is what the test has scheduled."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

EVENTS_MAX = 200_000


class VirtualRuntime:
    """`monotonic` stands still but while somebody waits; events happen in between."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.advance_to(self.now + seconds)

    def signal(self) -> VirtualSignal:
        return VirtualSignal(self)

    def lock(self) -> VirtualLock:
        return VirtualLock()

    def thread_id(self) -> int:
        return 1

    def at(self, when: float, event: Callable[[], None]) -> None:
        assert next(self._order) < EVENTS_MAX, "the test never ends"
        heapq.heappush(self._events, (when, next(self._order), event))

    def each(self, period_s: float, event: Callable[[], None], until: float) -> None:
        """Again and again, until then."""

        def again() -> None:
            event()
            if self.now + period_s <= until:
                self.at(self.now + period_s, again)

        self.at(self.now + period_s, again)

    def advance_to(self, when: float, *, stop_if: Callable[[], bool] = lambda: False) -> None:
        while not stop_if() and self._events and self._events[0][0] <= when:
            at, _, event = heapq.heappop(self._events)
            self.now = max(self.now, at)
            event()
        if not stop_if():
            self.now = max(self.now, when)

    @property
    def has_events(self) -> bool:
        return bool(self._events)

    def next_event_at(self) -> float:
        return self._events[0][0]


class VirtualSignal:
    def __init__(self, runtime: VirtualRuntime) -> None:
        self._runtime = runtime
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def wait(self, timeout_s: float | None = None) -> bool:
        runtime = self._runtime
        until = None if timeout_s is None else runtime.now + max(0.0, timeout_s)
        while not self._is_set and runtime.has_events:
            if until is not None and runtime.next_event_at() > until:
                break
            runtime.advance_to(runtime.next_event_at(), stop_if=lambda: self._is_set)
        if self._is_set:
            self._is_set = False
            return True
        assert until is not None, "it waits for ever"
        runtime.advance_to(until)
        return False


class VirtualLock:
    def acquire(self, timeout_s: float | None = None) -> bool:  # noqa: ARG002 - nobody else is there
        return True

    def release(self) -> None:
        return
