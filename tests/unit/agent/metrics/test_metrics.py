"""Metrics: ipmi_exporter's names, only known values, and no scrape waits for the BMC."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bmcmedic import driver
from bmcmedic.agent.config_values import ListenAddress
from bmcmedic.agent.metrics import endpoint as endpoint_module
from bmcmedic.agent.metrics.bmc_reader import QUESTIONS, RETRY_S, BmcReader
from bmcmedic.agent.metrics.collector import AgentCollector, AgentCounters, Metrics
from bmcmedic.agent.metrics.endpoint import MetricsEndpoint
from bmcmedic.agent.metrics.sensor_reader import SensorReader
from bmcmedic.agent.state import DriverView, HostState, KipmiView, ReliefView
from bmcmedic.errors import ConfigurationError, NoAnswer
from bmcmedic.host.relieve.end_client import Outcome
from bmcmedic.ipmi.commands.chassis import (
    GetChassisStatusReq,
    GetChassisStatusRsp,
    MiscChassisState,
)
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.dcmi import GetPowerReadingReq, GetPowerReadingRsp
from bmcmedic.ipmi.commands.device import GetDeviceIdReq, GetDeviceIdRsp
from bmcmedic.ipmi.commands.sdr import GetSdrRepositoryInfoReq
from bmcmedic.ipmi.commands.sel import GetSelInfoReq, GetSelInfoRsp
from bmcmedic.ipmi.commands.watchdog import (
    GetWatchdogTimerReq,
    GetWatchdogTimerRsp,
    TimeoutAction,
    TimerUse,
)
from bmcmedic.service.runtime import ThreadRuntime
from bmcmedic.sim.profile import profile_with
from tests.support import sim
from tests.support.sensor_zoo import ANALOG
from tests.support.sim import START, sim_bmc

WAIT_S = 60.0
ANSWERS: dict[type[Any], Any] = {
    GetDeviceIdReq: GetDeviceIdRsp.decode(bytes.fromhex("2001017302df570100620100000000")),
    GetChassisStatusReq: GetChassisStatusRsp(
        power_on=True, misc_state=MiscChassisState.DRIVE_FAULT
    ),
    GetPowerReadingReq: GetPowerReadingRsp(232),
    GetSelInfoReq: GetSelInfoRsp(entries=12, free_bytes=4096),
    GetWatchdogTimerReq: GetWatchdogTimerRsp(
        running=True,
        use=TimerUse.SMS_OS,
        action=TimeoutAction.POWER_CYCLE,
        initial_countdown_s=120.0,
        present_countdown_s=93.5,
    ),
}


class FakeBmc:
    def __init__(self) -> None:
        self.asked: list[type[Any]] = []
        self.silent: set[type[Any]] = set()
        self.refused: dict[type[Any], int] = {}
        self.sim = sim_bmc()

    def exchange(self, request: Command[Any], *, lun: int = 0) -> Any:  # noqa: ANN401 - each its own
        assert lun == 0
        self.asked.append(type(request))
        if type(request) in self.silent:
            raise NoAnswer("silence")
        if type(request) in self.refused:
            raise request.completion_code_error(self.refused[type(request)])
        if type(request) in ANSWERS:
            return ANSWERS[type(request)]
        return sim.ask(self.sim, request, START)


class Time(ThreadRuntime):
    def __init__(self) -> None:
        self.now = 1000.0
        self.monotonic = lambda: self.now


class Bench:
    def __init__(self, state: HostState | None = None) -> None:
        self.bmc = FakeBmc()
        self.time = Time()
        self.state = state
        self.sensor_period_s: float | None = None
        sensors = SensorReader(lambda: self.sensor_period_s, lambda: None, print, self.time)
        self.reader = BmcReader(lambda: self.bmc, lambda: 60.0, self.time, sensors)
        own = AgentCounters({"taken": 3}, 1_700_000_000.0, {"refused": 1}, acts=False)
        self.first_driver_view: DriverView | None = None
        collector = AgentCollector(
            lambda: self.state, lambda: self.first_driver_view, lambda: own, self.reader
        )
        self.metrics = Metrics(collector, self.reader)

    def read_sensors(self) -> None:
        """Run a round of the sensors."""
        self.sensor_period_s = 60.0
        sensors = self.reader.sensors
        sensors.begin_if_due()
        while sensors.pause_s is not None:
            self.time.now += sensors.pause_s
            sensors.go_on(self.bmc)

    def scrape(self) -> dict[str, float]:
        """Return the values of a scrape, by name and labels."""
        return {
            sample.name + "".join(f"{{{key}={value}}}" for key, value in sample.labels.items()):
                sample.value
            for family in text_string_to_metric_families(self.metrics.text().decode())
            for sample in family.samples
        }  # fmt: skip


def test_unknown_values_are_not_served() -> None:
    seen = Bench().scrape()
    assert not [name for name in seen if name.startswith(("ipmi_bmc", "ipmi_chassis", "ipmi_up"))]
    assert "bmcmedic_driver_up" not in seen
    assert seen["bmcmedic_reports_total{outcome=taken}"] == 3


def test_the_first_status_of_the_driver_is_served_until_the_first_round_ends() -> None:
    bench = Bench()
    bench.first_driver_view = DriverView(
        {
            "driver": {"breaker": {"open": True, "openings": 1}, "counts": {"failures": 3}},
            "watchdog": {"counts": {"pats": 17}},
        }
    )
    seen = bench.scrape()
    assert seen["bmcmedic_driver_up"] == seen["bmcmedic_breaker_open"] == 1
    assert seen["bmcmedic_pats_total"] == 17
    assert seen["bmcmedic_driver_events_total{event=failures}"] == 3
    assert seen["bmcmedic_symptom{symptom=bmc-not-answering}"] == 1
    assert "bmcmedic_stuck_clients" not in seen  # no scan has ended
    bench.state = HostState(1.0, driver=DriverView(None, "no driver runs here"))
    seen = bench.scrape()
    assert seen["bmcmedic_driver_up"] == 0
    assert "bmcmedic_pats_total" not in seen
    assert seen["bmcmedic_stuck_clients"] == 0


def test_counters_begin_at_0() -> None:
    bench = Bench()
    bench.first_driver_view = DriverView(
        {"driver": {"counts": {}}, "watchdog": {"in_charge": True}}
    )
    seen = bench.scrape()
    for outcome in Outcome:
        assert seen[f"bmcmedic_relief_actions_total{{outcome={outcome.value}}}"] == 0
    assert seen["bmcmedic_relief_actions_total{outcome=kipmid set}"] == 0
    assert seen["bmcmedic_pats_total"] == seen["bmcmedic_breaker_openings_total"] == 0
    written = "".join(path.read_text() for path in Path(driver.__file__).parent.glob("*.py"))
    counted = set(re.findall(r"""\b_?counts\["(\w+)"\] \+=""", written))
    assert {"answers", "parks"} < counted
    assert {name for name in seen if name.startswith("bmcmedic_driver_events_total")} == {
        f"bmcmedic_driver_events_total{{event={name}}}" for name in counted
    }


def test_metrics_of_ipmi_exporter_have_its_names() -> None:
    bench = Bench()
    bench.reader.ask(bench.bmc)
    seen = bench.scrape()
    for name in ("bmc", "bmc-watchdog", "chassis", "dcmi", "sel"):
        assert seen[f"ipmi_up{{collector={name}}}"] == 1
    labels = "{firmware_revision=1.73}{manufacturer_id=343}{system_firmware_version=N/A}"
    assert seen[f"ipmi_bmc_info{labels}"] == 1
    assert seen["ipmi_chassis_power_state"] == 1
    assert seen["ipmi_chassis_drive_fault_state"] == 0  # there is one
    assert seen["ipmi_chassis_cooling_fault_state"] == 1
    assert seen["ipmi_dcmi_power_consumption_watts"] == 232
    assert seen["ipmi_sel_entries_count"] == 12
    assert seen["ipmi_sel_free_space_bytes"] == 4096
    assert seen["ipmi_bmc_watchdog_timer_state"] == 1
    assert seen["ipmi_bmc_watchdog_logging_state"] == 1
    assert seen["ipmi_bmc_watchdog_timer_use_state{name=SMS/OS}"] == 1
    assert seen["ipmi_bmc_watchdog_timer_use_state{name=OEM}"] == 0
    assert seen["ipmi_bmc_watchdog_timeout_action_state{action=Power Cycle}"] == 1
    assert seen["ipmi_bmc_watchdog_pretimeout_interrupt_state{interrupt=None}"] == 1
    assert seen["ipmi_bmc_watchdog_initial_countdown_seconds"] == 120
    assert seen["ipmi_bmc_watchdog_current_countdown_seconds"] == 93.5


def test_sensors_have_ipmi_exporters_names() -> None:
    bench = Bench()
    bench.bmc.sim.profile = profile_with(ANALOG, 1000)
    bench.read_sensors()
    seen = bench.scrape()
    assert seen["ipmi_up{collector=ipmi}"] == 1
    assert seen["ipmi_temperature_celsius{id=10}{name=Outside}"] == -5
    assert seen["ipmi_temperature_state{id=11}{name=Freezing}"] == 2
    assert seen["ipmi_fan_speed_rpm{id=7}{name=Turning}"] == 5700
    assert seen["ipmi_fan_speed_ratio{id=19}{name=Duty}"] == 0.4
    assert seen["ipmi_voltage_volts{id=15}{name=-12V}"] == pytest.approx(-12.332)
    assert seen["ipmi_current_amperes{id=17}{name=PSU In}"] == 2.5
    assert seen["ipmi_power_watts{id=18}{name=PSU Power}"] == 232
    assert seen["ipmi_sensor_value{id=20}{name=Load}{type=Other Units Based Sensor}"] == 70
    assert seen["ipmi_sensor_state{id=38}{name=PS2 failed}{type=Power Supply}"] == 2
    assert math.isnan(seen["ipmi_sensor_value{id=37}{name=PS1}{type=Power Supply}"])
    assert math.isnan(seen["ipmi_sensor_state{id=41}{name=The vendor's}{type=OEM Reserved}"])
    assert seen["bmcmedic_bmc_answer_age_seconds{collector=ipmi}"] > 0


@pytest.mark.parametrize(
    "view",
    [
        DriverView(None, "no driver runs here"),
        DriverView({"driver": {"breaker": {"open": True}}}),
        DriverView({"driver": {"interface_missing": "no /dev/ipmi0"}}),
        DriverView({"driver": {"parked": {"closed": False}}}),
    ],
    ids=["no driver", "breaker open", "no interface", "parked"],
)
def test_sensors_of_a_bmc_out_of_reach_are_not_served(view: DriverView) -> None:
    bench = Bench(HostState(1.0, driver=DriverView({"driver": {"breaker": {"open": False}}})))
    assert "ipmi_up{collector=ipmi}" not in bench.scrape()
    bench.read_sensors()
    assert "ipmi_temperature_celsius{id=4}{name=CPU1 Temp}" in bench.scrape()
    bench.state = HostState(2.0, driver=view)
    seen = bench.scrape()
    assert seen["ipmi_up{collector=ipmi}"] == 0
    assert not [name for name in seen if "CPU1 Temp" in name]
    assert "bmcmedic_bmc_answer_age_seconds{collector=ipmi}" not in seen


def test_with_sensors_off_there_are_none() -> None:
    bench = Bench()
    bench.read_sensors()
    bench.sensor_period_s = None
    assert not [name for name in bench.scrape() if "collector=ipmi}" in name or "CPU1" in name]


def test_the_bmcs_own_questions_come_before_its_sensors() -> None:
    bench = Bench()
    bench.sensor_period_s = 60.0
    thread = threading.Thread(target=bench.reader.run)
    thread.start()
    try:
        bench.metrics.text()
        deadline = threading.Event()
        while GetSdrRepositoryInfoReq not in bench.bmc.asked:
            assert not deadline.wait(0.001)
    finally:
        bench.reader.stop()
        thread.join(WAIT_S)
    questions = [type(question) for question in QUESTIONS.values()]
    assert bench.bmc.asked[: len(questions) + 1] == [*questions, GetSdrRepositoryInfoReq]


def test_a_silent_bmc_is_not_up_and_its_last_answer_ages() -> None:
    bench = Bench()
    bench.reader.ask(bench.bmc)
    bench.bmc.silent = {GetChassisStatusReq}
    bench.time.now += 100
    bench.reader.ask(bench.bmc)
    seen = bench.scrape()
    assert seen["ipmi_up{collector=chassis}"] == 0
    assert seen["ipmi_up{collector=bmc}"] == 1
    assert seen["ipmi_chassis_power_state"] == 1
    assert seen["bmcmedic_bmc_answer_age_seconds{collector=chassis}"] == 100


def test_a_bmc_without_dcmi_is_no_failure() -> None:
    bench = Bench()
    bench.bmc.refused = {GetPowerReadingReq: 0xC1, GetWatchdogTimerReq: 0xC1}
    bench.reader.ask(bench.bmc)
    seen = bench.scrape()
    assert "ipmi_up{collector=dcmi}" not in seen
    assert seen["ipmi_up{collector=bmc-watchdog}"] == 0
    bench.bmc.refused = {GetPowerReadingReq: 0xD4}
    bench.reader.ask(bench.bmc)
    assert bench.scrape()["ipmi_up{collector=dcmi}"] == 0


def test_a_silent_bmc_without_dcmi_still_has_none() -> None:
    bench = Bench()
    bench.bmc.refused = {GetPowerReadingReq: 0xC1}
    bench.reader.ask(bench.bmc)
    bench.bmc.silent = {type(question) for question in QUESTIONS.values()}
    bench.reader.ask(bench.bmc)
    seen = bench.scrape()
    assert seen["ipmi_up{collector=bmc}"] == 0
    assert "ipmi_up{collector=dcmi}" not in seen
    assert bench.reader.is_due() is False
    bench.time.now += RETRY_S
    assert bench.reader.is_due()
    bench.bmc.silent, bench.bmc.refused = set(), {}
    bench.reader.ask(bench.bmc)
    assert bench.scrape()["ipmi_up{collector=dcmi}"] == 1  # new firmware has it


def test_power_that_is_not_measured_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANSWERS, GetPowerReadingReq, GetPowerReadingRsp(0, active=False))
    bench = Bench()
    bench.reader.ask(bench.bmc)
    seen = bench.scrape()
    assert seen["ipmi_up{collector=dcmi}"] == 1
    assert "ipmi_dcmi_power_consumption_watts" not in seen


def test_a_bmc_that_answered_nothing_is_asked_again_soon() -> None:
    bench = Bench()
    bench.bmc.silent = {type(question) for question in QUESTIONS.values()}
    bench.reader.ask(bench.bmc)
    bench.time.now += RETRY_S
    assert bench.reader.is_due()  # the driver may have begun meanwhile
    bench.bmc.silent = {GetChassisStatusReq}
    bench.reader.ask(bench.bmc)
    bench.time.now += RETRY_S
    assert not bench.reader.is_due()


def test_the_bmc_is_asked_for_scrapes_and_no_more_often_than_set() -> None:
    bench = Bench()
    thread = threading.Thread(target=bench.reader.run)
    thread.start()
    try:
        assert bench.bmc.asked == []  # there was no scrape
        bench.metrics.text()
        deadline = threading.Event()
        while len(bench.reader.known) < 5:
            assert not deadline.wait(0.001)
        for _ in range(50):
            bench.metrics.text()
        bench.time.now += 59
        assert not bench.reader.is_due()
        bench.time.now += 1
        assert bench.reader.is_due()
    finally:
        bench.reader.stop()
        thread.join(WAIT_S)
    assert len(bench.bmc.asked) == 5


def test_driver_host_and_relief_are_served() -> None:
    status = {
        "driver": {
            "breaker": {"open": True, "openings": 2},
            "last_answer_age_s": None,
            "pending_requests": 3,
            "pending_requests_highpri": 1,
            "counts": {"answers": 40},
        },
        "watchdog": {
            "in_charge": True,
            "settled": False,
            "counts": {"pats": 17, "failures": 4},
            "pat_latency_s": 0.25,
            "pat_latency_max_s": 1.5,
            "last_pat_age_s": 33.0,
            "timeout_s": 120.0,
        },
    }
    state = HostState(
        1.0,
        ("bmc-not-answering", "pats-failing"),
        kipmi=(KipmiView("kipmi0", 98.0, 4711.5), KipmiView("kipmi1", None, 1.0)),
        driver=DriverView(status),
        relief=ReliefView(stuck=7, throttled=True, actions=Counter(ended=5, survived=1)),
    )
    seen = Bench(state).scrape()
    assert seen["bmcmedic_driver_up"] == 1
    assert seen["bmcmedic_breaker_open"] == 1
    assert seen["bmcmedic_breaker_openings_total"] == 2
    assert "bmcmedic_last_answer_age_seconds" not in seen
    assert seen["bmcmedic_pending_requests{queue=client}"] == 3
    assert seen["bmcmedic_driver_events_total{event=answers}"] == 40
    assert seen["bmcmedic_pats_total"] == 17
    assert seen["bmcmedic_pat_failures_total"] == 4
    assert seen["bmcmedic_pat_latency_seconds"] == 0.25
    assert seen["bmcmedic_symptom{symptom=pats-failing}"] == 1
    assert seen["bmcmedic_stuck_clients"] == 7
    assert seen["bmcmedic_kipmid_cpu_ratio{thread=kipmi0}"] == 0.98
    assert "bmcmedic_kipmid_cpu_ratio{thread=kipmi1}" not in seen
    assert seen["bmcmedic_kipmid_cpu_seconds_total{thread=kipmi0}"] == 4711.5
    assert seen["bmcmedic_relief_actions_total{outcome=ended}"] == 5


@pytest.mark.parametrize(
    "status", [{}, {"driver": None, "watchdog": None}, {"driver": {}, "watchdog": {"counts": {}}}]
)
def test_a_status_of_another_version_does_no_harm(status: dict[str, Any]) -> None:
    assert Bench(HostState(1.0, driver=DriverView(status))).scrape()["bmcmedic_driver_up"] == 1


# ------------------------------------------------------------------------------- the endpoint


@contextlib.contextmanager
def opened(
    place: ListenAddress, text: Callable[[], bytes] = lambda: b"figures 1\n"
) -> Iterator[MetricsEndpoint]:
    endpoint = MetricsEndpoint(place, None, text)
    thread = threading.Thread(target=endpoint.run)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.stop()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        endpoint.close()


def ask(endpoint: MetricsEndpoint, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=WAIT_S)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_endpoint_serves_metrics_and_nothing_else() -> None:
    with opened(ListenAddress(None, "127.0.0.1", 0)) as endpoint:
        assert ask(endpoint, "GET", "/metrics") == (200, b"figures 1\n")
        assert ask(endpoint, "GET", "/metrics?x=1")[0] == 200
        assert ask(endpoint, "HEAD", "/metrics") == (200, b"")
        assert ask(endpoint, "GET", "/")[0] == 404
        assert ask(endpoint, "POST", "/metrics")[0] == 405


def test_a_client_that_trickles_or_lies_is_closed_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint_module, "CLIENT_S_MAX", 1.5)
    with opened(ListenAddress(None, "127.0.0.1", 0)) as endpoint:
        address = ("127.0.0.1", endpoint.port)
        with (
            socket.create_connection(address, WAIT_S) as silent,
            socket.create_connection(address, WAIT_S) as long,
            socket.create_connection(address, WAIT_S) as binary,
        ):
            silent.sendall(b"GET /metr")
            long.sendall(b"x" * endpoint_module.REQUEST_BYTES_MAX)
            binary.sendall(b"\x16\x03\x01\r\n\r\n")
            assert ask(endpoint, "GET", "/metrics")[0] == 200
            assert silent.recv(100) == b""
            assert long.recv(100).startswith(b"HTTP/1.1 400")
            assert binary.recv(100).startswith(b"HTTP/1.1 400")


def test_metrics_that_took_long_to_collect_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint_module, "CLIENT_S_MAX", 1.5)

    def text() -> bytes:
        assert not threading.Event().wait(2.0)
        return b"x" * 20_000_000

    with opened(ListenAddress(None, "127.0.0.1", 0), text) as endpoint:
        assert ask(endpoint, "GET", "/metrics") == (200, b"x" * 20_000_000)


@pytest.mark.parametrize("said", [b"", b"GET /metr"], ids=["idle", "dripping"])
def test_bad_clients_in_any_number_cost_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    # The test does not wait for their end.
    monkeypatch.setattr(endpoint_module, "CLIENT_S_MAX", 4 * WAIT_S)
    with opened(ListenAddress(None, "127.0.0.1", 0)) as endpoint, contextlib.ExitStack() as bad:
        clients = [
            bad.enter_context(socket.create_connection(("127.0.0.1", endpoint.port), WAIT_S))
            for _ in range(endpoint_module.CLIENTS_MAX + 5)
        ]
        for client in clients[5:]:
            client.sendall(said)
        assert ask(endpoint, "GET", "/metrics") == (200, b"figures 1\n")
        assert clients[0].recv(1) == b""  # the oldest made room
        clients[-1].settimeout(0)
        with pytest.raises(BlockingIOError):
            clients[-1].recv(1)


def test_a_client_that_does_not_read_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint_module, "CLIENT_S_MAX", 4 * WAIT_S)
    with (
        opened(ListenAddress(None, "127.0.0.1", 0), lambda: b"x" * 20_000_000) as endpoint,
        socket.create_connection(("127.0.0.1", endpoint.port), WAIT_S) as deaf,
    ):
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert len(ask(endpoint, "GET", "/metrics")[1]) == 20_000_000
        assert deaf.recv(12) == b"HTTP/1.1 200"


def test_the_unix_socket_is_private_and_replaced_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with opened(ListenAddress(str(path))):
        assert path.stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WAIT_S)
            client.connect(str(path))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert not os.path.lexists(path)


def test_an_address_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match="is not a socket; it was not changed"):
        MetricsEndpoint(ListenAddress(str(tmp_path / "file")), None, lambda: b"")
    with pytest.raises(ConfigurationError, match="metrics cannot be served at unix:"):
        MetricsEndpoint(ListenAddress(str(tmp_path / "none" / "m.sock")), None, lambda: b"")
    assert (tmp_path / "file").read_text() == "mine"
