"""What the agent knows at one moment: published by the loop, read by report and metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

DRIVER_UNAVAILABLE = "driver-unavailable"
NO_INTERFACE = "no-interface"
NOT_ANSWERING = "bmc-not-answering"
PATS_FAILING = "pats-failing"
CHECK_FAILING = "host-check-failing"
"""Symptoms that the driver shows; the third is the same that triage may find."""


@dataclass(frozen=True, slots=True)
class DriverView:
    """How the driver says that it is; `status` is None when it says nothing."""

    status: dict[str, Any] | None = None
    error: str | None = None

    def section(self, name: str) -> dict[str, Any]:
        """One part of the status; empty where there is none."""
        found = (self.status or {}).get(name)
        return found if isinstance(found, dict) else {}

    @property
    def interface_missing(self) -> str | None:
        """Why the driver has no interface to a BMC; None where it has one, or says nothing."""
        missing = self.section("driver").get("interface_missing")
        return None if missing is None else str(missing)

    @property
    def restarts(self) -> tuple[int, int] | None:
        """Grows when the BMC may have restarted; None while the driver says nothing."""
        if self.status is None:
            return None
        breaker = self.section("driver").get("breaker") or {}
        counts = self.section("watchdog").get("counts") or {}
        return breaker.get("openings") or 0, counts.get("lost") or 0

    @property
    def symptoms(self) -> tuple[str, ...]:
        """What of it is not as it should be."""
        if self.status is None:
            return (DRIVER_UNAVAILABLE,)
        breaker = self.section("driver").get("breaker") or {}
        watchdog = self.section("watchdog")
        missing = self.interface_missing
        found = {
            NO_INTERFACE: missing,
            NOT_ANSWERING: breaker.get("open") and not missing,
            PATS_FAILING: watchdog.get("failure"),
            CHECK_FAILING: watchdog.get("check_failure"),
        }
        return tuple(symptom for symptom, is_there in found.items() if is_there)


@dataclass(frozen=True, slots=True)
class KipmiView:
    """One polling thread of the kernel."""

    name: str
    cpu_percent: float | None
    cpu_total_s: float


@dataclass(frozen=True, slots=True)
class ReliefView:
    """What relief has found and done; the last that was anything."""

    mode: str = "observe"
    why_not: str | None = None
    """Why nothing is done though the mode is to act."""
    stuck: int = 0
    throttled: bool = False
    actions: Counter[str] = field(default_factory=Counter)
    """Since the start, by outcome."""
    last: dict[str, Any] | None = None
    """When and what, of the last look that found anything to do."""


@dataclass(frozen=True, slots=True)
class HostState:
    """All of it."""

    at: float
    """Epoch seconds."""
    symptoms: tuple[str, ...] = ()
    """Sorted, each once."""
    odd: str | None = None
    """Why the host is looked at closely; None: nothing is odd."""
    triage: dict[str, Any] | None = None
    """The last whole triage, as `bmcmedic triage --json` prints it, long lists cut."""
    kipmi: tuple[KipmiView, ...] = ()
    driver: DriverView = DriverView()
    relief: ReliefView = field(default_factory=ReliefView)
