"""Stuck clients are ended: each by its own proof, taken again right before each signal.

A signal never goes to a process group: who starts a process between the look and the signal would
have that ended too. A group whose every member is proven stuck ends all the same, member by member.
For the same reason the first process of a pid namespace comes last, and only when nobody is left in
there who is not proven stuck: with it the kernel ends them all.
"""

from enum import Enum
from signal import Signals

from bmcmedic.host.client.stuck import Finding, Now, cpus_of
from bmcmedic.host.kernel.namespaces import depth_as_first, fellows
from bmcmedic.host.kernel.proc import Gone, ProcError, Process, ProcessIdentity, Stat, Tree
from bmcmedic.host.kernel.progress import Mark
from bmcmedic.host.kernel.signals import NotSent, Sender
from bmcmedic.host.relieve.samples import ClientSamples, JudgedClient
from bmcmedic.host.typed import Callable, Dict, List, NamedTuple, Optional

SIGTERM = 15
SIGKILL = 9

TERM_WAIT_S = 1.5
"""What a client gets to end by itself. It only has to leave a select()."""
SETTLE_S = 0.5
"""After this much of it a client is marked: what it does from then on is progress."""
LAST_WAIT_S = 1.0
"""For those that got SIGKILL, and those that are on their way out but wait for a CPU."""
POLL_S = 0.02


class Outcome(Enum):
    """What came of a stuck client."""

    ENDED = "ended"
    KILLED = "killed"
    GONE = "gone"
    """It ended before it was sent anything."""
    SPARED = "spared"
    """The proof did not hold a second time."""
    UNINTERRUPTIBLE = "uninterruptible"
    """It is in the kernel (state D), and ends as soon as that lets it."""
    SURVIVED = "survived"
    DENIED = "denied"
    """We may not send it signals."""
    LEFT_ALONE = "left alone"
    """Others would end with it that are not proven stuck."""
    NOT_ATTEMPTED = "not attempted"
    """Relief is switched off, or was meanwhile."""

    @property
    def is_relieved(self) -> bool:
        """Whether nothing is left of it, or nothing was to be done."""
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
    """From the first signal until it was seen gone."""


class _Case:
    """A client on its way out."""

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
        """Of the pid namespace whose first process it is; 0: none."""

    @property
    def identity(self) -> ProcessIdentity:
        return self.judged.client.identity

    def close(self, outcome: Outcome, why: Optional[str] = None) -> None:
        self.outcome, self.why = outcome, why

    def ending(self) -> ClientEnding:
        outcome = self.outcome if self.outcome is not None else Outcome.SURVIVED
        return ClientEnding(self.judged, outcome, self.signals, self.through, self.why, self.took_s)


class Ender:
    """Ends the stuck; the clock, the sleep and the signals are handed in."""

    def __init__(
        self,
        looks: ClientSamples,
        sender: Sender,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        is_forbidden: Callable[[], bool],
    ) -> None:
        """`is_forbidden` is asked before each signal, and ends it all."""
        self._looks = looks
        self._sender = sender
        self._monotonic = monotonic
        self._sleep = sleep
        self._is_forbidden = is_forbidden
        # One moment for a whole round of proofs: what runs after it counts as running.
        self._now = Now(0.0, {})
        self._signals: Dict[ProcessIdentity, List[str]] = {}
        """What has been sent to whom, in the ending that goes on."""

    @property
    def _tree(self) -> Tree:
        return self._looks.tree

    def end(self, stuck: List[JudgedClient]) -> List[ClientEnding]:
        """TERM, wait, KILL, wait; each wait has an end, and none is for state D.

        Raises Gone or Unreadable where the tree has no clock.
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
        # SIGTERM may have woken them up: when they last ran says nothing more.
        self._now = Now.of(self._tree)
        for case in _open(cases):
            self._signal(case, SIGKILL, self._prove_ignored)
        self._wait(cases, self._monotonic() + LAST_WAIT_S)
        for case in _open(cases):
            self._give_up(case)
        return [case.ending() for case in cases]

    def left_alone(self, stuck: List[JudgedClient]) -> List[ClientEnding]:
        """Those of them that would not be ended, for the sake of others; sends nothing."""
        cases = self._cases(stuck)
        identities = {case.identity for case in cases}
        for case in cases:
            if not case.depth:
                continue
            try:
                with self._tree.hold(case.identity.pid) as process:
                    living = fellows(self._tree, process, case.depth)
                why = _why_left_alone([s for s in living if s.identity not in identities])
            except Gone:
                continue
            except ProcError as error:
                why = str(error)
            if why is not None:
                case.close(Outcome.LEFT_ALONE, why)
        return [case.ending() for case in cases if case.outcome is not None]

    def _cases(self, stuck: List[JudgedClient]) -> List[_Case]:
        """The first processes of pid namespaces stand last, the innermost before the others."""
        cases = [_Case(judged) for judged in stuck]
        for case in cases:
            self._find_depth(case)
        return sorted(cases, key=lambda case: (case.depth > 0, -case.depth))

    def _find_depth(self, case: _Case) -> None:
        try:
            with self._tree.hold(case.identity.pid) as process:
                case.depth = depth_as_first(self._tree, process)
        except Gone:
            pass  # it is found so again when it comes to a signal
        except ProcError as error:
            case.close(Outcome.SPARED, str(error))

    # ----------------------------------------------------------------------------- one signal

    def _signal(
        self, case: _Case, number: int, prove: Callable[[_Case, Process], Optional[str]]
    ) -> None:
        """Hold, prove, and only then signal, through the same hold."""
        if self._is_forbidden():
            case.close(Outcome.NOT_ATTEMPTED, "relief was switched off")
            return
        try:
            with self._tree.hold(case.identity.pid) as process:
                refusal = prove(case, process)
                if refusal is not None:
                    self._refuse(case, refusal)
                    return
                with_it = self._why_not_with_it(case, process, number)
                if with_it is not None:
                    self._refuse(case, with_it, Outcome.LEFT_ALONE)
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
            case.why = why  # it has the last wait to end by itself
        else:
            case.close(outcome, why)

    def _why_not_with_it(self, case: _Case, process: Process, number: int) -> Optional[str]:
        """Who would end with it has been sent the same signal by now, by a proof of its own."""
        if not case.depth:
            return None
        name = Signals(number).name[3:]
        living = fellows(self._tree, process, case.depth)
        return _why_left_alone(
            [stat for stat in living if name not in self._signals.get(stat.identity, [])]
        )

    def _prove_stuck(self, case: _Case, process: Process) -> Optional[str]:
        again = self._looks.prove_again(
            case.judged, process, self._now, case.judged.look.idle_s or 0.0
        )
        if again.verdict.finding is Finding.GONE:
            raise Gone("it has ended")
        if not again.verdict.is_stuck:
            return ", ".join(again.verdict.evidence)
        case.judged = again
        return None

    def _prove_ignored(self, case: _Case, process: Process) -> Optional[str]:
        """What counts is what it has done since it settled."""
        if case.settled is None:
            return "it was not seen standing still after SIGTERM"
        first = case.judged.client._replace(first=case.settled)
        since = case.judged._replace(client=first)
        again = self._looks.prove_again(since, process, self._now, 0.0)
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
        """Until all have ended but those in state D, and no longer than `until`."""
        while True:
            interruptible = [case for case in _open(cases) if self._state(case) not in (None, "D")]
            now = self._monotonic()
            if not interruptible or now >= until:
                return
            self._sleep(min(POLL_S, until - now))

    def _state(self, case: _Case) -> Optional[str]:
        """Its state, or None, and then its case is closed."""
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


def _why_left_alone(innocent: List[Stat]) -> Optional[str]:
    if not innocent:
        return None
    count, one = len(innocent), innocent[0]
    are = "other that is" if count == 1 else "others that are"
    return (
        f"the first process of a container: {count} {are} not proven stuck would end with it,"
        f" such as {one.comm} (pid {one.pid})"
    )


def group_members(tree: Tree, stuck: List[JudgedClient]) -> Dict[int, int]:
    """How many live members each process group of the stuck has, by group."""
    groups = {judged.look.stat.group: 0 for judged in stuck}
    for pid in tree.pids() if groups else []:
        try:
            stat = tree.stat(pid)
        except ProcError:
            continue
        if stat.group in groups and stat.state not in "ZXx":
            groups[stat.group] += 1
    return groups
