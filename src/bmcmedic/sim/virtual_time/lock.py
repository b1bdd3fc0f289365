"""A lock as kernels have it: who wants it spins while its owner runs, and sleeps when it does not.

Letting it go wakes everybody who waits, and hands it to nobody: whoever asks next has it. That is
the thread that runs, above all the one that has just let it go; one that spins comes next, as soon
as it looks again, and one that slept last, when it is back on a CPU.
"""

from __future__ import annotations

from random import Random

from bmcmedic.sim.virtual_time.tasks import NEVER, Task
from bmcmedic.sim.virtual_time.world import World

LOOK_S_MAX = 20e-6
"""Between two looks of a thread that spins; they back off so as not to fight for the cache line."""

SWITCH_S = (10e-6, 50e-6)
"""From being woken to being on a CPU, where one is free."""


class AdaptiveLock:
    """One such lock; only tasks of its world may take it."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self.owner: Task | None = None
        self._spinners: list[Task] = []
        self._sleepers: list[Task] = []

    def acquire(self) -> None:
        """Take it, however long that lasts."""
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
        """Let it go."""
        world = self._world
        assert self.owner is world.current
        self.owner.held.remove(self)
        self.owner = None
        for task in self._spinners:
            world.at(world.now + self._random.uniform(0, LOOK_S_MAX), world.end_spin, task)
        sleepers, self._sleepers = self._sleepers, []
        for task in sleepers:
            world.at(world.now + self._random.uniform(*SWITCH_S), world.unpark, task)

    def owner_left_cpu(self) -> None:
        """Those who spin see that there is nothing to spin for."""
        for task in self._spinners:
            self._world.end_spin(task)
