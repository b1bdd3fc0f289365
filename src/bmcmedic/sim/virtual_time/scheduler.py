"""The scheduler of the simulated host: which task or hog is on which CPU, and for how long.

A higher priority takes a CPU at once; equals take turns. A task that slept goes before those that
had their slice. Threads that only compute (`HOG`) are all alike. While only hogs want the CPUs, no
end of a slice is scheduled: the current slice is computed when another task comes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from bmcmedic.sim.virtual_time.tasks import HOG, Cpu, Hog, Priority, Task

_NORMAL: Final = Priority.NORMAL


class ScheduledWorld(Protocol):
    """What the scheduler needs of the world: its time, a timer, and its queue of runnable tasks."""

    now: float

    def at(self, when: float, call: Callable[[Any], None], argument: object = None) -> None:
        """Call something at a point in time."""

    def go_on(self, task: Task) -> None:
        """Let a task that got a CPU run at once."""

    def hold_back(self, task: Task) -> None:
        """Take back `go_on` from a task that lost its CPU before it ran."""


class Scheduler:
    """Assigns the CPUs to the tasks."""

    def __init__(self, world: ScheduledWorld, *, cpus: int, hogs: int, slice_s: float) -> None:
        self._world = world
        self._slice_s = slice_s
        self._cpus = [Cpu() for _ in range(cpus)]
        self._woken: tuple[deque[Task], ...] = tuple(deque() for _ in Priority)
        self._expired: tuple[deque[Task | Hog], ...] = tuple(deque() for _ in Priority)
        self._waiting = 0
        """Number of tasks that wait for a CPU; hogs are not counted."""
        for number, cpu in enumerate(self._cpus):
            if number < hogs:
                cpu.user = HOG
                # The slices of the CPUs do not all end at the same time.
                cpu.slice_from = -slice_s * number / cpus
        self._expired[_NORMAL].extend([HOG] * max(0, hogs - cpus))

    # -------------------------------------------------------------------------------- for the world

    def ready(self, task: Task) -> None:
        """Give a CPU to a task that was woken, or queue it."""
        if task.is_frozen:
            task.woken_while_frozen = True
            return
        cpu = self._cpu_for(task.priority)
        if cpu is not None:
            self._give(cpu, task)
            return
        self._woken[task.priority].append(task)
        self._waiting += 1
        self._arm_next(task.priority)

    def leave(self, task: Task) -> None:
        """Take the CPU of a task that waits or ends."""
        cpu = task.cpu
        if cpu is not None:
            task.cpu = None
            if task.held:
                self._notify_locks(task)
            self._fill(cpu)

    def spins(self, task: Task) -> None:
        """Note that a task spins: it keeps its CPU until another task preempts it."""
        if task.cpu is not None and self._is_wanted(task.cpu):
            self._arm(task.cpu)

    def remove(self, task: Task) -> bool:
        """Remove a task; return whether it had a CPU or waited for one."""
        if task.cpu is not None:
            cpu = task.cpu
            self._off(task)
            self._fill(cpu)
            return True
        for queue in (self._woken[task.priority], self._expired[task.priority]):
            if task in queue:
                queue.remove(task)
                self._waiting -= 1
                return True
        return False

    # ------------------------------------------------------------------------------------ inside

    def _cpu_for(self, priority: int) -> Cpu | None:
        """Return a CPU that a task of this priority may have at once, or None."""
        found = None
        for cpu in self._cpus:
            user = cpu.user
            if user is None:
                return cpu
            if user.priority > priority and (found is None or user is HOG):
                found = cpu
        return found

    def _give(self, cpu: Cpu, task: Task) -> None:
        previous = cpu.user
        if previous is not None:
            # A preempted task is the first to get a CPU again.
            self._preempt(previous)
        cpu.user = task
        cpu.slice_from = self._world.now
        cpu.armed_at = None
        task.cpu = cpu
        if self._world.now < task.spin_until < math.inf:
            if self._is_wanted(cpu):
                self._arm(cpu)
        else:
            self._world.go_on(task)

    def _preempt(self, user: Task | Hog) -> None:
        if isinstance(user, Hog):
            self._expired[_NORMAL].appendleft(user)
            return
        self._off(user)
        self._woken[user.priority].appendleft(user)
        self._waiting += 1
        self._arm_next(user.priority)

    def _off(self, task: Task) -> None:
        task.cpu = None
        self._world.hold_back(task)
        self._notify_locks(task)

    @staticmethod
    def _notify_locks(task: Task) -> None:
        """Tell the locks that the task holds that it has left its CPU."""
        for lock in task.held:
            lock.owner_left_cpu()

    def _fill(self, cpu: Cpu) -> None:
        """Give a free CPU to the next task or hog."""
        cpu.armed_at = None
        if not self._waiting:
            hogs = self._expired[_NORMAL]
            cpu.user = hogs.popleft() if hogs else None
            cpu.slice_from = self._world.now
            return
        cpu.user = None
        for woken, expired in zip(self._woken, self._expired, strict=True):
            queue = woken or expired
            if not queue:
                continue
            user = queue.popleft()
            if isinstance(user, Hog):
                cpu.user = user
                cpu.slice_from = self._world.now
                self._arm(cpu)
            else:
                self._waiting -= 1
                self._give(cpu, user)
            return

    def _is_wanted(self, cpu: Cpu) -> bool:
        """Return whether another task would get this CPU at the end of the slice."""
        user = cpu.user
        if user is HOG:
            return self._waiting > 0
        assert user is not None
        if user.priority < _NORMAL:
            return bool(self._waiting and (self._woken[0] or self._expired[0]))
        return self._waiting > 0 or bool(self._expired[_NORMAL])

    def _arm_next(self, priority: int) -> None:
        """Check at the end of the first slice to end, among those that may have to give way."""
        ends = [
            (self._slice_ends_at(cpu), number, cpu)
            for number, cpu in enumerate(self._cpus)
            if cpu.user is not None and cpu.user.priority >= priority
        ]
        if ends:
            self._arm(min(ends)[2])

    def _slice_ends_at(self, cpu: Cpu) -> float:
        """Return when the present slice ends; earlier ends were not checked."""
        slices = (self._world.now - cpu.slice_from) // self._slice_s + 1
        return cpu.slice_from + slices * self._slice_s

    def _arm(self, cpu: Cpu) -> None:
        """Check at the end of this slice whether another task gets the CPU."""
        if cpu.armed_at is not None:
            return
        cpu.armed_at = self._slice_ends_at(cpu)
        self._world.at(cpu.armed_at, self._slice_over, (cpu, cpu.armed_at))

    def _slice_over(self, armed: tuple[Cpu, float]) -> None:
        cpu, armed_at = armed
        user = cpu.user
        if cpu.armed_at != armed_at or user is None:
            return
        cpu.armed_at = None
        cpu.slice_from = self._world.now
        if not self._is_wanted(cpu):
            return
        if not isinstance(user, Hog):
            if user.goes_on:
                self._arm(cpu)  # it is about to run, and may give the CPU away then
                return
            self._off(user)
            self._waiting += 1
        self._expired[user.priority].append(user)
        self._fill(cpu)
        if self._waiting:
            self._arm_next(_NORMAL if not (self._woken[0] or self._expired[0]) else 0)
