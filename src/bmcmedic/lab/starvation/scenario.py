"""The second incident: a BMC that drowns, and a host whose pats starve.

A `StarvationScenario` is the same for all three designs of the driver. Everything is drawn from its
seed: when the flood of port 0x80 writes begins, how long the BMC boots, what the clients ask and
when.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random
from typing import Any, NamedTuple

from bmcmedic.driver.watchdog.settings import CheckSettings, WatchdogSettings
from bmcmedic.errors import ConfigurationError
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.faults import Boot, FaultSet, Port80Flood
from bmcmedic.sim.leak import FREE_FRACTION_FRESH, LEAK_BYTES_PER_WRITE, MEMORY_BYTES
from bmcmedic.sim.profile import server_profile
from bmcmedic.transport.port_io import EXCHANGE_SLACK_S, PORT_IO_LIMITS

LOAD_DEFAULT = 8
LOAD_MAX = 256
DURATION_S = 480.0
DURATION_S_MAX = 86_400.0
REAL_DURATION_S = 36.0

CPUS = 4
HOGS = 8
"""Number of threads that only compute: a spinning thread loses its CPU at the end of a slice."""
SLICE_S = 0.1
NEIGHBOUR_EVERY_S = 20.0
"""Mean time between two bursts of other real-time threads, in seconds.

There is one such thread for each CPU. A burst takes all CPUs for a slice at most.
"""

BURST_REQUESTS_MAX = 8
"""Most requests that a client sends in a row, as a listing of sensors does."""


@dataclass(frozen=True, slots=True)
class StarvationTimes:
    """The times of a scenario: limits to draw from, and fixed values. Units: seconds."""

    flood_after: tuple[float, float] = (20.0, 60.0)
    """From the end of the BMC's boot to the first writes to port 0x80."""
    torrent: tuple[float, float] = (30.0, 90.0)
    """Length of the torrent, with which the writes begin."""
    left_after_torrent: float = 0.06
    """Share of a fresh BMC's memory that the torrent leaves; a trickle of writes takes the rest."""
    trickle: tuple[float, float] = (120.0, 300.0)
    """Length of the trickle; at its end the BMC's own watchdog reboots it."""
    boot: tuple[float, float] = (30.0, 120.0)
    think: tuple[float, float] = (60.0, 240.0)
    """Mean length of a client's pauses."""
    patience: float = 15.0
    """Time after which a client gives up, as ipmitool does, if the driver takes deadlines."""
    check: float = 0.05
    """How long the check command runs."""


VIRTUAL_TIMES = StarvationTimes()
REAL_TIMES = StarvationTimes(
    flood_after=(1.5, 3.0),
    torrent=(2.0, 4.0),
    left_after_torrent=0.2,
    trickle=(10.0, 16.0),
    boot=(3.0, 6.0),
    think=(2.0, 8.0),
    patience=2.0,
)
REAL_LIMITS = replace(
    PORT_IO_LIMITS, ibf_s=0.4, obf_s=0.4, exchange_s=0.9, absent_s=0.1, recovery_pause_s=0.02
)
"""The host's limits in a run in real time, shortened as much as the run itself."""

EXCHANGE_S_MAX = PORT_IO_LIMITS.exchange_s + EXCHANGE_SLACK_S
PAT_WAIT_S_MAX = EXCHANGE_S_MAX + SLICE_S
"""Longest wait of a pat for its turn, in seconds: the exchange under way, and a time slice."""

REQUESTS: Sequence[bytes] = (
    b"\x18\x01",  # Get Device ID
    b"\x00\x01",  # Get Chassis Status
    b"\x28\x40",  # Get SEL Info
    *(bytes((0x10, 0x2D, number)) for number in (1, 2, 3, 4, 0x11, 0x12, 0x13, 0x21, 0x22, 0x31)),
    b"\x28\x48",  # Get SEL Time
    b"\x28\x42",  # Reserve SEL: it changes the BMC's state, so it is not sent twice
)
"""The requests of the clients; the sensors are those of the simulated server."""


class Design(StrEnum):
    """The designs of the driver: how it shares the interface."""

    DIRECT = "direct"
    QUEUED = "queued"
    PRIORITY = "priority"


@dataclass(frozen=True, slots=True)
class StarvationScenario:
    """What happens in one run, independent of the design.

    Units: seconds since the start. Raises: ConfigurationError for values out of range.
    """

    seed: int
    load: int = LOAD_DEFAULT
    """Number of clients."""
    duration_s: float = DURATION_S
    stop_driver_at: float | None = None
    hang_check_at: float | None = None
    is_real: bool = False
    """Whether the run is in real time, on real threads; all times are shorter then."""

    def __post_init__(self) -> None:
        if not 0 <= self.load <= LOAD_MAX:
            raise ConfigurationError(f"the load is 0 to {LOAD_MAX} clients, not {self.load}")
        if not 1 <= self.duration_s <= DURATION_S_MAX:
            raise ConfigurationError(
                f"a run lasts 1 to {DURATION_S_MAX:.0f} s, not {self.duration_s:g}"
            )
        for what, at in (("stopped", self.stop_driver_at), ("hung", self.hang_check_at)):
            if at is not None and not 0 <= at < self.duration_s:
                raise ConfigurationError(
                    f"at {at:g} s nothing can be {what} in a run of {self.duration_s:g} s"
                )

    def random(self, purpose: str) -> Random:
        """Return random numbers for one purpose; what one part draws changes no other part."""
        return Random(f"{self.seed}/{purpose}")

    def bmc(self) -> SimBmc:
        """Return the BMC, which is healthy until the flood begins."""
        return SimBmc(
            "bmc1",
            server_profile(0),
            now=0.0,
            epoch_offset_s=0.0,
            host_uuid=uuid.UUID(int=self.seed % (1 << 128)),
            faults=self._faults(None),
        )

    def floods(self) -> Iterator[tuple[float, FaultSet]]:
        """Yield torrent and trickle in turn: the pause before each, and the BMC's faults in it."""
        random, times = self.random("flood"), self.times
        left = times.left_after_torrent
        while True:
            pause_s = random.uniform(*times.flood_after)
            torrent_s = random.uniform(*times.torrent)
            yield pause_s, self._faults((1 - left) / torrent_s)
            yield torrent_s, self._faults(left / random.uniform(*times.trickle))

    def _faults(self, share_per_s: float | None) -> FaultSet:
        """Return the BMC's faults; `share_per_s` of a fresh BMC's memory leaks each second."""
        boot = Boot(self.random("boot").uniform(*self.times.boot))
        if share_per_s is None:
            return FaultSet.of([boot])
        fresh_bytes = MEMORY_BYTES * FREE_FRACTION_FRESH
        return FaultSet.of([boot, Port80Flood(share_per_s * fresh_bytes / LEAK_BYTES_PER_WRITE)])

    @property
    def times(self) -> StarvationTimes:
        """The times of this scenario."""
        return REAL_TIMES if self.is_real else VIRTUAL_TIMES

    def watchdog(self) -> WatchdogSettings:
        """Return the watchdog's settings: the defaults, or shorter times in real time."""
        if not self.is_real:
            return WatchdogSettings.for_interface(EXCHANGE_S_MAX, check=CheckSettings(_CHECK))
        return WatchdogSettings.for_interface(
            REAL_LIMITS.exchange_s + EXCHANGE_SLACK_S,
            timeout_s=16.0,
            pat_period_s=1.0,
            pretimeout_limit_s=4.0,
            check=CheckSettings(_CHECK, period_s=1.0, deadline_s=0.5),
        )


_CHECK = ("/usr/local/sbin/check",)
"""A check command that is never started; the lab has its own."""


@dataclass(slots=True)
class StarvationPat:
    """One pat, which may take several requests. Units: seconds since the start."""

    due_at: float
    done_at: float | None = None
    """When the pat returned, answered or not; None: it has not returned."""
    answered: bool = False

    def latency_s(self, end: float) -> float:
        """Return the time from when the pat was due until it returned, or until `end`."""
        return (end if self.done_at is None else self.done_at) - self.due_at


@dataclass(slots=True)
class Wait:
    """How long one request of a pat waited for the interface. Units: seconds since the start."""

    asked_at: float
    over_at: float | None = None
    """When its first attempt began, or when it was given up before that."""

    def wait_s(self, end: float) -> float:
        """Return how long the request waited, or has waited by `end`."""
        return (end if self.over_at is None else self.over_at) - self.asked_at


@dataclass(frozen=True, slots=True)
class Pretimeout:
    """One firing of the software pretimeout; `is_false`: the host was healthy."""

    at: float
    is_false: bool


class VirtualBmcSample(NamedTuple):
    """One sample of the BMC. Units: seconds; `memory_free` is a share of all memory, 0 to 1."""

    at: float
    memory_free: float
    answer_s: float
    """How long the BMC takes for one answer."""

    @classmethod
    def of(cls, bmc: SimBmc, now: float) -> VirtualBmcSample:
        """Take a sample; its values are NaN while the BMC reboots."""
        if bmc.boot_until is not None:
            return cls(now, math.nan, math.nan)
        return cls(now, bmc.memory_free_fraction(now), bmc.answer_latency_s(now))


@dataclass(slots=True)
class StarvationRecord:
    """The record of one design in one scenario."""

    design: Design
    scenario: StarvationScenario
    pats: list[StarvationPat] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    pretimeouts: list[Pretimeout] = field(default_factory=list)
    host_resets: list[float] = field(default_factory=list)
    """Times when the BMC's own timer ran out, because no pat reached it."""
    bmc_away: list[tuple[float, float]] = field(default_factory=list)
    """Start and end of each reboot of the BMC."""
    bmc_samples: list[VirtualBmcSample] = field(default_factory=list)
    trouble_at: float | None = None
    """When the driver was stopped, or a check command that hangs was started; None: neither."""

    @property
    def false_pretimeouts(self) -> int:
        """Number of times that a healthy host would have been taken down."""
        return sum(each.is_false for each in self.pretimeouts)

    @property
    def longest_starvation_s(self) -> float:
        """The longest wait of a pat for its turn."""
        end = self.end_s
        return max((wait.wait_s(end) for wait in self.waits if wait.asked_at <= end), default=0.0)

    @property
    def end_s(self) -> float:
        """Until when pats are judged: the end of the run, or the time of the trouble."""
        return self.scenario.duration_s if self.trouble_at is None else self.trouble_at

    def latencies_s(self) -> list[float]:
        """Return the latencies of all pats, in rising order."""
        end = self.end_s
        return sorted(pat.latency_s(end) for pat in self.pats if pat.due_at <= end)

    def to_json(self) -> dict[str, Any]:
        """Return the documented object; its latencies are null when there was no pat."""
        latencies = self.latencies_s()
        return {
            "design": self.design.value,
            "seed": self.scenario.seed,
            "pats": len(self.pats),
            "pat_latency_s": {
                "median": _quantile(latencies, 0.5),
                "p99": _quantile(latencies, 0.99),
                "max": _quantile(latencies, 1.0),
            },
            "false_pretimeouts": self.false_pretimeouts,
            "longest_starvation_s": round(self.longest_starvation_s, 6),
        }


def _quantile(ascending: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least this share of all values does not exceed."""
    if not ascending:
        return None
    at = max(0, min(len(ascending) - 1, -int(-share * len(ascending) // 1) - 1))
    return round(ascending[at], 6)
