"""A scenario of `lab kernel`, its verdict, and the record of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bmcmedic.lab.kernel.lab_host import LabHost, LabHostSpec
from bmcmedic.lab.kernel.timeline import Timeline, kipmi_percent, pat_facts


class ScenarioName(StrEnum):
    """The names of the scenarios."""

    PILE_UP = "pile-up"
    GUARDED = "guarded"
    FLOOD = "flood"
    UNARMED = "unarmed"


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation at the end of a scenario, and what was found."""

    expectation: str
    found: str
    ok: bool


@dataclass(slots=True)
class ScenarioVerdict:
    """The checks of a scenario, and its figures."""

    checks: list[Check] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Figures that only this scenario has."""

    def check(self, expectation: str, found: str, *, ok: bool) -> None:
        """Add a check."""
        self.checks.append(Check(expectation, found, ok))

    def check_clients(self, timeline: Timeline, healed_at: float) -> None:
        """Check that the clients of the hang have ended; younger ones may still run."""
        last = timeline.samples[-1]
        self.check(
            "no client of the hang is left",
            f"of {last.clients} clients, {last.stuck} are stuck",
            ok=not timeline.has_older_client(healed_at),
        )


@dataclass(frozen=True, slots=True)
class KernelScenario:
    """A scenario: a description, the host that it needs, and what happens."""

    description: str
    host_spec: Callable[[], LabHostSpec]
    play: Callable[[LabHost, ScenarioVerdict], None]


@dataclass(frozen=True, slots=True)
class ScenarioRecord:
    """The record of one run."""

    scenario: ScenarioName
    timeline: Timeline
    verdict: ScenarioVerdict
    kernel: str
    host: dict[str, Any]
    bmc: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the scenario ended as it should."""
        return bool(self.verdict.checks) and all(check.ok for check in self.verdict.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the object of `--json`, which docs/reference/lab.md explains."""
        timeline = self.timeline
        return {
            "scenario": self.scenario.value,
            "ok": self.ok,
            "kernel": self.kernel,
            "duration_s": round(timeline.now - timeline.began_at, 3),
            "kipmi0_percent": self._shares(),
            "clients": {
                "started": max((sample.started for sample in timeline.samples), default=0),
                "stuck_max": max((sample.stuck for sample in timeline.samples), default=0),
                "stuck_at_end": timeline.samples[-1].stuck if timeline.samples else None,
            },
            "pats": {
                **pat_facts(timeline.pats()),
                "waiting_max_s": max(
                    (sample.waiting_s or 0.0 for sample in timeline.samples), default=0.0
                ),
            },
            "host": self.host,
            "bmc": self.bmc,
            **self.verdict.facts,
            "checks": [
                {"check": check.expectation, "found": check.found, "ok": check.ok}
                for check in self.verdict.checks
            ],
            "events": [
                {"at_s": round(event.at - timeline.began_at, 3), "event": event.text}
                for event in timeline.events
            ],
        }

    def _shares(self) -> dict[str, float | None]:
        return {
            phase.name: _rounded(kipmi_percent(self.timeline.between(phase.since, phase.until)))
            for phase in self.timeline.phases
        }


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 2)
