"""KVM guests, and how long their virtual CPUs wait for a real one, which is the harm done."""

import re

from bmcmedic.host.kernel.proc import ProcError, Process, ProcessIdentity, Stat, Tree, uptime_s
from bmcmedic.host.typed import Dict, List, NamedTuple, Optional, Tuple

# Patterns are compiled at their first use: a host without guests needs none of them.
_VCPU = r"(?:CPU [0-9]+/\w+|vcpu[ _]?[0-9]+|fc_vcpu [0-9]+)\Z"
_NAME = r"(?:.*,)?guest=([^,]+)"
_NAMING = ("-name", "--name", "-uuid", "--id")
NAME_CHARACTERS_MAX = 256
THREADS_MAX = 1024
"""Number of threads that are read of one guest."""


class GuestMark(NamedTuple):
    """One guest at one moment."""

    identity: ProcessIdentity
    name: str
    uptime_s: float
    threads: Dict[int, "ThreadMark"]
    """By thread id: its virtual CPUs, or all its threads if the virtual CPUs have no names."""
    has_vcpus: bool


class ThreadMark(NamedTuple):
    """The CPU time and waiting time of one thread up to now."""

    run_ns: int
    delay_ns: int
    """Time for which the thread was ready to run and did not, in nanoseconds."""


class KvmGuest(NamedTuple):
    """One guest over the interval."""

    name: str
    pid: int
    vcpus: Optional[int]
    cpu_percent: Optional[float]
    """Share of one core that all its virtual CPUs took together, in percent."""
    run_delay_percent: Optional[float]
    """Share of the interval for which its virtual CPUs waited for a real one, on average."""


def mark(tree: Tree, processes: List[Stat]) -> List[GuestMark]:
    """Return what each guest has had up to now; guests that have ended are left out."""
    marks = []
    for stat in processes:
        try:
            with tree.hold(stat.pid) as process:
                if process.stat().identity != stat.identity:
                    continue
                threads, has_vcpus = _threads(process)
                name = (guest_name(process.argv()) or stat.comm)[:NAME_CHARACTERS_MAX]
                marks.append(GuestMark(stat.identity, name, uptime_s(tree), threads, has_vcpus))
        except ProcError:
            continue
    return marks


def guest_name(argv: List[str]) -> Optional[str]:
    """Return the name that QEMU was given for the guest."""
    for index, word in enumerate(argv[:-1]):
        if word in ("-name", "--name"):
            named = re.match(_NAME, argv[index + 1])
            return named.group(1) if named else argv[index + 1].partition(",")[0]
        if word in ("-uuid", "--id"):
            return argv[index + 1]
    return None


def naming_words(argv: List[str]) -> List[str]:
    """Return the arguments that name a guest: the others may hold secrets in many ways."""
    kept = argv[:1]
    for index, word in enumerate(argv[1:-1], 1):
        if word in _NAMING and argv[index - 1] not in _NAMING:
            kept += [word, argv[index + 1]]
    return kept


def compare(first: List[GuestMark], again: Optional[List[GuestMark]]) -> List[KvmGuest]:
    """Return the CPU time that each guest got between two marks, and how long it waited."""
    later = {mark.identity: mark for mark in again or ()}
    return [_compare_one(mark, later.get(mark.identity)) for mark in first]


def _compare_one(first: GuestMark, again: Optional[GuestMark]) -> KvmGuest:
    vcpus = len(first.threads) if first.has_vcpus else None
    guest = KvmGuest(first.name, first.identity.pid, vcpus, None, None)
    interval_s = again.uptime_s - first.uptime_s if again is not None else 0.0
    if again is None or interval_s <= 0.0:
        return guest
    both = [(first.threads[i], again.threads[i]) for i in first.threads if i in again.threads]
    if not both:
        return guest
    run_s = sum(now.run_ns - was.run_ns for was, now in both) / 1e9
    delay_s = sum(now.delay_ns - was.delay_ns for was, now in both) / 1e9
    return guest._replace(
        cpu_percent=round(100.0 * max(0.0, run_s) / interval_s, 1),
        run_delay_percent=round(100.0 * max(0.0, delay_s) / interval_s / len(both), 1),
    )


def _threads(process: Process) -> Tuple[Dict[int, ThreadMark], bool]:
    """Return the virtual CPUs, or all threads, of a process; raises Gone or Unreadable."""
    names = [name for name in process.names("task") if name.isdigit()][:THREADS_MAX]
    vcpus = [name for name in names if re.match(_VCPU, _comm(process, name))]
    marks = {}
    for name in vcpus or names:
        raw = process.read_or_none(f"task/{name}/schedstat")
        fields = raw.split() if raw is not None else []
        if len(fields) == 3 and fields[0].isdigit() and fields[1].isdigit():
            marks[int(name)] = ThreadMark(int(fields[0]), int(fields[1]))
    return marks, bool(vcpus)


def _comm(process: Process, thread: str) -> str:
    raw = process.read_or_none(f"task/{thread}/comm")
    return raw.decode("utf-8", "replace").strip() if raw is not None else ""
