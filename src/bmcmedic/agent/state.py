"""The state of the host at one moment: the host loop publishes it, report and metrics read it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from bmcmedic.host.symptoms import (
    BMC_NOT_ANSWERING,
    DRIVER_UNAVAILABLE,
    HOST_CHECK_FAILING,
    NO_INTERFACE,
    PATS_FAILING,
)


@dataclass(frozen=True, slots=True)
class DriverView:
    """The status that the driver reports; `status` is None if it does not answer."""

    status: dict[str, Any] | None = None
    error: str | None = None

    def section(self, name: str) -> dict[str, Any]:
        """Return one section of the status; empty if there is none."""
        found = (self.status or {}).get(name)
        return found if isinstance(found, dict) else {}

    @property
    def interface_missing(self) -> str | None:
        """Why the driver has no interface to a BMC; None if it has one, or reports nothing."""
        missing = self.section("driver").get("interface_missing")
        return None if missing is None else str(missing)

    @property
    def restarts(self) -> tuple[int, int] | None:
        """Counters that grow if the BMC may have restarted; None without a status of the driver."""
        if self.status is None:
            return None
        breaker = self.section("driver").get("breaker") or {}
        counts = self.section("watchdog").get("counts") or {}
        return breaker.get("openings") or 0, counts.get("lost") or 0

    @property
    def symptoms(self) -> tuple[str, ...]:
        """The symptoms that the status shows."""
        if self.status is None:
            return (DRIVER_UNAVAILABLE,)
        breaker = self.section("driver").get("breaker") or {}
        watchdog = self.section("watchdog")
        missing = self.interface_missing
        found = {
            NO_INTERFACE: missing,
            BMC_NOT_ANSWERING: breaker.get("open") and not missing,
            PATS_FAILING: watchdog.get("failure"),
            HOST_CHECK_FAILING: watchdog.get("check_failure"),
        }
        return tuple(symptom for symptom, is_present in found.items() if is_present)


@dataclass(frozen=True, slots=True)
class KipmiView:
    """One `kipmi` thread of the kernel."""

    name: str
    cpu_percent: float | None
    cpu_total_s: float


@dataclass(frozen=True, slots=True)
class ReliefView:
    """The findings and actions of relief."""

    mode: str = "observe"
    why_not: str | None = None
    """Why relief does nothing although its mode is `act`; None if it may act."""
    stuck: int = 0
    throttled: bool = False
    actions: Counter[str] = field(default_factory=Counter)
    """Number of actions since the start, by outcome."""
    last: dict[str, Any] | None = None
    """Time and contents of the last pass that found anything to do."""


@dataclass(frozen=True, slots=True)
class HostState:
    """Everything that report and metrics show of the host."""

    at: float
    """In seconds since the epoch."""
    symptoms: tuple[str, ...] = ()
    """Sorted, each once; see `host.symptoms`."""
    anomaly: str | None = None
    """Why the host is scanned more often than usual; None without an anomaly."""
    triage: dict[str, Any] | None = None
    """The last complete triage, as `bmcmedic triage --json` prints it, with long lists cut."""
    kipmi: tuple[KipmiView, ...] = ()
    driver: DriverView = DriverView()
    relief: ReliefView = field(default_factory=ReliefView)
