"""The second incident in virtual time: a BMC that drowns, and a host whose pats starve.

One `StarvationScenario` and three designs of the driver. Everything is drawn from the seed: when
the flood of port 0x80 writes begins, how long the BMC boots, what the clients ask and when.
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
"""Threads that compute, so that whoever spins loses the CPU at the end of a slice."""
SLICE_S = 0.1
NEIGHBOUR_EVERY_S = 20.0
"""Real-time threads of others, one a CPU, take all CPUs for a slice at most about so often."""

BURST_REQUESTS_MAX = 8
"""A client asks so many questions one after the other, as a listing of sensors does."""


@dataclass(frozen=True, slots=True)
class StarvationTimes:
    """What is drawn from between two limits, and what is fixed. Units: seconds."""

    flood_after: tuple[float, float] = (20.0, 60.0)
    """A BMC that is up is well for so long; then the host writes to port 0x80."""
    torrent: tuple[float, float] = (30.0, 90.0)
    """The writes come in a torrent at first."""
    left_after_torrent: float = 0.06
    """So much of a fresh BMC's memory; what follows is slower, and the BMC drowns in it."""
    trickle: tuple[float, float] = (120.0, 300.0)
    """From then to the last of the memory, when the BMC's own watchdog reboots it."""
    boot: tuple[float, float] = (30.0, 120.0)
    think: tuple[float, float] = (60.0, 240.0)
    """Of a client: the mean of its pauses."""
    patience: float = 15.0
    """Then a client of a driver that takes deadlines gives up, as ipmitool does."""
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
"""Nobody waits for minutes: what the host waits for is as much shorter as the run is."""

EXCHANGE_S_MAX = PORT_IO_LIMITS.exchange_s + EXCHANGE_SLACK_S
PAT_WAIT_S_MAX = EXCHANGE_S_MAX + SLICE_S
"""No pat may wait longer for its turn: the exchange under way, and a slice until that is seen."""

REQUESTS: Sequence[bytes] = (
    b"\x18\x01",  # Get Device ID
    b"\x00\x01",  # Get Chassis Status
    b"\x28\x40",  # Get SEL Info
    *(bytes((0x10, 0x2D, number)) for number in (1, 2, 3, 4, 0x11, 0x12, 0x13, 0x21, 0x22, 0x31)),
    b"\x28\x48",  # Get SEL Time
    b"\x28\x42",  # Reserve SEL: it changes something, so it is not sent twice
)
"""What the clients ask; the sensors are those that the simulated server has."""


class Design(StrEnum):
    """How the driver shares the interface."""

    DIRECT = "direct"
    QUEUED = "queued"
    PRIORITY = "priority"


@dataclass(frozen=True, slots=True)
class StarvationScenario:
    """What happens in one run, whatever the design.

    Units: seconds since the start. Raises: ConfigurationError for what makes no run.
    """

    seed: int
    load: int = LOAD_DEFAULT
    """How many clients there are."""
    duration_s: float = DURATION_S
    stop_driver_at: float | None = None
    hang_check_at: float | None = None
    is_real: bool = False
    """In real time, on real threads: everything that is waited for is shorter."""

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
        """Random numbers for one purpose: what one part draws changes no other."""
        return Random(f"{self.seed}/{purpose}")

    def bmc(self) -> SimBmc:
        """The BMC; it is well until the flood begins."""
        return SimBmc(
            "bmc1",
            server_profile(0),
            now=0.0,
            epoch_offset_s=0.0,
            host_uuid=uuid.UUID(int=self.seed % (1 << 128)),
            faults=self._faults(None),
        )

    def floods(self) -> Iterator[tuple[float, FaultSet]]:
        """What the BMC suffers, and for how long before that; from start to reboot to reboot."""
        random, times = self.random("flood"), self.times
        left = times.left_after_torrent
        while True:
            pause_s = random.uniform(*times.flood_after)
            torrent_s = random.uniform(*times.torrent)
            yield pause_s, self._faults((1 - left) / torrent_s)
            yield torrent_s, self._faults(left / random.uniform(*times.trickle))

    def _faults(self, share_per_s: float | None) -> FaultSet:
        """`share_per_s`: so much of a fresh BMC's memory is lost each second."""
        boot = Boot(self.random("boot").uniform(*self.times.boot))
        if share_per_s is None:
            return FaultSet.of([boot])
        fresh_bytes = MEMORY_BYTES * FREE_FRACTION_FRESH
        return FaultSet.of([boot, Port80Flood(share_per_s * fresh_bytes / LEAK_BYTES_PER_WRITE)])

    @property
    def times(self) -> StarvationTimes:
        """How long everything takes."""
        return REAL_TIMES if self.is_real else VIRTUAL_TIMES

    def watchdog(self) -> WatchdogSettings:
        """The watchdog's times: those that ship, or as much shorter as a run in real time is."""
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
"""It is never started; the lab has its own."""


@dataclass(slots=True)
class StarvationPat:
    """One pat, which may take several requests. Units: seconds since the start."""

    due_at: float
    done_at: float | None = None
    """When it came back, answered or not."""
    answered: bool = False

    def latency_s(self, end: float) -> float:
        """From when it was due until it came back, or until `end`."""
        return (end if self.done_at is None else self.done_at) - self.due_at


@dataclass(slots=True)
class Wait:
    """How long one request of a pat waited for the interface. Units: seconds since the start."""

    asked_at: float
    over_at: float | None = None
    """When its first attempt began, or when it was given up before."""

    def wait_s(self, end: float) -> float:
        """How long that was, or has been by `end`."""
        return (end if self.over_at is None else self.over_at) - self.asked_at


@dataclass(frozen=True, slots=True)
class Pretimeout:
    """The software pretimeout fired; `is_false`: on a host that had nothing wrong."""

    at: float
    is_false: bool


class VirtualBmcSample(NamedTuple):
    """How the BMC is. Units: seconds; `memory_free` is a share, 0 to 1, and so of all memory."""

    at: float
    memory_free: float
    answer_s: float
    """How long one answer takes."""

    @classmethod
    def of(cls, bmc: SimBmc, now: float) -> VirtualBmcSample:
        """How it is now; while it reboots there is nothing to be seen."""
        if bmc.boot_until is not None:
            return cls(now, math.nan, math.nan)
        return cls(now, bmc.memory_free_fraction(now), bmc.answer_latency_s(now))


@dataclass(slots=True)
class StarvationRecord:
    """What came of one design in one scenario."""

    design: Design
    scenario: StarvationScenario
    pats: list[StarvationPat] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    pretimeouts: list[Pretimeout] = field(default_factory=list)
    host_resets: list[float] = field(default_factory=list)
    """When the BMC's own timer ran out, because no pat reached it."""
    bmc_away: list[tuple[float, float]] = field(default_factory=list)
    """From when to when the BMC was rebooting."""
    bmc_samples: list[VirtualBmcSample] = field(default_factory=list)
    trouble_at: float | None = None
    """When the driver was stopped, or the check command that hangs was started."""

    @property
    def false_pretimeouts(self) -> int:
        """How often a healthy host would have been taken down."""
        return sum(each.is_false for each in self.pretimeouts)

    @property
    def longest_starvation_s(self) -> float:
        """The longest that a pat waited for its turn."""
        end = self.end_s
        return max((wait.wait_s(end) for wait in self.waits if wait.asked_at <= end), default=0.0)

    @property
    def end_s(self) -> float:
        """Up to when pats can be judged: none comes back from a host that was broken."""
        return self.scenario.duration_s if self.trouble_at is None else self.trouble_at

    def latencies_s(self) -> list[float]:
        """Of all pats, in rising order."""
        end = self.end_s
        return sorted(pat.latency_s(end) for pat in self.pats if pat.due_at <= end)

    def to_json(self) -> dict[str, Any]:
        """The documented object; null where there was no pat."""
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
    """The smallest value that so many of all do not exceed."""
    if not ascending:
        return None
    at = max(0, min(len(ascending) - 1, -int(-share * len(ascending) // 1) - 1))
    return round(ascending[at], 6)
