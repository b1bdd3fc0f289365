"""Everything that one remediation has found and done so far, and its steps in order."""

from __future__ import annotations

from bmcmedic import __version__
from bmcmedic.fleet import act
from bmcmedic.fleet.guardrails import GuardrailFacts, violated
from bmcmedic.fleet.host_evidence.host_marks import HostMarks
from bmcmedic.fleet.remediation.case import Ended, RemediationCase, RemediationEnding
from bmcmedic.ipmi.commands.device import GetDeviceIdRsp
from bmcmedic.model.heal import (
    DiagnosisKind,
    HostReport,
    Observation,
    Remedy,
    RunFacts,
    Step,
)


class RemediationRecord:
    """What was found and done; all parts of one remediation share it."""

    def __init__(self, case: RemediationCase) -> None:
        self.case = case
        self.steps: list[Step] = []
        self.evidence: list[str] = []
        self.failures: list[tuple[RemediationEnding, str]] = []
        self.observation: Observation | None = None
        self.observed_at_s = 0.0
        """When the observation ended, in monotonic seconds."""
        self.host_before: HostReport | None = None
        """The host's report from before the reset, as `case.host` gave it, not a file."""
        self.marks_before: HostMarks | None = None
        self.marks_after: HostMarks | None = None
        self.host_may_pat = False
        """Whether the host can pat its timer, because nothing shows that its in-band side hangs."""
        self.early_signs: tuple[str, ...] = ()
        """Signs of a host restart that were seen before anything was sent."""
        self.remedy = Remedy.COLD_RESET
        self.resets_sent = 0
        """How many reset requests left; all but the last were answered with "busy"."""
        self.acting_session_lives = False
        """Whether the session that sent the reset still answers, so that no reset happened."""
        self.hold: act.WatchdogHold | None = None
        self.restore: act.WatchdogRestore | None = None
        self.untouched: bool | None = None
        self.began_at = case.time.epoch()
        self.device: GetDeviceIdRsp | None = None
        self.diagnosis: DiagnosisKind | None = None
        self.rule: str | None = None
        """The guard-rail that refused."""

    async def step(self, name: str, outcome: str, detail: str) -> None:
        """Add a step that has ended, and report it to the journal."""
        step = Step(name, outcome, self.case.time.epoch(), detail)
        self.steps.append(step)
        await self.case.journal.record_step(step)

    async def guard(self, step: str, facts: GuardrailFacts) -> None:
        """End the remediation as refused if a rule forbids to go on.

        Every rule that forbids it becomes evidence, with its numbers.
        """
        refusals = violated(facts)
        if not refusals:
            return
        for refusal in refusals:
            self.evidence.append(f"{refusal.rule}: {refusal}")
        self.rule = refusals[0].rule
        await self.step(step, "refused", f"{refusals[0].rule}: {refusals[0]}")
        raise Ended(RemediationEnding.REFUSED, str(refusals[0]))

    def run_facts(self) -> RunFacts:
        """Return which run this is, who ordered it, and which BMC it reached."""
        firmware = self.observation.firmware if self.observation is not None else None
        return RunFacts(
            run_id=self.case.run_id,
            version=__version__,
            began_at=self.began_at,
            ended_at=self.case.time.epoch(),
            operator=self.case.operator,
            reference=self.case.reference,
            diagnosis=self.diagnosis,
            rule=self.rule,
            firmware=firmware,
            manufacturer_id=None if self.device is None else self.device.manufacturer_id,
            product_id=None if self.device is None else self.device.product_id,
        )

    def add_failure(self, ending: RemediationEnding, reason: str) -> None:
        """Note a reason against a good verdict; the work goes on, to collect the evidence."""
        self.failures.append((ending, reason))
        self.evidence.append(reason)

    def note_hold(self, hold: act.WatchdogHold) -> None:
        """Note that the watchdog timer is held, or is about to be."""
        self.hold = hold

    def note_reset(self) -> None:
        """Note that a reset request is about to leave."""
        self.resets_sent += 1

    def slowest_answer_s(self) -> float:
        """Return how long the slowest answer of the observation took, in seconds."""
        answers = self.observation.answers if self.observation is not None else ()
        return max((answer.latency_s or 0.0 for answer in answers), default=0.0)

    def power_before(self) -> str | None:
        """Return the host's power state before the reset; None where it is unknown."""
        if self.marks_before is not None:
            return self.marks_before.power
        return self.observation.power if self.observation else None

    def reports(self) -> tuple[HostReport, ...]:
        """Return the host's reports from before the reset."""
        return tuple(r for r in (self.case.report, self.host_before) if r is not None)

    def watchdog_note(self) -> str:
        """Return what an operator must know about the timer; empty where it was not changed."""
        if self.hold is None or not self.hold.changed:
            return ""
        if self.restore is None or self.restore.state in (
            act.RestoreState.TRIAL,
            act.RestoreState.FAILED,
        ):
            why = f" ({self.restore.detail})" if self.restore else ""
            return (
                "WATCHDOG: the host's watchdog timer was stopped over LAN and is not back"
                f"{why}; before: {self.hold.detail}. Until the host's watchdog service sets it"
                " again, a hang of the host goes unnoticed."
            )
        return f"watchdog timer: {self.restore.detail}"
