"""Find the stuck clients, prove them stuck again right before each signal, and end them.

`ClientTracker` judges every client from scan to scan. The first scan only marks how far each client
has come, and later scans judge it. A client that made progress is marked again, so that only what
it did since then counts.

`Ender` ends the clients that are proven stuck, each by its own proof. It never signals a process
group, because a process may have joined the group since the scan. A group whose every member is
proven stuck ends all the same, member by member. For the same reason the first process of a pid
namespace comes last, and only when every other process in the namespace is proven stuck: the
kernel ends them all together with it.
"""

from enum import Enum
from signal import Signals

from bmcmedic.host.client.stuck import (
    WATCHED_S_MIN,
    Client,
    ClientSample,
    ClientVerdict,
    Finding,
    Now,
    cpus_of,
    idle_s_min,
    judge,
    unless_too_soon,
)
from bmcmedic.host.kernel.namespaces import depth_as_first, others_in_namespace
from bmcmedic.host.kernel.proc import (
    Gone,
    ProcError,
    Process,
    ProcessIdentity,
    Stat,
    Tree,
    Unreadable,
    age_s,
    uptime_s,
)
from bmcmedic.host.kernel.progress import Mark
from bmcmedic.host.kernel.signals import NotSent, Sender
from bmcmedic.host.typed import Callable, Dict, List, NamedTuple, Optional

CLIENTS_MAX = 4096
"""Number of clients that one scan judges. Later scans judge the rest, when some have ended."""

APART_S_MIN = 0.5
"""Time between the mark of a client and the sample that judges it, at the least, in seconds."""

_PROVEN_BY_TIME = (Finding.YOUNG, Finding.PROGRESS, Finding.WATCHED_TOO_BRIEFLY)
"""A client with one of these findings may be proven stuck later, if it does not run until then."""

SIGTERM = 15
SIGKILL = 9

TERM_WAIT_S = 1.5
"""Time that a client has to end by itself after SIGTERM, in seconds.

It only has to leave a select().
"""
SETTLE_S = 0.5
"""Time after SIGTERM when a client is marked, in seconds. What it does from then on is progress."""
LAST_WAIT_S = 1.0
"""Time for the clients that got SIGKILL, or that end but wait for a CPU, in seconds."""
POLL_S = 0.02
"""Time between two polls for the end of clients, in seconds."""


# -------------------------------------------------------------------- judging the clients


class JudgedClient(NamedTuple):
    """A client, the sample that judges it, and the verdict."""

    client: Client
    sample: ClientSample
    verdict: ClientVerdict


class _Marked(NamedTuple):
    """A client and the time of its mark."""

    client: Client
    at_uptime_s: float


class ClientTracker:
    """The clients of one host, tracked from scan to scan."""

    def __init__(self, tree: Tree, stuck_after_s: float) -> None:
        """`stuck_after_s`: the age from which a client that makes no progress counts as stuck."""
        self.tree = tree
        self.stuck_after_s = stuck_after_s
        self._still_s = max(idle_s_min(stuck_after_s), WATCHED_S_MIN)
        self._known: Dict[ProcessIdentity, _Marked] = {}
        self.unseen = 0
        """Number of clients beyond the limit in the last scan."""
        self.due_s: List[float] = []
        """For each client that time may prove stuck: in how many seconds from the last scan."""

    def scan(self) -> List[JudgedClient]:
        """Scan all processes, and judge the clients that were marked long enough ago.

        The oldest client comes first. Raises Gone or Unreadable if the tree has no clock.
        """
        now = Now.of(self.tree, cpus_of(marked.client for marked in self._known.values()))
        judged: List[JudgedClient] = []
        known: Dict[ProcessIdentity, _Marked] = {}
        due: List[Optional[float]] = []
        self.unseen = 0
        for pid in self.tree.pids():
            try:
                with self.tree.hold(pid) as process:
                    marked = self._mark(process)
                    if marked is None:
                        continue
                    if len(known) >= CLIENTS_MAX:
                        self.unseen += 1
                        continue
                    known[marked.client.identity] = marked
                    apart_s = now.uptime_s - marked.at_uptime_s
                    if apart_s < APART_S_MIN:
                        due.append(self._due_s_of_new(marked, now))
                        continue
                    seen = self._judge(marked.client, process, now, apart_s)
                    verdict = unless_too_soon(seen.verdict, seen.sample, apart_s)
                    judged.append(seen._replace(verdict=verdict))
            except ProcError:
                continue  # it has ended or is unreadable, so nothing is proven
        marked_at_s = uptime_s(self.tree)
        for each in judged:
            if _has_moved(each):
                renewed = each.client._replace(first=each.sample.mark)
                known[renewed.identity] = _Marked(renewed, marked_at_s)
            due.append(self._due_s(each, now.uptime_s - known[each.client.identity].at_uptime_s))
        self._known = known
        self.due_s = [seconds for seconds in due if seconds is not None]
        return sorted(judged, key=lambda each: each.client.identity[::-1])

    def _mark(self, process: Process) -> Optional[_Marked]:
        """Return the client that a process is now, with its earlier mark if it is the same."""
        fresh = Client.of(process)
        if fresh is None:
            return None
        earlier = self._known.get(fresh.identity)
        if earlier is None or not _is_same(fresh, earlier.client):
            return _Marked(fresh, uptime_s(self.tree))
        return _Marked(fresh._replace(first=earlier.client.first), earlier.at_uptime_s)

    def _due_s_of_new(self, marked: _Marked, now: Now) -> Optional[float]:
        client = marked.client
        if client.doubt is not None or client.excluded is not None:
            return None
        return max(APART_S_MIN, self.stuck_after_s - age_s(client.first.stat, now.uptime_s))

    def _due_s(self, judged: JudgedClient, watched_s: float) -> Optional[float]:
        """Return None if the client is proven stuck already, or if time alone will not prove it."""
        sample, verdict = judged.sample, judged.verdict
        if verdict.finding not in _PROVEN_BY_TIME:
            return None
        if sample.idle_s is None:
            still_s = WATCHED_S_MIN - watched_s
        else:
            still_s = self._still_s - (0.0 if sample.mark.is_running else sample.idle_s)
        return max(APART_S_MIN, self.stuck_after_s - sample.age_s, still_s)

    def _judge(self, client: Client, process: Process, now: Now, still_s: float) -> JudgedClient:
        """Judge a client by its held process; raises Gone or Unreadable.

        `still_s`: how long the client has not run if it has not moved since its first mark.
        """
        sample = ClientSample.at(process, now)
        # A CPU's clock stops while the CPU handles interrupts, but our own clock does not.
        is_still = sample.mark.turns is not None and not sample.mark.has_moved_since(client.first)
        if is_still and sample.idle_s is not None and sample.idle_s < still_s:
            sample = sample._replace(idle_s=still_s)
        verdict = judge(client, sample, self.stuck_after_s, WATCHED_S_MIN)
        return JudgedClient(client, sample, verdict)

    def prove_again(
        self, judged: JudgedClient, process: Process, now: Now, still_s: float
    ) -> JudgedClient:
        """Judge a client as it is now, right before something is done to it.

        `still_s`: the idle time of the earlier sample. Raises Gone if the client has ended, and
        Unreadable if its process cannot be read.
        """
        fresh = Client.of(process)
        if fresh is None or fresh.identity != judged.client.identity:
            raise Gone("it has ended")
        if not _is_same(fresh, judged.client):
            raise Unreadable("it runs another program now")
        client = fresh._replace(first=judged.client.first)
        return self._judge(client, process, now, still_s)


def _has_moved(judged: JudgedClient) -> bool:
    """Whether the client needs a new mark."""
    if judged.verdict.finding not in (Finding.YOUNG, Finding.PROGRESS):
        return False
    return judged.sample.mark.is_running or judged.sample.mark.has_moved_since(judged.client.first)


def _is_same(one: Client, other: Client) -> bool:
    """Whether a process still runs the same program: it may start another and keep its pid."""
    return (one.identity, one.program, one.argv) == (other.identity, other.program, other.argv)


# ---------------------------------------------------------------------- ending a client


class Outcome(Enum):
    """What came of a stuck client."""

    ENDED = "ended"
    KILLED = "killed"
    GONE = "gone"
    """The client ended before any signal was sent to it."""
    SPARED = "spared"
    """The client was not proven stuck a second time."""
    UNINTERRUPTIBLE = "uninterruptible"
    """The client is in the kernel (state D), and ends as soon as the kernel lets it."""
    SURVIVED = "survived"
    DENIED = "denied"
    """This process may not send signals to the client."""
    EXCLUDED = "left alone"
    """Other processes would end with the client that are not proven stuck."""
    NOT_ATTEMPTED = "not attempted"
    """Relief is or was switched off."""

    @property
    def is_relieved(self) -> bool:
        """Whether the client is gone, or nothing had to be done."""
        return self in (Outcome.ENDED, Outcome.KILLED, Outcome.GONE, Outcome.SPARED)


class ClientEnding(NamedTuple):
    """What was done to a client, and what came of it."""

    judged: JudgedClient
    outcome: Outcome
    signals: List[str]
    through: Optional[str]
    """`pidfd` or `pid`; None: no signal was sent."""
    why: Optional[str]
    took_s: Optional[float]
    """Time from the first signal until the client was seen gone, in seconds."""


class _Case:
    """A client that is being ended."""

    def __init__(self, judged: JudgedClient) -> None:
        self.judged = judged
        self.outcome: Optional[Outcome] = None
        self.signals: List[str] = []
        self.through: Optional[str] = None
        self.why: Optional[str] = None
        self.sent_at = 0.0
        self.took_s: Optional[float] = None
        self.settled: Optional[Mark] = None
        self.depth = 0
        """Depth of the pid namespace whose first process it is; 0: it is the first of none."""

    @property
    def identity(self) -> ProcessIdentity:
        return self.judged.client.identity

    def close(self, outcome: Outcome, why: Optional[str] = None) -> None:
        self.outcome, self.why = outcome, why

    def ending(self) -> ClientEnding:
        outcome = self.outcome if self.outcome is not None else Outcome.SURVIVED
        return ClientEnding(self.judged, outcome, self.signals, self.through, self.why, self.took_s)


class Ender:
    """Ends stuck clients. Its clock, sleep and signals are handed in."""

    def __init__(
        self,
        clients: ClientTracker,
        sender: Sender,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        is_forbidden: Callable[[], bool],
    ) -> None:
        """`is_forbidden` is called before each signal; if it returns True, no more are sent."""
        self._clients = clients
        self._sender = sender
        self._monotonic = monotonic
        self._sleep = sleep
        self._is_forbidden = is_forbidden
        # A round of proofs has one moment: a client that runs after it counts as running.
        self._now = Now(0.0, {})
        self._signals: Dict[ProcessIdentity, List[str]] = {}
        """The signals that each client got in the present round."""

    @property
    def _tree(self) -> Tree:
        return self._clients.tree

    def end(self, stuck: List[JudgedClient]) -> List[ClientEnding]:
        """Send SIGTERM, wait, send SIGKILL and wait; nothing waits for a client in state D.

        Raises Gone or Unreadable if the tree has no clock.
        """
        cases = self._cases(stuck)
        self._signals = {case.identity: case.signals for case in cases}
        self._now = Now.of(self._tree, cpus_of(case.judged.client for case in cases))
        for case in _open(cases):
            self._signal(case, SIGTERM, self._prove_stuck)
        begun = self._monotonic()
        self._wait(cases, begun + SETTLE_S)
        for case in _open(cases):
            self._settle(case)
        self._wait(cases, begun + TERM_WAIT_S)
        # SIGTERM may have woken the clients up, so their last turns prove nothing any more.
        self._now = Now.of(self._tree)
        for case in _open(cases):
            self._signal(case, SIGKILL, self._prove_ignored)
        self._wait(cases, self._monotonic() + LAST_WAIT_S)
        for case in _open(cases):
            self._give_up(case)
        return [case.ending() for case in cases]

    def excluded(self, stuck: List[JudgedClient]) -> List[ClientEnding]:
        """Return the clients that would be spared for the sake of others; sends nothing."""
        cases = self._cases(stuck)
        identities = {case.identity for case in cases}
        for case in cases:
            if not case.depth:
                continue
            try:
                with self._tree.hold(case.identity.pid) as process:
                    living = others_in_namespace(self._tree, process, case.depth)
                why = _why_excluded([s for s in living if s.identity not in identities])
            except Gone:
                continue
            except ProcError as error:
                why = str(error)
            if why is not None:
                case.close(Outcome.EXCLUDED, why)
        return [case.ending() for case in cases if case.outcome is not None]

    def _cases(self, stuck: List[JudgedClient]) -> List[_Case]:
        """Order the cases: the first processes of pid namespaces last, innermost first."""
        cases = [_Case(judged) for judged in stuck]
        for case in cases:
            self._find_depth(case)
        return sorted(cases, key=lambda case: (case.depth > 0, -case.depth))

    def _find_depth(self, case: _Case) -> None:
        try:
            with self._tree.hold(case.identity.pid) as process:
                case.depth = depth_as_first(self._tree, process)
        except Gone:
            pass  # its signal will find it gone as well
        except ProcError as error:
            case.close(Outcome.SPARED, str(error))

    # ----------------------------------------------------------------------------- one signal

    def _signal(
        self, case: _Case, number: int, prove: Callable[[_Case, Process], Optional[str]]
    ) -> None:
        """Hold the process, prove the client stuck, and then signal it through the same hold."""
        if self._is_forbidden():
            case.close(Outcome.NOT_ATTEMPTED, "relief was switched off")
            return
        try:
            with self._tree.hold(case.identity.pid) as process:
                refusal = prove(case, process)
                if refusal is not None:
                    self._refuse(case, refusal)
                    return
                others = self._why_others_end(case, process, number)
                if others is not None:
                    self._refuse(case, others, Outcome.EXCLUDED)
                    return
                sent = self._sender.send(process, case.identity, number)
        except Gone:
            self._gone(case)
        except ProcError as error:
            self._refuse(case, str(error))
        except NotSent as error:
            case.close(Outcome.DENIED, str(error))
        else:
            case.sent_at = case.sent_at if case.signals else self._monotonic()
            case.signals.append(sent.name)
            case.through = sent.through

    def _refuse(self, case: _Case, why: str, outcome: Outcome = Outcome.SPARED) -> None:
        if case.signals:
            case.why = why  # it may still end by itself in the last wait
        else:
            case.close(outcome, why)

    def _why_others_end(self, case: _Case, process: Process, number: int) -> Optional[str]:
        """Return which unproven processes would end with it; None: all got the same signal."""
        if not case.depth:
            return None
        name = Signals(number).name[3:]
        living = others_in_namespace(self._tree, process, case.depth)
        return _why_excluded(
            [stat for stat in living if name not in self._signals.get(stat.identity, [])]
        )

    def _prove_stuck(self, case: _Case, process: Process) -> Optional[str]:
        again = self._clients.prove_again(
            case.judged, process, self._now, case.judged.sample.idle_s or 0.0
        )
        if again.verdict.finding is Finding.GONE:
            raise Gone("it has ended")
        if not again.verdict.is_stuck:
            return ", ".join(again.verdict.evidence)
        case.judged = again
        return None

    def _prove_ignored(self, case: _Case, process: Process) -> Optional[str]:
        """Return why the client may be heeding SIGTERM: only progress since it settled counts."""
        if case.settled is None:
            return "it was not seen standing still after SIGTERM"
        first = case.judged.client._replace(first=case.settled)
        since = case.judged._replace(client=first)
        again = self._clients.prove_again(since, process, self._now, 0.0)
        if again.verdict.finding is Finding.GONE:
            raise Gone("it has ended")
        if not again.verdict.is_stuck:
            return "after SIGTERM: " + ", ".join(again.verdict.evidence)
        return None

    def _settle(self, case: _Case) -> None:
        try:
            with self._tree.hold(case.identity.pid) as process:
                mark = Mark.of(process)
        except ProcError:
            return
        case.settled = mark if mark.stat.identity == case.identity else None

    # -------------------------------------------------------------------------------- the end

    def _wait(self, cases: List[_Case], until: float) -> None:
        """Wait until `until`, or until no client is left but those in state D."""
        while True:
            interruptible = [case for case in _open(cases) if self._state(case) not in (None, "D")]
            now = self._monotonic()
            if not interruptible or now >= until:
                return
            self._sleep(min(POLL_S, until - now))

    def _state(self, case: _Case) -> Optional[str]:
        """Return the state of the process; None: it is gone, and its case is closed."""
        try:
            stat = self._tree.stat(case.identity.pid)
        except Gone:
            self._gone(case)
            return None
        except ProcError:
            return "?"
        if stat.identity != case.identity or stat.state in "ZXx":
            self._gone(case)
            return None
        return stat.state

    def _gone(self, case: _Case) -> None:
        if not case.signals:
            case.close(Outcome.GONE)
            return
        case.took_s = self._monotonic() - case.sent_at
        case.close(Outcome.KILLED if "KILL" in case.signals else Outcome.ENDED)

    def _give_up(self, case: _Case) -> None:
        state = self._state(case)
        if state == "D":
            case.close(Outcome.UNINTERRUPTIBLE, "in the kernel; it ends as soon as that lets it")
        elif state is not None:
            case.close(Outcome.SURVIVED, case.why or "it is still there after SIGKILL")


def _open(cases: List[_Case]) -> List[_Case]:
    return [case for case in cases if case.outcome is None]


def _why_excluded(innocent: List[Stat]) -> Optional[str]:
    if not innocent:
        return None
    count, one = len(innocent), innocent[0]
    are = "other that is" if count == 1 else "others that are"
    return (
        f"the first process of a container: {count} {are} not proven stuck would end with it,"
        f" such as {one.comm} (pid {one.pid})"
    )


def group_members(tree: Tree, stuck: List[JudgedClient]) -> Dict[int, int]:
    """Return the number of live members of each process group that has a stuck client."""
    groups = {judged.sample.stat.group: 0 for judged in stuck}
    for pid in tree.pids() if groups else []:
        try:
            stat = tree.stat(pid)
        except ProcError:
            continue
        if stat.group in groups and stat.state not in "ZXx":
            groups[stat.group] += 1
    return groups
