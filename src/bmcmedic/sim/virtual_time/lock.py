"""A kernel's adaptive lock: a waiting thread spins while the owner runs, and sleeps otherwise.

A release wakes all waiting threads and hands the lock to none of them: the next thread that tries
gets it. Running threads come first, above all the one that has just released it. Then come spinning
threads, at their next poll. Sleeping threads come last, when they are back on a CPU.
"""

from __future__ import annotations

from random import Random

from bmcmedic.sim.virtual_time.tasks import NEVER, Task
from bmcmedic.sim.virtual_time.world import World

SPIN_POLL_S_MAX = 20e-6
"""Longest time between two polls of a spinning thread, in seconds.

Spinning threads back off, so as not to fight for the cache line.
"""

SWITCH_S = (10e-6, 50e-6)
"""Shortest and longest time from a wake-up to running, where a CPU is free, in seconds."""


class AdaptiveLock:
    """One adaptive lock, for the tasks of one world."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self.owner: Task | None = None
        self._spinners: list[Task] = []
        self._sleepers: list[Task] = []

    def acquire(self) -> None:
        """Acquire the lock, without a time-out."""
        world = self._world
        task = world.current
        while (owner := self.owner) is not None:
            if owner.cpu is not None:
                self._spinners.append(task)
                world.spin_until(NEVER)
                self._spinners.remove(task)
            else:
                self._sleepers.append(task)
                world.park()
        self.owner = task
        task.held.append(self)

    def release(self) -> None:
        """Release the lock."""
        world = self._world
        assert self.owner is world.current
        self.owner.held.remove(self)
        self.owner = None
        for task in self._spinners:
            world.at(world.now + self._random.uniform(0, SPIN_POLL_S_MAX), world.end_spin, task)
        sleepers, self._sleepers = self._sleepers, []
        for task in sleepers:
            world.at(world.now + self._random.uniform(*SWITCH_S), world.unpark, task)

    def owner_left_cpu(self) -> None:
        """Make the spinning tasks sleep instead, as the owner no longer runs."""
        for task in self._spinners:
            self._world.end_spin(task)
