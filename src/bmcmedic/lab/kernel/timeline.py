"""What was seen in a run of `lab kernel`: samples by the guest's own clock, and what they say.

Units: seconds of the guest's monotonic clock; shares in percent of one core.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Self

SUCCESS = 0
TIMER_NOT_SET = 0x80
SAME_S = 1.0
"""Two looks that put a pat's beginning so near to each other speak of the same one."""


@dataclass(frozen=True, slots=True)
class KernelPat:
    """A pat that was answered."""

    due_at: float
    latency_s: float
    completion_code: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the guest, taken in it."""

    at: float
    kipmi_s: float | None
    """CPU time of kipmi0 since the boot; None: there is no such thread."""
    idle_s: float
    """CPU time that nobody wanted, of all CPUs."""
    clients: int
    """Processes whose executable is ipmitool."""
    stuck: int
    """Those of them that wait, and have had no CPU time for some seconds."""
    oldest_at: float | None
    """When the first of those that are there was started; None: there is none."""
    started: int
    """How many the monitoring has started until now."""
    pats: tuple[KernelPat, ...]
    """Answered since the last look."""
    waiting_s: float | None
    """How long the pat in flight has waited."""
    completed: int | None
    """Transactions of the interface that completed since the boot."""
    hosed: int | None
    """Those that the kernel gave up."""
    throttle: int | None
    """kipmid_max_busy_us; None: not set."""

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """What the guest wrote."""
        told: dict[str, Any] = json.loads(line)
        told["pats"] = tuple(KernelPat(due, took, int(code)) for due, took, code in told["pats"])
        return cls(**told)


@dataclass(frozen=True, slots=True)
class BmcSample:
    """A look at the BMC, asked over its control door."""

    at: float
    """By the guest's clock, as of the last look at that."""
    state: str
    memory_free_fraction: float
    answer_latency_s: float


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """Something that the scenario did, or waited for."""

    at: float
    words: str


@dataclass(frozen=True, slots=True)
class TimelinePhase:
    """A part of the run, from one event to another."""

    name: str
    since: float
    until: float


@dataclass(slots=True)
class Timeline:
    """All that was seen, in its order."""

    samples: list[Sample] = field(default_factory=list)
    bmc_samples: list[BmcSample] = field(default_factory=list)
    driver: list[dict[str, Any]] = field(default_factory=list)
    """What our driver said of itself, where there is one."""
    events: list[TimelineEvent] = field(default_factory=list)
    phases: list[TimelinePhase] = field(default_factory=list)

    @property
    def now(self) -> float:
        """When the last look was; 0 before there was one."""
        return self.samples[-1].at if self.samples else 0.0

    @property
    def began_at(self) -> float:
        """When the first look was."""
        return self.samples[0].at if self.samples else 0.0

    def between(self, since: float, until: float) -> list[Sample]:
        """The samples of a part of the run."""
        return [sample for sample in self.samples if since <= sample.at <= until]

    def has_older_client(self, than: float) -> bool:
        """Whether a client that was started before then is still there, by the last look."""
        oldest_at = self.samples[-1].oldest_at if self.samples else None
        return oldest_at is not None and oldest_at < than

    def kipmi_percent(self, since: float, until: float | None = None) -> float | None:
        """The share of a core that kipmi0 had; None where fewer than two looks tell."""
        seen = self.between(since, self.now if until is None else until)
        return kipmi_percent(seen)

    def pats(self, since: float = 0.0, until: float | None = None) -> list[KernelPat]:
        """The pats that were due in a part of the run, and were answered at any time."""
        last = self.now if until is None else until
        return [
            pat for sample in self.samples for pat in sample.pats if since <= pat.due_at <= last
        ]

    def unanswered(self) -> list[tuple[float, float]]:
        """Pats that waited and were never answered: since when, and how long they were seen to."""
        longest: dict[float, float] = {}
        for sample in self.samples:
            if sample.waiting_s is None:
                continue
            since = sample.at - sample.waiting_s
            same = next((each for each in longest if abs(each - since) < SAME_S), since)
            longest[same] = sample.at - same
        answered = [pat.due_at for pat in self.pats()]
        return [
            (since, waited_s)
            for since, waited_s in longest.items()
            if all(abs(since - due_at) >= SAME_S for due_at in answered)
        ]


def kipmi_percent(samples: Sequence[Sample]) -> float | None:
    """From the first of these samples to the last."""
    if len(samples) < 2 or samples[0].kipmi_s is None or samples[-1].kipmi_s is None:
        return None
    elapsed_s = samples[-1].at - samples[0].at
    return 100 * (samples[-1].kipmi_s - samples[0].kipmi_s) / elapsed_s


def highest_percent(samples: Sequence[Sample], window_s: float) -> float | None:
    """The highest share of kipmi0 over any window of that length, or a little more."""
    return max(_window_shares(samples, window_s), default=None)


def lowest_percent(samples: Sequence[Sample], window_s: float) -> float | None:
    """The lowest share of kipmi0 over any window of that length, or a little more."""
    return min(_window_shares(samples, window_s), default=None)


def median_percent(samples: Sequence[Sample]) -> float | None:
    """The median of kipmi0's shares from one look to the next.

    On a busy machine single looks are too high: an emulated processor that is not let run goes on
    to count for the thread that it was at.
    """
    shares = (kipmi_percent(pair) for pair in pairwise(samples))
    known = [share for share in shares if share is not None]
    return median(known) if known else None


def percent(share: float | None) -> str:
    """As people read it."""
    return "unknown" if share is None else f"{share:.1f} %"


def seconds(value: float | None) -> str:
    """As people read it."""
    if value is None:
        return "-"
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def _window_shares(samples: Sequence[Sample], window_s: float) -> Iterable[float]:
    first = 0
    for last, sample in enumerate(samples):
        while first + 1 < last and sample.at - samples[first + 1].at >= window_s:
            first += 1
        if sample.at - samples[first].at >= window_s:
            share = kipmi_percent(samples[first : last + 1])
            if share is not None:
                yield share


def pat_facts(pats: Sequence[KernelPat]) -> dict[str, Any]:
    """How many pats there were, and how long they took."""
    latencies = sorted(pat.latency_s for pat in pats)
    return {
        "answered": len(pats),
        "refused": sum(pat.completion_code != SUCCESS for pat in pats),
        "latency_median_s": latencies[len(latencies) // 2] if latencies else None,
        "latency_max_s": latencies[-1] if latencies else None,
    }
