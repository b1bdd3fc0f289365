"""The clock of each CPU: read on this machine, and from captures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bmcmedic.host.kernel import cpu_clocks
from bmcmedic.host.kernel.cpu_clocks import clocks_s, latest_turns_s, turn_at_s
from bmcmedic.host.kernel.proc import Tree, uptime_s
from tests.support.polling import eventually
from tests.support.proc_tree import (
    CLOCKS_BEHIND_S,
    UPTIME_S,
    FakeProcess,
    sched,
    stuck_ipmitool,
    write_proc,
)

LIVE = Tree("/proc")
CPUS = sorted(os.sched_getaffinity(0))
NO_CPU = 8191
"""Beyond what any kernel is built for, and within what the call takes."""
TIMEOUT_S = 60.0

tells = pytest.mark.skipif(
    turn_at_s(Path("/proc/self/sched").read_bytes()) is None, reason="this kernel does not tell"
)


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # A test gets the clocks that it asks for, however busy the machine is.
    monkeypatch.setattr(cpu_clocks, "READ_S_MAX", TIMEOUT_S)
    threads, affinity = threading.enumerate(), os.sched_getaffinity(0)
    yield
    # Python's threads have ended by now; the kernel's may have a moment yet.
    assert threading.enumerate() == threads
    assert os.sched_getaffinity(0) == affinity


@tells
@pytest.mark.parametrize("cpu", CPUS)
def test_a_process_that_sleeps_on_a_cpu_ran_before_its_clock(cpu: int) -> None:
    code = f"import os; os.sched_setaffinity(0, {{{cpu}}}); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()

        def sleeps() -> bool:
            stat = LIVE.stat(child.pid)
            return stat.state == "S" and stat.processor == cpu

        eventually(sleeps)
        turn_s = turn_at_s(LIVE.read(f"{child.pid}/sched"))
        first_at_s, first = uptime_s(LIVE), clocks_s(LIVE, [cpu])
        assert turn_s is not None
        assert 0.0 <= first[cpu] - turn_s < TIMEOUT_S
        eventually(lambda: clocks_s(LIVE, [cpu])[cpu] >= first[cpu] + 0.3)
        # The clock goes no faster than time, and the uptime has hundredths of a second.
        assert uptime_s(LIVE) - first_at_s > 0.28
        child.communicate(b"\n", timeout=TIMEOUT_S)


@tells
def test_any_thread_can_read_all_clocks_at_once() -> None:
    clocks: list[dict[int, float]] = []
    thread = threading.Thread(target=lambda: clocks.append(clocks_s(LIVE, [*CPUS, *CPUS])))
    thread.start()
    thread.join()
    assert sorted(clocks[0]) == CPUS


@tells
@pytest.mark.parametrize("at_once", [1, 2])
def test_more_clocks_than_can_be_read_at_once_are_read_in_turns(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(cpu_clocks, "AT_ONCE_MAX", at_once)
    assert sorted(clocks_s(LIVE, [*CPUS, NO_CPU])) == CPUS


@tells
def test_without_its_own_number_a_thread_is_known_by_being_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(threading.Thread, "native_id")
    assert sorted(clocks_s(LIVE, CPUS)) == CPUS
    news = iter(range(1000))
    monkeypatch.setattr(cpu_clocks, "_threads", lambda: {next(news), next(news)})
    assert clocks_s(LIVE, CPUS) == {}
    monkeypatch.undo()


def refuse(_pid: int, _cpus: set[int]) -> None:
    raise PermissionError(1, "Operation not permitted")


def has_no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("module", "name", "stub"),
    [
        (os, "sched_setaffinity", refuse),
        (threading.Thread, "start", has_no_thread),
        (cpu_clocks._Visitor, "has_come", lambda _self, _until: False),
    ],
)
def test_what_cannot_be_read_is_left_out(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, stub: object
) -> None:
    monkeypatch.setattr(module, name, stub)
    assert clocks_s(LIVE, CPUS) == {}


def test_a_thread_that_does_not_come_delays_nothing_and_may_leave_anywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left: list[set[int]] = []

    def stays_away(visitor: cpu_clocks._Visitor) -> None:
        visitor._leave.acquire()
        left.append(os.sched_getaffinity(0))

    monkeypatch.setattr(cpu_clocks._Visitor, "_run", stays_away)
    monkeypatch.setattr(cpu_clocks, "READ_S_MAX", 0.05)
    clocks: list[dict[int, float]] = []
    thread = threading.Thread(target=lambda: clocks.append(clocks_s(LIVE, CPUS)), daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    assert clocks == [{}]
    assert left == [set(CPUS)] * len(CPUS)


@tells
@pytest.mark.skipif(len(CPUS) < 2, reason="it takes another CPU")
def test_one_that_does_not_come_blinds_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    has_come, asked = cpu_clocks._Visitor.has_come, []

    def not_the_first(visitor: cpu_clocks._Visitor, until: float) -> bool:
        asked.append(visitor)
        if len(asked) > 1:
            return has_come(visitor, until)
        eventually(lambda: time.monotonic() > until)
        return False

    monkeypatch.setattr(cpu_clocks._Visitor, "has_come", not_the_first)
    monkeypatch.setattr(cpu_clocks, "AT_ONCE_MAX", 1)
    monkeypatch.setattr(cpu_clocks, "READ_S_MAX", 3.0)
    assert sorted(clocks_s(LIVE, CPUS)) == CPUS[1:]


@tells
@pytest.mark.skipif(len(CPUS) < 2, reason="it takes another CPU")
def test_where_there_can_be_no_more_threads_those_that_are_there_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def only_one(thread: threading.Thread) -> None:
        if started:
            has_no_thread(thread)
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", only_one)
    assert sorted(clocks_s(LIVE, CPUS)) == CPUS[:1]


def test_no_thread_is_sent_anywhere_where_no_clock_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    monkeypatch.setattr(threading.Thread, "start", has_no_thread)
    assert clocks_s(LIVE, []) == {}


@tells
@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may run in real time")
@pytest.mark.skipif(len(CPUS) < 2, reason="the reader needs the other CPU")
def test_a_cpu_that_another_program_keeps_busy_delays_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel lets others have a turn there once in a second, or never."""
    monkeypatch.setattr(cpu_clocks, "READ_S_MAX", 0.2)
    code = (
        f"import os, time; os.sched_setaffinity(0, {{{CPUS[1]}}});"
        " os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)); print(flush=True);"
        " until = time.monotonic() + 3.0\n"
        "while time.monotonic() < until: pass"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        eventually(lambda: CPUS[0] in clocks_s(LIVE, CPUS))
        child.kill()


# ------------------------------------------------------------------------------------- captures


def test_a_capture_holds_the_clocks_that_were_read(tmp_path: Path) -> None:
    tree = Tree(str(write_proc(tmp_path / "proc", [stuck_ipmitool()])))
    clocks = {cpu: UPTIME_S - behind_s for cpu, behind_s in enumerate(CLOCKS_BEHIND_S)}
    assert clocks_s(tree, [0, 1, 2, 3]) == pytest.approx(clocks)
    assert clocks_s(tree, [1]) == pytest.approx({1: clocks[1]})
    assert clocks_s(tree, []) == {}


def test_a_clock_was_not_behind_the_latest_turn_of_any_process(tmp_path: Path) -> None:
    processes = [
        FakeProcess(7, "a", idle_s=30.0, processor=1),
        FakeProcess(8, "b", idle_s=10.0, processor=1),
        FakeProcess(9, "c", idle_s=20.0, processor=1),
        FakeProcess(10, "d", idle_s=None, processor=0),
        FakeProcess(11, "e", idle_s=5.0, processor=2),
        FakeProcess(12, "on its way there", state="R", idle_s=0.0, processor=1),
    ]
    root = write_proc(tmp_path / "proc", processes)
    (root / "11/stat").write_bytes(b"nonsense")
    assert latest_turns_s(Tree(str(root))) == clocks_s(Tree(str(root)), [0, 1, 2])
    shutil.rmtree(root / "self")
    assert latest_turns_s(Tree(str(root))) == pytest.approx(
        {1: UPTIME_S - CLOCKS_BEHIND_S[1] - 10.0}
    )


@pytest.mark.parametrize(
    "break_it",
    [
        lambda place: (place / "stat").unlink(),
        lambda place: (place / "sched").unlink(),
        lambda place: (place / "sched").write_text("se.exec_start : never\n"),
        lambda place: (place / "sched").write_text(sched(0.0)),
        lambda place: place.rename(place.with_name("x")),
    ],
)
def test_what_no_kernel_would_write_is_ignored(
    tmp_path: Path, break_it: Callable[[Path], object]
) -> None:
    root = write_proc(tmp_path / "proc", [])
    break_it(root / "self/task/77001")
    assert sorted(clocks_s(Tree(str(root)), [0, 1, 2])) == [0, 2]
