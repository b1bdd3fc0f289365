"""Virtual time: tasks that wait and run as threads do, on a host with few CPUs.

A task is a greenlet, so ordinary blocking code runs in it unchanged. Only a few calls take time:
`sleep` and `park` give the CPU away, `spin_until` burns it. Events that are due at the same moment
happen in the order in which they were requested. So the same seed repeats a run exactly.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from bmcmedic.sim.virtual_time.scheduler import Scheduler
from bmcmedic.sim.virtual_time.tasks import NEVER, NOT_SPINNING, Priority, Task

EVENTS_MAX = 50_000_000
"""Most events of a run; a run with more does not come to an end."""


class World:
    """The time, the tasks, and the CPUs that they share."""

    def __init__(self, *, cpus: int = 4, hogs: int = 0, slice_s: float = 0.1) -> None:
        """Create a world at time 0; `hogs`: threads of normal priority that only compute."""
        self.now = 0.0
        self.tasks: list[Task] = []
        self.scheduler = Scheduler(self, cpus=cpus, hogs=hogs, slice_s=slice_s)
        self._runnable: deque[Task] = deque()
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._sequence = itertools.count()
        self._hub: greenlet | None = None
        self._current: Task | None = None
        self._watches: list[tuple[Task, int, Callable[[], bool], float]] = []
        self._is_over = False

    # ---------------------------------------------------------- for the code around the simulation

    def spawn(
        self, body: Callable[[], None], name: str, priority: Priority = Priority.NORMAL
    ) -> Task:
        """Start a task."""
        task = Task(name, len(self.tasks), priority)
        # A task that another task started returns to the hub, too, when it ends.
        task.greenlet = greenlet(body, self._hub)
        self.tasks.append(task)
        self.scheduler.ready(task)
        return task

    def at(self, when: float, call: Callable[[Any], None], argument: object = None) -> None:
        """Call a function at a point in time, outside of all tasks; it must not wait."""
        heapq.heappush(self._heap, (when, next(self._sequence), call, argument))

    def run(self, until: float) -> None:
        """Run until that point in time, or until no event is left.

        Raises: the exception that a task did not catch.
        """
        self._hub = getcurrent()
        heap, runnable = self._heap, self._runnable
        for _ in range(EVENTS_MAX):
            while runnable:
                self._step(runnable.popleft())
            if not heap or heap[0][0] > until:
                self.now = max(self.now, until)
                return
            when, _, call, argument = heapq.heappop(heap)
            if when > self.now:
                self.now = when
            call(argument)
            if self._watches:
                self._check_watches()
        raise RuntimeError(f"the simulation does not come to an end; it is at {self.now} s")

    def freeze(self, task: Task) -> None:
        """Stop a task as SIGSTOP does; an event that wakes it meanwhile is remembered."""
        if task.is_frozen:
            return
        task.is_frozen = True
        if self.scheduler.remove(task):
            task.woken_while_frozen = True

    def thaw(self, task: Task) -> None:
        """Let a frozen task go on, as SIGCONT does."""
        if not task.is_frozen:
            return
        task.is_frozen = False
        if task.woken_while_frozen:
            task.woken_while_frozen = False
            self.scheduler.ready(task)

    def close(self) -> None:
        """End all tasks at once."""
        self._is_over = True
        self._heap.clear()
        self._runnable.clear()
        for task in self.tasks:
            if task.greenlet is not None and not task.greenlet.dead:
                self._current = task
                task.greenlet.throw(GreenletExit)
            task.greenlet = None

    # --------------------------------------------------------------------------------- for tasks

    @property
    def current(self) -> Task:
        """The task that runs."""
        assert self._current is not None, "only a task may wait"
        return self._current

    @property
    def is_in_task(self) -> bool:
        """Whether a task runs, and not the code around the simulation."""
        return self._current is not None

    def sleep(self, seconds: float) -> None:
        """Give the CPU away for that many seconds."""
        self.park(seconds)

    def park(self, timeout_s: float | None = None) -> bool:
        """Give the CPU away until `unpark`; return False when the time-out came first."""
        task = self.current
        self._start_wait(task)
        if timeout_s is not None:
            when = self.now + timeout_s if timeout_s > 0 else self.now
            self.at(when, self._park_over, (task, task.wait_id))
        task.is_parked = True
        self.scheduler.leave(task)
        self._switch()
        return task.was_unparked

    def unpark(self, task: Task) -> None:
        """Wake a parked task, if it still waits."""
        if task.is_parked:
            task.is_parked = False
            task.was_unparked = True
            task.wait_id += 1
            self.scheduler.ready(task)

    def spin_until(self, when: float) -> None:
        """Keep the CPU busy until a point in time, or longer if the task has no CPU then."""
        if when <= self.now:
            return
        task = self.current
        self._start_wait(task)
        task.spin_until = when
        if when < NEVER:
            self.at(when, self._spin_over, (task, task.wait_id))
        self.scheduler.spins(task)
        self._switch()
        task.spin_until = NOT_SPINNING
        task.wait_id += 1

    def end_spin(self, task: Task) -> None:
        """End the spinning of a task, now or when it next has a CPU."""
        if task.spin_until > self.now:
            task.spin_until = self.now
            if task.cpu is not None:
                self.go_on(task)

    def wait_watching(
        self, until: float, seen: Callable[[], bool], poll_s: float, *, spins: bool
    ) -> bool:
        """Wait until a point in time, or until `seen` returns true; return its last value.

        The polls cost no events: `seen` can only change with an event, so it is called after each.
        The task goes on `poll_s` after `seen` became true, as one that polls would.
        """
        if seen():
            return True
        task = self.current
        watch = (task, task.wait_id + 1, seen, poll_s)
        self._watches.append(watch)
        if spins:
            self.spin_until(until)
        else:
            self.park(until - self.now)
        if self._watches and watch in self._watches:
            self._watches.remove(watch)
        return seen()

    # ---------------------------------------------------------------------------- for the scheduler

    def go_on(self, task: Task) -> None:
        """Put a task that has a CPU into the queue of runnable tasks."""
        if not task.goes_on:
            task.goes_on = True
            self._runnable.append(task)

    def hold_back(self, task: Task) -> None:
        """Take a task that lost its CPU out of the queue of runnable tasks."""
        if task.goes_on:
            task.goes_on = False
            self._runnable.remove(task)

    # ------------------------------------------------------------------------------------ inside

    def _start_wait(self, task: Task) -> None:
        if self._is_over:
            raise GreenletExit
        task.wait_id += 1
        task.was_unparked = False

    def _switch(self) -> None:
        assert self._hub is not None
        self._hub.switch()

    def _step(self, task: Task) -> None:
        assert task.greenlet is not None
        task.goes_on = False
        self._current = task
        task.greenlet.switch()
        self._current = None
        if task.greenlet.dead:
            self.scheduler.leave(task)
        if self._watches:
            self._check_watches()

    def _park_over(self, wait: tuple[Task, int]) -> None:
        task, wait_id = wait
        if task.wait_id == wait_id and task.is_parked:
            task.is_parked = False
            self.scheduler.ready(task)

    def _spin_over(self, wait: tuple[Task, int]) -> None:
        task, wait_id = wait
        if task.wait_id == wait_id and task.cpu is not None:
            self.go_on(task)

    def _check_watches(self) -> None:
        seen = None
        for watch in self._watches:
            if watch[2]():
                seen = watch
                break
        if seen is None:
            return
        self._watches.remove(seen)
        task, wait_id, _, poll_s = seen
        self.at(self.now + poll_s, self._poll_over, (task, wait_id))
        self._check_watches()

    def _poll_over(self, wait: tuple[Task, int]) -> None:
        task, wait_id = wait
        if task.wait_id != wait_id:
            return
        if task.is_parked:
            self.unpark(task)
        else:
            self.end_spin(task)
