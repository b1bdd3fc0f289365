from __future__ import annotations

from dataclasses import replace

import pytest

from bmcmedic.fleet.act import TimerReading, is_harmless, was_patted
from bmcmedic.fleet.host_evidence.host_marks import HostMarks, host_changes
from bmcmedic.fleet.host_evidence.host_verdict import judge_host
from bmcmedic.fleet.verify import (
    OldSession,
    Restart,
    RestartFacts,
    judge_restart,
    judge_self_test,
)
from bmcmedic.ipmi.commands.chassis import LastPowerEvent, RestartCause
from bmcmedic.ipmi.commands.device import GetSelfTestResultsRsp
from bmcmedic.ipmi.commands.sel_records import SystemEventRecord
from bmcmedic.ipmi.commands.watchdog import (
    GetWatchdogTimerRsp,
    PretimeoutInterrupt,
    TimeoutAction,
    TimerUse,
)
from bmcmedic.model.heal import HostReport, Observation, Reach

TIMER = GetWatchdogTimerRsp(
    running=True,
    use=TimerUse.SMS_OS,
    action=TimeoutAction.HARD_RESET,
    initial_countdown_s=60.0,
    present_countdown_s=42.0,
)
NO_FACTS = RestartFacts((OldSession.TOO_OLD,), 0, None, None)


def test_a_session_that_lives_on_disproves_a_restart() -> None:
    facts = replace(NO_FACTS, old_session=(OldSession.SILENT, OldSession.ANSWERED), missed_polls=9)
    assert judge_restart(facts)[0] is Restart.DISPROVEN
    assert judge_restart(replace(facts, asked_warm=True))[0] is Restart.PROVEN


def test_a_warm_reset_without_a_trace_is_not_called_proven() -> None:
    facts = replace(NO_FACTS, old_session=(OldSession.ANSWERED,), asked_warm=True)
    restart, lines = judge_restart(facts)
    assert restart is Restart.NOT_PROVEN
    assert "warm reset may leave no trace" in lines[0]


@pytest.mark.parametrize(
    "facts",
    [
        replace(NO_FACTS, old_session=(OldSession.SILENT,)),
        replace(NO_FACTS, missed_polls=1),
        replace(
            NO_FACTS,
            timer_before=TIMER,
            timer_after=replace(TIMER, running=False, initial_countdown_s=0.0),
        ),
    ],
    ids=["old session forgotten", "gap", "timer cleared"],
)
def test_each_sign_proves_a_restart(facts: RestartFacts) -> None:
    restart, lines = judge_restart(facts)
    assert restart is Restart.PROVEN
    assert len(lines) == 1


def test_without_a_sign_nothing_is_proven() -> None:
    assert judge_restart(NO_FACTS)[0] is Restart.NOT_PROVEN
    same = replace(NO_FACTS, timer_before=TIMER, timer_after=TIMER)
    assert judge_restart(same)[0] is Restart.NOT_PROVEN


def test_self_tests() -> None:
    before = Observation("bmc1", Reach.SESSION, self_test=0x57, self_test_detail=0x08)
    assert judge_self_test(GetSelfTestResultsRsp(0x55), before).passed
    assert judge_self_test(GetSelfTestResultsRsp(0x56), before).passed
    assert judge_self_test(GetSelfTestResultsRsp(0x57, 0x08), before).passed
    assert not judge_self_test(GetSelfTestResultsRsp(0x57, 0x09), before).passed
    assert not judge_self_test(GetSelfTestResultsRsp(0x57, 0x08), None).passed
    fatal = replace(before, self_test=0x58, self_test_detail=1)
    assert not judge_self_test(GetSelfTestResultsRsp(0x58, 1), fatal).passed


MARKS = HostMarks("on", LastPowerEvent(0), RestartCause.POWER_BUTTON, 3, 100, 3)


def event(sensor_type: int, offset: int, *, deassertion: bool = False) -> SystemEventRecord:
    return SystemEventRecord(
        4, 0, 0x20, sensor_type, 1, 0x6F, bytes((offset, 0, 0)), deassertion=deassertion
    )


def test_a_host_that_stayed_shows_no_sign() -> None:
    assert host_changes(MARKS, MARKS) == ()
    forgotten = replace(
        MARKS, restart_cause=RestartCause.UNKNOWN, last_power_event=LastPowerEvent(0)
    )
    assert host_changes(MARKS, forgotten) == ()
    unknown = HostMarks(None, None, None, None, None, None)
    assert host_changes(MARKS, unknown) == host_changes(unknown, MARKS) == ()


@pytest.mark.parametrize(
    "after",
    [
        replace(MARKS, power="off"),
        replace(MARKS, restart_cause=RestartCause.POWER_POLICY_ALWAYS_ON),
        replace(MARKS, last_power_event=LastPowerEvent.AC_FAILED),
    ],
)
def test_each_mark_that_changed_is_a_sign(after: HostMarks) -> None:
    assert len(host_changes(MARKS, after)) == 1


def test_power_seen_off_is_a_sign_for_a_host_that_was_on() -> None:
    assert len(host_changes(MARKS, MARKS, power_seen_off=True)) == 1
    off = replace(MARKS, power="off")
    assert host_changes(off, off, power_seen_off=True) == ()


@pytest.mark.parametrize(
    ("sensor_type", "offset", "is_sign"),
    [
        (0x1D, 0, True),
        (0x1F, 1, True),
        (0x09, 0, True),
        (0x09, 3, False),
        (0x22, 5, True),
        (0x22, 0, False),
        (0x23, 1, True),
        (0x23, 0, False),
        (0x01, 0, False),
    ],
)
def test_events_of_a_host_restart(sensor_type: int, offset: int, is_sign: bool) -> None:
    assert bool(host_changes(MARKS, MARKS, (event(sensor_type, offset),))) is is_sign
    assert host_changes(MARKS, MARKS, (event(sensor_type, offset, deassertion=True),)) == ()


HOST = HostReport(0.0, (), hostname="node7", product_uuid="A", boot_id="b1")


def test_the_boot_id_outweighs_every_sign() -> None:
    same = judge_host(HOST, HOST, ("a sign",))
    assert same.untouched is True
    assert "overruled" in same.lines[1]
    other = judge_host(HOST, replace(HOST, boot_id="b2"), ())
    assert other.untouched is False


def test_without_boot_ids_the_signs_can_only_prove_a_change() -> None:
    assert judge_host(None, None, ()).untouched is None
    assert judge_host(None, None, ("a sign",)).untouched is False
    assert judge_host(HOST, replace(HOST, boot_id=None), ()).untouched is None


def test_another_host_proves_nothing() -> None:
    judged = judge_host(HOST, replace(HOST, product_uuid="B"), ())
    assert judged.other_host
    assert judged.untouched is None


def test_a_timer_is_harmless_when_it_can_do_nothing() -> None:
    none = replace(TIMER, action=TimeoutAction.NONE)
    assert not is_harmless(TIMER)
    assert is_harmless(none)
    assert is_harmless(replace(TIMER, running=False))
    assert not is_harmless(replace(none, pretimeout_interrupt=PretimeoutInterrupt.NMI))


@pytest.mark.parametrize(
    ("present_s", "running", "patted"),
    [(37.0, True, False), (60.0, True, True), (42.0, True, True), (60.0, False, False)],
)
def test_a_countdown_that_rises_was_patted(present_s: float, running: bool, patted: bool) -> None:
    after = replace(TIMER, present_countdown_s=present_s, running=running)
    assert was_patted(TimerReading(TIMER, 0.0), TimerReading(after, 5.0)) is patted
    stopped = replace(TIMER, running=False)
    assert was_patted(TimerReading(stopped, 0.0), TimerReading(after, 5.0)) is running
