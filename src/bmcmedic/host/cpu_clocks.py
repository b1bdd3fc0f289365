"""The clock of each CPU, by which the scheduler notes when a process last ran.

A kernel that accounts for stolen time or for interrupts (CONFIG_PARAVIRT_TIME_ACCOUNTING,
CONFIG_IRQ_TIME_ACCOUNTING) leaves them out of the clock of the CPU that had them, so that the
clocks of two CPUs may be hours apart. The moment of a process says something beside the clock of
the very CPU that it last ran on, and nobody can read that clock but by running there.
"""

import _thread
import os
import time

from bmcmedic.host.proc import PROC, ProcError, Tree, parse_stat
from bmcmedic.host.typed import Dict, Iterable, List, Optional, Set

AT_ONCE_MAX = 32
"""Threads of ours that run on CPUs to read their clocks."""

READ_S_MAX = 0.5
"""For all of them; a real-time program may keep a CPU to itself for as long as it likes."""

_TASKS = "self/task"
_EXEC_START = b"se.exec_start"
_SCHED_BYTES_MAX = 1 << 10
"""Of `sched`: it begins with the name, and the moment of the last turn."""
_STAT_BYTES_MAX = 1 << 10


def clocks_s(tree: Tree, cpus: Iterable[int]) -> Dict[int, float]:
    """What the clocks of these CPUs say now, in seconds, by the CPU's number.

    Left out is each one that cannot be told: it is off or not ours to run on, or somebody keeps it
    to himself. A capture holds those that were told.
    """
    found: Dict[int, float] = {}
    if not tree.is_of_this_machine:
        _note_turns(tree, _tasks(tree), found)
        return found
    try:
        everywhere = os.sched_getaffinity(0)
    except (AttributeError, OSError):
        return found  # such as PyPy, which knows of no such thing
    wanted = sorted(set(cpus))
    until = time.monotonic() + READ_S_MAX
    while wanted and time.monotonic() < until:
        found.update(_told(tree, wanted[:AT_ONCE_MAX], everywhere, until))
        del wanted[:AT_ONCE_MAX]
    return found


def latest_turns_s(tree: Tree) -> Dict[int, float]:
    """What the clock of each CPU had come to at the least when somebody last ran there."""
    found: Dict[int, float] = {}
    _note_turns(tree, [*_tasks(tree), *map(str, tree.pids())], found)
    return found


def turn_at_s(sched: Optional[bytes]) -> Optional[float]:
    """The moment of the last turn, by the clock of its CPU, from a `sched`; None: not told."""
    at = sched.find(_EXEC_START) if sched is not None else -1
    if sched is None or at < 0:
        return None
    try:
        seconds = float(sched[sched.find(b":", at) + 1 : sched.find(b"\n", at)]) / 1000.0
    except ValueError:
        return None
    # Zero is what the scheduler writes when it forgets the mark, such as on the way to another CPU.
    return seconds if 0.0 < seconds < float("inf") else None


class _Visitor:
    """A thread of ours that has its turn on one CPU, and waits there until that has been read.

    It is sent there while it waits: who asks for himself to be moved stands still, and with him the
    interpreter, until that CPU lets him run.
    """

    def __init__(self, cpu: int, everywhere: Set[int]) -> None:
        """Raises RuntimeError where no thread can be had."""
        self._told, self._go, self._leave = (_thread.allocate_lock() for _ in range(3))
        for lock in (self._told, self._go, self._leave):
            lock.acquire()
        self._everywhere = everywhere
        others = _threads() if _native_id is None else set()
        self.thread_id: Optional[int] = None
        _thread.start_new_thread(self._run, ())
        self._told.acquire()
        if self.thread_id is None:
            self.thread_id = _only_one(_threads() - others)
        self._is_sent = _is_sent(self.thread_id, {cpu})
        self._go.release()

    def _run(self) -> None:
        if _native_id is not None:
            self.thread_id = _native_id()
        self._told.release()
        self._go.acquire()
        self._told.release()
        self._leave.acquire()

    def has_come(self, until: float) -> bool:
        """Whether it has had its turn there; waits for it until then."""
        return self._is_sent and self._told.acquire(True, max(0.0, until - time.monotonic()))

    def leave(self) -> None:
        """It ends, and where it has not had a turn yet, it may have it anywhere."""
        _is_sent(self.thread_id, self._everywhere)
        self._leave.release()


def _is_sent(thread_id: Optional[int], cpus: Set[int]) -> bool:
    if thread_id is None:
        return False
    try:
        os.sched_setaffinity(thread_id, cpus)
    except OSError:
        return False  # they are off, or not ours to run on
    return True


# Python 3.8 and later know it; before that it is the one that was not there before.
_native_id = getattr(_thread, "get_native_id", None)


def _threads() -> Set[int]:
    return {int(name) for name in os.listdir(PROC + "/" + _TASKS)}


def _only_one(threads: Set[int]) -> Optional[int]:
    return threads.pop() if len(threads) == 1 else None


def _told(tree: Tree, cpus: List[int], everywhere: Set[int], until: float) -> Dict[int, float]:
    """The clocks that visitors of ours tell of until then."""
    found: Dict[int, float] = {}
    visitors: List[_Visitor] = []
    try:
        for cpu in cpus:
            visitors.append(_Visitor(cpu, everywhere))
        come = [visitor.thread_id for visitor in visitors if visitor.has_come(until)]
        _note_turns(tree, [f"{_TASKS}/{thread_id}" for thread_id in come], found)
    except RuntimeError:
        pass  # there are too many threads already
    finally:
        for visitor in visitors:
            visitor.leave()
    return found


def _tasks(tree: Tree) -> List[str]:
    return [f"{_TASKS}/{name}" for name in tree.names(_TASKS)]


def _note_turns(tree: Tree, places: Iterable[str], found: Dict[int, float]) -> None:
    """Note what the turns of processes, or threads, say of the clocks of the CPUs they had."""
    for place in places:
        try:
            raw = tree.read(f"{place}/stat", _STAT_BYTES_MAX)
            cpu = parse_stat(int(place.rpartition("/")[2]), raw).processor
            at_s = turn_at_s(tree.read(f"{place}/sched", _SCHED_BYTES_MAX))
        except (ProcError, ValueError):
            continue
        if at_s is not None:
            found[cpu] = max(at_s, found.get(cpu, 0.0))
