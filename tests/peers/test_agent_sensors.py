"""The agent's sensors compared with real peers: ipmi_exporter, and OpenIPMI's `ipmi_sim`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bmcmedic.agent.loopback.server import LoopbackSettings
from bmcmedic.agent.metrics import sensor_reader
from bmcmedic.agent.metrics.bmc_reader import BmcReader
from bmcmedic.agent.metrics.collector import AgentCollector, AgentCounters, Metrics
from bmcmedic.agent.metrics.sensor_reader import SensorReader
from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.errors import BreakerOpen, CompletionCodeError, NoAnswer
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.sdr import GetSdrRepositoryInfoReq
from bmcmedic.ipmi.commands.sensor import GetSensorReadingReq
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.sdr_walk import SdrRepository, walk_repository
from bmcmedic.ipmi.sensor_reading import SensorReading, interpret_reading, sensors_in
from bmcmedic.ipmi.sensor_states import Severity
from bmcmedic.service.runtime import ThreadRuntime
from bmcmedic.sim.profile import profile_with
from bmcmedic.transport.lanplus import LanPlus
from tests.support.ipmi_sim import ipmi_sim
from tests.support.polling import eventually
from tests.support.ports import unused_port
from tests.support.sensor_zoo import ANALOG, fan, temperature, voltage
from tests.support.sim_host import (
    HANG_LIMITS,
    RunningProxy,
    SimHost,
    running_proxy,
    sim_host,
)

EXPORTER = "prometheus-ipmi-exporter"
TOOL = "ipmimonitoring"
TIMEOUT_S = 60.0
LAST_DIGIT = 0.0051
"""Tolerance of a value: FreeIPMI prints two digits after the point."""
SENSORS = ("temperature", "fan_speed", "voltage", "current", "power", "sensor")

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def figures(text: str) -> Figures:
    """Return the value of every sensor, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.removeprefix("ipmi_").rpartition("_")[0] in SENSORS
    }


class Agent:
    """The part of the agent that reads the BMC."""

    def __init__(self, host: SimHost) -> None:
        self.said: list[str] = []
        runtime = ThreadRuntime()
        self.sensors = SensorReader(lambda: 60.0, lambda: None, self.said.append, runtime)
        self.driver = DriverClient(host.socket_path, 15.0)
        reader = BmcReader(lambda: self.driver, lambda: 60.0, runtime, self.sensors)
        own = AgentCounters({}, None, {}, acts=False)
        self._metrics = Metrics(
            AgentCollector(lambda: None, lambda: None, lambda: own, reader), reader
        )

    def close(self) -> None:
        self.driver.close()

    def scrape(self) -> str:
        self.sensors.begin_if_due()
        while (pause_s := self.sensors.pause_s) is not None:
            time.sleep(pause_s)
            self.sensors.go_on(self.driver)
        return self._metrics.text().decode()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_reader, "PAUSE_S_MIN", 0.0)


def exported(listens: str, proxy: RunningProxy) -> str | None:
    url = f"http://{listens}/ipmi?target=127.0.0.1:{proxy.port}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return str(answer.read().decode())
    except urllib.error.URLError:
        return None


@pytest.mark.skipif(shutil.which(EXPORTER) is None, reason="ipmi_exporter is not installed")
@pytest.mark.usefixtures("short_pauses")
def test_the_agent_and_ipmi_exporter_serve_the_same_values(tmp_path: Path) -> None:
    settings = LoopbackSettings(port=0, request_s=5.0, stale_answer_s_max=0.0)
    with (
        sim_host(tmp_path) as host,
        running_proxy(host.socket_path, tmp_path / "run", settings) as proxy,
    ):
        with host.registers.lock:
            host.bmc.profile = profile_with(ANALOG, 1_700_000_000)
        eventually(lambda: proxy.state() == "well")
        with closing(Agent(host)) as agent:
            ours = figures(agent.scrape())
        port = unused_port(kind=socket.SOCK_STREAM)
        config = tmp_path / "run" / "door" / "ipmi_exporter.yml"
        with subprocess.Popen(
            [EXPORTER, f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"],
            env={**os.environ, "HOME": str(tmp_path)},
            stderr=subprocess.DEVNULL,
        ) as running:
            try:
                listens = f"127.0.0.1:{port}"
                eventually(lambda: exported(listens, proxy) is not None)
                text = exported(listens, proxy)
            finally:
                running.terminate()
    assert text is not None
    theirs = figures(text)
    assert len(theirs) > 60
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if math.isnan(value):
            assert math.isnan(ours[key]), key
        else:
            assert ours[key] == pytest.approx(value, abs=LAST_DIGIT), key


@pytest.mark.usefixtures("short_pauses")
def test_while_the_bmc_hangs_no_sensor_is_served_and_the_bmc_is_not_asked(tmp_path: Path) -> None:
    with sim_host(tmp_path, HANG_LIMITS) as host, closing(Agent(host)) as agent:
        assert 'ipmi_up{collector="ipmi"} 1.0' in agent.scrape()
        host.set_faults("hang")
        while not host.driver.breaker.is_open:
            with contextlib.suppress(NoAnswer, BreakerOpen):
                agent.driver.raw(0x0A, 0x20)
        asked = host.requests("0A/20")
        agent.sensors._last = None  # the next is due
        text = agent.scrape()
        assert 'ipmi_up{collector="ipmi"} 0.0' in text
        assert figures(text) == {}
        assert host.requests("0A/20") == asked
        assert agent.said[0].startswith("the sensors cannot be read: the BMC does not answer")
        host.set_faults()
        eventually(lambda: not host.driver.breaker.is_open)
        agent.sensors._last = None  # the next is due
        assert figures(agent.scrape())
        assert agent.said[1:] == ["the sensors can be read again"]


# ------------------------------------------------------------------------------- ipmi_sim


BUILT = (
    temperature(1, "Inlet", 97),
    fan(2, "FAN1", 70),
    voltage(3, "12V", 201, m=6, r_exponent=-2),
)


def commands() -> str:
    """Return the same records and readings as a configuration of `ipmi_sim`."""
    lines = []
    for record_id, sensor in enumerate(BUILT, start=1):
        record = " ".join(f"0x{byte:02x}" for byte in sensor.record(record_id))
        lines += [
            f"main_sdr_add 0x20 {record}",
            f"sensor_add 0x20 0 {sensor.number} {sensor.sensor_type} 1",
            f"sensor_set_value 0x20 0 {sensor.number} {sensor.nominal} 0",
        ]
    return "\n".join(lines) + "\n"


async def ask_all(address: tuple[str, int]) -> dict[int, SensorReading]:
    until = time.monotonic() + TIMEOUT_S
    credentials = Credentials("admin", b"secret")
    async with await LanPlus.connect(address, credentials, deadline=until) as bmc:
        info = await bmc.exchange(GetSdrRepositoryInfoReq(), until)
        repository = await walked(walk_repository(info), bmc, until)
        readings = {}
        for sensor in sensors_in(repository.records):
            response = await bmc.exchange(GetSensorReadingReq(sensor.number), until)
            reading = interpret_reading(sensor, response)
            if reading is not None:
                readings[sensor.record_id] = reading
        return readings


async def walked(
    steps: Generator[Command[Any], Any, SdrRepository], bmc: LanPlus, until: float
) -> SdrRepository:
    try:
        request = next(steps)
        while True:
            try:
                answer = await bmc.exchange(request, until)
            except CompletionCodeError as error:
                request = steps.throw(error)
            else:
                request = steps.send(answer)
    except StopIteration as end:
        repository: SdrRepository = end.value
        return repository


@pytest.mark.skipif(shutil.which("ipmi_sim") is None, reason="ipmi_sim is not installed")
def test_the_repository_of_a_foreign_bmc(tmp_path: Path) -> None:
    with ipmi_sim(tmp_path / "bmc", commands=commands()) as bmc:
        ours = asyncio.run(ask_all(bmc.address))
        login = ("-h", bmc.target, "-u", "admin", "-p", "secret", "-D", "LAN_2_0", "-I", "3")
        more = ("-W", "opensesspriv", "-Q", "--comma-separated-output", "--no-header-output")
        done = subprocess.run(
            [TOOL, *login, *more, f"--sdr-cache-directory={tmp_path}"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    rows = [line.split(",") for line in done.stdout.splitlines()]
    assert [int(row[0]) for row in rows] == [1, 2, 3]
    for row in rows:
        reading = ours[int(row[0])]
        assert reading.sensor.name == row[1]
        assert reading.severity == Severity[row[3].upper()]
        assert reading.value == pytest.approx(float(row[4]), abs=LAST_DIGIT)
    assert {reading.value for reading in ours.values()} == {97, 5250, 12.06}
