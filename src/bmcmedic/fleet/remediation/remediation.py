"""The two ways in: `heal` finds out and cures, `reset` does what an operator ordered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bmcmedic.fleet import verify
from bmcmedic.fleet.diagnose import describe, diagnose, identity, self_test_text
from bmcmedic.fleet.guardrails import GuardrailFacts
from bmcmedic.fleet.host_evidence.triage_command import TriageFailed
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
from bmcmedic.fleet.remediation.record import RemediationRecord, identity_detail
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
)


class Remediation:
    """One run over one case; `heal` or `reset` is called once."""

    def __init__(self, case: RemediationCase) -> None:
        self._case = case
        self._chart = RemediationRecord(case)
        self._treatment: Execution | None = None
        self._looked_again = False

    # ------------------------------------------------------------------ the two ways in

    async def heal(self) -> HealVerdict:
        """Find out what ails the BMC, and cure it if a cold reset can."""
        return await self._conclude(self._heal, HEAL_VERDICTS)

    async def reset(self, remedy: Remedy) -> HealVerdict:
        """Restart the BMC because an operator ordered it, with every care that `heal` takes."""

        async def course() -> tuple[RemediationEnding, str]:
            return await self._ordered(remedy)

        return await self._conclude(course, RESET_VERDICTS)

    def standing(self) -> str:
        """What was sent and how things stand: for an operator who interrupts."""
        if not self._chart.resets_sent:
            sent = "No reset was sent."
        else:
            word = "cold" if self._chart.remedy is Remedy.COLD_RESET else "warm"
            sent = (
                f"One {word} reset was sent; whether the BMC came back was not verified."
                " Look at it with `bmcmedic probe --detail` before anything else is tried."
            )
        note = self._chart.watchdog_note()
        return f"{sent} {note}" if note else sent

    async def _conclude(
        self,
        course: Callable[[], Awaitable[tuple[RemediationEnding, str]]],
        words: dict[RemediationEnding, str],
    ) -> HealVerdict:
        try:
            try:
                ending, reason = await course()
            except Ended as ended:
                ending, reason = ended.ending, ended.reason
        finally:
            if self._treatment is not None:
                await self._treatment.close()
            self._case.link.release()
        note = self._chart.watchdog_note()
        if note:
            self._chart.evidence.append(note)
        await self._chart.step("verdict", words[ending], reason)
        return HealVerdict(
            target=self._case.link.target,
            verdict=words[ending],
            reason=reason,
            steps=tuple(self._chart.steps),
            power_before=self._chart.power_before(),
            power_after=self._chart.marks_after.power if self._chart.marks_after else None,
            host_untouched=self._chart.untouched,
            evidence=tuple(dict.fromkeys(self._chart.evidence)),
            resets_sent=self._chart.resets_sent,
        )

    # ------------------------------------------------------------------ from symptom to plan

    async def _heal(self) -> tuple[RemediationEnding, str]:
        try:
            return await self._heal_once()
        except FellSilent as silent:
            await self._look_again(silent)
        self._looked_again = True
        return await self._heal_once()

    async def _look_again(self, silent: FellSilent) -> None:
        """Wait for a BMC that may be restarting by itself: it wants no reset from us, nor hands."""
        case = self._case
        await case.journal.intends("look-again", "it may be restarting by itself: waiting for it")
        back = await verify.wait_until_back(
            case.link,
            case.time,
            case.times,
            sent_at_s=case.time.monotonic(),
            waiting=lambda left_s, text: case.journal.waits("look-again", left_s, text),
        )
        await verify.close_quietly(back.session)
        if back.session is None:
            detail = f"{silent.reason}; and no more within {back.after_s:.0f} s: {back.last_detail}"
            await self._chart.step("look-again", "not-back", detail)
            self._chart.evidence.append(detail)
            raise Ended(RemediationEnding.NOT_DONE, detail)
        detail = f"{silent.reason}; it answers again after {back.after_s:.0f} s"
        await self._chart.step("look-again", "back", detail)
        self._chart.evidence = [detail]
        if case.host is None and (case.report is not None or case.in_band_hung):
            raise Ended(
                RemediationEnding.REFUSED,
                f"{detail}: it may have restarted by itself, so what was said of it may be over;"
                " look at the host again",
            )

    async def _heal_once(self) -> tuple[RemediationEnding, str]:
        await self._read_symptoms()
        observation = await self._probe()
        belongs = await self._check_identity(observation)
        report = self._chart.host_before or self._case.report  # the newer one
        diagnosis = diagnose(observation, report, in_band_hung=self._case.in_band_hung)
        self._chart.evidence += [*diagnosis.evidence, *diagnosis.rules_out]
        await self._chart.step("diagnose", str(diagnosis.kind), describe(diagnosis))
        if diagnosis.kind is not DiagnosisKind.HEALTHY:
            await self._claim()
        if not self._looked_again and _fell_silent(observation, diagnosis):
            last = observation.answers[-1].detail
            raise FellSilent(f"the BMC answered at first, then no more: {last}")
        if diagnosis.kind is DiagnosisKind.HEALTHY:
            return RemediationEnding.HEALTHY, self._healthy_reason(report)
        chosen = self._plan(diagnosis, observation, None)
        if chosen.remedy is Remedy.REPAIR:
            return RemediationEnding.NOT_DONE, f"{diagnosis.evidence[0]}; {chosen.reason}"
        if chosen.remedy is Remedy.REFUSE:
            return RemediationEnding.REFUSED, f"{diagnosis.evidence[0]}; {chosen.reason}"
        return await self._treat(diagnosis, chosen, belongs)

    def _healthy_reason(self, report: HostReport | None) -> str:
        if report is not None:
            said = "the BMC answers over LAN and its host reports no symptom"
            older = self._case.report
            if older is None or older is report or not older.symptoms:
                return said
            return (
                f"{said} now, unlike before ({', '.join(older.symptoms)}); if nobody on the host"
                " has asked the BMC since, it may hang still: then say --in-band-hung"
            )
        return (
            "the BMC answers over LAN; whether it hangs towards its host cannot be seen from here"
            " (--symptoms, --triage-command or --in-band-hung says so)"
        )

    async def _ordered(self, remedy: Remedy) -> tuple[RemediationEnding, str]:
        observation = await self._probe()
        found = diagnose(observation, None)
        self._chart.evidence += [*found.evidence, *found.rules_out]
        diagnosis = BmcDiagnosis(
            DiagnosisKind.ORDERED, ("ordered by the operator",), found.evidence
        )
        await self._claim()
        chosen = self._plan(found, observation, remedy)
        if chosen.remedy is Remedy.REPAIR:
            return RemediationEnding.NOT_DONE, f"{found.evidence[0]}; nothing was sent"
        if chosen.remedy is Remedy.REFUSE:
            return RemediationEnding.REFUSED, f"{found.evidence[0]}; {chosen.reason}"
        return await self._treat(diagnosis, chosen, IdentityCheck.NOT_ASKED)

    async def _claim(self) -> None:
        """A BMC that somebody else restarts right now looks sick, and wants no second reset."""
        facts = GuardrailFacts(in_other_hands=not await self._case.link.claim())
        await self._chart.guard("guardrails", facts)

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
        self._chart.remedy = chosen.remedy
        return chosen

    async def _read_symptoms(self) -> None:
        case = self._case
        if case.report is None and case.host is None:
            said = "the operator says that the in-band side hangs" if case.in_band_hung else "none"
            await self._chart.step("read-symptoms", "none-given", said)
            return
        if case.host is not None:
            await case.journal.intends("read-symptoms", "asking the host for its symptoms")
            try:
                self._chart.host_before = await case.host.run()
            except TriageFailed as error:
                await self._chart.step("read-symptoms", "failed", str(error))
                raise Ended(
                    RemediationEnding.REFUSED, f"{error}; without it nothing is touched"
                ) from None
        for report in self._chart.reports():
            age_s = case.time.epoch() - report.captured_at
            await self._chart.guard("read-symptoms", GuardrailFacts(symptoms_age_s=age_s))
            symptoms = ", ".join(report.symptoms) or "none"
            detail = f"host {report.hostname or 'unnamed'}, {age_s:.0f} s ago: {symptoms}"
            await self._chart.step("read-symptoms", "read", detail)

    async def _probe(self) -> Observation:
        await self._case.journal.intends("probe", "asking the BMC over LAN")
        observation = await observe(self._case.link, self._case.time)
        self._chart.observation = observation
        self._chart.observed_at_s = self._case.time.monotonic()
        answered = len(observation.answers_of(AnswerKind.ANSWERED))
        detail = observation.reach_detail or (
            f"{answered} of {len(observation.answers)} questions answered, power"
            f" {observation.power or 'unknown'}, self-test {self_test_text(observation)}"
        )
        await self._chart.step("probe", observation.reach.value, detail)
        return observation

    async def _check_identity(self, observation: Observation) -> IdentityCheck:
        reports = self._chart.reports()
        if not reports:
            detail = "no host report was given, the operator alone says which host this is"
            await self._chart.step("identity", str(IdentityCheck.NOT_ASKED), detail)
            return IdentityCheck.NOT_ASKED
        found = [identity(observation, report) for report in reports]
        worst = min(found, key=_GRAVEST.index)
        detail = identity_detail(observation, reports[found.index(worst)])
        if worst is IdentityCheck.MISMATCH:
            facts = GuardrailFacts(identity=worst, identity_detail=detail)
            await self._chart.guard("identity", facts)
        await self._chart.step("identity", str(worst), detail)
        return worst

    async def _treat(
        self, diagnosis: BmcDiagnosis, chosen: RemedyPlan, belongs: IdentityCheck
    ) -> tuple[RemediationEnding, str]:
        if self._treatment is not None:
            await self._treatment.close()
        self._treatment = Execution(self._chart)
        return await self._treatment.run(diagnosis, chosen, belongs)


def _fell_silent(observation: Observation, diagnosis: BmcDiagnosis) -> bool:
    """Whether the BMC went away while it was asked, and did not merely leave out an answer.

    One answer that is missing at the end is enough where nothing else speaks for a sickness.
    """
    kinds = [answer.kind for answer in observation.answers]
    if not kinds or kinds[-1] is not AnswerKind.UNANSWERED:
        return False
    is_all = all(kind is AnswerKind.UNANSWERED for kind in kinds[-2:])
    return is_all or diagnosis.kind is DiagnosisKind.LAN_SICK


_GRAVEST = (
    IdentityCheck.MISMATCH,
    IdentityCheck.NOT_PROVEN,
    IdentityCheck.PROVEN,
    IdentityCheck.NOT_ASKED,
)
