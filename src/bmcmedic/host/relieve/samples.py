"""Every client of a host and what it is found to be, look by look.

The first look only marks how far each has come; from the second on they are judged. A client that
has made progress is marked anew, so that what counts is what it did since.
"""

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
from bmcmedic.host.kernel.proc import (
    Gone,
    ProcError,
    Process,
    ProcessIdentity,
    Tree,
    Unreadable,
    age_s,
    uptime_s,
)
from bmcmedic.host.typed import Dict, List, NamedTuple, Optional

CLIENTS_MAX = 4096
"""At one look; more of them wait for the next, when some of these have ended."""

APART_S_MIN = 0.5
"""Between the mark and the look that a client is judged by."""

_PROVEN_BY_TIME = (Finding.YOUNG, Finding.PROGRESS, Finding.WATCHED_TOO_BRIEFLY)
"""A client with one of these findings may be proven stuck later, if it stands still until then."""


class JudgedClient(NamedTuple):
    """A client, a close look at it, and what it is found to be."""

    client: Client
    look: ClientSample
    verdict: ClientVerdict


class _Marked(NamedTuple):
    """A client with its mark, and when that had been made."""

    client: Client
    at_uptime_s: float


class ClientSamples:
    """The clients of one host, from one look to the next."""

    def __init__(self, tree: Tree, stuck_after_s: float) -> None:
        """`stuck_after_s`: the age from which a client that makes no progress counts as stuck."""
        self.tree = tree
        self.stuck_after_s = stuck_after_s
        self._still_s = max(idle_s_min(stuck_after_s), WATCHED_S_MIN)
        self._known: Dict[ProcessIdentity, _Marked] = {}
        self.unseen = 0
        """Clients beyond the limit at the last look."""
        self.due_s: List[float] = []
        """In how many seconds from the last look each one may be proven stuck that is not yet."""

    def look(self) -> List[JudgedClient]:
        """Look at all processes; judges those that were marked long enough ago, oldest first.

        Raises Gone or Unreadable where the tree has no clock.
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
                    verdict = unless_too_soon(seen.verdict, seen.look, apart_s)
                    judged.append(seen._replace(verdict=verdict))
            except ProcError:
                continue  # it has ended, or tells nothing: nothing is proven of it
        marked_at_s = uptime_s(self.tree)
        for each in judged:
            if _has_moved(each):
                renewed = each.client._replace(first=each.look.mark)
                known[renewed.identity] = _Marked(renewed, marked_at_s)
            due.append(self._due_s(each, now.uptime_s - known[each.client.identity].at_uptime_s))
        self._known = known
        self.due_s = [seconds for seconds in due if seconds is not None]
        return sorted(judged, key=lambda each: each.client.identity[::-1])

    def _mark(self, process: Process) -> Optional[_Marked]:
        """The client that a process is now, with its earlier mark if it is still the same."""
        fresh = Client.of(process)
        if fresh is None:
            return None
        earlier = self._known.get(fresh.identity)
        if earlier is None or not _is_same(fresh, earlier.client):
            return _Marked(fresh, uptime_s(self.tree))
        return _Marked(fresh._replace(first=earlier.client.first), earlier.at_uptime_s)

    def _due_s_of_new(self, marked: _Marked, now: Now) -> Optional[float]:
        client = marked.client
        if client.doubt is not None or client.left_alone is not None:
            return None
        return max(APART_S_MIN, self.stuck_after_s - age_s(client.first.stat, now.uptime_s))

    def _due_s(self, judged: JudgedClient, watched_s: float) -> Optional[float]:
        """None: it is proven already, or is none that time alone would prove."""
        look, verdict = judged.look, judged.verdict
        if verdict.finding not in _PROVEN_BY_TIME:
            return None
        if look.idle_s is None:
            still_s = WATCHED_S_MIN - watched_s
        else:
            still_s = self._still_s - (0.0 if look.mark.is_running else look.idle_s)
        return max(APART_S_MIN, self.stuck_after_s - look.age_s, still_s)

    def _judge(self, client: Client, process: Process, now: Now, still_s: float) -> JudgedClient:
        """Judge a client by the process that is held; raises Gone or Unreadable.

        `still_s`: if it stands where its first mark has it, it has not run for so long.
        """
        look = ClientSample.at(process, now)
        # A CPU's clock stands still while interrupts have the CPU, and a watcher's does not.
        is_still = look.mark.turns is not None and not look.mark.has_moved_since(client.first)
        if is_still and look.idle_s is not None and look.idle_s < still_s:
            look = look._replace(idle_s=still_s)
        verdict = judge(client, look, self.stuck_after_s, WATCHED_S_MIN)
        return JudgedClient(client, look, verdict)

    def prove_again(
        self, judged: JudgedClient, process: Process, now: Now, still_s: float
    ) -> JudgedClient:
        """Judge a client once more, as it is now, for it is about to be acted upon.

        `still_s`: as that judgement had it. Raises Gone when it has ended, Unreadable when it does
        not tell.
        """
        fresh = Client.of(process)
        if fresh is None or fresh.identity != judged.client.identity:
            raise Gone("it has ended")
        if not _is_same(fresh, judged.client):
            raise Unreadable("it runs another program now")
        client = fresh._replace(first=judged.client.first)
        return self._judge(client, process, now, still_s)


def _has_moved(judged: JudgedClient) -> bool:
    """Whether it is to be marked anew."""
    if judged.verdict.finding not in (Finding.YOUNG, Finding.PROGRESS):
        return False
    return judged.look.mark.is_running or judged.look.mark.has_moved_since(judged.client.first)


def _is_same(one: Client, other: Client) -> bool:
    """Whether it still runs the same program: a process may start another and keep its pid."""
    return (one.identity, one.program, one.argv) == (other.identity, other.program, other.argv)
