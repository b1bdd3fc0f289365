"""The two ways in: `heal` finds out and cures, `reset` does what an operator ordered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bmcmedic.errors import BmcRefusal, RemoteProtocolError, TransportError
from bmcmedic.fleet import act, verify
from bmcmedic.fleet.diagnose import describe, diagnose, identity, self_test_text
from bmcmedic.fleet.guardrails import GuardrailFacts
from bmcmedic.fleet.host_marks import read_host_marks
from bmcmedic.fleet.link import SESSION_TIMEOUT_S, BmcSession
from bmcmedic.fleet.observe import ask, knock, observe
from bmcmedic.fleet.plan import IDLE_SESSION_S_MAX, plan
from bmcmedic.fleet.remediation.case import HEAL_VERDICTS, RESET_VERDICTS, Case, Ended, Ending
from bmcmedic.fleet.remediation.chart import Chart
from bmcmedic.fleet.remediation.proof import Proof
from bmcmedic.fleet.triage_command import TriageFailed
from bmcmedic.ipmi.commands.device import GetDeviceIdReq
from bmcmedic.ipmi.commands.watchdog import TimeoutAction
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.model import (
    AnswerKind,
    Diagnosis,
    DiagnosisKind,
    HostReport,
    Identity,
    Observation,
    Plan,
    Remedy,
    Verdict,
)

PACE_S_MAX = 15.0
"""How long the pace of a BMC's answers is taken for known."""


class Remediation:
    """One run over one case; `heal` or `reset` is called once."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._chart = Chart(case)
        self._acting: BmcSession | None = None
        self._acting_used_s = 0.0
        self._observed_at_s = 0.0
        self._timer_held: act.TimerLook | None = None
        self._proof: Proof | None = None

    # ------------------------------------------------------------------ the two ways in

    async def heal(self) -> Verdict:
        """Find out what ails the BMC, and cure it if a cold reset can."""
        return await self._conclude(self._heal, HEAL_VERDICTS)

    async def reset(self, remedy: Remedy) -> Verdict:
        """Restart the BMC because an operator ordered it, with every care that `heal` takes."""

        async def course() -> tuple[Ending, str]:
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
        self, course: Callable[[], Awaitable[tuple[Ending, str]]], words: dict[Ending, str]
    ) -> Verdict:
        try:
            try:
                ending, reason = await course()
            except Ended as ended:
                ending, reason = ended.ending, ended.reason
        finally:
            if self._proof is not None:
                await self._proof.close()
            await self._leave_acting_session()
        note = self._chart.watchdog_note()
        if note:
            self._chart.evidence.append(note)
        await self._chart.step("verdict", words[ending], reason)
        return Verdict(
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

    async def _leave_acting_session(self) -> None:
        """Give the slot back, and the timer, unless a restart took both."""
        acting, chart = self._acting, self._chart
        if acting is None:
            return
        if chart.resets_sent and not chart.acting_session_lives:
            acting.abandon()
            return
        if chart.hold is not None and chart.host_may_pat and chart.restore is None:
            chart.restore = await act.release(acting, self._case.time, chart.hold)
            if chart.restore is not None:
                await chart.step(
                    "watchdog-restore", chart.restore.state.value, chart.restore.detail
                )
        await verify.close_quietly(acting)

    # ------------------------------------------------------------------ from symptom to plan

    async def _heal(self) -> tuple[Ending, str]:
        await self._read_symptoms()
        observation = await self._probe()
        belongs = await self._check_identity(observation)
        report = self._chart.host_before or self._case.report  # the newer one
        diagnosis = diagnose(observation, report, in_band_hung=self._case.in_band_hung)
        self._chart.evidence += [*diagnosis.evidence, *diagnosis.rules_out]
        await self._chart.step("diagnose", str(diagnosis.kind), describe(diagnosis))
        if diagnosis.kind is DiagnosisKind.HEALTHY:
            return Ending.HEALTHY, self._healthy_reason(report)
        chosen = self._plan(diagnosis, observation, None)
        if chosen.remedy is Remedy.REPAIR:
            return Ending.NOT_DONE, f"{diagnosis.evidence[0]}; {chosen.reason}"
        if chosen.remedy is Remedy.REFUSE:
            return Ending.REFUSED, f"{diagnosis.evidence[0]}; {chosen.reason}"
        return await self._apply(diagnosis, chosen, belongs)

    def _healthy_reason(self, report: HostReport | None) -> str:
        if report is not None:
            return "the BMC answers over LAN and its host reports no symptom"
        return (
            "the BMC answers over LAN; whether it hangs towards its host cannot be seen from here"
            " (--symptoms, --triage-command or --in-band-hung says so)"
        )

    async def _ordered(self, remedy: Remedy) -> tuple[Ending, str]:
        observation = await self._probe()
        found = diagnose(observation, None)
        self._chart.evidence += [*found.evidence, *found.rules_out]
        diagnosis = Diagnosis(DiagnosisKind.ORDERED, ("ordered by the operator",), found.evidence)
        chosen = self._plan(found, observation, remedy)
        if chosen.remedy is Remedy.REPAIR:
            return Ending.NOT_DONE, f"{found.evidence[0]}; nothing was sent"
        if chosen.remedy is Remedy.REFUSE:
            return Ending.REFUSED, f"{found.evidence[0]}; {chosen.reason}"
        return await self._apply(diagnosis, chosen, Identity.NOT_ASKED)

    def _plan(self, diagnosis: Diagnosis, observation: Observation, remedy: Remedy | None) -> Plan:
        chosen = plan(
            diagnosis,
            self._case.times,
            remedy=remedy,
            watchdog=observation.watchdog,
            host_is_asked=self._case.host is not None,
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
                raise Ended(Ending.REFUSED, f"{error}; without it nothing is touched") from None
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
        self._observed_at_s = self._case.time.monotonic()
        answered = len(observation.answers_of(AnswerKind.ANSWERED))
        detail = observation.reach_detail or (
            f"{answered} of {len(observation.answers)} questions answered, power"
            f" {observation.power or 'unknown'}, self-test {self_test_text(observation)}"
        )
        await self._chart.step("probe", observation.reach.value, detail)
        return observation

    async def _check_identity(self, observation: Observation) -> Identity:
        reports = self._chart.reports()
        if not reports:
            detail = "no host report was given, the operator alone says which host this is"
            await self._chart.step("identity", str(Identity.NOT_ASKED), detail)
            return Identity.NOT_ASKED
        found = [identity(observation, report) for report in reports]
        worst = min(found, key=_GRAVEST.index)
        detail = _identity_detail(observation, reports[found.index(worst)])
        if worst is Identity.MISMATCH:
            facts = GuardrailFacts(identity=worst, identity_detail=detail)
            await self._chart.guard("identity", facts)
        await self._chart.step("identity", str(worst), detail)
        return worst

    # ------------------------------------------------------------------ guard-rails and leave

    async def _apply(
        self, diagnosis: Diagnosis, chosen: Plan, belongs: Identity
    ) -> tuple[Ending, str]:
        self._chart.host_may_pat = diagnosis.kind not in _IN_BAND
        await self._may_act(diagnosis, belongs)
        await self._ask_for_leave(diagnosis, chosen)
        await self._ask_whether_updating()
        await self._hold_watchdog()  # before all else: it may have only seconds left
        await self._note_host()
        sent = await self._send()
        self._proof = Proof(self._chart, sent, self._acting_session(), self._timer_held)
        return await self._proof.run()

    async def _may_act(self, diagnosis: Diagnosis, belongs: Identity) -> None:
        observation = self._chart.observation
        assert observation is not None
        updating = _updating(observation)
        operators_word = self._case.in_band_hung or diagnosis.kind is DiagnosisKind.ORDERED
        reports = self._chart.reports()
        facts = GuardrailFacts(
            identity=belongs,
            identity_detail=_identity_detail(observation, reports[0]) if reports else "",
            operators_word=operators_word,
            updating=updating,
            power=observation.power,
            power_asked=True,
            boot_id_known=self._boot_id_before() is not None,
        )
        await self._chart.guard("guardrails", facts)
        await self._open_acting_session()

    def _boot_id_before(self) -> str | None:
        """The host's boot id, where the host can be asked for it again afterwards."""
        return self._chart.host_before.boot_id if self._chart.host_before else None

    async def _open_acting_session(self) -> None:
        time = self._case.time
        try:
            if time.monotonic() - self._observed_at_s > PACE_S_MAX:
                await knock(self._case.link, time)  # a BMC that leaks is slower by now
            self._acting = await self._case.link.open_session(
                PrivilegeLevel.ADMINISTRATOR, time.monotonic() + SESSION_TIMEOUT_S
            )
        except (TransportError, RemoteProtocolError) as error:
            await self._chart.step("acting-session", "failed", str(error))
            reason = f"the BMC stopped answering before anything was sent: {error}"
            raise Ended(Ending.NOT_DONE, reason) from None
        except BmcRefusal as error:
            facts = GuardrailFacts(may_act=False, may_act_detail=str(error))
            await self._chart.guard("acting-session", facts)
        self._acting_used_s = time.monotonic()
        await self._chart.step("acting-session", "open", "a session at Administrator level")

    async def _ask_for_leave(self, diagnosis: Diagnosis, chosen: Plan) -> None:
        await self._case.journal.intends("confirm", f"asking for leave: {chosen.remedy}")
        refusal = await self._case.confirm(diagnosis, chosen)
        facts = GuardrailFacts(
            confirmed=refusal is None,
            confirmed_detail=refusal or "",
            symptoms_age_s=max(
                (self._case.time.epoch() - r.captured_at for r in self._chart.reports()),
                default=None,
            ),
        )
        await self._chart.guard("confirm", facts)
        await self._chart.step("confirm", "given", chosen.reason)
        if self._case.time.monotonic() - self._acting_used_s >= IDLE_SESSION_S_MAX:
            await verify.close_quietly(self._acting)
            self._acting = None
            await self._open_acting_session()

    # ------------------------------------------------------------------ before and the act

    def _acting_session(self) -> BmcSession:
        assert self._acting is not None
        return self._acting

    async def _ask_whether_updating(self) -> None:
        """Once more, right before the act."""
        time = self._case.time
        answer, device = await ask(self._acting_session(), time, "device id", GetDeviceIdReq())
        updating = answer.detail if answer.kind is AnswerKind.UPDATING else None
        if device is not None and not device.available:
            updating = "device not available"
        await self._chart.guard("guardrails", GuardrailFacts(updating=updating))

    async def _note_host(self) -> None:
        """Note the marks that a restart of the host would change."""
        time = self._case.time
        self._chart.marks_before = await read_host_marks(self._acting_session(), time)
        self._acting_used_s = time.monotonic()
        facts = GuardrailFacts(
            power=self._chart.marks_before.power,
            power_asked=True,
            boot_id_known=self._boot_id_before() is not None,
        )
        await self._chart.guard("power-before", facts)
        power = self._chart.marks_before.power or "unknown"
        await self._chart.step("power-before", power, self._chart.marks_before.describe())

    async def _hold_watchdog(self) -> None:
        case = self._case
        await case.journal.intends("watchdog", "stopping the watchdog timer if it runs")
        hold = await act.hold_watchdog(
            self._acting_session(), case.time, case.times, self._chart.holds
        )
        self._chart.holds(hold)
        self._note_a_shot(hold)
        self._timer_held = await act.look_at_timer(self._acting_session(), case.time)
        self._acting_used_s = case.time.monotonic()
        facts = GuardrailFacts(watchdog_armed=hold.armed, watchdog_detail=hold.detail)
        await self._chart.guard("watchdog", facts)
        await self._chart.step("watchdog", "held" if hold.changed else "untouched", hold.detail)

    def _note_a_shot(self, hold: act.WatchdogHold) -> None:
        """A timer that was seen running and had the time to run out has shot the host."""
        seen = self._chart.observation.watchdog if self._chart.observation else None
        if seen is None or hold.timer is None or not seen.running or hold.timer.running:
            return
        passed_s = self._case.time.monotonic() - self._observed_at_s
        if seen.action != TimeoutAction.NONE.text and passed_s >= seen.present_countdown_s:
            sign = f"the watchdog timer ran out before it could be held: {seen.action}"
            self._chart.early_signs = (sign,)

    async def _send(self) -> act.ResetSent:
        case = self._case
        name = str(self._chart.remedy)
        await case.journal.intends(name, "sending the one reset; it is never repeated")
        self._chart.resets_sent = 1
        sent = await act.send_reset(self._acting_session(), case.time, self._chart.remedy)
        await self._chart.step(name, sent.outcome.value, sent.detail)
        if sent.outcome is act.ResetOutcome.DENIED:
            self._chart.acting_session_lives = True
            self._chart.marks_after = await read_host_marks(self._acting_session(), case.time)
            reason = f"the BMC refuses to restart: {sent.detail}; it needs hands, or a power reseat"
            self._chart.evidence.append(reason)
            raise Ended(Ending.NOT_DONE, reason)
        return sent


_IN_BAND = (DiagnosisKind.IN_BAND_HUNG, DiagnosisKind.IN_BAND_SLOW)
_GRAVEST = (Identity.MISMATCH, Identity.NOT_PROVEN, Identity.PROVEN, Identity.NOT_ASKED)


def _updating(observation: Observation) -> str | None:
    if observation.available is False:
        return "Get Device ID: device not available"
    said = observation.answers_of(AnswerKind.UPDATING)
    return said[0].detail if said else None


def _identity_detail(observation: Observation, report: HostReport) -> str:
    known = (observation.system_guid, observation.device_guid)
    guids = dict.fromkeys(guid.hex() for guid in known if guid is not None)
    host = report.product_uuid or report.bmc_guid or "unknown"
    return (
        f"host {report.hostname or 'unnamed'} has the id {host},"
        f" the BMC {' and '.join(guids) or 'gives none'}"
    )
