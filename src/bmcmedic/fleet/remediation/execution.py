"""Carries a plan out: guard-rails, permission, watchdog hold, host marks, the one reset."""

from __future__ import annotations

from bmcmedic.errors import BmcRefusal, RemoteProtocolError, TransportError
from bmcmedic.fleet import act, verify
from bmcmedic.fleet.guardrails import GuardrailFacts
from bmcmedic.fleet.host_evidence.host_marks import read_host_marks
from bmcmedic.fleet.identity import identity_detail
from bmcmedic.fleet.link import SESSION_TIMEOUT_S, BmcSession
from bmcmedic.fleet.observe import ask, ask_without_session
from bmcmedic.fleet.plan import IDLE_SESSION_S_MAX
from bmcmedic.fleet.remediation.case import Ended, FellSilent, RemediationEnding
from bmcmedic.fleet.remediation.proof import Proof
from bmcmedic.fleet.remediation.record import RemediationRecord
from bmcmedic.ipmi.commands.device import GetDeviceIdReq
from bmcmedic.ipmi.commands.watchdog import TimeoutAction
from bmcmedic.ipmi.constants import CompletionCode, PrivilegeLevel
from bmcmedic.model.heal import (
    AnswerKind,
    BmcDiagnosis,
    BmcQuestion,
    DiagnosisKind,
    IdentityCheck,
    Observation,
    Remedy,
    RemedyPlan,
)

PACE_S_MAX = 15.0
"""How long the measured speed of a BMC's answers stays valid, in seconds."""

_IN_BAND = (DiagnosisKind.IN_BAND_HUNG, DiagnosisKind.IN_BAND_SLOW)


class Execution:
    """The execution of one plan; its caller calls `run` once, and `close` always."""

    def __init__(self, record: RemediationRecord) -> None:
        self._case = record.case
        self._record = record
        self._acting: BmcSession | None = None
        self._acting_used_s = 0.0
        self._timer_held: act.TimerReading | None = None
        self._proof: Proof | None = None

    async def run(
        self, diagnosis: BmcDiagnosis, chosen: RemedyPlan, identity: IdentityCheck
    ) -> tuple[RemediationEnding, str]:
        """Carry the plan out, if every rule and the operator allow it."""
        self._record.host_may_pat = diagnosis.kind not in _IN_BAND
        await self._check_guardrails(diagnosis, identity)
        await self._open_acting_session()
        await self._ask_permission(diagnosis, chosen)
        await self._check_not_updating()
        await self._hold_watchdog()  # first of all: it may have only seconds left
        await self._read_marks_before()
        sent = await self._send()
        self._proof = Proof(self._record, sent, self._acting_session(), self._timer_held)
        return await self._proof.run()

    async def close(self) -> None:
        """Release the session slots and the timer, unless a restart did that already."""
        if self._proof is not None:
            await self._proof.close()
        await self._leave_acting_session()

    async def _check_guardrails(self, diagnosis: BmcDiagnosis, identity: IdentityCheck) -> None:
        observation = self._record.observation
        assert observation is not None
        updating = _updating(observation)
        operators_word = self._case.in_band_hung or diagnosis.kind is DiagnosisKind.ORDERED
        reports = self._record.reports()
        facts = GuardrailFacts(
            identity=identity,
            identity_detail=identity_detail(observation, reports[0]) if reports else "",
            operators_word=operators_word,
            updating=updating,
            power=observation.power,
            power_asked=True,
            boot_id_known=self._boot_id_before() is not None,
        )
        await self._record.guard("guardrails", facts)

    def _boot_id_before(self) -> str | None:
        """Return the host's boot id, where the host can be asked for it again afterwards."""
        return self._record.host_before.boot_id if self._record.host_before else None

    async def _open_acting_session(self) -> None:
        time = self._case.time
        try:
            if time.monotonic() - self._record.observed_at_s > PACE_S_MAX:
                await ask_without_session(self._case.link, time)  # a leaking BMC is slower by now
            self._acting = await self._case.link.open_session(
                PrivilegeLevel.ADMINISTRATOR, time.monotonic() + SESSION_TIMEOUT_S
            )
        except (TransportError, RemoteProtocolError) as error:
            await self._record.step("acting-session", "failed", str(error))
            reason = f"the BMC stopped answering before anything was sent: {error}"
            raise FellSilent(reason) from None
        except BmcRefusal as error:
            facts = GuardrailFacts(may_act=False, may_act_detail=str(error))
            await self._record.guard("acting-session", facts)
        self._acting_used_s = time.monotonic()
        await self._record.step("acting-session", "open", "a session at Administrator level")

    async def _ask_permission(self, diagnosis: BmcDiagnosis, chosen: RemedyPlan) -> None:
        await self._case.journal.record_intent("confirm", f"asking for permission: {chosen.remedy}")
        refusal = await self._case.confirm(diagnosis, chosen)
        facts = GuardrailFacts(
            confirmed=refusal is None,
            confirmed_detail=refusal or "",
            symptoms_age_s=max(
                (self._case.time.epoch() - r.captured_at for r in self._record.reports()),
                default=None,
            ),
        )
        await self._record.guard("confirm", facts)
        await self._record.step("confirm", "given", chosen.reason)
        if self._case.time.monotonic() - self._acting_used_s >= IDLE_SESSION_S_MAX:
            await verify.close_quietly(self._acting)
            self._acting = None
            await self._open_acting_session()

    async def _leave_acting_session(self) -> None:
        acting, record = self._acting, self._record
        if acting is None:
            return
        if record.resets_sent and not record.acting_session_lives:
            acting.abandon()
            return
        if record.hold is not None and record.host_may_pat and record.restore is None:
            record.restore = await act.undo_hold(acting, self._case.time, record.hold)
            if record.restore is not None:
                await record.step(
                    "watchdog-restore", record.restore.state.value, record.restore.detail
                )
        await verify.close_quietly(acting)

    # ------------------------------------------------------------------ before and the act

    def _acting_session(self) -> BmcSession:
        assert self._acting is not None
        return self._acting

    async def _check_not_updating(self) -> None:
        """Refuse a BMC that is updating; this is the second check, right before the act."""
        time = self._case.time
        answer, device = await ask(
            self._acting_session(), time, BmcQuestion.DEVICE_ID, GetDeviceIdReq()
        )
        updating = answer.detail if answer.kind is AnswerKind.UPDATING else None
        if device is not None and not device.available:
            updating = "device not available"
        await self._record.guard("guardrails", GuardrailFacts(updating=updating))

    async def _read_marks_before(self) -> None:
        """Read the marks that a restart of the host would change."""
        time = self._case.time
        self._record.marks_before = await read_host_marks(self._acting_session(), time)
        self._acting_used_s = time.monotonic()
        facts = GuardrailFacts(
            power=self._record.marks_before.power,
            power_asked=True,
            boot_id_known=self._boot_id_before() is not None,
        )
        await self._record.guard("power-before", facts)
        power = self._record.marks_before.power or "unknown"
        await self._record.step("power-before", power, self._record.marks_before.describe())

    async def _hold_watchdog(self) -> None:
        case = self._case
        await case.journal.record_intent("watchdog", "stopping the watchdog timer if it runs")
        seen = self._record.observation.watchdog if self._record.observation else None
        hold = await act.hold_watchdog(
            self._acting_session(),
            case.time,
            case.times,
            self._record.note_hold,
            seen_running=seen is not None and seen.running,
            slowest_answer_s=self._record.slowest_answer_s(),
        )
        self._record.note_hold(hold)
        self._note_expired_timer(hold)
        if hold.timer is not None:
            self._timer_held = await act.read_timer(self._acting_session(), case.time)
        self._acting_used_s = case.time.monotonic()
        facts = GuardrailFacts(
            watchdog_armed=hold.armed,
            watchdog_unknown=hold.unknown and not case.watchdog_unknown_ok,
            watchdog_detail=hold.detail,
        )
        await self._record.guard("watchdog", facts)
        if hold.unknown:
            line = f"{hold.detail}; the operator accepts that it may run (--watchdog-unknown-ok)"
            self._record.evidence.append(line)
            await self._record.step("watchdog", "overridden", line)
            return
        await self._record.step("watchdog", "held" if hold.changed else "untouched", hold.detail)

    def _note_expired_timer(self, hold: act.WatchdogHold) -> None:
        """Note a sign of a host restart where the timer ran and had the time to expire."""
        if hold.ran_out and hold.timer is not None and not act.has_no_action(hold.timer):
            action = hold.timer.action.text
            sign = f"the watchdog timer may have run out before it could be held: {action}"
            self._record.early_signs = (sign,)
            return
        seen = self._record.observation.watchdog if self._record.observation else None
        if seen is None or hold.timer is None or not seen.running or hold.timer.running:
            return
        passed_s = self._case.time.monotonic() - self._record.observed_at_s
        left_s = seen.present_countdown_s
        if left_s is None or seen.action == TimeoutAction.NONE.text:
            return
        if passed_s >= left_s:
            sign = f"the watchdog timer ran out before it could be held: {seen.action}"
            self._record.early_signs = (sign,)

    async def _send(self) -> act.ResetSent:
        case = self._case
        name = str(self._record.remedy)
        await case.journal.record_intent(
            name, "sending the one reset; it is sent again only if the BMC answers that it is busy"
        )
        sent = await act.send_reset(
            self._acting_session(), case.time, self._record.remedy, self._record.note_reset
        )
        detail = sent.detail
        if self._record.resets_sent > 1:
            detail += f"; sent {self._record.resets_sent} times, because the BMC was busy"
        await self._record.step(name, sent.outcome.value, detail)
        if sent.outcome is act.ResetOutcome.DENIED:
            self._record.acting_session_lives = True
            self._record.marks_after = await read_host_marks(self._acting_session(), case.time)
            ending, advice = _denied(self._record.remedy, sent.code)
            reason = f"the BMC refuses to restart: {detail}; {advice}"
            self._record.evidence.append(reason)
            raise Ended(ending, reason)
        return sent


_DENIED_FOR_NOW: dict[int | None, str] = {
    CompletionCode.NODE_BUSY: "it has not restarted; try again in 5 minutes",
    CompletionCode.FIRMWARE_UPDATING: "wait until the update is done",
    CompletionCode.INITIALIZING: "it restarts already; look at it again in 5 minutes",
    CompletionCode.INSUFFICIENT_PRIVILEGE: "give a user who may reset the BMC",
}
"""Refusals that are no case for repair, and what to do instead."""


def _denied(remedy: Remedy, code: int | None) -> tuple[RemediationEnding, str]:
    """Return how a reset ends that the BMC refused, and what to do about it."""
    if code in _DENIED_FOR_NOW:
        return RemediationEnding.REFUSED, _DENIED_FOR_NOW[code]
    if remedy is Remedy.WARM_RESET:
        return RemediationEnding.REFUSED, "many BMCs have no warm reset: use --cold"
    return RemediationEnding.NOT_DONE, "it needs on-site work, or a power reseat"


def _updating(observation: Observation) -> str | None:
    if observation.available is False:
        return "Get Device ID: device not available"
    updating = observation.answers_of(AnswerKind.UPDATING)
    return updating[0].detail if updating else None
