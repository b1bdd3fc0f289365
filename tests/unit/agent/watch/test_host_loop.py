"""The host loop: cheap while all is well, frequent scans on an anomaly, no unwanted change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.agent.config import AgentConfig, ReliefConfig
from bmcmedic.agent.log import AgentLog
from bmcmedic.agent.state import DriverView, HostState
from bmcmedic.agent.watch.host_loop import SCAN_GAP_S_MAX, SCAN_GAP_S_MIN, Host, HostLoop
from bmcmedic.agent.watch.sample import SampleDelta, Sampler
from bmcmedic.host.kernel.proc import Unreadable
from bmcmedic.host.relieve.end_client import JudgedClient
from bmcmedic.host.relieve.relieve import Relief
from bmcmedic.host.triage.triage import Roots
from bmcmedic.service.runtime import Signal, ThreadRuntime
from tests.support.relief_host import Fake, FakeHost

WELL: dict[str, Any] = {"driver": {"breaker": {"open": False}}, "watchdog": None}
CLIENTS = 8
SILENT: dict[str, Any] = {"driver": {"breaker": {"open": True}}, "watchdog": None}


class Permission:
    """A permission that allows changes unless the test forbids them."""

    def __init__(self) -> None:
        self.acted = False
        self.reason: str | None = None
        self.has_room = True

    def why_not(self) -> str | None:
        return self.reason

    def note_act(self) -> bool:
        if self.has_room:
            self.acted = True
        return self.has_room

    def note_undone(self) -> None:
        self.acted = False


class HostTime(ThreadRuntime):
    """The time of the host, which passes while a thread waits."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.monotonic = lambda: host.uptime_s

    def signal(self) -> Signal:
        return HostSignal(self.host)


class HostSignal:
    def __init__(self, host: FakeHost) -> None:
        self.host = host

    def set(self) -> None: ...

    def wait(self, timeout_s: float | None = None) -> bool:
        assert timeout_s is not None
        self.host.pass_time(timeout_s)
        return False


class First(AbstractContextManager[None]):
    """Counts the signals that are sent within the context."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.entered_at: list[int] = []

    def __enter__(self) -> None:
        self.entered_at.append(len(self.bench.host.sent))

    def __exit__(self, *_: object) -> None:
        entered_at = self.entered_at.pop()
        if not self.entered_at:
            self.bench.sent_first += len(self.bench.host.sent) - entered_at


class Bench:
    def __init__(self, root: Path) -> None:
        self.host = FakeHost(root)
        self.config = AgentConfig()
        self.permission = Permission()
        self.driver = DriverView(WELL)
        self.cost_s = 0.0
        self.states: list[HostState] = []
        time = HostTime(self.host)
        read, self._write = os.pipe()
        self.said_fd = os.fdopen(read, "r", encoding="utf-8")
        self.log = AgentLog(time, fd=self._write)
        self.loop = HostLoop(
            Host(
                self.host.trees(),
                lambda: self.driver,
                lambda: self.cost_s,
                lambda: 1_700_000_000.0 + self.host.uptime_s,
                First(self),
            ),
            lambda: self.config,
            self.permission,
            self.states.append,
            self.log,
            time,
        )

    cost_a_look_s = 0.0

    sent_first = 0

    def act(self) -> None:
        self.config = AgentConfig(relief=ReliefConfig(mode="act"))

    def rounds(self, count: int) -> HostState:
        for _ in range(count):
            self.host.pass_time(self.loop.round())
        return self.states[-1]

    def said(self) -> str:
        """Return all lines of the log."""
        self.log.write_waiting()
        os.close(self._write)
        with self.said_fd:
            return self.said_fd.read()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    if not made.said_fd.closed:
        made.said()


def test_a_healthy_host_is_seldom_scanned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.host.add_interface(core_percent=0.0)
    bench.host.add(Fake(300, exe="/usr/sbin/sshd", comm="sshd", device=False))
    state = bench.rounds(1)
    assert (state.anomaly, state.symptoms) == (None, ())
    assert state.triage is not None
    first_at = state.triage["captured_at"]
    for seen in (bench.host.processes[300],):
        monkeypatch.setattr(seen, "state", "S")
    state = bench.rounds(40)
    assert state.triage is not None
    assert state.triage["captured_at"] == first_at
    state = bench.rounds(25)
    assert state.triage is not None
    assert state.triage["captured_at"] > first_at + 300
    assert bench.loop.round() == 5.0


def test_the_driver_is_asked_before_the_host_is_sampled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    take = Sampler.take

    def ask_driver(_: Bench) -> DriverView:
        asked.append("driver")
        return DriverView(WELL)

    def take_sample(sampler: Sampler) -> SampleDelta:
        asked.append("host")
        return take(sampler)

    monkeypatch.setattr(Bench, "driver", property(ask_driver), raising=False)
    monkeypatch.setattr(Sampler, "take", take_sample)
    bench.rounds(1)
    assert asked == ["driver", "host"]


def test_a_hang_is_seen_within_a_few_seconds_and_only_reported(bench: Bench) -> None:
    thread = bench.host.add_interface(core_percent=0.0)
    bench.rounds(3)
    thread.core_percent = 98.0
    for number in range(3):
        bench.host.add(Fake(400 + number))
    state = bench.rounds(4)
    assert "kipmi0 is at 98 % of a core" in str(state.anomaly)
    assert "stuck-clients" in state.symptoms
    assert state.relief.stuck == 3
    assert state.kipmi[0].cpu_percent == pytest.approx(98.0)
    assert bench.host.sent == []
    assert bench.host.parameter.read_text() == "\n"
    assert not bench.permission.acted
    assert state.relief.last is not None
    assert state.relief.last["outcomes"] == {"would end": 3}
    said = bench.said()
    assert said.count("relief would act (nothing was done): 3 would end") == 1
    assert "event=relief acted=false stuck=3" in said


def test_if_it_may_act_it_relieves_and_puts_back_once_the_bmc_answers(bench: Bench) -> None:
    bench.act()
    bench.host.heeds_limit = True
    thread = bench.host.add_interface(core_percent=98.0)
    for number in range(3):
        bench.host.add(Fake(400 + number))
    bench.rounds(4)
    assert sorted(bench.host.sent) == [(400, "TERM"), (401, "TERM"), (402, "TERM")]
    assert bench.host.parameter.read_text() == "100"
    state = bench.states[-1]
    assert state.relief.actions["ended"] == 3
    assert state.relief.throttled
    assert bench.permission.acted
    thread.core_percent = 0.0
    bench.host.complete(5)
    state = bench.rounds(7)
    assert bench.host.parameter.read_text().strip() == "0"
    assert state.relief.actions["kipmid put back"] == 1
    assert not state.relief.throttled
    assert (state.anomaly, state.symptoms) == (None, ())
    assert " relief: kipmid_max_busy_us: put back (" in bench.said()
    assert not bench.permission.acted


def test_it_has_a_higher_priority_while_it_relieves(bench: Bench) -> None:
    bench.driver = DriverView(SILENT)
    bench.act()
    bench.host.add(Fake(400))
    bench.rounds(4)
    assert bench.host.sent == [(400, "TERM")]
    assert bench.sent_first == 1


def test_it_has_a_higher_priority_as_soon_as_a_client_is_due(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.driver = DriverView(SILENT)
    bench.act()
    fake = bench.host.add(Fake(400, start_s=bench.host.uptime_s - 51.3))
    late: list[float] = []
    gone_at: list[float] = []
    round_of_loop, remove = bench.loop.round, bench.host.remove

    def noted() -> float:
        if bench.host.uptime_s >= fake.start_s + 60.0 and 400 in bench.host.processes:
            late.append(bench.host.uptime_s)
        return round_of_loop()

    def gone(pid: int) -> None:
        gone_at.append(bench.host.uptime_s)
        remove(pid)
        bench.loop.stop()

    monkeypatch.setattr(bench.loop, "round", noted)
    monkeypatch.setattr(bench.host, "remove", gone)
    bench.loop.run()
    assert bench.host.sent == [(400, "TERM")]
    assert bench.sent_first >= 1
    assert fake.start_s + 60.0 <= gone_at[0] <= fake.start_s + 62.0
    assert late == []


def test_it_puts_back_when_it_ends(bench: Bench) -> None:
    bench.act()
    bench.host.add_interface(core_percent=98.0)
    bench.host.add(Fake(400, term="ignores", kill="blocks"))
    bench.rounds(4)
    assert bench.host.parameter.read_text() == "100"
    bench.loop.stop()
    bench.loop.run()
    assert bench.host.parameter.read_text().strip() == "0"
    assert not bench.permission.acted


@pytest.mark.parametrize("how", ["switch", "mode"])
def test_it_puts_back_when_it_may_no_longer_act(bench: Bench, how: str) -> None:
    bench.act()
    bench.host.add_interface(core_percent=98.0)
    bench.host.add(Fake(400, term="ignores", kill="blocks"))
    bench.rounds(4)
    assert bench.host.parameter.read_text() == "100"
    sent = len(bench.host.sent)
    if how == "switch":
        bench.permission.reason = "disabled"
    else:
        bench.config = AgentConfig()
    bench.host.add(Fake(401))
    state = bench.rounds(3)
    assert bench.host.parameter.read_text().strip() == "0"
    assert len(bench.host.sent) == sent
    assert state.relief.why_not == ("disabled" if how == "switch" else None)
    assert state.relief.stuck == 2


def test_a_value_that_an_operator_set_is_not_changed(bench: Bench) -> None:
    bench.host.add_interface(max_busy_us="500", core_percent=0.0)
    bench.rounds(3)
    bench.loop.stop()
    bench.loop.run()
    assert bench.host.parameter.read_text() == "500\n"


def test_a_change_that_cannot_be_recorded_is_not_made(bench: Bench) -> None:
    bench.act()
    bench.permission.has_room = False
    bench.host.add_interface(core_percent=98.0)
    bench.host.add(Fake(400))
    state = bench.rounds(4)
    assert bench.host.sent == []
    assert "is the disk full?" in str(state.relief.why_not)


def test_a_silent_bmc_is_an_anomaly_even_without_kipmid(bench: Bench) -> None:
    bench.driver = DriverView(SILENT)
    bench.host.add(Fake(400))
    state = bench.rounds(4)
    assert state.anomaly == "the driver's breaker is open"
    assert set(state.symptoms) >= {"bmc-not-answering", "stuck-clients"}


def test_a_missing_interface_is_a_symptom_and_no_anomaly(
    bench: Bench,
) -> None:
    missing = {"breaker": {"open": True}, "interface_missing": "no device"}
    bench.driver = DriverView({"driver": missing, "watchdog": None})
    bench.host.add_interface(core_percent=0.0)
    state = bench.rounds(2)
    assert state.symptoms == ("no-interface",)
    assert state.anomaly is None


def test_a_missing_driver_is_a_symptom_and_all_else_goes_on(bench: Bench) -> None:
    bench.driver = DriverView(None, "no driver runs here")
    bench.host.add_interface(core_percent=0.0)
    state = bench.rounds(2)
    assert state.symptoms == ("driver-unavailable",)
    assert state.anomaly is None


def test_without_any_interface_there_is_no_anomaly(bench: Bench) -> None:
    assert bench.rounds(3).anomaly is None


@pytest.fixture
def scans(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the times of the scans, each of which costs CPU time."""
    made: list[float] = []
    scan = Relief.scan

    def noted(relief: Relief) -> list[JudgedClient]:
        made.append(bench.host.uptime_s)
        bench.cost_s += bench.cost_a_look_s
        return scan(relief)

    monkeypatch.setattr(Relief, "scan", noted)
    return made


def gaps(scans: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(scans)]


@pytest.mark.parametrize(
    ("cost_s", "acting", "observing"),
    [
        (0.0, SCAN_GAP_S_MIN, 2 * SCAN_GAP_S_MIN),
        (0.015, 3.0, 6.0),
        (10.0, SCAN_GAP_S_MAX, SCAN_GAP_S_MAX),
    ],
)
def test_cheap_scans_are_made_more_often(
    bench: Bench, scans: list[float], cost_s: float, acting: float, observing: float
) -> None:
    bench.driver = DriverView(SILENT)
    bench.cost_a_look_s = cost_s
    bench.rounds(30)
    assert gaps(scans)[1:] == pytest.approx([observing] * (len(scans) - 2))
    scans.clear()
    bench.act()
    bench.rounds(30)
    assert gaps(scans)[1:] == pytest.approx([acting] * (len(scans) - 2))
    assert len(scans) >= 5


@pytest.mark.usefixtures("scans")
@pytest.mark.parametrize(
    ("apart_s", "term", "has_sched"),
    [
        (0.01, "ends", True),
        (0.7, "ends", True),
        (2.1, "ends", True),
        (7.3, "ends", True),
        (0.7, "ends", False),
        (0.01, "ignores", True),
        (0.7, "ignores", True),
        (2.1, "ignores", True),
        (7.3, "ignores", True),
    ],
)
def test_each_client_is_gone_5_s_after_it_got_stuck_whatever_a_scan_costs(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    apart_s: float,
    term: str,
    has_sched: bool,
) -> None:
    bench.driver = DriverView(SILENT)
    bench.act()
    bench.cost_a_look_s = 1.5
    host, ages = bench.host, dict[int, float]()
    remove = host.remove

    def noted(pid: int) -> None:
        if pid in host.processes:
            ages[pid] = host.uptime_s - host.processes[pid].start_s
        remove(pid)

    monkeypatch.setattr(host, "remove", noted)
    bench.rounds(2)
    begun_s = host.uptime_s
    clients = [
        Fake(400 + number, start_s=begun_s + number * apart_s, term=term, has_sched=has_sched)
        for number in range(CLIENTS)
    ]

    def start() -> None:
        while clients and clients[0].start_s <= host.uptime_s:
            host.add(clients.pop(0))

    host.when_slept.append(start)
    while host.uptime_s < begun_s + CLIENTS * apart_s + 80.0:
        host.pass_time(bench.loop.round())
    assert len(ages) == CLIENTS
    assert min(ages.values()) >= 60.0
    assert max(ages.values()) <= 65.0


@pytest.mark.parametrize(
    ("cost_s", "apart_s", "share_max"), [(0.02, 1.0, 0.02), (0.15, 2.0, 0.055), (1.0, 5.0, 0.21)]
)
def test_the_cpu_time_of_early_scans_is_limited(
    bench: Bench, scans: list[float], cost_s: float, apart_s: float, share_max: float
) -> None:
    bench.driver = DriverView(SILENT)
    bench.act()
    bench.cost_a_look_s = cost_s
    host, begun_s, started = bench.host, bench.host.uptime_s, 0

    def start() -> None:
        nonlocal started
        while host.uptime_s >= begun_s + started * apart_s:
            host.add(Fake(400 + started, start_s=begun_s + started * apart_s))
            started += 1

    host.when_slept.append(start)
    while host.uptime_s < begun_s + 120.0:
        host.pass_time(bench.loop.round())
    scans.clear()
    sent, from_s = len(host.sent), host.uptime_s
    while host.uptime_s < from_s + 600.0:
        host.pass_time(bench.loop.round())
    passed_s = host.uptime_s - from_s
    assert len(scans) * cost_s / passed_s <= share_max
    assert len(host.sent) - sent >= (passed_s - 5.0) / apart_s - 1


def test_a_few_that_get_stuck_at_once_do_not_wait_for_the_budget(
    bench: Bench, scans: list[float]
) -> None:
    bench.driver = DriverView(SILENT)
    bench.act()
    bench.cost_a_look_s = 0.15
    for number in range(4):
        bench.host.add(Fake(400 + number, start_s=bench.host.uptime_s - 30.0 + 1.5 * number))
    while bench.host.processes:
        bench.host.pass_time(bench.loop.round())
    # The last crosses 4.5 s after the first.
    assert [round(gap, 1) for gap in gaps(scans)[-3:]] == [1.5, 1.5, 1.5]


def test_an_ended_client_is_no_reason_to_scan_again_at_once(
    bench: Bench, scans: list[float]
) -> None:
    bench.driver = DriverView(SILENT)
    bench.act()
    bench.cost_a_look_s = 0.3
    fake = bench.host.add(Fake(400, start_s=bench.host.uptime_s - 45.0))
    bench.rounds(20)
    assert bench.host.sent == [(400, "TERM")]
    ended_at, then, *_ = (at for at in scans if at >= fake.start_s + 60.0)
    assert then - ended_at == pytest.approx(30.0, abs=0.5)


def test_clients_beyond_the_limit_of_a_scan_are_a_reason_to_scan_again(
    bench: Bench, scans: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bmcmedic.host.relieve.end_client.CLIENTS_MAX", 2)
    bench.driver = DriverView(SILENT)
    bench.act()
    bench.cost_a_look_s = 0.3
    for number in range(6):
        bench.host.add(Fake(400 + number))
    bench.rounds(1)
    begun_s = bench.host.uptime_s
    while bench.host.processes:
        assert bench.host.uptime_s < begun_s + 60.0
        bench.rounds(1)
    assert len(scans) <= 8


def test_a_client_that_runs_while_it_is_young_gets_no_more_time_for_it(bench: Bench) -> None:
    bench.driver = DriverView(SILENT)
    bench.act()
    bench.rounds(2)
    fake = bench.host.add(Fake(400, start_s=bench.host.uptime_s - 1.0))
    bench.rounds(2)
    fake.turns, fake.ran_at_s = fake.turns + 1, fake.start_s + 1.5
    bench.host.write(fake)
    while bench.host.processes:
        assert bench.host.uptime_s - fake.start_s <= 65.0
        bench.host.pass_time(bench.loop.round())
    assert bench.host.sent == [(400, "TERM")]


def test_clients_that_cannot_be_ended_are_scanned_seldom_and_signalled_once(
    bench: Bench, scans: list[float]
) -> None:
    bench.driver = DriverView(SILENT)
    bench.act()
    bench.cost_a_look_s = 0.3
    for number in range(3):
        bench.host.add(Fake(400 + number, term="blocks", kill="blocks"))
    bench.rounds(2)
    scans.clear()
    state = bench.rounds(40)
    assert state.relief.stuck == 3
    assert state.relief.actions["uninterruptible"] == 3
    assert sorted(bench.host.sent) == sorted(
        (400 + number, name) for number in range(3) for name in ("TERM", "KILL")
    )
    assert min(gaps(scans)) == pytest.approx(30.0)
    assert bench.said().count("event=relief ") == 1


def test_relief_does_not_wait_for_a_triage(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.driver = DriverView(SILENT)
    bench.act()
    bench.rounds(1)
    fake = bench.host.add(Fake(400, start_s=bench.host.uptime_s - 30.0))
    bench.rounds(2)
    triages: list[float] = []
    gone_s: list[float] = []
    bench.host.when_slept.append(
        lambda: None if 400 in bench.host.processes else gone_s.append(bench.host.uptime_s)
    )

    def triage_at_its_moment(_roots: Roots, **given: Any) -> None:  # noqa: ANN401 - as triage's
        triages.append(bench.host.uptime_s)
        given["sleep"](40.0)
        triages.append(bench.host.uptime_s)
        raise Unreadable("enough")

    monkeypatch.setattr("bmcmedic.agent.watch.host_loop.triage", triage_at_its_moment)
    bench.loop._is_triage_wanted = True
    while not triages:
        bench.rounds(1)
    begun_s, ended_s = triages
    assert begun_s + 5.0 < fake.start_s + 60.0 < ended_s - 5.0
    assert ended_s == pytest.approx(begun_s + 40.0)
    assert fake.start_s + 60.0 <= gone_s[0] <= fake.start_s + 62.0


def reload_after(bench: Bench, at_s: float, relief: ReliefConfig) -> None:
    """Change the configuration at a time of the host's clock."""

    def reload() -> None:
        if bench.host.uptime_s >= at_s:
            bench.config = AgentConfig(relief=relief)

    bench.host.when_slept.append(reload)


WATCH_ONLY = ReliefConfig(mode="observe")
OLDER = ReliefConfig(mode="act", stuck_after_s=9_500.0)


@pytest.mark.parametrize("relief", [WATCH_ONLY, OLDER])
def test_a_reload_within_a_triage_takes_effect_within_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, relief: ReliefConfig
) -> None:
    bench.driver = DriverView(SILENT)
    bench.act()
    bench.rounds(1)
    fake = bench.host.add(Fake(400, start_s=bench.host.uptime_s - 30.0))
    bench.rounds(2)
    reload_after(bench, fake.start_s + 50.0, relief)

    def long(_roots: Roots, **given: Any) -> None:  # noqa: ANN401 - as triage's
        given["sleep"](60.0)
        raise Unreadable("enough")

    monkeypatch.setattr("bmcmedic.agent.watch.host_loop.triage", long)
    bench.loop._is_triage_wanted = True
    while bench.host.uptime_s < fake.start_s + 80.0:
        bench.rounds(1)
    assert bench.host.sent == []


@pytest.mark.parametrize("relief", [WATCH_ONLY, OLDER])
def test_a_reload_right_before_a_client_is_ended_takes_effect(
    bench: Bench, relief: ReliefConfig
) -> None:
    bench.driver = DriverView(SILENT)
    bench.act()
    fake = bench.host.add(Fake(400, start_s=bench.host.uptime_s - 51.3))
    reload_after(bench, fake.start_s + 60.0, relief)

    def stop() -> None:
        if bench.host.uptime_s >= fake.start_s + 80.0:
            bench.loop.stop()

    bench.host.when_slept.append(stop)
    bench.loop.run()
    assert bench.host.sent == []


def test_a_wait_within_a_triage_ends_when_all_is_to_end(bench: Bench) -> None:
    bench.driver = DriverView(SILENT)
    bench.loop.stop()
    before_s = bench.host.uptime_s
    bench.loop.round()
    assert bench.host.uptime_s == before_s


def test_another_age_is_taken_from_the_configuration(bench: Bench) -> None:
    bench.driver = DriverView(SILENT)
    bench.config = AgentConfig(relief=ReliefConfig(stuck_after_s=9_500.0))
    bench.host.add(Fake(400))
    assert bench.rounds(4).relief.stuck == 0
    bench.config = AgentConfig(relief=ReliefConfig(stuck_after_s=60.0))
    assert bench.rounds(4).relief.stuck == 1


def test_an_unreadable_proc_does_not_end_the_loop(bench: Bench) -> None:
    bench.driver = DriverView(SILENT)
    (bench.host.root / "proc" / "uptime").unlink()
    bench.host._write_time = lambda: None  # type: ignore[method-assign]
    assert bench.rounds(2).relief.stuck == 0
    assert "relief-failed" in bench.said()


def test_a_report_stays_small_however_many_are_stuck(bench: Bench) -> None:
    bench.driver = DriverView(SILENT)
    for number in range(80):
        bench.host.add(Fake(1000 + number))
    state = bench.rounds(4)
    assert state.triage is not None
    assert (state.triage["stuck_count"], len(state.triage["stuck"])) == (80, 50)
    assert state.relief.stuck == 80
