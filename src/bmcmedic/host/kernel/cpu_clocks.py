"""The clock of each CPU, by which the scheduler notes when a process last ran.

A kernel that accounts for stolen time or for interrupts (CONFIG_PARAVIRT_TIME_ACCOUNTING,
CONFIG_IRQ_TIME_ACCOUNTING) leaves them out of the clock of the CPU that had them, so that the
clocks of two CPUs may be hours apart. The moment of a process says something beside the clock of
the very CPU that it last ran on, and nobody can read that clock but by running there.
"""

import os
import time

from bmcmedic.host.kernel.proc import PROC, ProcError, Tree
from bmcmedic.host.typed import Dict, Iterable, Iterator, List, Optional, Set, Tuple

AT_ONCE_MAX = 32
"""Threads of ours that run on CPUs to read their clocks."""

READ_S_MAX = 0.5
"""For all of them; a real-time program may keep a CPU to itself for as long as it likes."""

END_S_MAX = 1.0
"""For one of them to end, once it may."""

SCHED_BYTES_MAX = 1 << 10
"""Of a `sched`: it begins with the name, and the moment of the last turn."""

_TASKS = "self/task/"
_EXEC_START = b"se.exec_start"


def clocks_s(tree: Tree, cpus: Iterable[int]) -> Dict[int, float]:
    """What the clocks of these CPUs say now, in seconds, by the CPU's number.

    Left out is each one that cannot be told: it is off or not ours to run on, or somebody keeps it
    to himself. A capture holds those that were told.
    """
    wanted = sorted(set(cpus))
    if not tree.is_of_this_machine:
        told = _latest(_turns(tree, _TASKS, tree.pids(_TASKS)))
        return {cpu: told[cpu] for cpu in wanted if cpu in told}
    try:
        everywhere = os.sched_getaffinity(0)
    except (AttributeError, OSError):
        return {}  # such as PyPy, which knows of no such thing
    found: Dict[int, float] = {}
    until = time.monotonic() + READ_S_MAX
    for left in range(-(-len(wanted) // AT_ONCE_MAX), 0, -1):
        now = time.monotonic()
        # What keeps some of them waiting is not to use up the time of all.
        found.update(_told(tree, wanted[:AT_ONCE_MAX], everywhere, now + (until - now) / left))
        del wanted[:AT_ONCE_MAX]
    return found


def latest_turns_s(tree: Tree) -> Dict[int, float]:
    """What the clock of each CPU had come to at the least when somebody last ran there."""
    turns = [*_turns(tree, _TASKS, tree.pids(_TASKS)), *_turns(tree, "", tree.pids(), "SD")]
    return _latest(turns)


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

    It is sent there while it waits: who asks to be moved itself stands still, and with it the
    interpreter, until that CPU lets it run.
    """

    def __init__(self, cpu: int, everywhere: Set[int]) -> None:
        """Raises RuntimeError where no thread can be had."""
        import threading  # no run that finds no client has a use for it

        self._everywhere = everywhere
        self._go, self._told, self._leave = (threading.Lock() for _ in range(3))
        for lock in (self._go, self._told, self._leave):
            lock.acquire()
        self._thread = threading.Thread(target=self._run, daemon=True)
        # Python 3.8 and later know its number; before that it is the one that was not there before.
        others = set() if hasattr(self._thread, "native_id") else _threads()
        self._thread.start()
        self.thread_id = getattr(self._thread, "native_id", None) or _only_one(_threads() - others)
        self._is_sent = _send(self.thread_id, {cpu})
        self._go.release()

    def _run(self) -> None:
        self._go.acquire()
        self._told.release()
        self._leave.acquire()

    def has_come(self, until: float) -> bool:
        """Whether it has had its turn there; waits for it until then."""
        return self._is_sent and self._told.acquire(True, max(0.0, until - time.monotonic()))

    def leave(self) -> None:
        """It ends, and where it has not had a turn yet, it may have it anywhere."""
        _send(self.thread_id, self._everywhere)
        self._leave.release()

    def join(self) -> None:
        """Wait for its end: a program must not end beside a thread that is about to."""
        self._thread.join(END_S_MAX)


def _send(thread_id: Optional[int], cpus: Set[int]) -> bool:
    """Have a thread run there and nowhere else; whether that can be done."""
    if thread_id is None:
        return False
    try:
        os.sched_setaffinity(thread_id, cpus)
    except OSError:
        return False  # they are off, or not ours to run on
    return True


def _threads() -> Set[int]:
    return set(Tree(PROC).pids(_TASKS))


def _only_one(threads: Set[int]) -> Optional[int]:
    return threads.pop() if len(threads) == 1 else None


def _told(tree: Tree, cpus: List[int], everywhere: Set[int], until: float) -> Dict[int, float]:
    """The clocks that visitors of ours tell of until then."""
    visitors: List[_Visitor] = []
    try:
        _start(visitors, cpus, everywhere)
        come = [visitor.thread_id for visitor in visitors if visitor.has_come(until)]
        return _latest(_turns(tree, _TASKS, [number for number in come if number is not None]))
    finally:
        for visitor in visitors:
            visitor.leave()
        for visitor in visitors:
            visitor.join()


def _start(visitors: List[_Visitor], cpus: List[int], everywhere: Set[int]) -> None:
    try:
        for cpu in cpus:
            visitors.append(_Visitor(cpu, everywhere))
    except RuntimeError:
        return  # there are too many threads already: those that are there will do


def _turns(
    tree: Tree, folder: str, ids: Iterable[int], states: str = ""
) -> Iterator[Tuple[int, float]]:
    """The last turns of processes, or threads: the CPU, and the moment by its clock.

    Who is on the way to another CPU has the moment of the one and the number of the other: of
    whom we have not sent ourselves, only those that are and stay in one of these states count.
    """
    for number in ids:
        try:
            before = tree.stat(number, folder)
            at_s = turn_at_s(tree.read(f"{folder}{number}/sched", SCHED_BYTES_MAX))
            after = tree.stat(number, folder)
        except ProcError:
            continue
        is_there = before.processor == after.processor
        if states:
            is_there = is_there and before.state in states and after.state in states
        if is_there and at_s is not None:
            yield before.processor, at_s


def _latest(turns: Iterable[Tuple[int, float]]) -> Dict[int, float]:
    found: Dict[int, float] = {}
    for cpu, at_s in turns:
        found[cpu] = max(at_s, found.get(cpu, at_s))
    return found
