"""Every client of a host and what it is found to be, look by look.

The first look only marks how far each has come; from the second on they are judged. A client that
has made progress is marked anew, so that what counts is what it did since.
"""

from bmcmedic.host.clients import (
    Client,
    Finding,
    Look,
    Now,
    Verdict,
    cpus_of,
    idle_s_min,
    judge,
)
from bmcmedic.host.proc import Gone, Identity, ProcError, Process, Tree, Unreadable, age_s
from bmcmedic.host.typed import Dict, List, NamedTuple, Optional

CLIENTS_MAX = 4096
"""At one look; more of them wait for the next, when some of these have ended."""

APART_S_MIN = 0.5
"""Between the mark and the look that a client is judged by."""

STILL_S_MIN = 16.0
"""Who is ended has not run for so long, whatever the threshold.

Clients wake up after 15 s or never.
"""

APART_S_UNTOLD = STILL_S_MIN
"""Between the two looks where the kernel does not tell when it last ran."""

NOT_YET = "stands still, but has been watched for too short a time"


class Judged(NamedTuple):
    """A client, a close look at it, and what it is found to be."""

    client: Client
    look: Look
    verdict: Verdict


class _Marked(NamedTuple):
    """A client with its mark, and when that was made."""

    client: Client
    at_uptime_s: float


class Looks:
    """The clients of one host, from one look to the next."""

    def __init__(self, tree: Tree, stuck_after_s: float) -> None:
        """`stuck_after_s`: the age from which a client that makes no progress counts as stuck."""
        self.tree = tree
        self.stuck_after_s = stuck_after_s
        self._still_s = max(idle_s_min(stuck_after_s), STILL_S_MIN)
        self._known: Dict[Identity, _Marked] = {}
        self.unseen = 0
        """Clients beyond the limit at the last look."""
        self.due_s: List[float] = []
        """In how many seconds from the last look each one may be proven stuck that is not yet."""

    def look(self) -> List[Judged]:
        """Look at all processes; judges those that were marked long enough ago, oldest first.

        Raises Gone or Unreadable where the tree has no clock.
        """
        now = Now.of(self.tree, cpus_of(marked.client for marked in self._known.values()))
        judged: List[Judged] = []
        known: Dict[Identity, _Marked] = {}
        due: List[Optional[float]] = []
        self.unseen = 0
        for pid in self.tree.pids():
            try:
                with self.tree.hold(pid) as process:
                    marked = self._mark(process, now)
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
                    judged.append(seen if _is_enough(seen, apart_s) else _not_yet(seen))
            except ProcError:
                continue  # it has ended, or tells nothing: nothing is proven of it
        for each in judged:
            if _has_moved(each):
                renewed = each.client._replace(first=each.look.mark)
                known[renewed.identity] = _Marked(renewed, now.uptime_s)
            due.append(self._due_s(each, now.uptime_s - known[each.client.identity].at_uptime_s))
        self._known = known
        self.due_s = [seconds for seconds in due if seconds is not None]
        return sorted(judged, key=lambda each: each.client.identity[::-1])

    def _mark(self, process: Process, now: Now) -> Optional[_Marked]:
        """The client that a process is now, with its earlier mark if it is still the same."""
        fresh = Client.of(process)
        if fresh is None:
            return None
        earlier = self._known.get(fresh.identity)
        if earlier is None or not _is_same(fresh, earlier.client):
            return _Marked(fresh, now.uptime_s)
        return _Marked(fresh._replace(first=earlier.client.first), earlier.at_uptime_s)

    def _due_s_of_new(self, marked: _Marked, now: Now) -> Optional[float]:
        client = marked.client
        if client.doubt is not None or client.left_alone is not None:
            return None
        return max(APART_S_MIN, self.stuck_after_s - age_s(client.first.stat, now.uptime_s))

    def _due_s(self, judged: Judged, watched_s: float) -> Optional[float]:
        """None: it is proven already, or is none that time alone would prove."""
        look, verdict = judged.look, judged.verdict
        if verdict.finding not in (Finding.YOUNG, Finding.PROGRESS) and (
            NOT_YET not in verdict.evidence
        ):
            return None
        if look.idle_s is None:
            still_s = APART_S_UNTOLD - watched_s
        else:
            is_waiting = look.stat.state in "SD"
            still_s = self._still_s - (look.idle_s if is_waiting else 0.0)
        return max(APART_S_MIN, self.stuck_after_s - look.age_s, still_s)

    def _judge(self, client: Client, process: Process, now: Now, watched_s: float) -> Judged:
        """Judge a client by the process that is held; raises Gone or Unreadable.

        `watched_s`: if it stands where its first mark has it, it has not run for so long.
        """
        look = Look.at(process, now)
        # A CPU's clock stands still while interrupts have the CPU, and a watcher's does not.
        is_still = look.mark.turns is not None and not look.mark.has_moved_since(client.first)
        if is_still and look.idle_s is not None and look.idle_s < watched_s:
            look = look._replace(idle_s=watched_s)
        return Judged(client, look, judge(client, look, self.stuck_after_s, STILL_S_MIN))

    def prove_again(self, judged: Judged, process: Process, now: Now) -> Judged:
        """Judge a client once more, as it is now, for it is about to be acted upon.

        A `now` without the clocks of CPUs leaves out for how long it has not run. Raises Gone when
        it has ended, Unreadable when it does not tell.
        """
        fresh = Client.of(process)
        if fresh is None or fresh.identity != judged.client.identity:
            raise Gone("it has ended")
        if not _is_same(fresh, judged.client):
            raise Unreadable("it runs another program now")
        client = fresh._replace(first=judged.client.first)
        return self._judge(client, process, now, judged.look.idle_s or 0.0)


def _has_moved(judged: Judged) -> bool:
    """Whether it is to be marked anew."""
    if judged.verdict.finding not in (Finding.YOUNG, Finding.PROGRESS):
        return False
    return judged.look.mark.is_running or judged.look.mark.has_moved_since(judged.client.first)


def _is_enough(judged: Judged, apart_s: float) -> bool:
    told = judged.look.idle_s is not None
    return told or not judged.verdict.is_stuck or apart_s >= APART_S_UNTOLD


def _not_yet(judged: Judged) -> Judged:
    """Who answers a slow BMC wakes up once in many seconds, and some kernels do not tell when."""
    return judged._replace(verdict=Verdict(Finding.NOT_PROVEN, [NOT_YET]))


def _is_same(one: Client, other: Client) -> bool:
    """Whether it still runs the same program: a process may start another and keep its pid."""
    return (one.identity, one.program, one.argv) == (other.identity, other.program, other.argv)
