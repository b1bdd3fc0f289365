"""Carrying a plan out: guard-rails, leave, the watchdog held, the host noted, the one reset."""

from __future__ import annotations

from bmcmedic.errors import BmcRefusal, RemoteProtocolError, TransportError
from bmcmedic.fleet import act, verify
from bmcmedic.fleet.guardrails import GuardrailFacts
from bmcmedic.fleet.host_evidence.host_marks import read_host_marks
from bmcmedic.fleet.link import SESSION_TIMEOUT_S, BmcSession
from bmcmedic.fleet.observe import ask, knock
from bmcmedic.fleet.plan import IDLE_SESSION_S_MAX
from bmcmedic.fleet.remediation.case import Ended, FellSilent, RemediationEnding
from bmcmedic.fleet.remediation.proof import Proof
from bmcmedic.fleet.remediation.record import RemediationRecord, identity_detail
from bmcmedic.ipmi.commands.device import GetDeviceIdReq
from bmcmedic.ipmi.commands.watchdog import TimeoutAction
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.model.heal import (
    AnswerKind,
    BmcDiagnosis,
    DiagnosisKind,
    IdentityCheck,
    Observation,
    RemedyPlan,
)

PACE_S_MAX = 15.0
"""How long the pace of a BMC's answers is taken for known."""

_IN_BAND = (DiagnosisKind.IN_BAND_HUNG, DiagnosisKind.IN_BAND_SLOW)


class Execution:
    """One plan for one BMC; `run` is called once, `close` always."""

    def __init__(self, chart: RemediationRecord) -> None:
        self._case = chart.case
        self._chart = chart
        self._acting: BmcSession | None = None
        self._acting_used_s = 0.0
        self._timer_held: act.TimerReading | None = None
        self._proof: Proof | None = None

    async def run(
        self, diagnosis: BmcDiagnosis, chosen: RemedyPlan, belongs: IdentityCheck
    ) -> tuple[RemediationEnding, str]:
        """Do what the plan says, if every rule and the operator let it."""
        self._chart.host_may_pat = diagnosis.kind not in _IN_BAND
        await self._may_act(diagnosis, belongs)
        await self._ask_for_leave(diagnosis, chosen)
        await self._ask_whether_updating()
        await self._hold_watchdog()  # before all else: it may have only seconds left
        await self._note_host()
        sent = await self._send()
        self._proof = Proof(self._chart, sent, self._acting_session(), self._timer_held)
        return await self._proof.run()

    async def close(self) -> None:
        """Give the BMC's session slots back, and the timer, unless a restart took them."""
        if self._proof is not None:
            await self._proof.close()
        await self._leave_acting_session()

    async def _may_act(self, diagnosis: BmcDiagnosis, belongs: IdentityCheck) -> None:
        observation = self._chart.observation
        assert observation is not None
        updating = _updating(observation)
        operators_word = self._case.in_band_hung or diagnosis.kind is DiagnosisKind.ORDERED
        reports = self._chart.reports()
        facts = GuardrailFacts(
            identity=belongs,
            identity_detail=identity_detail(observation, reports[0]) if reports else "",
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
            if time.monotonic() - self._chart.observed_at_s > PACE_S_MAX:
                await knock(self._case.link, time)  # a BMC that leaks is slower by now
            self._acting = await self._case.link.open_session(
                PrivilegeLevel.ADMINISTRATOR, time.monotonic() + SESSION_TIMEOUT_S
            )
        except (TransportError, RemoteProtocolError) as error:
            await self._chart.step("acting-session", "failed", str(error))
            reason = f"the BMC stopped answering before anything was sent: {error}"
            raise FellSilent(reason) from None
        except BmcRefusal as error:
            facts = GuardrailFacts(may_act=False, may_act_detail=str(error))
            await self._chart.guard("acting-session", facts)
        self._acting_used_s = time.monotonic()
        await self._chart.step("acting-session", "open", "a session at Administrator level")

    async def _ask_for_leave(self, diagnosis: BmcDiagnosis, chosen: RemedyPlan) -> None:
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

    async def _leave_acting_session(self) -> None:
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
        passed_s = self._case.time.monotonic() - self._chart.observed_at_s
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
            raise Ended(RemediationEnding.NOT_DONE, reason)
        return sent


def _updating(observation: Observation) -> str | None:
    if observation.available is False:
        return "Get Device ID: device not available"
    said = observation.answers_of(AnswerKind.UPDATING)
    return said[0].detail if said else None
