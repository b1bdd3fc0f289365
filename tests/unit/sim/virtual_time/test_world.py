from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from bmcmedic.sim.virtual_time.lock import AdaptiveLock
from bmcmedic.sim.virtual_time.runtime import WorldRuntime
from bmcmedic.sim.virtual_time.tasks import Priority
from bmcmedic.sim.virtual_time.world import World

SLICE_S = 0.1


def test_tasks_wait_in_virtual_time_and_in_the_order_that_they_asked() -> None:
    world = World()
    seen: list[tuple[str, float]] = []

    def sleeper(name: str, seconds: float) -> Callable[[], None]:
        def body() -> None:
            world.sleep(seconds)
            seen.append((name, world.now))
            world.sleep(seconds)
            seen.append((name, world.now))

        return body

    world.spawn(sleeper("a", 2.0), "a")
    world.spawn(sleeper("b", 1.0), "b")
    world.run(10.0)
    assert seen == [("b", 1.0), ("a", 2.0), ("b", 2.0), ("a", 4.0)]
    assert world.now == 10.0


def test_run_raises_the_exception_of_a_task() -> None:
    world = World()

    def fails() -> None:
        world.sleep(1.0)
        raise LookupError("in the task")

    world.spawn(fails, "fails")
    with pytest.raises(LookupError, match="in the task"):
        world.run(5.0)


def test_a_world_that_is_closed_ends_its_tasks_where_they_wait() -> None:
    world = World()
    ended: list[str] = []

    def waits() -> None:
        try:
            world.park()
        finally:
            ended.append("waits")

    world.spawn(waits, "waits")
    world.run(1.0)
    assert ended == []
    world.close()
    assert ended == ["waits"]


def test_park_returns_whether_the_task_was_woken_before_its_time_out() -> None:
    world = World()
    outcomes: list[tuple[bool, float]] = []

    def parked() -> None:
        outcomes.append((world.park(1.0), world.now))
        outcomes.append((world.park(1.0), world.now))

    task = world.spawn(parked, "parked")
    world.at(0.5, lambda _: world.unpark(task))
    world.run(5.0)
    assert outcomes == [(True, 0.5), (False, 1.5)]


# ------------------------------------------------------------------------------------- the CPUs


def test_tasks_that_compute_share_one_cpu_by_slices() -> None:
    world = World(cpus=1, slice_s=SLICE_S)
    done: dict[str, float] = {}

    def computes(name: str, seconds: float) -> Callable[[], None]:
        def body() -> None:
            # The task computes for several slices, so it needs several turns on the CPU.
            for _ in range(round(seconds / SLICE_S)):
                world.spin_until(world.now + SLICE_S / 2)
                world.park(0.0)
            done[name] = world.now

        return body

    world.spawn(computes("long", 1.0), "long")
    world.spawn(computes("short", 0.2), "short")
    world.run(10.0)
    assert done["short"] == pytest.approx(0.25), "it waits for its last turn"
    assert done["long"] == pytest.approx(0.6)


def test_a_spinning_task_loses_its_cpu_at_the_end_of_the_slice_where_hogs_want_it() -> None:
    world = World(cpus=1, hogs=2, slice_s=SLICE_S)
    on_cpu: list[tuple[float, bool]] = []

    def spins() -> None:
        world.spin_until(1.25)
        on_cpu.append((world.now, True))

    task = world.spawn(spins, "spins")

    def sample(_: object) -> None:
        on_cpu.append((world.now, task.cpu is not None))

    for number in range(12):
        world.at(0.05 + number * SLICE_S, sample)
    world.run(2.0)
    *samples, (ended_at, _) = on_cpu
    # First a hog's slice, then the task's own, then two hogs' slices, again and again.
    assert [on for _, on in samples] == [False, True, *[False, False, True] * 3, False]
    assert ended_at == pytest.approx(1.3), "it has a CPU again only then"


def test_a_real_time_task_takes_a_cpu_at_once() -> None:
    world = World(cpus=2, hogs=8, slice_s=SLICE_S)
    woken: list[float] = []

    def body() -> None:
        for _ in range(5):
            world.sleep(0.33)
            woken.append(world.now)

    world.spawn(body, "real", Priority.REAL_TIME)
    world.spawn(lambda: world.spin_until(5.0), "spins")
    world.run(5.0)
    assert woken == pytest.approx([0.33, 0.66, 0.99, 1.32, 1.65])


def test_a_task_of_normal_priority_waits_for_a_slice_where_all_cpus_are_taken() -> None:
    world = World(cpus=1, hogs=1, slice_s=SLICE_S)
    woken: list[float] = []

    def body() -> None:
        world.sleep(0.33)
        woken.append(world.now)

    world.spawn(body, "normal")
    world.run(5.0)
    # The task began to sleep after the first hog's slice.
    assert woken == pytest.approx([0.5])


def test_real_time_tasks_wait_for_each_other_no_longer_than_a_slice() -> None:
    world = World(cpus=1, slice_s=SLICE_S)
    woken: list[float] = []

    def body() -> None:
        world.sleep(0.5)
        woken.append(world.now)

    world.spawn(lambda: world.spin_until(10.0), "neighbour", Priority.REAL_TIME)
    world.spawn(body, "pat", Priority.REAL_TIME)
    world.run(10.0)
    assert woken[0] - 0.5 <= 2 * SLICE_S


def test_a_frozen_task_does_nothing_and_goes_on_when_it_is_thawed() -> None:
    world = World(cpus=1)
    seen: list[float] = []

    def body() -> None:
        while True:
            world.sleep(1.0)
            seen.append(world.now)

    task = world.spawn(body, "frozen")
    world.at(2.5, lambda _: world.freeze(task))
    world.at(7.5, lambda _: world.thaw(task))
    world.run(9.0)
    assert seen == [1.0, 2.0, 7.5, 8.5]


def test_a_frozen_task_that_spins_gives_its_cpu_away() -> None:
    world = World(cpus=1)
    seen: list[str] = []

    def spins() -> None:
        world.spin_until(5.0)
        seen.append("spun")

    task = world.spawn(spins, "spins")
    world.spawn(lambda: seen.append("other"), "other")
    world.at(0.05, lambda _: world.freeze(task))
    world.run(8.0)
    assert seen == ["other"]


# ------------------------------------------------------------------------------------- the lock


def test_a_released_lock_goes_to_the_running_thread() -> None:
    """The incident in small: a sleeping thread wakes to find the lock taken again, every time."""
    world = World(cpus=2, hogs=2, slice_s=SLICE_S)
    lock = AdaptiveLock(world, Random(1))
    had: list[tuple[str, float]] = []

    def busy() -> None:
        for _ in range(5):
            lock.acquire()
            had.append(("busy", world.now))
            world.spin_until(world.now + 1.0)
            lock.release()

    def starved() -> None:
        world.sleep(0.5)
        lock.acquire()
        had.append(("starved", world.now))
        lock.release()

    world.spawn(busy, "busy")
    world.spawn(starved, "starved", Priority.REAL_TIME)
    world.run(60.0)
    assert [who for who, _ in had] == ["busy"] * 5 + ["starved"]
    assert had[-1][1] > 5.0


def test_a_waiting_task_spins_while_the_owner_runs_and_sleeps_otherwise() -> None:
    world = World(cpus=2, slice_s=SLICE_S)
    lock = AdaptiveLock(world, Random(1))

    def owner() -> None:
        lock.acquire()
        world.spin_until(1.0)
        world.sleep(1.0)
        lock.release()

    def wants() -> None:
        world.sleep(0.5)
        lock.acquire()

    world.spawn(owner, "owner")
    task = world.spawn(wants, "wants")
    states: list[tuple[bool, bool]] = []
    for at in (0.7, 1.5, 2.5):
        world.at(at, lambda _: states.append((task.cpu is not None, task.is_parked)))
    world.run(3.0)
    assert states == [(True, False), (False, True), (False, False)]
    assert lock.owner is task


def test_a_spinning_task_gets_the_lock_soon_after_its_release() -> None:
    world = World(cpus=2, slice_s=SLICE_S)
    lock = AdaptiveLock(world, Random(1))
    had_at: list[float] = []

    def owner() -> None:
        lock.acquire()
        world.spin_until(1.0)
        lock.release()

    def wants() -> None:
        world.sleep(0.5)
        lock.acquire()
        had_at.append(world.now)

    world.spawn(owner, "owner")
    world.spawn(wants, "wants")
    world.run(3.0)
    assert 1.0 < had_at[0] < 1.0001


# ---------------------------------------------------------------------------------- the runtime


def test_a_signal_is_remembered_once_and_waited_for_with_a_limit() -> None:
    world = World()
    runtime = WorldRuntime(world)
    signal = runtime.signal()
    outcomes: list[tuple[bool, float]] = []

    def body() -> None:
        signal.set()
        signal.set()
        outcomes.append((signal.wait(1.0), runtime.monotonic()))
        outcomes.append((signal.wait(1.0), runtime.monotonic()))
        outcomes.append((signal.wait(), runtime.monotonic()))
        outcomes.append((signal.wait(0.0), runtime.monotonic()))

    world.spawn(body, "waits")
    world.at(3.0, lambda _: signal.set())
    world.run(10.0)
    assert outcomes == [(True, 0.0), (False, 1.0), (True, 3.0), (False, 3.0)]


def test_a_lock_is_waited_for_with_a_limit_and_may_be_released_by_any_thread() -> None:
    world = World()
    runtime = WorldRuntime(world)
    lock = runtime.lock()
    outcomes: list[tuple[bool, float]] = []

    def body() -> None:
        assert lock.acquire()
        outcomes.append((lock.acquire(1.0), runtime.monotonic()))
        outcomes.append((lock.acquire(5.0), runtime.monotonic()))

    world.spawn(body, "waits")
    world.at(2.0, lambda _: lock.release())
    world.run(10.0)
    assert outcomes == [(False, 1.0), (True, 2.0)]
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()


def test_each_task_is_a_thread_of_its_own() -> None:
    world = World()
    runtime = WorldRuntime(world)
    seen = [runtime.thread_id()]
    for name in ("a", "b"):
        world.spawn(lambda: seen.append(runtime.thread_id()), name)
    world.run(1.0)
    assert len(set(seen)) == 3


def test_a_task_that_another_starts_ends_by_itself() -> None:
    world = World()
    went_on: list[tuple[float, str]] = []

    def child() -> None:
        went_on.append((world.now, "child"))

    def parent() -> None:
        world.spawn(child, "child")
        world.sleep(5.0)
        went_on.append((world.now, "parent"))

    world.spawn(parent, "parent")
    world.run(10.0)
    assert went_on == [(0.0, "child"), (5.0, "parent")]
