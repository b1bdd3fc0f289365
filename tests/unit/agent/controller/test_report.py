"""Reports: the newest state wins, the history is bounded, and the schedule suits the controller."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any, SupportsIndex

import pytest

from bmcmedic.agent.config import AgentConfig, ControllerConfig
from bmcmedic.agent.controller.https_link import ControllerLink, Reply, ReportNotAccepted, _read
from bmcmedic.agent.controller.orders import Acknowledgement, OrderState
from bmcmedic.agent.controller.report import CHANGES_MAX, About, History
from bmcmedic.agent.controller.report_schedule import ReportSchedule
from bmcmedic.agent.controller.reporter import Reporter
from bmcmedic.agent.log import AgentLog
from bmcmedic.agent.state import DriverView, HostState
from bmcmedic.service.log import INFO, WARNING
from bmcmedic.service.runtime import ThreadRuntime

ABOUT = About({"hostname": "node1", "boot_id": "b"}, 1.0, "observe", None, ())


class Time(ThreadRuntime):
    def __init__(self) -> None:
        self.now = 1000.0
        self.monotonic = lambda: self.now
        self.sleep = self.pass_time

    def pass_time(self, seconds: float | SupportsIndex) -> None:
        self.now += float(seconds)


class Controller:
    """A controller that accepts reports, or fails."""

    def __init__(self, config: ControllerConfig) -> None:
        self.config = config
        self.got: list[dict[str, Any]] = []
        self.away: ReportNotAccepted | None = None
        self.replies: list[list[Any]] = []
        self.closed = 0

    def post(self, report: dict[str, Any]) -> Reply:
        if self.away is not None:
            raise self.away
        self.got.append(json.loads(json.dumps(report)))
        return Reply(self.replies.pop(0) if self.replies else [])

    def close(self) -> None:
        self.closed += 1


class FakeOrders:
    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.waiting: list[Acknowledgement] = []

    def take(self, raw_orders: list[Any]) -> None:
        self.taken += raw_orders
        self.waiting += [
            Acknowledgement(each["id"], "resume", OrderState.REFUSED, "no", 1.0)
            for each in raw_orders
        ]

    def acknowledgements(self) -> list[Acknowledgement]:
        return list(self.waiting)

    def delivered(self, reported: list[Acknowledgement]) -> None:
        self.waiting = [each for each in self.waiting if each not in reported]


class Bench:
    def __init__(self, url: str | None = "https://c.example/") -> None:
        self.config = AgentConfig(controller=ControllerConfig(url=url))
        self.time = Time()
        self.orders = FakeOrders()
        self.links: list[Controller] = []
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - its descriptor is not used
            self.log = AgentLog(self.time, fd=nowhere.fileno())
        self.reporter = Reporter(
            lambda: self.config,
            lambda: ABOUT,
            self.orders,
            self._link,
            self.log,
            self.time,
            lambda: 5.0,
        )

    def lines(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, str, dict[str, Any]]]:
        """Return the list to which all further log lines are appended."""
        said: list[tuple[int, str, str, dict[str, Any]]] = []

        def event(level: int, name: str, message: str, **fields: Any) -> None:  # noqa: ANN401
            said.append((level, name, message, fields))

        monkeypatch.setattr(self.log, "event", event)
        return said

    def _link(self, config: ControllerConfig) -> Controller:
        self.links.append(Controller(config))
        return self.links[-1]

    @property
    def controller(self) -> Controller:
        return self.links[-1]

    def see(self, *symptoms: str, at: float = 1.0) -> None:
        self.reporter.publish(HostState(at, symptoms, driver=DriverView(None, "no driver")))

    def run_for(self, seconds: float) -> None:
        until = self.time.now + seconds
        while self.time.now < until:
            wait_s = self.reporter.step()
            assert wait_s is not None
            self.time.now += min(max(wait_s, 0.001), until - self.time.now)


def seen_of_driver(**sections: dict[str, Any] | None) -> DriverView:
    return DriverView({"driver": {}, "watchdog": None, **sections})


BREAKER = {"open": True, "open_for_s": 12.3, "reason": "no answer to 3 requests"}


@pytest.mark.parametrize(
    ("driver", "symptom", "known"),
    [
        (
            seen_of_driver(driver={"breaker": BREAKER}),
            "bmc-not-answering",
            "no answer to 3 requests (for 12 s)",
        ),
        (
            seen_of_driver(driver={"breaker": BREAKER, "interface_missing": "no /dev/ipmi0"}),
            "no-interface",
            "no /dev/ipmi0",
        ),
        (seen_of_driver(watchdog={"failure": "no answer"}), "pats-failing", "no answer"),
        (
            seen_of_driver(watchdog={"check_failure": "ended with 1"}),
            "host-check-failing",
            "ended with 1",
        ),
        (DriverView(None, "no socket"), "driver-unavailable", "no socket"),
    ],
)
def test_the_log_has_a_line_when_a_symptom_of_the_driver_comes_and_one_when_it_goes(
    monkeypatch: pytest.MonkeyPatch, driver: DriverView, symptom: str, known: str
) -> None:
    bench = Bench(None)
    lines = bench.lines(monkeypatch)
    for at, view in enumerate([seen_of_driver(), driver, driver, seen_of_driver()]):
        bench.reporter.publish(HostState(10.0 * at, view.symptoms, driver=view))
    assert lines == [
        (WARNING, "symptom", f"{symptom}: {known}", {"symptom": symptom}),
        (
            INFO,
            "symptom-gone",
            f"{symptom} is gone after 20 s",
            {"symptom": symptom, "lasted_s": 20},
        ),
    ]


def test_without_a_status_of_the_driver_no_symptom_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(None)
    lines = bench.lines(monkeypatch)
    silent = seen_of_driver(driver={"breaker": BREAKER})
    for view in (silent, DriverView(None, "gone"), silent, DriverView(None, "gone")):
        bench.reporter.publish(HostState(1.0, view.symptoms, driver=view))
    assert [(name, fields["symptom"]) for _, name, _, fields in lines] == [
        ("symptom", "bmc-not-answering"),
        ("symptom", "driver-unavailable"),
        ("symptom-gone", "driver-unavailable"),
        ("symptom", "driver-unavailable"),
    ]


def test_without_a_controller_nothing_is_posted() -> None:
    assert dict(Bench().reporter.counts) == {"taken": 0, "failed": 0}
    bench = Bench(None)
    bench.see("a")
    assert bench.reporter.step() is None
    assert bench.links == []


def test_it_reports_each_period_and_at_once_when_a_symptom_changes() -> None:
    bench = Bench()
    assert bench.reporter.step() == 10.0  # nothing was seen yet
    bench.see()
    bench.run_for(35)
    assert len(bench.controller.got) == 4
    bench.see("stuck-clients")
    assert bench.reporter.step() == pytest.approx(10.0)
    assert bench.controller.got[-1]["symptoms"] == ["stuck-clients"]
    bench.see("stuck-clients", at=2.0)  # nothing new
    assert bench.reporter.step() == pytest.approx(10.0)
    assert len(bench.controller.got) == 5
    assert [report["sequence"] for report in bench.controller.got] == [1, 2, 3, 4, 5]


def test_symptoms_that_flap_do_not_flood_the_controller() -> None:
    bench = Bench()
    bench.see()
    bench.run_for(0.01)
    for number in range(1000):
        bench.see(*(["a"] if number % 2 else []))
        bench.run_for(0.01)
    assert 8 <= len(bench.controller.got) <= 12
    reported = [
        change["symptoms"] for report in bench.controller.got for change in report["changes"]
    ]
    lost = sum(report["changes_lost"] for report in bench.controller.got)
    assert len(reported) + lost >= 990


def test_while_the_controller_is_away_only_the_newest_state_and_a_bounded_history_are_stored() -> (
    None
):
    bench = Bench()
    bench.see("first")
    bench.run_for(0.01)
    controller = bench.controller
    controller.away = ReportNotAccepted("down")
    for number in range(200):
        bench.see(f"symptom-{number}", at=float(number))
        bench.run_for(10)
    assert len(controller.got) == 1
    missed = bench.reporter._missed
    assert 8 <= missed <= 30  # 10, 20, 40, … 300 s
    controller.away = None
    bench.run_for(400)
    report = controller.got[1]
    assert report["symptoms"] == ["symptom-199"]
    assert report["reports_missed"] == missed
    assert len(report["changes"]) == CHANGES_MAX
    assert report["changes"][-1] == {"at": 199.0, "symptoms": ["symptom-199"]}
    assert report["changes_lost"] == 200 - CHANGES_MAX
    assert (controller.got[2]["changes"], controller.got[2]["reports_missed"]) == ([], 0)


def test_a_symptom_does_not_break_the_back_off() -> None:
    schedule = ReportSchedule(0.0, random.Random(1))
    schedule.failed(0.0, 10, 300, None)
    before = schedule.due_in_s(0.0)
    schedule.expedite()
    assert schedule.due_in_s(0.0) == before >= 10


def test_the_back_off_is_bounded_and_a_retry_after_is_obeyed() -> None:
    schedule = ReportSchedule(0.0, random.Random(1))
    waits = []
    for _ in range(10):
        schedule.failed(0.0, 10, 300, None)
        waits.append(schedule.due_in_s(0.0))
    assert all(10 <= wait <= 360 for wait in waits)
    assert waits[-1] >= 300
    schedule.failed(0.0, 10, 300, 120.0)
    schedule.succeeded(0.0, 10)
    schedule.failed(0.0, 10, 300, 120.0)
    assert 120 <= schedule.due_in_s(0.0) <= 144
    schedule.succeeded(0.0, 10)
    schedule.failed(0.0, 10, 300, 1e9)
    assert schedule.due_in_s(0.0) <= 360


def test_orders_go_to_the_queue_and_are_acknowledged_in_the_next_report() -> None:
    bench = Bench()
    bench.see()
    bench.reporter.step()
    bench.controller.replies = [[{"id": "o1"}]]
    bench.run_for(10.5)
    assert bench.orders.taken == [{"id": "o1"}]
    bench.run_for(1.1)  # at once, not a period later
    assert bench.controller.got[-1]["orders"] == [
        {"id": "o1", "kind": "resume", "state": "refused", "reason": "no", "at": 1.0}
    ]
    bench.run_for(10)
    assert bench.controller.got[-1]["orders"] == []


def test_an_acknowledgement_that_was_not_delivered_is_sent_again() -> None:
    bench = Bench()
    bench.see()
    bench.orders.waiting = [Acknowledgement("o1", "resume", OrderState.DONE)]
    bench.reporter.step()
    bench.controller.away = ReportNotAccepted("down")
    bench.orders.waiting = [Acknowledgement("o2", "resume", OrderState.DONE)]
    bench.run_for(11)
    bench.controller.away = None
    bench.run_for(30)
    assert [[each["id"] for each in report["orders"]] for report in bench.controller.got][:2] == [
        ["o1"], ["o2"]
    ]  # fmt: skip


def test_another_controller_gets_a_link_of_its_own() -> None:
    bench = Bench()
    bench.see()
    bench.reporter.step()
    bench.config = AgentConfig(controller=ControllerConfig(url="https://other.example/"))
    bench.run_for(11)
    assert [link.closed for link in bench.links] == [1, 0]
    assert bench.links[1].got[0]["sequence"] == 2


def test_the_first_state_is_a_change_only_with_a_symptom() -> None:
    assert not History().note(HostState(1.0))
    assert History().note(HostState(1.0, ("a",)))


@pytest.mark.parametrize(
    "raw", [b"[]", b"5", b"{", b'{"orders": {}}', b"\xff", b"[" * 60_000, b'{"orders": null}']
)
def test_a_malformed_reply_is_a_report_that_was_not_accepted(raw: bytes) -> None:
    with pytest.raises(ReportNotAccepted):
        _read(raw)


def test_an_empty_reply_has_no_orders() -> None:
    assert _read(b" \n") == _read(b"{}") == Reply([])


@pytest.mark.parametrize("setting", ["ca_file", "client_certificate", "token_file"])
@pytest.mark.parametrize("content", [None, ""])
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, setting: str, content: str | None
) -> None:
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)
    named: dict[str, Any] = {setting: str(path)}
    config = ControllerConfig(url="https://127.0.0.1:1/", **named)
    with pytest.raises(ReportNotAccepted, match=r"file\.pem"):
        ControllerLink(config, {}).post({})
