"""The timeline of a run of `lab kernel`: its samples, by the guest's own clock, and their figures.

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
"""Two samples mean the same pat if its start differs by less than this, in seconds."""


@dataclass(frozen=True, slots=True)
class KernelPat:
    """A pat that was answered."""

    due_at: float
    latency_s: float
    completion_code: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of the guest, taken inside the guest."""

    at: float
    kipmi_s: float | None
    """CPU time of kipmi0 since the boot; None: there is no such thread."""
    idle_s: float
    """Idle time of all CPUs since the boot."""
    clients: int
    """Number of processes whose executable is ipmitool."""
    stuck: int
    """Number of those that wait, and have used no CPU time for some seconds."""
    oldest_at: float | None
    """When the oldest of the present clients was started; None: there is none."""
    started: int
    """Number of clients that the monitoring has started so far."""
    pats: tuple[KernelPat, ...]
    """Pats that were answered since the last sample."""
    waiting_s: float | None
    """How long the pat in flight has waited; None: no pat is in flight."""
    completed: int | None
    """Transactions of the interface that completed since the boot."""
    hosed: int | None
    """Transactions that the kernel gave up since the boot."""
    throttle: int | None
    """kipmid_max_busy_us; None: not set."""

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Decode a sample that the guest reported."""
        fields: dict[str, Any] = json.loads(line)
        pats = fields["pats"]
        fields["pats"] = tuple(KernelPat(due, took, int(code)) for due, took, code in pats)
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class BmcSample:
    """One sample of the BMC, read from the control endpoint."""

    at: float
    """Time of the guest's last sample, by its clock."""
    state: str
    memory_free_fraction: float
    answer_latency_s: float


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """Something that the scenario did or waited for."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class TimelinePhase:
    """A named part of the run."""

    name: str
    since: float
    until: float


@dataclass(slots=True)
class Timeline:
    """All samples, events and phases of a run, in order."""

    samples: list[Sample] = field(default_factory=list)
    bmc_samples: list[BmcSample] = field(default_factory=list)
    driver: list[dict[str, Any]] = field(default_factory=list)
    """Status reports of bmcmedic's driver, where it runs."""
    events: list[TimelineEvent] = field(default_factory=list)
    phases: list[TimelinePhase] = field(default_factory=list)

    @property
    def now(self) -> float:
        """Time of the last sample; 0 before the first one."""
        return self.samples[-1].at if self.samples else 0.0

    @property
    def began_at(self) -> float:
        """Time of the first sample."""
        return self.samples[0].at if self.samples else 0.0

    def between(self, since: float, until: float) -> list[Sample]:
        """Return the samples between two points in time."""
        return [sample for sample in self.samples if since <= sample.at <= until]

    def has_older_client(self, than: float) -> bool:
        """Return whether the last sample still had a client that was started before then."""
        oldest_at = self.samples[-1].oldest_at if self.samples else None
        return oldest_at is not None and oldest_at < than

    def kipmi_percent(self, since: float, until: float | None = None) -> float | None:
        """Return kipmi0's share of a core; None when there are fewer than two samples."""
        seen = self.between(since, self.now if until is None else until)
        return kipmi_percent(seen)

    def pats(self, since: float = 0.0, until: float | None = None) -> list[KernelPat]:
        """Return the pats that were due between two points in time and were ever answered."""
        last = self.now if until is None else until
        return [
            pat for sample in self.samples for pat in sample.pats if since <= pat.due_at <= last
        ]

    def unanswered(self) -> list[tuple[float, float]]:
        """Return the pats that were never answered: when each began, and how long it waited."""
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
    """Return kipmi0's share of a core between the first and the last of these samples."""
    if len(samples) < 2 or samples[0].kipmi_s is None or samples[-1].kipmi_s is None:
        return None
    elapsed_s = samples[-1].at - samples[0].at
    return 100 * (samples[-1].kipmi_s - samples[0].kipmi_s) / elapsed_s


def highest_percent(samples: Sequence[Sample], window_s: float) -> float | None:
    """Return the highest share of kipmi0 over any window of at least that length."""
    return max(_window_shares(samples, window_s), default=None)


def lowest_percent(samples: Sequence[Sample], window_s: float) -> float | None:
    """Return the lowest share of kipmi0 over any window of at least that length."""
    return min(_window_shares(samples, window_s), default=None)


def median_percent(samples: Sequence[Sample]) -> float | None:
    """Return the median of kipmi0's shares between neighbouring samples.

    Single samples are too high on a busy machine: while an emulated processor is not scheduled, its
    clock runs on, and the time counts for the thread that it was executing.
    """
    shares = (kipmi_percent(pair) for pair in pairwise(samples))
    known = [share for share in shares if share is not None]
    return median(known) if known else None


def percent(share: float | None) -> str:
    """Format a share in per cent."""
    return "unknown" if share is None else f"{share:.1f} %"


def seconds(value: float | None) -> str:
    """Format a duration in seconds or milliseconds."""
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
    """Return the number of these pats, and how long they took."""
    latencies = sorted(pat.latency_s for pat in pats)
    return {
        "answered": len(pats),
        "refused": sum(pat.completion_code != SUCCESS for pat in pats),
        "latency_median_s": latencies[len(latencies) // 2] if latencies else None,
        "latency_max_s": latencies[-1] if latencies else None,
    }
