"""Triage: sample the host twice, some seconds apart, and diagnose it."""

import os
import time

from bmcmedic.host.client.launcher import Launcher, Launchers, UserDatabase
from bmcmedic.host.client.stuck import (
    STUCK_AFTER_S,
    Client,
    ClientSample,
    ClientVerdict,
    Finding,
    Now,
    cpus_of,
    is_gone,
    judge,
    unless_too_soon,
)
from bmcmedic.host.kernel import interface, kipmid
from bmcmedic.host.kernel.cpu_clocks import clocks_s, latest_turns_s
from bmcmedic.host.kernel.proc import (
    PROC,
    TICKS_PER_S,
    Gone,
    ProcError,
    Recorded,
    Tree,
    age_s,
    uptime_s,
)
from bmcmedic.host.triage import diagnosis, guests
from bmcmedic.host.triage.host_facts import HostFacts, boot_time_s, read_host_facts
from bmcmedic.host.triage.process_scan import Opener, ProcessScan, scan_processes
from bmcmedic.host.typed import Callable, List, NamedTuple, Optional, Tuple

INTERVAL_S = 2.0
"""Default time between the two samples, in seconds."""
INTERVAL_S_MAX = 300.0
"""Longest time between the two samples, in seconds."""

QUEUE_SAMPLES = 10
"""Number of samples of the message queue between the two samples of the host."""


THREADS_MAX = 256
"""Number of threads of one reader of a power meter that are read."""


class NoTree(Exception):
    """A directory is no captured tree; the message says why."""


class Roots(NamedTuple):
    """Where the kernel's files are; None: a captured tree does not hold them."""

    proc: Tree
    again: Optional[Tree]
    """/proc at the second sample; None: there is one sample only."""
    sys: Optional[Tree]
    sys_again: Optional[Tree]
    run: Optional[Tree]
    etc: Optional[Tree]
    is_live: bool

    @classmethod
    def live(cls, *, recording: bool = False) -> "Roots":
        """Return the roots of this host; `recording`: record every read, for a capture."""

        def tree(root: str) -> Tree:
            record: Recorded = {}
            return Tree(root, record if recording else None)

        proc, again = tree(PROC), tree(PROC)
        return cls(proc, again, tree("/sys"), tree("/sys"), tree("/run"), tree("/etc"), True)

    @classmethod
    def captured(cls, root: str) -> "Roots":
        """Return the roots of a captured tree, or of a bare proc tree; raises NoTree."""

        def tree(name: str) -> Optional[Tree]:
            path = os.path.join(root, name)
            return Tree(path) if os.path.isdir(path) else None

        proc = tree("proc")
        if proc is None:
            bare = Tree(root)
            if not bare.pids():
                what = "no processes" if os.path.isdir(root) else "no such directory"
                raise NoTree(f"{root}: {what}; expected a proc tree, or one of triage --capture")
            return cls(bare, None, None, None, None, None, False)
        sys = tree("sys")
        return cls(proc, tree("proc.2"), sys, tree("sys.2"), tree("run"), tree("etc"), False)


class Stuck(NamedTuple):
    """A client that is proven stuck, and all that is known of it."""

    client: Client
    sample: ClientSample
    evidence: List[str]
    launcher: Launcher

    @property
    def waits_s(self) -> float:
        """How long it has waited: since it last ran or, if unknown, since its start."""
        return self.sample.age_s if self.sample.idle_s is None else self.sample.idle_s

    @property
    def is_stranded(self) -> bool:
        """Whether every device that it has open is gone, and so what it waits for."""
        holds = self.client.holdings
        return holds is not None and bool(holds.devices) and all(map(is_gone, holds.devices))


class Spared(NamedTuple):
    """A client that is not proven stuck, and why."""

    client: Client
    verdict: ClientVerdict
    age_s: float


class Waiting(NamedTuple):
    """A process that is no client and waits all the same. It is named, and never ended."""

    opener: Opener
    why: str


class Triage(NamedTuple):
    """All that was seen on the host, and the diagnosis that follows from it."""

    host: HostFacts
    scan: ProcessScan
    stuck: List[Stuck]
    """The clients that are proven stuck, the oldest first."""
    spared: List[Spared]
    """The other clients that are still there."""
    facts: diagnosis.Facts
    """What the diagnosis is made from."""
    diagnosis: diagnosis.HostDiagnosis
    standing: List[Waiting]
    """The other programs that have the device open and did not run between the samples."""
    meter_waiters: List[Waiting]
    """The processes that sleep in ACPI's power meter, for which ACPI asks the BMC."""


class _Moment(NamedTuple):
    """What is measured twice."""

    uptime_s: float
    kipmi: List[kipmid.KipmiMark]
    guests: List[guests.GuestMark]
    interfaces: List[interface.InterfaceCounters]


def triage(
    roots: Roots,
    *,
    interval_s: float = INTERVAL_S,
    stuck_after_s: float = STUCK_AFTER_S,
    with_stacks: bool = True,
    sleep: Callable[[float], None] = time.sleep,
    epoch_s: Callable[[], float] = time.time,
) -> Triage:
    """Sample the host twice and diagnose it.

    Without stacks a triage costs less, and its result lacks nothing else. The screen shows none.
    """
    scan = scan_processes(roots.proc)
    first = _moment(roots.proc, roots.sys, scan)
    queued_share = _wait(roots, first, interval_s, sleep) if roots.is_live else None
    again = None
    if roots.again is not None:
        again = _moment(roots.again, roots.sys_again or roots.sys, scan)
    watched_s = again.uptime_s - first.uptime_s if again is not None else 0.0
    stuck, spared = _judged(roots, scan, stuck_after_s, watched_s, with_stacks)
    host = read_host_facts(roots.proc, roots.sys)
    unproven = [each.verdict.finding for each in spared if each.verdict.finding.is_unproven]
    unwatched = unproven.count(Finding.WATCHED_TOO_BRIEFLY)
    facts = diagnosis.Facts(
        captured_at=round(_captured_at(roots, epoch_s), 3),
        interval_s=round(watched_s, 2) if again is not None else None,
        kipmi=kipmid.compare(first.kipmi, again.kipmi if again is not None else None),
        interfaces=interface.compare(
            first.interfaces, again.interfaces if again is not None else None
        ),
        stuck_for_s=[each.waits_s for each in stuck],
        not_proven=unproven.count(Finding.NOT_PROVEN),
        unwatched=unwatched,
        load=host.load[0] if host.load else None,
        cpus=host.cpus,
        guests=guests.compare(first.guests, again.guests if again is not None else None),
        max_busy_us=kipmid.max_busy_us(roots.sys),
        queued_share=queued_share,
        sees_interface=_sees_interface(roots, again or first, scan),
        gone_interfaces=_gone(first, again),
        stranded_for_s=[each.waits_s for each in stuck if each.is_stranded],
        blind=_blind(roots, scan, spared, stuck_after_s),
    )
    standing, meter_waiters = _others_that_wait(roots, scan)
    return Triage(
        host, scan, stuck, spared, facts, diagnosis.diagnose(facts), standing, meter_waiters
    )


def _moment(proc: Tree, sys: Optional[Tree], scan: ProcessScan) -> _Moment:
    return _Moment(
        uptime_s=now_s(proc),
        kipmi=kipmid.mark(proc, scan.kipmi),
        guests=guests.mark(proc, scan.guests),
        interfaces=interface.read(sys, proc),
    )


def _gone(first: _Moment, again: Optional[_Moment]) -> List[str]:
    left = {each.name for each in (again or first).interfaces}
    return [each.name for each in first.interfaces if each.name not in left]


def _sees_interface(roots: Roots, last: _Moment, scan: ProcessScan) -> bool:
    """Whether an interface to the BMC can be seen on this host."""
    if last.interfaces or last.kipmi:
        return True
    sys = roots.sys_again or roots.sys
    if sys is not None and os.path.isdir(sys.root + ("/class" if roots.is_live else "/class/ipmi")):
        return False
    # A bare proc tree has no /sys, but a device that a process has open belongs to an interface.
    return not all(is_gone(device) for each in scan.openers for device in each.devices)


def _wait(
    roots: Roots, first: _Moment, interval_s: float, sleep: Callable[[float], None]
) -> Optional[float]:
    """Wait for the second sample; returns how often messages waited meanwhile, if that is known."""
    sys = roots.sys_again or roots.sys
    if sys is None or all(each.queued is None for each in first.interfaces):
        sleep(interval_s)
        return None
    waited = 0
    for _ in range(QUEUE_SAMPLES):
        sleep(interval_s / QUEUE_SAMPLES)
        waited += interface.queued(sys, first.interfaces) > 0
    return waited / QUEUE_SAMPLES


def now_s(proc: Tree) -> float:
    """Return the seconds since the boot; without an uptime, the youngest process's start."""
    try:
        return uptime_s(proc)
    except ProcError:
        stats = (proc.stat_or_none(pid) for pid in proc.pids())
        return (
            max((stat.start_ticks for stat in stats if stat is not None), default=0) / TICKS_PER_S
        )


def _judged(
    roots: Roots, scan: ProcessScan, stuck_after_s: float, watched_s: float, with_stacks: bool
) -> Tuple[List[Stuck], List[Spared]]:
    """Return the clients that are proven stuck, oldest first, and the others that remain."""
    tree = roots.proc if roots.again is None else roots.again
    if roots.again is None:
        # No clock was read for a bare proc tree. Each is at least as late as the last turn there.
        now = Now(now_s(tree), latest_turns_s(tree))
    else:
        now = Now(now_s(tree), clocks_s(tree, cpus_of(scan.clients)))
    launchers = Launchers(tree, UserDatabase(roots.etc), roots.run)
    stuck, spared = [], []
    for client in scan.clients:
        try:
            with tree.hold(client.identity.pid) as process:
                sample = ClientSample.at(process, now, with_stack=with_stacks)
                verdict = unless_too_soon(judge(client, sample, stuck_after_s), sample, watched_s)
                if verdict.is_stuck:
                    launcher = launchers.of(process, sample.stat)
                    stuck.append(Stuck(client, sample, verdict.evidence, launcher))
                    continue
        except Gone:
            continue  # it has ended
        except ProcError as error:
            verdict = ClientVerdict(Finding.NOT_PROVEN, [str(error)])
        if verdict.finding is not Finding.GONE:
            spared.append(Spared(client, verdict, age_s(client.first.stat, now.uptime_s)))
    return sorted(stuck, key=lambda each: -each.sample.age_s), spared


def _others_that_wait(roots: Roots, scan: ProcessScan) -> Tuple[List[Waiting], List[Waiting]]:
    """Return the openers that stand still, and the readers that sleep in a power meter."""
    standing: List[Waiting] = []
    asleep: List[Waiting] = []
    if roots.again is None or not (scan.openers or scan.meter_readers):
        return standing, asleep
    now = Now(now_s(roots.again), {})
    for opener in scan.openers:
        why = _still(roots.again, opener, now) if opener.mark is not None else None
        if why is not None:
            standing.append(Waiting(opener, why))
    for opener in scan.meter_readers:
        why = _sleeps_in_meter(roots.again, opener)
        if why is not None:
            asleep.append(Waiting(opener, why))
    return standing, asleep


def _still(tree: Tree, opener: Opener, now: Now) -> Optional[str]:
    """Return how an opener stands still; None: it ran, or has ended."""
    try:
        with tree.hold(opener.identity.pid) as process:
            sample = ClientSample.at(process, now)
    except ProcError:
        return None
    first, mark = opener.mark, sample.mark
    is_known = first is not None and mark.turns is not None
    if not is_known or first is None or mark.stat.identity != opener.identity:
        return None
    if mark.is_running or mark.has_moved_since(first):
        return None
    # Only the first thread's turns are counted for the process.
    which = "has" if mark.stat.threads == 1 else "the first of its threads has"
    place = f", waits in {sample.wchan}" if sample.wchan is not None else ""
    call = f", called by {sample.driver_call}" if sample.driver_call is not None else ""
    return f"{which} not run while it was watched: state {mark.stat.state}{place}{call}"


def _sleeps_in_meter(tree: Tree, reader: Opener) -> Optional[str]:
    """Return how a process sleeps while it reads a power meter; None: it does not."""
    folder = f"{reader.identity.pid}/task/"
    try:
        with tree.hold(reader.identity.pid) as process:
            if process.stat().identity != reader.identity:
                return None
            files = process.open_files() or {}
            if not set(reader.devices) & set(files.values()):
                return None
            if process.stat().state == "D":
                return f"sleeps (state D) with {reader.devices[0]} open"
        for thread in sorted(tree.pids(folder))[:THREADS_MAX]:
            if tree.stat(thread, folder).state == "D":
                return f"its thread {thread} sleeps (state D) with {reader.devices[0]} open"
    except ProcError:
        pass
    return None


def _blind(
    roots: Roots, scan: ProcessScan, spared: List[Spared], stuck_after_s: float
) -> List[str]:
    """Return what could not be seen and may be a stuck client."""
    reasons = []
    unknown = [
        each
        for each in spared
        if each.verdict.finding.is_unproven
        and each.age_s >= stuck_after_s
        and each.client.excluded is None
    ]
    if unknown:
        clients = "client" if len(unknown) == 1 else "clients"
        why = "; ".join(unknown[0].verdict.evidence)
        reasons.append(f"whether {len(unknown)} IPMI {clients} hang ({why})")
    # A captured tree belongs to another user, and need not hold every process.
    if roots.is_live and scan.hidden:
        reasons.append(f"what the processes are that cannot be read ({scan.hidden})")
    hidden = roots.proc.hidden() if roots.is_live else None
    return [*reasons, hidden] if hidden is not None else reasons


def _captured_at(roots: Roots, epoch_s: Callable[[], float]) -> float:
    """Return when the second sample was taken, in epoch seconds."""
    if roots.is_live:
        return epoch_s()
    tree = roots.proc if roots.again is None else roots.again
    booted = boot_time_s(roots.proc)
    try:
        if booted is not None:
            return booted + uptime_s(tree)
    except ProcError:
        pass
    return os.stat(tree.root).st_mtime
