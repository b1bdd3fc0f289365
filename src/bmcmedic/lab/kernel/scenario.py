"""The first incident on a real Linux kernel: what a scenario is, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bmcmedic.lab.kernel.bench import Bench, LabMachine
from bmcmedic.lab.kernel.timeline import Timeline, kipmi_percent, pat_facts


class ScenarioName(StrEnum):
    """The scenarios."""

    PILE_UP = "pile-up"
    GUARDED = "guarded"
    FLOOD = "flood"
    UNARMED = "unarmed"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to be so at the end, with what was found."""

    words: str
    found: str
    ok: bool


@dataclass(slots=True)
class ScenarioVerdict:
    """What a scenario has found out."""

    checks: list[Check] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Numbers of this scenario alone."""

    def check(self, words: str, found: str, *, ok: bool) -> None:
        """Add one."""
        self.checks.append(Check(words, found, ok))

    def check_clients(self, timeline: Timeline, healed_at: float) -> None:
        """Those of the hang have ended; a slow guest may yet have young ones at work."""
        last = timeline.samples[-1]
        self.check(
            "no client of the hang is left",
            f"of {last.clients} that are there, {last.stuck} stand still",
            ok=not timeline.has_older_client(healed_at),
        )


@dataclass(frozen=True, slots=True)
class KernelScenario:
    """One of them: the machine it needs, and what happens."""

    words: str
    machine: Callable[[], LabMachine]
    play: Callable[[Bench, ScenarioVerdict], None]


@dataclass(frozen=True, slots=True)
class ScenarioRecord:
    """What came of one run."""

    scenario: ScenarioName
    timeline: Timeline
    verdict: ScenarioVerdict
    kernel: str
    host: dict[str, Any]
    bmc: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether it ended as it should."""
        return bool(self.verdict.checks) and all(check.ok for check in self.verdict.checks)

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` ends with; docs/reference/lab.md explains it."""
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
                {"check": check.words, "found": check.found, "ok": check.ok}
                for check in self.verdict.checks
            ],
            "events": [
                {"at_s": round(event.at - timeline.began_at, 3), "event": event.words}
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
