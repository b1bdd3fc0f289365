"""From symptom to plan: `heal` diagnoses and cures, `reset` does what an operator ordered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bmcmedic.fleet import verify
from bmcmedic.fleet.diagnose import describe, diagnose, initializing, self_test_text
from bmcmedic.fleet.guardrails import GuardrailFacts
from bmcmedic.fleet.host_evidence.triage_command import TriageFailed
from bmcmedic.fleet.identity import check_identities
from bmcmedic.fleet.observe import observe
from bmcmedic.fleet.plan import plan
from bmcmedic.fleet.remediation.case import (
    HEAL_VERDICTS,
    RESET_VERDICTS,
    Ended,
    FellSilent,
    RemediationCase,
    RemediationEnding,
)
from bmcmedic.fleet.remediation.execution import Execution
from bmcmedic.fleet.remediation.identified_link import IdentifiedLink
from bmcmedic.fleet.remediation.record import RemediationRecord
from bmcmedic.model.heal import (
    AnswerKind,
    BmcDiagnosis,
    DiagnosisKind,
    HealVerdict,
    HostReport,
    IdentityCheck,
    Observation,
    Remedy,
    RemedyPlan,
    VerdictName,
)

_HEALTHY_LAN_ONLY = (
    "the BMC answers over LAN; whether it hangs towards its host is not visible from here"
    " (--symptoms, --triage-command or --in-band-hung reports it)"
)


class Remediation:
    """One remediation of one BMC; its caller calls `heal` or `reset`, and once."""

    def __init__(self, case: RemediationCase) -> None:
        self._case = case
        self._record = RemediationRecord(case)
        self._execution: Execution | None = None
        self._waited = False

    # ------------------------------------------------------------------ heal and reset

    async def heal(self) -> HealVerdict:
        """Find out what is wrong with the BMC, and cure it if a cold reset can."""
        return await self._conclude(self._heal, HEAL_VERDICTS)

    async def reset(self, remedy: Remedy) -> HealVerdict:
        """Restart the BMC because an operator ordered it, with every check that `heal` makes."""

        async def remediate() -> tuple[RemediationEnding, str]:
            return await self._reset(remedy)

        return await self._conclude(remediate, RESET_VERDICTS)

    def describe_state(self) -> str:
        """Return what was sent and the timer's state, for an operator who interrupts."""
        if not self._record.resets_sent:
            sent = "No reset was sent."
        else:
            word = "cold" if self._record.remedy is Remedy.COLD_RESET else "warm"
            count = self._record.resets_sent
            times = "" if count == 1 else f" {count} times, after answers that it is busy"
            sent = (
                f"One {word} reset was sent{times}; whether the BMC came back was not verified."
                " Look at it with `bmcmedic probe --detail` before anything else is tried."
            )
        note = self._record.watchdog_note()
        return f"{sent} {note}" if note else sent

    async def _conclude(
        self,
        remediate: Callable[[], Awaitable[tuple[RemediationEnding, str]]],
        verdicts: dict[RemediationEnding, VerdictName],
    ) -> HealVerdict:
        try:
            try:
                ending, reason = await remediate()
            except Ended as ended:
                ending, reason = ended.ending, ended.reason
        finally:
            if self._execution is not None:
                await self._execution.close()
            self._case.link.release_reset_lock()
        note = self._record.watchdog_note()
        if note:
            self._record.evidence.append(note)
        await self._record.step("verdict", verdicts[ending], reason)
        return HealVerdict(
            target=self._case.link.target,
            verdict=verdicts[ending],
            reason=reason,
            steps=tuple(self._record.steps),
            power_before=self._record.power_before(),
            power_after=self._record.marks_after.power if self._record.marks_after else None,
            host_untouched=self._record.untouched,
            evidence=tuple(dict.fromkeys(self._record.evidence)),
            resets_sent=self._record.resets_sent,
            watchdog_note=note,
            run=self._record.run_facts(),
        )

    # ------------------------------------------------------------------ from symptom to plan

    async def _heal(self) -> tuple[RemediationEnding, str]:
        try:
            return await self._heal_once()
        except FellSilent as silent:
            await self._wait_for_return(silent)
        self._waited = True
        return await self._heal_once()

    async def _wait_for_return(self, silent: FellSilent) -> None:
        """Wait for a BMC that may be restarting by itself; it needs neither reset nor repair."""
        case = self._case
        await case.journal.record_intent(
            "look-again", "it may be restarting by itself: waiting for it"
        )
        back = await verify.wait_until_back(
            case.link,
            case.time,
            case.times,
            sent_at_s=case.time.monotonic(),
            waiting=lambda left_s, text: case.journal.show_wait("look-again", left_s, text),
        )
        await verify.close_quietly(back.session)
        if back.session is None:
            detail = f"{silent.reason}; no answer within {back.after_s:.0f} s: {back.last_detail}"
            await self._record.step("look-again", "not-back", detail)
            self._record.evidence.append(detail)
            raise Ended(RemediationEnding.NOT_DONE, detail)
        detail = f"{silent.reason}; it answers again after {back.after_s:.0f} s"
        await self._record.step("look-again", "back", detail)
        self._record.evidence = [detail]
        if case.host is None and (case.report is not None or case.in_band_hung):
            raise Ended(
                RemediationEnding.REFUSED,
                f"{detail}: it may have restarted by itself, so the symptoms may be gone;"
                " run triage on the host again",
            )

    async def _heal_once(self) -> tuple[RemediationEnding, str]:
        await self._read_symptoms()
        observation = await self._probe()
        identity = await self._check_identity(observation)
        report = self._record.host_before or self._case.report  # the newer one
        diagnosis = diagnose(observation, report, in_band_hung=self._case.in_band_hung)
        self._record.diagnosis = diagnosis.kind
        self._record.evidence += [*diagnosis.evidence, *diagnosis.rules_out]
        await self._record.step("diagnose", str(diagnosis.kind), describe(diagnosis))
        if diagnosis.kind is not DiagnosisKind.HEALTHY:
            await self._take_reset_lock()
        if not self._waited and _fell_silent(observation, diagnosis):
            last = observation.answers[-1].detail
            raise FellSilent(f"the BMC answered at first, then stopped answering: {last}")
        if not self._waited and (refusal := initializing(observation)) is not None:
            raise FellSilent(f"the BMC is still initializing: {refusal}")
        if diagnosis.kind is DiagnosisKind.HEALTHY:
            if report is None:
                return RemediationEnding.HEALTHY_LAN_ONLY, _HEALTHY_LAN_ONLY
            return RemediationEnding.HEALTHY, self._healthy_reason(report)
        chosen = self._plan(diagnosis, observation, None)
        if chosen.remedy is Remedy.REPAIR:
            return RemediationEnding.NOT_DONE, f"{diagnosis.evidence[0]}; {chosen.reason}"
        if chosen.remedy is Remedy.REFUSE:
            return RemediationEnding.REFUSED, f"{diagnosis.evidence[0]}; {chosen.reason}"
        return await self._execute(diagnosis, chosen, identity)

    def _healthy_reason(self, report: HostReport) -> str:
        healthy = "the BMC answers over LAN and its host reports no symptom"
        older = self._case.report
        if older is None or older is report or not older.symptoms:
            return healthy
        return (
            f"{healthy} now, unlike before ({', '.join(older.symptoms)}); if nothing on the"
            " host has asked the BMC since, it may still hang: then give --in-band-hung"
        )

    async def _reset(self, remedy: Remedy) -> tuple[RemediationEnding, str]:
        observation = await self._probe()
        found = diagnose(observation, None)
        self._record.diagnosis = found.kind
        self._record.evidence += [*found.evidence, *found.rules_out]
        diagnosis = BmcDiagnosis(
            DiagnosisKind.ORDERED, ("ordered by the operator",), found.evidence
        )
        await self._take_reset_lock()
        chosen = self._plan(found, observation, remedy)
        if chosen.remedy is Remedy.REPAIR:
            return RemediationEnding.NOT_DONE, f"{found.evidence[0]}; nothing was sent"
        if chosen.remedy is Remedy.REFUSE:
            return RemediationEnding.REFUSED, f"{found.evidence[0]}; {chosen.reason}"
        return await self._execute(diagnosis, chosen, IdentityCheck.NOT_ASKED)

    async def _take_reset_lock(self) -> None:
        """Refuse a BMC that another run is restarting: it looks sick, but needs no second reset."""
        facts = GuardrailFacts(in_other_hands=not await self._case.link.take_reset_lock())
        await self._record.guard("guardrails", facts)

    def _plan(
        self, diagnosis: BmcDiagnosis, observation: Observation, remedy: Remedy | None
    ) -> RemedyPlan:
        chosen = plan(
            diagnosis,
            self._case.times,
            remedy=remedy,
            watchdog=observation.watchdog,
            host_is_asked=self._case.host is not None,
            reach=observation.reach,
        )
        self._record.remedy = chosen.remedy
        return chosen

    async def _read_symptoms(self) -> None:
        case = self._case
        if case.report is None and case.host is None:
            detail = "none"
            if case.in_band_hung:
                detail = "the operator says that the in-band side hangs"
            await self._record.step("read-symptoms", "none-given", detail)
            return
        if case.host is not None:
            await case.journal.record_intent("read-symptoms", "asking the host for its symptoms")
            try:
                self._record.host_before = await case.host.run()
            except TriageFailed as error:
                await self._record.step("read-symptoms", "failed", str(error))
                raise Ended(
                    RemediationEnding.REFUSED, f"{error}; nothing is changed without it"
                ) from None
        for report in self._record.reports():
            age_s = case.time.epoch() - report.captured_at
            await self._record.guard("read-symptoms", GuardrailFacts(symptoms_age_s=age_s))
            symptoms = ", ".join(report.symptoms) or "none"
            detail = f"host {report.hostname or 'unnamed'}, {age_s:.0f} s ago: {symptoms}"
            await self._record.step("read-symptoms", "read", detail)

    async def _probe(self) -> Observation:
        await self._case.journal.record_intent("probe", "asking the BMC over LAN")
        link = IdentifiedLink(self._case.link)
        observation = await observe(link, self._case.time)
        self._record.device = link.device or self._record.device
        self._record.observation = observation
        self._record.observed_at_s = self._case.time.monotonic()
        answered = len(observation.answers_of(AnswerKind.ANSWERED))
        detail = observation.reach_detail or (
            f"{answered} of {len(observation.answers)} questions answered, power"
            f" {observation.power or 'unknown'}, self-test {self_test_text(observation)}"
        )
        await self._record.step("probe", observation.reach.value, detail)
        return observation

    async def _check_identity(self, observation: Observation) -> IdentityCheck:
        check, detail = check_identities(observation, self._record.reports())
        if check is IdentityCheck.MISMATCH:
            facts = GuardrailFacts(identity=check, identity_detail=detail)
            await self._record.guard("identity", facts)
        await self._record.step("identity", str(check), detail)
        return check

    async def _execute(
        self, diagnosis: BmcDiagnosis, chosen: RemedyPlan, identity: IdentityCheck
    ) -> tuple[RemediationEnding, str]:
        if self._execution is not None:
            await self._execution.close()
        self._execution = Execution(self._record)
        return await self._execution.run(diagnosis, chosen, identity)


def _fell_silent(observation: Observation, diagnosis: BmcDiagnosis) -> bool:
    """Whether the BMC stopped answering while it was asked, and did not just leave one gap.

    One missing answer at the end is enough where nothing else shows a sick BMC.
    """
    kinds = [answer.kind for answer in observation.answers]
    if not kinds or kinds[-1] is not AnswerKind.UNANSWERED:
        return False
    is_all = all(kind is AnswerKind.UNANSWERED for kind in kinds[-2:])
    return is_all or diagnosis.kind is DiagnosisKind.LAN_SICK
