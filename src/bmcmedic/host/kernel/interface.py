"""The counters of the IPMI interfaces, from files that the kernel answers by itself.

Files of /sys/devices/platform/ipmi_bmc.* are never read. For them the kernel asks the BMC, and a
reader hangs with it.
"""

import re
from functools import partial

from bmcmedic.host.kernel.proc import Tree
from bmcmedic.host.typed import Callable, Dict, List, NamedTuple, Optional

_NAME = re.compile(r"ipmi[0-9]+\Z")
_CLASS = "class/ipmi"
_SAFE = {
    "completed": "complete_transactions",
    "hosed": "hosed_count",
    "attentions": "attentions",
    "users": "nr_users",
    "queued": "nr_msgs",
}
"""Our names and the kernel's files. For each of these the kernel prints a number that it keeps."""

_ANSWERED_OVER_SSIF = "received_messages"
_GIVEN_UP_OVER_SSIF = ("hosed", "send_errors", "receive_errors")
"""The files of the SSIF driver, which counts messages in place of transactions."""


class InterfaceCounters(NamedTuple):
    """The counters of one interface at one moment; None: this kernel does not have the counter."""

    name: str
    completed: Optional[int] = None
    """Transactions that the BMC answered."""
    hosed: Optional[int] = None
    """Transactions that the kernel gave up."""
    attentions: Optional[int] = None
    users: Optional[int] = None
    queued: Optional[int] = None
    """Messages that wait for an answer or for their turn."""


class InterfaceActivity(NamedTuple):
    """What one interface did over the interval; None: unknown, or there was one sample only."""

    name: str
    completed: Optional[int]
    completed_delta: Optional[int]
    hosed: Optional[int]
    hosed_delta: Optional[int]
    users: Optional[int]
    queued: Optional[int]
    was_queued: Optional[int]
    """`queued` in the first sample."""


def read(sys: Optional[Tree], proc: Tree) -> List[InterfaceCounters]:
    """Return all interfaces' counters; none if no driver is loaded, or in a bare proc tree."""
    names = sys.folders(_CLASS) if sys is not None else []
    found = []
    for name in sorted(filter(_NAME.match, names)):
        assert sys is not None
        numbers = _numbers(partial(_file_number, sys, name))
        if "completed" not in numbers:
            numbers.update(_of_old_kernel(proc, name[len("ipmi") :]))
        found.append(InterfaceCounters(name, **numbers))
    return found or [
        InterfaceCounters(f"ipmi{number}", **_of_old_kernel(proc, number))
        for number in sorted(filter(str.isdigit, proc.names("ipmi")))
    ]


def queued(sys: Tree, interfaces: List[InterfaceCounters]) -> int:
    """Return the number of messages that wait now for an answer or for their turn."""
    counts = [sys.number(f"{_CLASS}/{each.name}/device/{_SAFE['queued']}") for each in interfaces]
    return sum(count for count in counts if count is not None)


def _file_number(sys: Tree, name: str, its: str) -> Optional[int]:
    return sys.number(f"{_CLASS}/{name}/device/{its}")


def _numbers(number_in: Callable[[str], Optional[int]]) -> Dict[str, Optional[int]]:
    """Return the counters that exist, by our names."""
    numbers = {ours: number_in(its) for ours, its in _SAFE.items()}
    if numbers["completed"] is None:
        numbers["completed"] = number_in(_ANSWERED_OVER_SSIF)
        if numbers["hosed"] is None:
            given_up = [number_in(its) for its in _GIVEN_UP_OVER_SSIF]
            known = [count for count in given_up if count is not None]
            numbers["hosed"] = sum(known) if known else None
    return {ours: count for ours, count in numbers.items() if count is not None}


def _of_old_kernel(proc: Tree, number: str) -> Dict[str, Optional[int]]:
    """Return the counters in /proc/ipmi/N/si_stats, where kernels before 4.17 have them."""
    lines = (proc.text(f"ipmi/{number}/si_stats") or "").splitlines()
    stats = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }

    def number_in(its: str) -> Optional[int]:
        return int(stats[its]) if re.match(r"[0-9]{1,20}\Z", stats.get(its, "")) else None

    return _numbers(number_in)


def compare(
    first: List[InterfaceCounters], again: Optional[List[InterfaceCounters]]
) -> List[InterfaceActivity]:
    """Return what changed between two samples; `again` None: there was one sample."""
    before = {each.name: each for each in first} if again is not None else {}
    return [
        InterfaceActivity(
            name=now.name,
            completed=now.completed,
            completed_delta=_moved(before.get(now.name), now, "completed"),
            hosed=now.hosed,
            hosed_delta=_moved(before.get(now.name), now, "hosed"),
            users=now.users,
            queued=now.queued,
            was_queued=before[now.name].queued if now.name in before else None,
        )
        for now in (first if again is None else again)
    ]


def _moved(
    first: Optional[InterfaceCounters], again: InterfaceCounters, counter: str
) -> Optional[int]:
    was = getattr(first, counter, None)
    now = getattr(again, counter)
    # A counter that fell belongs to a reloaded driver. What it counted meanwhile is unknown.
    return now - was if was is not None and now is not None and now >= was else None
