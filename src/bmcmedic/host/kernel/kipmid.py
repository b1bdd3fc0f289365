"""The CPU time of `kipmiN`, the kernel thread that polls an interface without an interrupt.

Its share of a core shows that the kernel waits for the BMC, but not why. A hang takes 100 % of a
core on kernels before 5.4 and in maintenance mode, and 8 to 33 % on newer ones. A healthy BMC that
is asked a lot takes as much. The counters that do not move meanwhile tell the two apart
(`interface`).
"""

import re

from bmcmedic.host.kernel.proc import TICKS_PER_S, ProcError, ProcessIdentity, Stat, Tree, uptime_s
from bmcmedic.host.kernel.progress import Mark
from bmcmedic.host.typed import List, NamedTuple, Optional

PARAMETER = "module/ipmi_si/parameters/kipmid_max_busy_us"

_NAME = r"kipmi[0-9]+\Z"


class KipmiMark(NamedTuple):
    """How much CPU time one thread has had at one moment."""

    identity: ProcessIdentity
    name: str
    uptime_s: float
    cpu_s: float


class Kipmi(NamedTuple):
    """One thread over the interval."""

    name: str
    pid: int
    cpu_percent: Optional[float]
    """Share of one core, in percent; None: unknown, because there was one sample only."""
    cpu_total_s: float
    """CPU time since the module was loaded, in seconds."""


def is_polling_thread(stat: Stat) -> bool:
    """Whether a process is such a thread; its name alone does not prove it."""
    return stat.is_kernel_thread and re.match(_NAME, stat.comm) is not None


def mark(tree: Tree, threads: List[Stat]) -> List[KipmiMark]:
    """Return the CPU time of each thread up to now; threads that have ended are left out."""
    marks = []
    for stat in threads:
        try:
            with tree.hold(stat.pid) as process:
                seen = Mark.of(process)
                now_s = uptime_s(tree)
        except ProcError:
            continue
        if seen.stat.identity == stat.identity:
            ticks_s = seen.stat.cpu_ticks / TICKS_PER_S
            cpu_s = ticks_s if seen.run_ns is None else seen.run_ns / 1e9
            marks.append(KipmiMark(stat.identity, stat.comm, now_s, cpu_s))
    return marks


def compare(first: List[KipmiMark], again: Optional[List[KipmiMark]]) -> List[Kipmi]:
    """Return each thread's share of a core between two marks; `again` None: there is one mark."""
    later = {mark.identity: mark for mark in again or ()}
    return [
        Kipmi(
            mark.name,
            mark.identity.pid,
            _percent(mark, later.get(mark.identity)),
            round(later.get(mark.identity, mark).cpu_s, 2),
        )
        for mark in first
        if again is None or mark.identity in later
    ]


def _percent(first: KipmiMark, again: Optional[KipmiMark]) -> Optional[float]:
    if again is None or again.uptime_s <= first.uptime_s:
        return None
    share = (again.cpu_s - first.cpu_s) / (again.uptime_s - first.uptime_s)
    # The clock of the interval is coarse, and a thread never has more than its core.
    return round(100.0 * min(1.0, max(0.0, share)), 1)


def max_busy_us(sys: Optional[Tree]) -> Optional[str]:
    """Return the kernel's list `kipmid_max_busy_us` as it is shown; None: unset, or unknown."""
    return (sys.text(PARAMETER) or None) if sys is not None else None
