"""After the reset: quiet time, polls, evidence, self-test, host, steady time, timer restored."""

from __future__ import annotations

from bmcmedic.errors import BmcRefusal, RemoteProtocolError, TransportError
from bmcmedic.fleet import act, verify
from bmcmedic.fleet.host_evidence.host_marks import host_changes, read_host_marks, read_new_events
from bmcmedic.fleet.host_evidence.host_verdict import HostCondition, judge_host
from bmcmedic.fleet.host_evidence.triage_command import TriageFailed
from bmcmedic.fleet.link import SESSION_TIMEOUT_S, BmcSession
from bmcmedic.fleet.remediation.case import RemediationEnding
from bmcmedic.fleet.remediation.record import RemediationRecord
from bmcmedic.ipmi.commands.watchdog import GetWatchdogTimerRsp
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.model.heal import HostReport, Remedy

PAT_AWAITED_S_MAX = 60.0
"""Longest wait for a pat after the steady time, in seconds: some hosts pat their timer rarely."""

_WORST_LAST = (RemediationEnding.NOT_DONE, RemediationEnding.HOST_CHANGED)
"""Failures in ascending order: a host that went down with its BMC outweighs everything else."""


class Proof:
    """The proof after one reset; `old_session` is the session that sent it."""

    def __init__(
        self,
        record: RemediationRecord,
        sent: act.ResetSent,
        old_session: BmcSession,
        timer_held: act.TimerReading | None,
    ) -> None:
        self._case = record.case
        self._record = record
        self._sent = sent
        self._old = old_session
        self._old_used_s = sent.sent_at_s
        self._old_answers: list[verify.OldSession] = []
        self._timer_held = timer_held
        self._session: BmcSession | None = None
        self._return: verify.ReturnOutcome | None = None
        self._host_after: HostReport | None = None
        self._signs = record.early_signs
        self._patted = False

    async def close(self) -> None:
        """Release the session slots of the BMC."""
        await verify.close_quietly(self._session)

    async def run(self) -> tuple[RemediationEnding, str]:
        """Collect the evidence, and judge it."""
        await self._quiet()
        await self._poll()
        if self._session is not None:
            await self._restart_evidence(self._session)
            if not self._record.failures:
                await self._self_test(self._session)
            await self._power_after(self._session)
        await self._ask_host()
        if self._record.failures:
            return max(self._record.failures, key=lambda failure: _WORST_LAST.index(failure[0]))
        await self._begin_restore()
        await self._steady()
        await self._end_restore()
        if self._record.failures:
            return max(self._record.failures, key=lambda failure: _WORST_LAST.index(failure[0]))
        return self._good_ending()

    def _good_ending(self) -> tuple[RemediationEnding, str]:
        if self._host_after is None:
            return RemediationEnding.DONE_LAN_ONLY, (
                "the BMC restarted and keeps answering; its host was not asked, so it is not proven"
                " that the BMC answers its host"
            )
        if self._record.untouched is None:
            return RemediationEnding.DONE_LAN_ONLY, (
                "the BMC restarted and keeps answering, and its host is at rest; the host reported"
                " no boot id, so it is not proven that the host kept running"
            )
        return RemediationEnding.DONE, (
            "the BMC restarted and keeps answering; its host is at rest and kept running"
        )

    async def _quiet(self) -> None:
        """Leave the BMC alone, except for one question in the old session while that counts."""
        case, sent = self._case, self._sent
        await case.journal.record_intent(
            "quiet-time", f"leaving the BMC alone, {case.times.quiet_s:g} s"
        )
        quiet_until_s = sent.sent_at_s + case.times.quiet_s
        ask_at_s = min(quiet_until_s, sent.sent_at_s + verify.OLD_SESSION_ASKED_S_MAX)
        await self._wait_until(ask_at_s, "quiet-time", "leaving the BMC alone")
        await self._ask_old_session()
        if verify.OldSession.ANSWERED not in self._old_answers:
            await self._wait_until(quiet_until_s, "quiet-time", "leaving the BMC alone")
        answer = self._old_answers[-1].value
        detail = f"the session from before the reset: {answer}"
        await self._record.step("quiet-time", "over", detail)

    async def _wait_until(self, until_s: float, name: str, text: str) -> None:
        time = self._case.time
        while (left_s := until_s - time.monotonic()) > 0:
            self._case.journal.show_wait(name, left_s, text)
            await time.sleep(min(left_s, 1.0))

    async def _ask_old_session(self) -> None:
        answer = await verify.ask_old_session(
            self._old,
            self._case.time,
            last_used_s=self._old_used_s,
            slowest_answer_s=self._record.slowest_answer_s(),
        )
        self._old_answers.append(answer)

    async def _poll(self) -> None:
        case, sent = self._case, self._sent
        await case.journal.record_intent(
            "poll", f"polling every {case.times.poll_s:.2g} s until it answers"
        )
        back = await verify.wait_until_back(
            case.link,
            case.time,
            case.times,
            sent_at_s=sent.sent_at_s,
            waiting=lambda left_s, text: case.journal.show_wait("poll", left_s, text),
            before=self._record.observation,
        )
        self._return = back
        self._session = back.session
        polls = f"{back.polls} polls, {back.missed} of them silent"
        if back.session is None:
            detail = f"no usable answer within {back.after_s:.0f} s ({polls}): {back.last_detail}"
            await self._record.step("poll", "not-back", detail)
            self._record.add_failure(
                RemediationEnding.NOT_DONE, f"the BMC did not come back: {detail}"
            )
            return
        detail = f"{back.after_s:.0f} s after the reset"
        if back.polls > 1:
            detail += f", after {polls}"
        await self._record.step("poll", "back", detail)

    async def _restart_evidence(self, session: BmcSession) -> None:
        if self._old_answers[-1] is verify.OldSession.SILENT:
            await self._ask_old_session()  # during a boot its silence proved nothing yet
        now = await act.read_timer(session, self._case.time)
        facts = verify.RestartFacts(
            old_session=tuple(self._old_answers),
            missed_polls=self._return.missed if self._return else 0,
            timer_before=self._timer_held.timer if self._timer_held else None,
            timer_after=now.timer if now else None,
            asked_warm=self._record.remedy is Remedy.WARM_RESET,
        )
        restart, lines = verify.judge_restart(facts)
        self._record.evidence += lines
        await self._record.step("restart-evidence", restart.value, "; ".join(lines))
        self._record.acting_session_lives = verify.OldSession.ANSWERED in self._old_answers
        if restart is not verify.Restart.PROVEN:
            reason = lines[0]
            if self._sent.outcome is act.ResetOutcome.UNKNOWN:
                reason += "; the reset got no answer, so it may have been lost on the way: if the"
                reason += " network is the cause, try again before somebody is sent to the machine"
            self._record.add_failure(RemediationEnding.NOT_DONE, reason)

    async def _self_test(self, session: BmcSession) -> None:
        case, sent = self._case, self._sent
        result = await verify.check_self_test(
            session,
            case.time,
            self._record.observation,
            give_up_s=sent.sent_at_s + case.times.return_s,
            period_s=case.times.poll_s,
        )
        await self._record.step("self-test", "passed" if result.passed else "failed", result.detail)
        if not result.passed:
            self._record.add_failure(
                RemediationEnding.NOT_DONE,
                f"its self-test fails after the restart: {result.detail}",
            )

    async def _power_after(self, session: BmcSession) -> None:
        before, time = self._record.marks_before, self._case.time
        assert before is not None
        after = await read_host_marks(session, time)
        give_up_s = self._sent.sent_at_s + self._case.times.return_s
        while after.power is None and before.power and time.monotonic() < give_up_s:
            await time.sleep(self._case.times.poll_s)  # some BMCs know it only late in their boot
            after = await read_host_marks(session, time)
        self._record.marks_after = after
        events = await read_new_events(session, time, before, after)
        seen_off = self._return.power_seen_off if self._return else False
        changes = host_changes(before, after, events, power_seen_off=seen_off)
        self._signs = signs = (*self._record.early_signs, *changes)
        outcome = after.power or "unknown"
        await self._record.step("power-after", outcome, "; ".join((after.describe(), *signs)))

    async def _ask_host(self) -> None:
        """Ask the host whether its in-band side is at rest, and judge whether it kept running."""
        case = self._case
        condition = HostCondition(None, (), "the host was not asked")
        if case.host is not None:
            await case.journal.record_intent("host", "asking the host whether it kept running")
            condition = await self._ask_host_until_well()
        self._host_after = condition.report
        judged = judge_host(self._record.host_before, condition.report, self._signs)
        self._record.untouched = judged.untouched
        self._record.evidence += [*judged.lines, *filter(None, (condition.left_over,))]
        lines = [*judged.lines, *(condition.complaints or (condition.detail,))]
        outcome = {True: "untouched", False: "changed", None: "not-proven"}[judged.untouched]
        await self._record.step("host", outcome, "; ".join(lines))
        if judged.untouched is False:
            self._record.add_failure(
                RemediationEnding.HOST_CHANGED,
                f"the host did not keep running: {judged.lines[0]}",
            )
        marks = self._record.marks_after
        if marks is not None and marks.power is None and judged.untouched is None:
            self._record.add_failure(
                RemediationEnding.NOT_DONE,
                "the host's power state cannot be read after the restart",
            )
        if judged.other_host:
            self._record.add_failure(RemediationEnding.NOT_DONE, judged.lines[0])
        if case.host is not None and condition.report is None:
            self._record.add_failure(
                RemediationEnding.NOT_DONE, f"the host cannot be asked any more: {condition.detail}"
            )
        if condition.complaints:
            reason = f"the host is not at rest after the restart: {condition.complaints[0]}"
            self._record.add_failure(RemediationEnding.NOT_DONE, reason)

    async def _ask_host_until_well(self) -> HostCondition:
        """Ask until the host is at rest or the time is up; only once if the BMC is not back."""
        case, sent = self._case, self._sent
        assert case.host is not None
        now_s = case.time.monotonic()
        give_up_s = max(sent.sent_at_s + case.times.return_s, now_s + case.times.steady_s)
        while True:
            try:
                report = await case.host.run()
            except TriageFailed as error:
                condition = HostCondition(None, (), str(error))
            else:
                condition = HostCondition.of(report)
            if condition.is_well or self._record.failures or case.time.monotonic() >= give_up_s:
                return condition
            trouble = condition.complaints[0] if condition.complaints else condition.detail
            case.journal.show_wait("host", give_up_s - case.time.monotonic(), trouble)
            await case.time.sleep(case.times.poll_s)

    # ------------------------------------------------------------------ steady time and timer

    async def _begin_restore(self) -> None:
        """Put the timer's settings back before the steady time, over an Administrator session."""
        hold, case = self._record.hold, self._case
        if hold is None or not hold.changed or hold.timer is None:
            return
        await case.journal.record_intent("watchdog-restore", "putting the watchdog timer back")
        await verify.close_quietly(self._session)
        self._session = None
        try:
            self._session = await case.link.open_session(
                PrivilegeLevel.ADMINISTRATOR, case.time.monotonic() + SESSION_TIMEOUT_S
            )
        except (TransportError, BmcRefusal, RemoteProtocolError) as error:
            self._record.add_failure(
                RemediationEnding.NOT_DONE, f"it answered, but opens no session any more: {error}"
            )
            return
        self._record.restore = await act.begin_restore(
            self._session,
            case.time,
            hold.timer,
            case.times,
            host_is_well=self._record.untouched is True,
            settings_known=hold.settings_known,
        )

    async def _steady(self) -> None:
        case, session = self._case, self._session
        if session is None:
            return
        await case.journal.record_intent("steady", f"watching it for {case.times.steady_s:g} s")
        steady = await verify.watch_steady(
            session,
            case.time,
            case.times,
            power_before=self._record.power_before(),
            watch_timer=self._record.restore is not None,
            waiting=lambda left_s, text: case.journal.show_wait("steady", left_s, text),
            before=self._record.observation,
        )
        self._patted = steady.patted
        await self._record.step("steady", "held" if steady.held else "lost", steady.detail)
        if not steady.held:
            self._record.add_failure(
                RemediationEnding.NOT_DONE, f"the BMC did not stay well: {steady.detail}"
            )
        if steady.power_seen_off and self._record.untouched is not True:
            self._record.untouched = False

    async def _await_pat(self, session: BmcSession, held: GetWatchdogTimerRsp) -> bool:
        """Wait a little longer for a pat: a host that pats does so within the countdown."""
        case = self._case
        until_s = case.time.monotonic() + min(held.initial_countdown_s, PAT_AWAITED_S_MAX)
        before = await act.read_timer(session, case.time)
        while case.time.monotonic() < until_s:
            left_s = until_s - case.time.monotonic()
            case.journal.show_wait("watchdog-restore", left_s, "until the host pats the timer")
            await case.time.sleep(min(case.times.poll_s, left_s))
            now = await act.read_timer(session, case.time)
            if before is not None and now is not None and act.was_patted(before, now):
                return True
            before = now or before
        return False

    async def _end_restore(self) -> None:
        hold, begun, session = self._record.hold, self._record.restore, self._session
        if hold is None or hold.timer is None or begun is None or session is None:
            return
        if not self._patted and begun.state in (act.RestoreState.TRIAL, act.RestoreState.STOPPED):
            self._patted = await self._await_pat(session, hold.timer)
        self._record.restore = await act.end_restore(
            session,
            self._case.time,
            hold.timer,
            begun,
            patted=self._patted,
            settings_known=hold.settings_known,
        )
        await self._record.step(
            "watchdog-restore", self._record.restore.state.value, self._record.restore.detail
        )
