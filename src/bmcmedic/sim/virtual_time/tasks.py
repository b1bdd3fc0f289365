"""What the simulated host runs: tasks, the threads that only compute, and the CPUs they run on."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Protocol

from greenlet import greenlet

NEVER: Final = float("inf")
"""A point in time that does not come."""

NOT_SPINNING: Final = -NEVER
"""`Task.spin_until` of a task that does not spin."""


class Priority(IntEnum):
    """Which task gets a CPU first; tasks of the same priority share by time slices."""

    REAL_TIME = 0
    NORMAL = 1


class HeldLock(Protocol):
    """A lock that wants to know when its owner loses its CPU."""

    def owner_left_cpu(self) -> None:
        """Handle that the owner of the lock left its CPU."""


class Task:
    """A thread of the simulated host."""

    __slots__ = (
        "cpu", "goes_on", "greenlet", "held", "is_frozen", "is_parked", "name", "number",
        "priority", "spin_until", "wait_id", "was_unparked", "woken_while_frozen",
    )  # fmt: skip

    def __init__(self, name: str, number: int, priority: Priority) -> None:
        self.name = name
        self.number = number
        self.priority = priority
        self.greenlet: greenlet | None = None
        self.cpu: Cpu | None = None
        """The CPU that the task is on; None: it has none."""
        self.goes_on = False
        """Whether the task is in the world's queue of runnable tasks."""
        self.held: list[HeldLock] = []
        self.is_parked = False
        self.was_unparked = False
        self.wait_id = 0
        self.spin_until = NOT_SPINNING
        self.is_frozen = False
        self.woken_while_frozen = False

    def __repr__(self) -> str:
        return f"Task({self.name!r})"


class Hog:
    """A thread that computes and never waits."""

    __slots__ = ()
    priority = Priority.NORMAL


HOG: Final = Hog()


class Cpu:
    """One CPU and the thread that is on it."""

    __slots__ = ("armed_at", "slice_from", "user")

    def __init__(self) -> None:
        self.user: Task | Hog | None = None
        self.slice_from = 0.0
        self.armed_at: float | None = None
        """When the scheduler will check the end of a slice; None: no check is due."""
