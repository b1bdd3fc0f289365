"""Relief on a host of files, in its own time: which clients end, and by what proof."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bmcmedic.host.client.stuck import Client
from bmcmedic.host.kernel.proc import Process, Tree
from bmcmedic.host.relieve.end_client import ClientEnding, JudgedClient, Outcome
from bmcmedic.host.relieve.kipmid_throttle import ThrottleAction
from bmcmedic.host.relieve.relieve import Relief, Report
from tests.support.relief_host import UPTIME_S, Fake, FakeHost

STUCK_AFTER_S = 60.0


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def relieve(host: FakeHost, *, may_act: bool = True, has_pidfds: bool = True) -> Report:
    return Relief(host.trees(has_pidfds=has_pidfds), STUCK_AFTER_S).relieve(may_act)


def outcomes(report: Report) -> dict[int, Outcome | None]:
    return {
        case.judged.client.identity.pid: case.ending.outcome if case.ending is not None else None
        for case in report.cases
    }


def before_the_signals(
    relief: Relief, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]
) -> None:
    """Something happens between the scan that proved them stuck and the first signal."""
    end = relief._ender.end

    def act_and_end(stuck: list[JudgedClient]) -> list[ClientEnding]:
        act()
        return end(stuck)

    monkeypatch.setattr(relief._ender, "end", act_and_end)


@pytest.mark.parametrize("has_pidfds", [True, False])
def test_exactly_the_stuck_end(host: FakeHost, has_pidfds: bool) -> None:
    host.add(Fake(1001))
    host.add(Fake(1002, argv=["ipmitool", "-b", "6", "-t", "0x2c", "raw", "0x4", "0x2d", "0xbe"]))
    host.add(Fake(1003, processor=1))
    host.add(Fake(1004, processor=2))
    innocent = [
        Fake(2001, exe="/usr/bin/vim", argv=["vim", "ipmitool.sh"]),
        Fake(2002, exe="/usr/bin/grep", argv=["grep", "ipmitool"]),
        Fake(2003, start_s=host.uptime_s - 20.0),
        Fake(2004, terminal=34816),
        Fake(2005, argv=["ipmitool", "-I", "lanplus", "-H", "10.0.0.1", "sol", "activate"]),
        Fake(2006, argv=["ipmitool", "-Ilanplus", "-H", "10.0.0.1", "mc", "info"]),
        Fake(2007, argv=["ipmitool", "sol", "activate"]),
        Fake(2008, core_percent=1.0),
        Fake(2009, state="R"),
        Fake(2010, state="T"),
        Fake(2011, ran_at_s=host.uptime_s - 5.0),
        Fake(2012, wchan="pipe_read"),
        Fake(2015, ran_at_s=host.uptime_s - 5.0, processor=1),
        Fake(2016, ran_at_s=host.uptime_s - 5.0, processor=2),
        Fake(2013, wchan=None, device=False),
        Fake(2014, exe=None),
    ]
    for fake in innocent:
        host.add(fake)

    report = relieve(host, has_pidfds=has_pidfds)

    assert sorted(host.sent) == [(pid, "TERM") for pid in (1001, 1002, 1003, 1004)]
    assert {case.judged.client.identity.pid for case in report.stuck} == {1001, 1002, 1003, 1004}
    assert set(host.processes) == {fake.pid for fake in innocent}
    assert all(case.ending and case.ending.outcome is Outcome.ENDED for case in report.stuck)
    through = "pidfd" if has_pidfds else "pid"
    assert {case.ending.through for case in report.stuck if case.ending} == {through}


def test_a_dry_run_sends_nothing(host: FakeHost) -> None:
    host.add(Fake(1001))
    host.add_interface()
    report = relieve(host, may_act=False)
    assert host.sent == []
    assert outcomes(report) == {1001: None}
    assert report.setting.action is ThrottleAction.SET
    assert host.parameter.read_text() == "\n"
    assert not host.journal.exists()


def test_a_client_that_ignores_term_is_killed(host: FakeHost) -> None:
    host.add(Fake(1001, term="ignores"))
    report = relieve(host)
    assert host.sent == [(1001, "TERM"), (1001, "KILL")]
    assert outcomes(report) == {1001: Outcome.KILLED}


def test_a_client_that_catches_term_and_waits_again_is_killed(host: FakeHost) -> None:
    host.add(Fake(1001, term="wakes"))
    report = relieve(host)
    assert outcomes(report) == {1001: Outcome.KILLED}


def test_a_client_that_works_after_term_is_not_killed(host: FakeHost) -> None:
    host.add(Fake(1001, term="runs"))
    report = relieve(host)
    assert host.sent == [(1001, "TERM")]
    assert outcomes(report) == {1001: Outcome.SURVIVED}
    assert report.left(STUCK_AFTER_S)


def test_relief_waits_for_a_client_that_needs_a_cpu_to_end(host: FakeHost) -> None:
    host.add(Fake(1001, term="late"))
    report = relieve(host)
    assert host.sent == [(1001, "TERM")]
    assert outcomes(report) == {1001: Outcome.ENDED}


def test_state_d_is_reported_and_not_waited_for(host: FakeHost) -> None:
    host.add(Fake(1001, state="D", wchan="ipmi_si_poll", term="blocks", kill="blocks"))
    began_s = host.uptime_s
    report = relieve(host)
    assert outcomes(report) == {1001: Outcome.UNINTERRUPTIBLE}
    assert host.uptime_s - began_s < 1.1  # the two scans
    assert report.left(STUCK_AFTER_S)


def test_a_client_that_hangs_elsewhere_in_the_kernel_is_reported_and_not_touched(
    host: FakeHost,
) -> None:
    host.add(Fake(1001, state="D", wchan="rpc_wait_bit_killable"))
    report = relieve(host)
    assert host.sent == []
    assert [case.judged.client.identity.pid for case in report.left(STUCK_AFTER_S)] == [1001]


def test_a_client_that_blocks_in_the_kernel_does_not_delay_the_others(host: FakeHost) -> None:
    host.add(Fake(1001, term="blocks", kill="blocks"))
    host.add(Fake(1002))
    report = relieve(host)
    assert outcomes(report) == {1001: Outcome.UNINTERRUPTIBLE, 1002: Outcome.ENDED}


def test_a_client_that_survives_everything_is_given_up_after_a_bounded_wait(host: FakeHost) -> None:
    host.add(Fake(1001, term="ignores", kill="ignores"))
    began_s = host.uptime_s
    report = relieve(host)
    assert outcomes(report) == {1001: Outcome.SURVIVED}
    assert host.uptime_s - began_s < 4.0


@pytest.mark.parametrize("has_pidfds", [True, False])
def test_another_with_the_same_pid_is_not_touched(host: FakeHost, has_pidfds: bool) -> None:
    host.add(Fake(1001))
    relief = Relief(host.trees(has_pidfds=has_pidfds), STUCK_AFTER_S)
    relief.scan()
    # It is another client, as stuck as the one before, but nothing is proven of it yet.
    host.add(Fake(1001, start_s=2_000.0))
    host.pass_time(1.0)
    report = relief.step(may_act=True)
    assert host.sent == []
    assert outcomes(report) == {}


@pytest.mark.parametrize("has_pidfds", [True, False])
def test_a_pid_reused_between_scan_and_signal_is_not_touched(
    host: FakeHost, has_pidfds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add(Fake(1001))
    relief = Relief(host.trees(has_pidfds=has_pidfds), STUCK_AFTER_S)
    before_the_signals(relief, monkeypatch, lambda: host.add(Fake(1001, start_s=2_000.0)))
    report = relief.relieve(may_act=True)
    assert host.sent == []
    assert outcomes(report) == {1001: Outcome.GONE}


@pytest.mark.parametrize("has_pidfds", [True, False])
def test_a_pid_reused_between_proof_and_signal_is_not_touched(
    host: FakeHost, has_pidfds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add(Fake(1001))
    relief = Relief(host.trees(has_pidfds=has_pidfds), STUCK_AFTER_S)
    prove = relief._clients.prove_again

    def and_then_it_is_another(*arguments: object) -> object:
        proven = prove(*arguments)  # type: ignore[arg-type]
        assert proven.verdict.is_stuck
        host.add(Fake(1001, start_s=2_000.0))
        return proven

    monkeypatch.setattr(relief._clients, "prove_again", and_then_it_is_another)
    report = relief.relieve(may_act=True)
    assert host.sent == []
    assert outcomes(report) == {1001: Outcome.GONE}


def test_a_pid_reused_after_term_is_not_killed(host: FakeHost) -> None:
    host.add(Fake(1001, term="ignores"))
    relief = Relief(host.trees(), STUCK_AFTER_S)

    def reuse() -> None:
        if host.sent and host.processes[1001].start_s < 2_000.0:
            host.add(Fake(1001, start_s=2_000.0))

    host.when_slept.append(reuse)
    report = relief.relieve(may_act=True)
    assert host.sent == [(1001, "TERM")]
    assert outcomes(report) == {1001: Outcome.ENDED}
    assert 1001 in host.processes


def test_a_process_that_runs_another_program_by_now_is_spared(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add(Fake(1001))
    relief = Relief(host.trees(), STUCK_AFTER_S)
    other = Fake(1001, argv=["ipmitool", "sel", "list"])
    before_the_signals(relief, monkeypatch, lambda: host.add(other))
    report = relief.relieve(may_act=True)
    assert host.sent == []
    assert outcomes(report) == {1001: Outcome.SPARED}


def test_a_client_that_makes_progress_before_the_signal_is_spared(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = host.add(Fake(1001))
    relief = Relief(host.trees(), STUCK_AFTER_S)

    def it_runs() -> None:
        fake.turns += 1
        host.write(fake)

    before_the_signals(relief, monkeypatch, it_runs)
    report = relief.relieve(may_act=True)
    assert host.sent == []
    assert outcomes(report) == {1001: Outcome.SPARED}


def test_of_a_group_the_innocent_stay(host: FakeHost) -> None:
    for pid in (1001, 1002):
        host.add(Fake(pid, group=1000))
    host.add(Fake(1000, exe="/bin/sh", comm="sh", argv=["sh", "check.sh"], group=1000))
    report = relieve(host)
    assert sorted(host.sent) == [(1001, "TERM"), (1002, "TERM")]
    assert [case.group for case in report.stuck] == [(1000, 3, 2), (1000, 3, 2)]
    assert set(host.processes) == {1000}


def test_a_group_that_is_stuck_as_a_whole_ends_as_a_whole(host: FakeHost) -> None:
    for pid in range(1001, 1006):
        host.add(Fake(pid, group=1001))
    report = relieve(host)
    assert [case.group for case in report.stuck] == [(1001, 5, 5)] * 5
    assert not host.processes


def test_between_two_scans_no_process_is_read(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add(Fake(1001, term="blocks", kill="blocks"))
    host.add_interface(core_percent=0.0)
    relief = Relief(host.trees(), STUCK_AFTER_S)
    relief.scan()
    host.pass_time(1.0)
    found = relief.step(may_act=True)

    def no_pids(_tree: Tree) -> list[int]:
        raise AssertionError("all processes are read")

    monkeypatch.setattr(Tree, "pids", no_pids)
    host.pass_time(5.0)
    seen = relief.watch(may_act=True)
    assert outcomes(seen) == outcomes(found) == {1001: Outcome.UNINTERRUPTIBLE}
    assert [case.is_earlier for case in found.cases + seen.cases] == [False, True]
    assert host.sent == [(1001, "TERM"), (1001, "KILL")]


def test_a_client_that_leaves_the_kernel_unharmed_is_ended_again(host: FakeHost) -> None:
    fake = host.add(Fake(1001, term="blocks", kill="blocks"))
    relief = Relief(host.trees(), STUCK_AFTER_S)
    relief.scan()
    host.pass_time(1.0)
    relief.step(may_act=True)
    host.pass_time(5.0)
    assert relief.step(may_act=True).cases[0].is_earlier
    fake.state, fake.term = "S", "ends"
    host.write(fake)
    host.pass_time(5.0)
    assert outcomes(relief.step(may_act=True)) == {1001: Outcome.ENDED}


def test_it_is_known_when_the_next_client_may_be_proven_stuck(host: FakeHost) -> None:
    relief = Relief(host.trees(), STUCK_AFTER_S)
    relief.scan()
    assert relief.next_due_at(1.0) is None
    begun_s = host.uptime_s
    host.add(Fake(1001, start_s=begun_s - 20.0))
    host.add(Fake(1002, start_s=begun_s - 19.5))
    host.add(Fake(1003, start_s=begun_s - 10.0))
    host.add(Fake(2001, start_s=begun_s - 30.0, argv=["ipmitool", "sol", "activate"]))
    for _ in range(2):
        relief.scan()
        assert relief.next_due_at(0.0) == pytest.approx(begun_s + 40.0, abs=0.1)
        assert relief.next_due_at(1.0) == pytest.approx(begun_s + 40.5, abs=0.1)
        host.pass_time(1.0)


def test_a_client_that_still_gets_answers_is_no_reason_to_hurry(host: FakeHost) -> None:
    fake = host.add(Fake(1001))
    relief = Relief(host.trees(), STUCK_AFTER_S)
    relief.scan()
    for _ in range(5):
        host.pass_time(10.0)
        fake.turns, fake.ran_at_s = fake.turns + 1, host.uptime_s - 0.5
        host.write(fake)
        relief.scan()
        due_at = relief.next_due_at(1.0)
        assert due_at is not None
        assert due_at > host.uptime_s + 50.0


def test_the_kill_switch_stops_everything(host: FakeHost) -> None:
    host.add(Fake(1001))
    host.add_interface()
    host.kill_switch.touch()
    report = relieve(host)
    assert host.sent == []
    assert host.parameter.read_text() == "\n"
    assert report.disabled is not None
    assert str(host.kill_switch) in report.disabled


def test_the_kill_switch_stops_what_has_begun(host: FakeHost) -> None:
    host.add(Fake(1001, term="ignores"))
    relief = Relief(host.trees(), STUCK_AFTER_S)
    host.when_slept.append(lambda: host.kill_switch.touch() if host.sent else None)
    report = relief.relieve(may_act=True)
    assert host.sent == [(1001, "TERM")]
    assert outcomes(report) == {1001: Outcome.NOT_ATTEMPTED}
    assert report.left(STUCK_AFTER_S)


def test_pids_of_another_namespace_are_never_signalled(host: FakeHost) -> None:
    host.add(Fake(1001))
    (host.root / "proc/self").unlink()
    (host.root / "proc/self").symlink_to("1001")
    report = relieve(host)
    assert host.sent == []
    assert report.disabled is not None
    assert "pid namespace" in report.disabled


def test_a_client_that_may_not_be_signalled_is_reported(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(_pid: int, _number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    host.add(Fake(1001))
    monkeypatch.setattr(host, "send", deny)
    report = relieve(host)
    assert outcomes(report) == {1001: Outcome.DENIED}
    assert report.left(STUCK_AFTER_S)


def test_a_client_that_cannot_be_judged_is_reported_and_never_touched(host: FakeHost) -> None:
    host.add(Fake(1001, wchan=None, device=False))
    report = relieve(host)
    assert host.sent == []
    assert [case.judged.client.identity.pid for case in report.left(STUCK_AFTER_S)] == [1001]


def test_progress_is_measured_from_the_last_progress_on(host: FakeHost) -> None:
    fake = host.add(Fake(1001, core_percent=1.0))
    relief = Relief(host.trees(), STUCK_AFTER_S)
    relief.relieve(may_act=True)
    assert host.sent == []
    fake.core_percent = 0.0
    host.pass_time(1.0)
    relief.step(may_act=True)
    assert host.sent == [(1001, "TERM")]


def test_a_kernel_that_does_not_tell_when_a_process_ran_is_watched_for_longer(
    host: FakeHost,
) -> None:
    host.add(Fake(1001, has_sched=False))
    slow = host.add(Fake(1002, has_sched=False))

    def answers_each_ten_seconds() -> None:
        slow.turns = int(host.uptime_s / 10.0)
        host.write(slow)

    host.when_slept.append(answers_each_ten_seconds)
    report = relieve(host)
    assert host.sent == [(1001, "TERM")]
    assert {each.judged.client.identity.pid for each in report.stuck} == {1001}


def test_between_two_steps_that_follow_soon_such_a_kernel_proves_nothing(host: FakeHost) -> None:
    host.add(Fake(1001, has_sched=False))
    relief = Relief(host.trees(), STUCK_AFTER_S)
    for _ in range(16):
        assert not relief.step(may_act=True).stuck
        host.pass_time(1.0)
    assert len(relief.step(may_act=True).stuck) == 1


def test_a_client_that_wakes_up_with_each_answer_is_not_ended_however_short_the_threshold(
    host: FakeHost,
) -> None:
    slow = host.add(Fake(1001, start_s=host.uptime_s - 30.0))
    relief = Relief(host.trees(), stuck_after_s=5.0)
    for _ in range(4):
        slow.turns, slow.ran_at_s = slow.turns + 1, host.uptime_s
        host.write(slow)
        for _ in range(15):
            host.pass_time(1.0)
            assert not relief.step(may_act=True).stuck
    assert host.sent == []
    due_at = relief.next_due_at(0.0)
    assert due_at is not None
    assert due_at == pytest.approx(host.uptime_s + 1.0, abs=0.1)
    host.pass_time(due_at - host.uptime_s)
    assert outcomes(relief.step(may_act=True)) == {1001: Outcome.ENDED}


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_cpu_whose_clock_stops_for_interrupts_hides_no_client_for_ever(
    host: FakeHost, share: float
) -> None:
    host.interrupted[1] = share
    host.add(Fake(1001, start_s=host.uptime_s, processor=1))
    answered = host.add(Fake(1002, start_s=host.uptime_s, processor=1))
    relief = Relief(host.trees(), STUCK_AFTER_S)
    for _ in range(12):
        assert not relief.step(may_act=True).stuck
        host.pass_time(5.0)
    answered.turns += 1
    answered.ran_at_s = host.uptime_s - 60.0 * share  # by that CPU's clock
    host.write(answered)
    host.pass_time(1.0)
    assert outcomes(relief.step(may_act=True)) == {1001: Outcome.ENDED, 1002: None}
    host.pass_time(57.0)
    assert not relief.step(may_act=True).stuck
    host.pass_time(2.0)
    assert outcomes(relief.step(may_act=True)) == {1002: Outcome.ENDED}


def test_a_client_that_ran_during_the_first_scan_has_not_stood_still_since_it_began(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = host.add(Fake(1001, start_s=host.uptime_s - 100.0))
    of = Client.of

    def slowly(process: Process) -> Client | None:
        host.pass_time(2.0)
        one.turns, one.ran_at_s = one.turns + 1, host.uptime_s
        host.write(one)
        return of(process)

    relief = Relief(host.trees(), 5.0)
    monkeypatch.setattr(Client, "of", slowly)
    relief.scan()
    monkeypatch.setattr(Client, "of", of)
    host.pass_time(15.0)
    assert not relief.step(may_act=True).stuck
    host.pass_time(1.5)
    assert outcomes(relief.step(may_act=True)) == {1001: Outcome.ENDED}


def test_without_a_clock_of_its_cpu_a_client_is_watched_for_longer(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add(Fake(1001, processor=1))
    answered = host.add(Fake(1002, processor=1))
    monkeypatch.setattr(
        "bmcmedic.host.client.stuck.clocks_s", lambda _tree, _cpus: {0: host.uptime_s}
    )

    def answer() -> None:
        if host.uptime_s > UPTIME_S + 10.0 and not host.sent:
            answered.turns += 1
            host.write(answered)

    host.when_slept.append(answer)
    report = relieve(host)
    assert host.sent == [(1001, "TERM")]
    assert outcomes(report) == {1001: Outcome.ENDED, 1002: None}
    assert UPTIME_S + 16.0 < host.uptime_s < UPTIME_S + 20.0


def test_two_scans_at_once_prove_nothing(host: FakeHost) -> None:
    host.add(Fake(1001))
    relief = Relief(host.trees(), STUCK_AFTER_S)
    relief.scan()
    assert relief.scan() == []
    report = relief.step(may_act=True)
    assert report.cases == []
    assert host.sent == []


def test_unreadable_and_broken_entries_delay_nothing(host: FakeHost) -> None:
    host.add(Fake(1001))
    for pid in (3001, 3002, 3003):
        host.add(Fake(pid))
    (host.root / "proc/3001/stat").write_bytes(b"\xff\xfe nonsense")
    (host.root / "proc/3002/stat").unlink()
    (host.root / "proc/3003/cmdline").unlink()
    report = relieve(host)
    assert host.sent == [(1001, "TERM")]
    assert outcomes(report) == {1001: Outcome.ENDED}
