"""The clocks of the CPUs, by which the scheduler notes when a process last ran.

A kernel that accounts for stolen time or for interrupts (CONFIG_PARAVIRT_TIME_ACCOUNTING,
CONFIG_IRQ_TIME_ACCOUNTING) subtracts them from the clock of the CPU that had them. So the clocks of
two CPUs may be hours apart. The time of a last turn means something only beside the clock of the
very CPU on which the process ran, and the only way to read that clock is to run there.
"""

import os
import time

from bmcmedic.host.kernel.proc import PROC, ProcError, Tree
from bmcmedic.host.typed import Dict, Iterable, Iterator, List, Optional, Set, Tuple

AT_ONCE_MAX = 32
"""Number of our threads that run on CPUs at once to read their clocks."""

READ_S_MAX = 0.5
"""Time to read all clocks, in seconds. A real-time program may keep a CPU as long as it likes."""

END_S_MAX = 1.0
"""Time for a thread of ours to end once it may, in seconds."""

SCHED_BYTES_MAX = 1 << 10
"""Number of bytes that are read of a `sched`; the name and the last turn stand at its beginning."""

_TASKS = "self/task/"
_EXEC_START = b"se.exec_start"


def clocks_s(tree: Tree, cpus: Iterable[int]) -> Dict[int, float]:
    """Return the present clocks of these CPUs, in seconds, by the CPU's number.

    A CPU is left out if it is off, if this process may not run on it, or if another program keeps
    it busy. A capture holds the clocks that were read when it was made.
    """
    wanted = sorted(set(cpus))
    if not tree.is_of_this_machine:
        captured = _latest(_turns(tree, _TASKS, tree.pids(_TASKS)))
        return {cpu: captured[cpu] for cpu in wanted if cpu in captured}
    try:
        everywhere = os.sched_getaffinity(0)
    except (AttributeError, OSError):
        return {}  # such as PyPy, which lacks that call
    found: Dict[int, float] = {}
    until = time.monotonic() + READ_S_MAX
    for left in range(-(-len(wanted) // AT_ONCE_MAX), 0, -1):
        now = time.monotonic()
        # A CPU that is kept busy must not use up the time of all.
        turn_ends_at = now + (until - now) / left
        found.update(_read_clocks(tree, wanted[:AT_ONCE_MAX], everywhere, turn_ends_at))
        del wanted[:AT_ONCE_MAX]
    return found


def latest_turns_s(tree: Tree) -> Dict[int, float]:
    """Return the latest turn on each CPU, in seconds: at least so far has the CPU's clock come."""
    turns = [*_turns(tree, _TASKS, tree.pids(_TASKS)), *_turns(tree, "", tree.pids(), "SD")]
    return _latest(turns)


def turn_at_s(sched: Optional[bytes]) -> Optional[float]:
    """Return the moment of the last turn in a `sched`, by the CPU's clock; None: there is none."""
    at = sched.find(_EXEC_START) if sched is not None else -1
    if sched is None or at < 0:
        return None
    try:
        seconds = float(sched[sched.find(b":", at) + 1 : sched.find(b"\n", at)]) / 1000.0
    except ValueError:
        return None
    # The scheduler writes zero when it drops the mark, such as on the way to another CPU.
    return seconds if 0.0 < seconds < float("inf") else None


class _Visitor:
    """A thread of ours that runs once on a given CPU, and waits there until its turn was read.

    Another thread sends it there while it waits. A thread that asks to be moved itself stops, and
    the interpreter with it, until that CPU lets it run.
    """

    def __init__(self, cpu: int, everywhere: Set[int]) -> None:
        """Raises RuntimeError if no thread can be started."""
        import threading  # a run that finds no client does not need it

        self._everywhere = everywhere
        self._go, self._has_run, self._leave = (threading.Lock() for _ in range(3))
        for lock in (self._go, self._has_run, self._leave):
            lock.acquire()
        self._thread = threading.Thread(target=self._run, daemon=True)
        # From Python 3.8 on it knows its number. Before, it is the one thread that is new.
        others = set() if hasattr(self._thread, "native_id") else _threads()
        self._thread.start()
        self.thread_id = getattr(self._thread, "native_id", None) or _only_one(_threads() - others)
        self._is_sent = _send(self.thread_id, {cpu})
        self._go.release()

    def _run(self) -> None:
        self._go.acquire()
        self._has_run.release()
        self._leave.acquire()

    def has_come(self, until: float) -> bool:
        """Wait until then for the thread's turn there, and return whether it had it."""
        return self._is_sent and self._has_run.acquire(True, max(0.0, until - time.monotonic()))

    def leave(self) -> None:
        """Let the thread end; if it had no turn yet, it may have it on any CPU."""
        _send(self.thread_id, self._everywhere)
        self._leave.release()

    def join(self) -> None:
        """Wait for the thread's end, because a program must not exit while a thread of it ends."""
        self._thread.join(END_S_MAX)


def _send(thread_id: Optional[int], cpus: Set[int]) -> bool:
    """Pin a thread to these CPUs; returns whether that worked."""
    if thread_id is None:
        return False
    try:
        os.sched_setaffinity(thread_id, cpus)
    except OSError:
        return False  # the CPUs are off, or this process may not run on them
    return True


def _threads() -> Set[int]:
    return set(Tree(PROC).pids(_TASKS))


def _only_one(threads: Set[int]) -> Optional[int]:
    return threads.pop() if len(threads) == 1 else None


def _read_clocks(
    tree: Tree, cpus: List[int], everywhere: Set[int], until: float
) -> Dict[int, float]:
    """Return the clocks of those CPUs on which our threads ran until then."""
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
        return  # there are too many threads; those that started are enough


def _turns(
    tree: Tree, folder: str, ids: Iterable[int], states: str = ""
) -> Iterator[Tuple[int, float]]:
    """Yield the last turns of processes or threads: the CPU, and the moment by its clock.

    A process on its way to another CPU has the moment of the one and the number of the other. So
    only a process that is and stays in one of `states` counts; empty: any state does, because we
    sent the threads ourselves.
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
