"""From the facts that triage saw to what ails the host, with the evidence for it. This is pure.

A hang shows in what does not move (transactions that complete, clients that wait), never in a share
of a core alone. A diagnosis also says what it rules out, and what cannot be known from here.
"""

from enum import Enum

from bmcmedic.host import symptoms
from bmcmedic.host.client.stuck import WATCHED_S_MIN
from bmcmedic.host.kernel.interface import InterfaceActivity
from bmcmedic.host.kernel.kipmid import Kipmi
from bmcmedic.host.output import duration
from bmcmedic.host.triage.guests import KvmGuest
from bmcmedic.host.typed import List, NamedTuple, Optional, Sequence

KIPMI_AT_REST_PERCENT = 1.0
"""Share of a core below which a `kipmi` thread is at rest, in percent: nothing is awaited."""
KIPMI_BUSY_PERCENT = 5.0
"""Share of a core from which a `kipmi` thread without a limit awaits an answer, in percent."""
KIPMI_SPINS_PERCENT = 50.0
"""Share of a core from which a thread is a symptom even without the counters, in percent."""
SLOW_AFTER_S = 0.1
"""Time to answer from which a BMC counts as slow, in seconds; a healthy one takes milliseconds."""
DECIDED_AFTER_S = 10.0
"""Interval after which a BMC that did not answer once is not merely slow, in seconds."""
GIVEN_UP_AFTER_S = 60.0
"""Interval in which Linux gives up a transaction that a hung BMC does not answer, in seconds."""
QUEUED_SHARE_MIN = 0.5
"""Share of moments below which waiting messages may have been seen by chance."""
RUN_DELAY_PERCENT = 10.0
"""Share of time for which a guest waits for a CPU, in percent, from which it suffers."""


class HostDiagnosisKind(Enum):
    """What ails the host."""

    NO_SYMPTOM = "no-symptom"
    BUSY = "busy"
    SLOW = "slow"
    LEFT_OVER = "left-over"
    NO_INTERFACE = "no-interface"
    UNDECIDED = "undecided"
    HUNG = "hung"


class Facts(NamedTuple):
    """What triage saw; None: unknown."""

    captured_at: float
    """When it was seen, in epoch seconds."""
    interval_s: Optional[float]
    kipmi: List[Kipmi]
    interfaces: List[InterfaceActivity]
    stuck_for_s: List[float]
    """How long each stuck client has waited: since it last ran or, if unknown, since its start."""
    not_proven: int
    """Number of clients that may be stuck, but could not be sampled."""
    load: Optional[float]
    cpus: Optional[int]
    guests: List[KvmGuest]
    max_busy_us: Optional[str]
    queued_share: Optional[float] = None
    """Share of the moments between the two samples at which a message had no answer."""
    sees_interface: bool = True
    """Whether an interface to the BMC can be seen on this host."""
    gone_interfaces: Sequence[str] = ()
    """The interfaces that went away between the two samples."""
    stranded_for_s: Sequence[float] = ()
    """Those of `stuck_for_s` whose device is gone: nothing can answer these clients."""
    blind: Sequence[str] = ()
    """What could not be seen. If it is not empty, an empty `symptoms` proves nothing."""
    unwatched: int = 0
    """Number of clients that may be stuck, but were not watched long enough."""

    @property
    def asking_for_s(self) -> List[float]:
        """How long each stuck client has waited that may wait for this BMC, in seconds."""
        asking = list(self.stuck_for_s)
        for stranded_s in self.stranded_for_s:
            asking.remove(stranded_s)
        return asking

    @property
    def kipmi_percent(self) -> Optional[float]:
        """The share of a core of the busiest thread, in percent."""
        shares = [each.cpu_percent for each in self.kipmi if each.cpu_percent is not None]
        return max(shares) if shares else None

    @property
    def completed(self) -> Optional[int]:
        """The number of transactions that the BMC answered in the interval."""
        return _sum([each.completed_delta for each in self.interfaces])

    @property
    def hosed(self) -> Optional[int]:
        """The number of transactions that the kernel gave up in the interval."""
        return _sum([each.hosed_delta for each in self.interfaces])

    @property
    def is_busy(self) -> bool:
        """Whether the kernel polls as if it awaited an answer."""
        is_throttled = self.max_busy_us not in (None, "0")
        enough = KIPMI_AT_REST_PERCENT if is_throttled else KIPMI_BUSY_PERCENT
        return self.kipmi_percent is not None and self.kipmi_percent >= enough

    @property
    def is_awaiting(self) -> Optional[bool]:
        """Whether the kernel waits for the BMC all the time; None: unknown."""
        queued = _sum([each.queued for each in self.interfaces])
        if queued:
            was_queued = _sum([each.was_queued for each in self.interfaces])
            # Messages that came only now wait as well, though maybe not for long.
            return None if was_queued == 0 else True
        if self.kipmi_percent is not None:
            return self.kipmi_percent >= KIPMI_AT_REST_PERCENT
        counts_all = all(each.queued is not None for each in self.interfaces)
        return False if queued == 0 and counts_all else None

    @property
    def is_kernel_waiting(self) -> bool:
        """Whether the kernel seems to wait for the BMC."""
        if self.completed:
            return self.is_busy
        has_queued = any(each.queued for each in self.interfaces)
        return self.is_busy or has_queued or bool(self.is_awaiting and self.completed == 0)

    @property
    def is_uncounted(self) -> bool:
        """Whether two samples cannot show that the kernel waits, because it does not count that."""
        was_sampled_twice = self.interval_s is not None
        return was_sampled_twice and bool(self.interfaces) and self.is_awaiting is None

    @property
    def latency_s(self) -> Optional[float]:
        """The shortest time that one answer takes, in seconds; None: unknown."""
        if not self.completed or self.interval_s is None:
            return None
        waited = (self.kipmi_percent or 0.0) / 100.0
        # Newer kernels sleep while they poll. If the queue is seldom empty, its pace is the BMC's.
        if self.queued_share is not None and self.queued_share >= QUEUED_SHARE_MIN:
            waited = max(waited, self.queued_share)
        return self.interval_s * waited / self.completed


class HostDiagnosis(NamedTuple):
    """What ails the host, in words."""

    kind: HostDiagnosisKind
    words: str
    evidence: List[str]
    rules_out: List[str]
    advice: List[str]
    symptoms: List[str]
    hung_since: Optional[float]
    """Since when the BMC has not answered, in epoch seconds; None: it does not hang."""


def diagnose(facts: Facts) -> HostDiagnosis:
    """Return what ails the host."""
    kind = _kind(facts)
    return HostDiagnosis(
        kind=kind,
        words=_words(kind, facts),
        evidence=_evidence(facts),
        rules_out=_rules_out(kind, facts),
        advice=_advice(kind, facts),
        symptoms=_symptoms(kind, facts),
        hung_since=_hung_since(kind, facts),
    )


def _kind(facts: Facts) -> HostDiagnosisKind:
    kind = _kind_of_the_seen(facts)
    # If not all can be seen, an absence of symptoms proves nothing.
    is_well = kind in (HostDiagnosisKind.NO_SYMPTOM, HostDiagnosisKind.BUSY)
    return HostDiagnosisKind.UNDECIDED if is_well and facts.blind else kind


def _kind_of_the_seen(facts: Facts) -> HostDiagnosisKind:
    is_slow = facts.latency_s is not None and facts.latency_s >= SLOW_AFTER_S
    if facts.completed:
        if is_slow:
            return HostDiagnosisKind.SLOW
        if facts.stuck_for_s:
            return HostDiagnosisKind.LEFT_OVER
        return HostDiagnosisKind.BUSY if facts.is_busy else HostDiagnosisKind.NO_SYMPTOM
    if facts.hosed:
        return HostDiagnosisKind.HUNG
    if facts.stuck_for_s and not facts.sees_interface:
        return HostDiagnosisKind.NO_INTERFACE
    if facts.asking_for_s:
        if facts.is_uncounted:
            return HostDiagnosisKind.UNDECIDED
        return HostDiagnosisKind.LEFT_OVER if facts.is_awaiting is False else HostDiagnosisKind.HUNG
    if not facts.is_kernel_waiting:
        return HostDiagnosisKind.LEFT_OVER if facts.stuck_for_s else HostDiagnosisKind.NO_SYMPTOM
    if facts.completed is None:
        return HostDiagnosisKind.UNDECIDED
    long_enough = facts.interval_s is not None and facts.interval_s >= DECIDED_AFTER_S
    return HostDiagnosisKind.HUNG if long_enough else HostDiagnosisKind.UNDECIDED


def _symptoms(kind: HostDiagnosisKind, facts: Facts) -> List[str]:
    spins = (facts.kipmi_percent or 0.0) >= KIPMI_SPINS_PERCENT
    # A kernel thread that polls for a BMC which answers is doing its work.
    in_vain = not facts.completed if facts.completed is not None else spins
    found = [
        (
            symptoms.KIPMI_BUSY,
            facts.is_busy and (in_vain or kind in (HostDiagnosisKind.HUNG, HostDiagnosisKind.SLOW)),
        ),
        (symptoms.STUCK_CLIENTS, bool(facts.stuck_for_s)),
        (symptoms.BMC_NOT_ANSWERING, kind is HostDiagnosisKind.HUNG),
        (symptoms.BMC_SLOW, kind is HostDiagnosisKind.SLOW),
        (symptoms.NO_INTERFACE, kind is HostDiagnosisKind.NO_INTERFACE),
    ]
    return [name for name, is_present in found if is_present]


def _hung_since(kind: HostDiagnosisKind, facts: Facts) -> Optional[float]:
    if kind is not HostDiagnosisKind.HUNG:
        return None
    # The client that waits longest asked first. Nothing has been answered since then.
    for_s = max(facts.asking_for_s, default=facts.interval_s or 0.0)
    return round(facts.captured_at - for_s, 3)


def _words(kind: HostDiagnosisKind, facts: Facts) -> str:
    stuck = _count(len(facts.stuck_for_s), "client")
    if kind is HostDiagnosisKind.HUNG:
        return "The BMC does not answer its host" + (
            f": {stuck} stuck." if facts.stuck_for_s else "."
        )
    if kind is HostDiagnosisKind.SLOW:
        return (
            f"The BMC answers its host, but takes {facts.latency_s:.1f} s and more for an answer."
        )
    if kind is HostDiagnosisKind.NO_INTERFACE:
        return (
            f"{stuck} stuck, and no IPMI interface is visible here:"
            " whether the BMC answers is not known."
        )
    if kind is HostDiagnosisKind.LEFT_OVER and not facts.completed and not facts.asking_for_s:
        return f"{stuck} stuck, left over: the device that they have open is gone."
    if kind is HostDiagnosisKind.LEFT_OVER:
        how = "answers" if facts.completed else "gets no requests at present"
        return f"{stuck} stuck, left over from an earlier hang: the BMC {how}."
    if kind is HostDiagnosisKind.UNDECIDED and facts.blind:
        return "This host cannot be judged from here: not everything that matters can be seen."
    if kind is HostDiagnosisKind.UNDECIDED and facts.asking_for_s:
        return (
            f"{stuck} stuck; whether the BMC answers is not known, as the kernel does not count it."
        )
    if kind is HostDiagnosisKind.UNDECIDED:
        return "The kernel waits for the BMC; whether it hangs is not known yet."
    if kind is HostDiagnosisKind.BUSY:
        return "The BMC is busy and answers."
    if not facts.interfaces and not facts.kipmi:
        return "No IPMI interface and no stuck client is visible here."
    return "No symptom: nothing on this host waits for its BMC."


def _evidence(facts: Facts) -> List[str]:
    over = f" in {facts.interval_s:.1f} s" if facts.interval_s is not None else ""
    lines = [f"not seen: {what}" for what in facts.blind]
    if facts.stuck_for_s:
        longest = f"the longest for {duration(max(facts.stuck_for_s))}"
        lines.append(f"{_count(len(facts.stuck_for_s), 'client')} without progress, {longest}")
    if facts.stranded_for_s:
        have = "has" if len(facts.stranded_for_s) == 1 else "have"
        clients = _count(len(facts.stranded_for_s), "client")
        lines.append(f"{clients} {have} a device open that is gone")
    lines += [f"{name} went away during triage" for name in facts.gone_interfaces]
    if not facts.sees_interface and facts.stuck_for_s:
        lines.append("neither an interface in /sys/class/ipmi nor a kipmi thread")
    for each in facts.interfaces:
        if each.completed is None and each.queued is None:
            lines.append(f"{each.name}: the kernel counts neither answers nor waiting messages")
        if each.completed_delta is not None:
            lines.append(
                f"{each.name}: {_count(each.completed_delta, 'transaction')} completed{over}"
            )
        if each.hosed_delta:
            lines.append(f"{each.name}: the kernel gave up {each.hosed_delta}{over}")
        if each.queued:
            lines.append(f"{each.name}: {_count(each.queued, 'message')} without an answer")
    for thread in facts.kipmi:
        share = "unknown" if thread.cpu_percent is None else f"{thread.cpu_percent:g} % of a core"
        total = duration(thread.cpu_total_s)
        lines.append(f"{thread.name}: {share}, {total} of CPU time since it was started")
    suffering = [g for g in facts.guests if (g.run_delay_percent or 0.0) >= RUN_DELAY_PERCENT]
    if suffering:
        lines.append(f"{len(suffering)} of {_count(len(facts.guests), 'guest')} wait for a CPU")
    return lines


def _rules_out(kind: HostDiagnosisKind, facts: Facts) -> List[str]:
    lines = []
    counts_all = all(each.completed_delta is not None for each in facts.interfaces)
    if kind is HostDiagnosisKind.HUNG and facts.completed == 0 and counts_all:
        lines.append("a busy BMC: not one transaction completed")
    if kind is HostDiagnosisKind.HUNG and facts.asking_for_s:
        lines.append(
            f"a slow BMC: nothing that is slow takes {duration(min(facts.asking_for_s))} to answer"
        )
    if facts.completed:
        lines.append(f"a hang: {_count(facts.completed, 'transaction')} completed")
    if kind is HostDiagnosisKind.SLOW:
        lines.append("a dead BMC: a slow one is not dead")
    if facts.kipmi and _host_suffers(facts):
        of = f" of {facts.cpus}" if facts.cpus else ""
        load = f"a load of {facts.load:.0f}" if facts.load is not None else "the load"
        lines.append(
            f"kipmi as the cause of {load}: it is one thread, and takes one core{of} at most"
        )
    return lines


def _host_suffers(facts: Facts) -> bool:
    return facts.load is not None and facts.load > 2.0 * (facts.cpus or 1)


def _advice(kind: HostDiagnosisKind, facts: Facts) -> List[str]:
    lines = []
    if facts.stuck_for_s:
        lines.append("bmcmedic relieve: ends the stuck clients")
    if kind in (HostDiagnosisKind.HUNG, HostDiagnosisKind.SLOW):
        lines.append("bmcmedic heal TARGET --symptoms FILE, from a machine on the BMC's network")
    if kind is HostDiagnosisKind.NO_INTERFACE:
        lines.append("dmesg, lsmod: why there is no interface (ipmi_si, ipmi_devintf)")
        lines.append("bmcmedic probe TARGET, from a machine on the BMC's network: if it answers")
    if kind is HostDiagnosisKind.UNDECIDED and facts.asking_for_s:
        lines.append(f"sample for longer: --interval {GIVEN_UP_AFTER_S:.0f}")
    elif kind is HostDiagnosisKind.UNDECIDED and facts.is_kernel_waiting:
        lines.append(f"sample for longer: --interval {DECIDED_AFTER_S:.0f}")
    if facts.unwatched:
        lines.append(f"watch the clients for longer: --interval {WATCHED_S_MIN + 1.0:.0f}")
    if facts.not_proven:
        clients = _count(facts.not_proven, "client")
        lines.append(f"run it as root, with CAP_SYS_PTRACE: {clients} could not be read")
    elif facts.blind and not facts.unwatched:
        lines.append("run it as root, which sees everything")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _sum(numbers: List[Optional[int]]) -> Optional[int]:
    """Return the sum of the known numbers; None: none is known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
