"""Everything one remediation found out and did so far, and the one way to write it down."""

from __future__ import annotations

from bmcmedic.fleet import act
from bmcmedic.fleet.guardrails import GuardrailFacts, violated
from bmcmedic.fleet.host_evidence.host_marks import HostMarks
from bmcmedic.fleet.remediation.case import Ended, RemediationCase, RemediationEnding
from bmcmedic.model.heal import HostReport, Observation, Remedy, Step


class RemediationRecord:
    """The patient's chart: what was seen and done, shared by the parts of one remediation."""

    def __init__(self, case: RemediationCase) -> None:
        self.case = case
        self.steps: list[Step] = []
        self.evidence: list[str] = []
        self.failures: list[tuple[RemediationEnding, str]] = []
        self.observation: Observation | None = None
        self.observed_at_s = 0.0
        """Monotonic seconds when the observation ended."""
        self.host_before: HostReport | None = None
        """What the host said when it was asked before; not what a file said."""
        self.marks_before: HostMarks | None = None
        self.marks_after: HostMarks | None = None
        self.host_may_pat = False
        """Whether nothing says that the host's in-band side hangs: then it can pat its timer."""
        self.early_signs: tuple[str, ...] = ()
        """Of a host restart, seen before anything was sent."""
        self.remedy = Remedy.COLD_RESET
        self.resets_sent = 0
        self.acting_session_lives = False
        """Whether the session that sent the reset still answers: it did not happen."""
        self.hold: act.WatchdogHold | None = None
        self.restore: act.WatchdogRestore | None = None
        self.untouched: bool | None = None

    async def step(self, name: str, outcome: str, detail: str) -> None:
        """A step has ended."""
        step = Step(name, outcome, self.case.time.epoch(), detail)
        self.steps.append(step)
        await self.case.journal.records(step)

    async def guard(self, step: str, facts: GuardrailFacts) -> None:
        """End refused when a rule forbids to go on; the rule and its numbers are evidence."""
        refusals = violated(facts)
        if not refusals:
            return
        for refusal in refusals:
            self.evidence.append(f"{refusal.rule}: {refusal}")
        await self.step(step, "refused", f"{refusals[0].rule}: {refusals[0]}")
        raise Ended(RemediationEnding.REFUSED, str(refusals[0]))

    def fails(self, ending: RemediationEnding, reason: str) -> None:
        """Something stands against a good verdict; the work goes on, to gather the evidence."""
        self.failures.append((ending, reason))
        self.evidence.append(reason)

    def holds(self, hold: act.WatchdogHold) -> None:
        """The timer is held, or is about to be."""
        self.hold = hold

    def power_before(self) -> str | None:
        """The host's power before the reset."""
        if self.marks_before is not None:
            return self.marks_before.power
        return self.observation.power if self.observation else None

    def reports(self) -> tuple[HostReport, ...]:
        """What is known from the host, before anything was done."""
        return tuple(r for r in (self.case.report, self.host_before) if r is not None)

    def watchdog_note(self) -> str:
        """What an operator must know about the timer at the end; empty when nothing was changed."""
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


def identity_detail(observation: Observation, report: HostReport) -> str:
    """Both sides' ids, as an operator compares them."""
    known = (observation.system_guid, observation.device_guid)
    guids = dict.fromkeys(guid.hex() for guid in known if guid is not None)
    host = report.product_uuid or report.bmc_guid
    has = (
        f"has the id {host}"
        if host
        else "gives no id (triage reads it as root only, and some hosts have none)"
    )
    return (
        f"host {report.hostname or 'unnamed'} {has}, the BMC {' and '.join(guids) or 'gives none'}"
    )
