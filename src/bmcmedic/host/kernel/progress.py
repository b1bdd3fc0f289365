"""How far a process has come: its CPU time and its turns on a CPU, exactly where the kernel tells.

Two marks of one process tell whether it ran in between, however little.
"""

import re

from bmcmedic.host.kernel.proc import Process, Stat
from bmcmedic.host.typed import NamedTuple, Optional, Tuple

_SCHEDSTAT_BYTES_MAX = 256
"""Longest `schedstat` that is read, in bytes: the kernel writes three numbers."""
_STATUS_BYTES_MAX = 4 << 10
"""Longest `status` that is read, in bytes: the context switches stand in its last lines."""


class Mark(NamedTuple):
    """How far a process has come at one moment."""

    stat: Stat
    run_ns: Optional[int]
    """CPU time that the process has had, in exact nanoseconds; None: the kernel keeps no count."""
    turns: Optional[int]
    """How often the process has been given a CPU; None: unknown."""

    @classmethod
    def of(cls, process: Process) -> "Mark":
        """Read the mark of a process; raises Gone or Unreadable."""
        return cls(process.stat(), *_run_time_and_turns(process))

    @property
    def is_running(self) -> bool:
        """Whether the process has a CPU, or waits for one."""
        return self.stat.state not in "SD"

    def has_moved_since(self, earlier: "Mark") -> bool:
        """Whether the process has come any further than at an earlier mark of it."""
        return _progressed(earlier) != _progressed(self)


def _progressed(mark: Mark) -> Tuple[Optional[int], ...]:
    # A process that was sent to another CPU is about to run there.
    return (mark.stat.cpu_ticks, mark.stat.processor, *mark[1:])


def _run_time_and_turns(process: Process) -> Tuple[Optional[int], Optional[int]]:
    raw = process.read_or_none("schedstat", _SCHEDSTAT_BYTES_MAX)
    try:
        run_ns, _, turns = (raw or b"").split()
        # A kernel that does not keep these counts writes zeros.
        if int(run_ns) > 0:
            return int(run_ns), int(turns)
    except ValueError:
        pass
    # Every kernel counts the ends of turns, but reading that count costs three times as much.
    return None, _ended_turns(process.read_or_none("status", _STATUS_BYTES_MAX) or b"")


def _ended_turns(status: bytes) -> Optional[int]:
    counts = re.findall(rb"^(?:non)?voluntary_ctxt_switches:\t(\d+)$", status, re.MULTILINE)
    return sum(map(int, counts)) if len(counts) == 2 else None
