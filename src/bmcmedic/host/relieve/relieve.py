"""Relief: free a host whose BMC hangs from the clients that hang with it, at once.

Relief does three things, and each only on proof. It ends stuck clients. It throttles the kernel's
polling thread while the hang lasts, and puts its limit back when the BMC answers again. It never
touches the BMC itself. Which client is stuck is judged in `host.client.stuck`; it is ended, or
spared, in `end_client`.

`relieve` is relief by hand. A long-running program calls `step` when
`next_due_at` says so and from time to time, and calls `watch`, which costs next to nothing, in
between.
"""

import math
import os
import time

from bmcmedic.host.client.launcher import Launcher, UserDatabase, launcher_of
from bmcmedic.host.client.stuck import WATCHED_S_MIN, Finding
from bmcmedic.host.kernel import interface, kipmid
from bmcmedic.host.kernel.interface import InterfaceActivity, InterfaceCounters
from bmcmedic.host.kernel.kipmid import Kipmi, KipmiMark
from bmcmedic.host.kernel.proc import PROC, ProcError, ProcessIdentity, Stat, Tree
from bmcmedic.host.kernel.signals import Sender, why_pids_mean_nothing
from bmcmedic.host.relieve import kipmid_throttle
from bmcmedic.host.relieve.end_client import (
    APART_S_MIN,
    ClientEnding,
    ClientTracker,
    Ender,
    JudgedClient,
    Outcome,
    group_members,
)
from bmcmedic.host.relieve.kill_switch import KILL_SWITCH, why_disabled
from bmcmedic.host.relieve.kipmid_throttle import KipmidThrottle, ThrottleSetting
from bmcmedic.host.relieve.undo_journal import DIRECTORY, UndoJournal
from bmcmedic.host.typed import Callable, Dict, List, NamedTuple, Optional

SCAN_INTERVAL_S = 1.0
"""Time between two scans of a relief by hand, before and after it acts, in seconds."""
SILENT_S = 10.0
"""Time after which a kernel that waits and gets nothing counts as hung, in seconds (see triage)."""
KERNEL_SAMPLE_S_MIN = 0.9
"""Shortest time over which a change of the kernel's counters means anything, in seconds."""
KIPMI_SEARCH_S = 60.0
"""Time between two searches for polling threads where none is known, in seconds."""
DUE_LATE_S = 0.05
"""Delay of a scan after a client is due, in seconds: the kernel's clocks are coarse."""

_BOOT_ID = "sys/kernel/random/boot_id"


class HostTrees(NamedTuple):
    """The host as relief reaches it; tests hand in a host of files."""

    proc: Tree
    sys: Tree
    etc: Optional[Tree]
    run: Optional[Tree]
    sender: Sender
    kill_switch: str = KILL_SWITCH
    journal_directory: str = DIRECTORY
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.time

    @classmethod
    def here(cls) -> "HostTrees":
        """Return the host on which this program runs."""
        return cls(
            proc=Tree(PROC),
            sys=Tree("/sys"),
            etc=Tree("/etc"),
            run=Tree("/run"),
            sender=Sender.of_this_system(),
        )


class ClientGroup(NamedTuple):
    """The process group of a stuck client."""

    number: int
    members: int
    stuck: int


class ReliefCase(NamedTuple):
    """A client, the verdict on it, and what was done about it."""

    judged: JudgedClient
    launcher: Optional[Launcher]
    group: Optional[ClientGroup]
    """The launcher and the group are known in the report of a relief by hand only."""
    ending: Optional[ClientEnding]
    """None: nothing was done to the client."""
    is_earlier: bool = False
    """Whether an earlier scan found the client and dealt with it."""


class Report(NamedTuple):
    """What one relief found and did."""

    at: float
    """When the clients were judged, in epoch seconds."""
    acted: bool
    disabled: Optional[str]
    """Why nothing may be done on this host; None: it is allowed."""
    cases: List[ReliefCase]
    unseen: int
    """Number of clients beyond the limit of one scan."""
    kipmi_before: List[Kipmi]
    setting: ThrottleSetting

    @property
    def stuck(self) -> List[ReliefCase]:
        """The clients that are, or were, proven stuck."""
        return [case for case in self.cases if case.judged.verdict.is_stuck]

    @property
    def is_to_do(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.stuck) or self.setting.action.is_change

    def left(self, stuck_after_s: float) -> List[ReliefCase]:
        """Return what is still stuck, and the old clients that could not be judged."""
        return [case for case in self.cases if _is_left(case, stuck_after_s)]


class Relief:
    """The relief of one host, from scan to scan."""

    def __init__(self, host: HostTrees, stuck_after_s: float) -> None:
        """Nothing is read or changed before the first scan."""
        self.stuck_after_s = stuck_after_s
        self._host = host
        self._clients = ClientTracker(host.proc, stuck_after_s)
        self._users = UserDatabase(host.etc)
        self._ender = Ender(
            self._clients, host.sender, host.monotonic, host.sleep, self._is_forbidden
        )
        journal = UndoJournal(
            host.proc.text(_BOOT_ID) or "", host.monotonic, host.sleep, host.journal_directory
        )
        self.throttle = KipmidThrottle(host.sys.root, journal, host.now)
        self._kipmi_threads: Dict[ProcessIdentity, Stat] = {}
        self._kipmi_searched_at = -math.inf
        self._kipmi_marks: Optional[List[KipmiMark]] = None
        self._counters: Optional[List[InterfaceCounters]] = None
        self.kipmi: List[Kipmi] = []
        """The polling threads, between the last two samples of the kernel."""
        self.interfaces: List[InterfaceActivity] = []
        self._left: List[ReliefCase] = []
        """The clients that the last scan left stuck."""
        self.scanned_at = -math.inf
        """When the last scan ended, by the clock of the host."""
        self._scan_began_at = 0.0
        self._kernel_sampled_at: Optional[float] = None
        self._silent_since: Optional[float] = None
        """Since when messages have waited and none has completed; None: that is not so."""
        self._still_since: Optional[float] = None
        """Since when no message has completed; None: that is not so."""

    def relieve(self, may_act: bool) -> Report:
        """Scan twice and act on what is proven; raises ProcError if /proc cannot be read."""
        self.scan()
        self._host.sleep(SCAN_INTERVAL_S)
        judged = self.scan()
        if any(each.verdict.finding is Finding.WATCHED_TOO_BRIEFLY for each in judged):
            self._host.sleep(WATCHED_S_MIN + APART_S_MIN)
            judged = self.scan()
        return self._act(judged, may_act, is_by_hand=True)

    def scan(self) -> List[JudgedClient]:
        """Scan the clients and the kernel, and change nothing; raises ProcError."""
        self._scan_began_at = self._host.monotonic()
        judged = self._clients.scan()
        self._find_polling_threads()
        self._sample_kernel()
        self.scanned_at = self._host.monotonic()
        return judged

    def next_due_at(self, within_s: float) -> Optional[float]:
        """Return when the next client may be proven stuck, by the clock of the host.

        If more clients follow it within `within_s`, return when the last of these may be. None: no
        client is known that time alone may prove stuck.
        """
        due_s = self._clients.due_s
        if not due_s:
            return None
        last_s = min(due_s) + within_s
        return self._scan_began_at + max(s for s in due_s if s <= last_s) + DUE_LATE_S

    def _sample_kernel(self) -> None:
        """Measure the CPU time of the polling threads, and read the interfaces' counters."""
        now, earlier = self._host.monotonic(), self._kernel_sampled_at
        if earlier is not None and now - earlier < KERNEL_SAMPLE_S_MIN:
            return
        marks = kipmid.mark(self._host.proc, list(self._kipmi_threads.values()))
        counters = interface.read(self._host.sys, self._host.proc)
        if self._kipmi_marks is not None and self._counters is not None:
            self.kipmi = kipmid.compare(self._kipmi_marks, marks)
            self.interfaces = interface.compare(self._counters, counters)
        self._kipmi_marks, self._counters, self._kernel_sampled_at = marks, counters, now
        is_silent = kipmid_throttle.is_silent(self.interfaces)
        is_still = kipmid_throttle.is_still(self.interfaces)
        self._silent_since = (self._silent_since or earlier) if is_silent else None
        self._still_since = (self._still_since or earlier) if is_still else None

    def step(self, may_act: bool) -> Report:
        """Scan once more and act on what was proven since the last scan; raises ProcError."""
        return self._act(self.scan(), may_act)

    def watch(self, may_act: bool) -> Report:
        """Sample the kernel alone; the clients are as the last scan left them."""
        self._sample_kernel()
        at, disabled = self._host.now(), self._why_forbidden()
        acts = may_act and disabled is None
        setting = self._throttle(bool(self._left), acts)
        cases = [case._replace(is_earlier=True) for case in self._left]
        return Report(at, acts, disabled, cases, self._clients.unseen, self.kipmi, setting)

    def _act(self, judged: List[JudgedClient], may_act: bool, is_by_hand: bool = False) -> Report:
        at = self._host.now()
        kipmi = self.kipmi
        disabled = self._why_forbidden()
        acts = may_act and disabled is None
        stuck = [each for each in judged if each.verdict.is_stuck]
        launchers: Dict[ProcessIdentity, Optional[Launcher]] = {}
        groups: Dict[int, ClientGroup] = {}
        if is_by_hand:
            launchers = {each.client.identity: self._launcher(each) for each in stuck}
            groups = self._groups(stuck)
        setting = self._throttle(bool(stuck), acts)
        blocked = self._blocked(stuck) if acts else {}
        endings = dict(blocked)
        stuck = [each for each in stuck if each.client.identity not in blocked]
        ended = self._ender.end(stuck) if acts else self._ender.excluded(stuck)
        endings.update((each.judged.client.identity, each) for each in ended)
        earlier = {case.judged.client.identity for case in self._left if _is_excluded(case.ending)}
        known = {i for i in earlier if _is_excluded(endings.get(i))}.union(blocked)
        cases = [
            ReliefCase(
                each,
                launchers.get(each.client.identity),
                groups.get(each.sample.stat.group) if each.verdict.is_stuck else None,
                endings.get(each.client.identity),
                each.client.identity in known,
            )
            for each in judged
        ]
        self._left = [case for case in cases if case.judged.verdict.is_stuck and not is_gone(case)]
        return Report(at, acts, disabled, cases, self._clients.unseen, kipmi, setting)

    def _throttle(self, is_stuck: bool, acts: bool) -> ThrottleSetting:
        # On a host with the shim and the driver no client gets stuck, so silence is proof as well.
        is_proven = is_stuck or self._is_long(self._silent_since)
        is_still = self._is_long(self._still_since)
        return self.throttle.apply(self.kipmi, self.interfaces, is_proven, acts, is_still)

    def _blocked(self, stuck: List[JudgedClient]) -> Dict[ProcessIdentity, ClientEnding]:
        """Return the clients that got SIGKILL and are still in the kernel: they need no more."""
        blocked = {each.client.identity for each in stuck if each.sample.stat.state == "D"}
        earlier = {case.judged.client.identity: case.ending for case in self._left}
        return {
            identity: ending
            for identity, ending in earlier.items()
            if identity in blocked
            and ending is not None
            and ending.outcome is Outcome.UNINTERRUPTIBLE
            and "KILL" in ending.signals
        }

    def _is_long(self, since: Optional[float]) -> bool:
        return since is not None and self._host.monotonic() - since >= SILENT_S

    def pause(self, seconds: float) -> None:
        """Let some time pass, by the clock of the host."""
        self._host.sleep(seconds)

    def undo(self, may_act: bool) -> ThrottleSetting:
        """Put back what relief changed and did not put back yet; never raises."""
        return self.throttle.put_back("asked for", may_act)

    def _is_forbidden(self) -> bool:
        return why_disabled(self._host.kill_switch) is not None

    def _why_forbidden(self) -> Optional[str]:
        return why_disabled(self._host.kill_switch) or why_pids_mean_nothing(self._host.proc)

    def _find_polling_threads(self) -> None:
        """Find the polling threads, which takes a read of all processes: only if they changed."""
        proc, known = self._host.proc, self._kipmi_threads
        now = self._host.monotonic()
        is_known = all(_identity(proc, each.pid) == each for each in known)
        if is_known and now < self._kipmi_searched_at + (math.inf if known else KIPMI_SEARCH_S):
            return
        self._kipmi_searched_at = now
        stats = map(proc.stat_or_none, proc.pids())
        self._kipmi_threads = {
            stat.identity: stat
            for stat in stats
            if stat is not None and kipmid.is_polling_thread(stat)
        }

    def _launcher(self, judged: JudgedClient) -> Optional[Launcher]:
        proc, stat = self._host.proc, judged.sample.stat
        try:
            with proc.hold(stat.pid) as process:
                return launcher_of(process, stat, proc, self._users, self._host.run)
        except ProcError:
            return None

    def _groups(self, stuck: List[JudgedClient]) -> Dict[int, ClientGroup]:
        members = group_members(self._host.proc, stuck)
        ours = [each.sample.stat.group for each in stuck]
        return {
            number: ClientGroup(number, count, ours.count(number))
            for number, count in members.items()
        }


def is_gone(case: ReliefCase) -> bool:
    """Whether a stuck client is gone, or its proof did not hold."""
    return case.ending is not None and case.ending.outcome.is_relieved


def _is_excluded(ending: Optional[ClientEnding]) -> bool:
    return ending is not None and ending.outcome is Outcome.EXCLUDED


def _is_left(case: ReliefCase, stuck_after_s: float) -> bool:
    if case.judged.verdict.is_stuck:
        return not is_gone(case)
    if case.judged.sample.age_s < stuck_after_s or case.judged.client.excluded is not None:
        return False
    # It may be stuck. It is never ended without proof, and never called well either.
    return case.judged.verdict.finding.is_unproven or case.judged.sample.stat.state == "D"


def _identity(proc: Tree, pid: int) -> Optional[ProcessIdentity]:
    stat = proc.stat_or_none(pid)
    return stat.identity if stat is not None else None


def is_root() -> bool:
    """Whether this process may read and end everybody's processes."""
    return os.geteuid() == 0
