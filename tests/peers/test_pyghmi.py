"""pyghmi's client against the simulated BMC."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from pyghmi.ipmi.command import Command

from tests.support.sim import RunningRack, running_bmc

TIMEOUT_S = 90

# pyghmi keeps its sockets until the process ends.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def rack() -> Iterator[RunningRack]:
    with running_bmc() as running:
        yield running


def connect(rack: RunningRack) -> Command:
    host, port = rack.address()
    return Command(bmc=host, userid="admin", password="secret", port=port)


@pytest.fixture(scope="module")
def client(rack: RunningRack) -> Iterator[Command]:
    connected = connect(rack)
    yield connected
    connected.ipmi_session.logout()


def test_power_and_device_id(client: Command) -> None:
    assert client.get_power() == {"powerstate": "on"}
    answer = client.raw_command(netfn=6, command=1)
    assert answer["code"] == 0
    assert bytes(answer["data"][:4]) == bytes.fromhex("20810323")


def test_sensors_are_healthy(client: Command) -> None:
    readings = {reading.name: reading for reading in client.get_sensor_data()}
    assert len(readings) == 19
    assert readings["CPU1 Temp"].value == 47
    assert readings["12V"].value == pytest.approx(12.06)
    assert readings["CPU1 Margin"].value == -38
    assert client.get_health()["health"] == 0


def test_inventory_and_log(client: Command) -> None:
    inventory = dict(client.get_inventory())
    assert inventory["System"]["Serial Number"] == "S-bmc1"
    assert [entry["component_type"] for entry in client.get_event_log()] == [
        "Event Log Disabled",
        "System Boot",
        "OS Boot",
    ]


def test_power_off_and_on(rack: RunningRack, client: Command) -> None:
    before = rack.status()["host_power_changes"]
    client.set_power("off", wait=False)
    assert client.get_power() == {"powerstate": "off"}
    client.set_power("on", wait=False)
    assert client.get_power() == {"powerstate": "on"}
    assert rack.status()["host_power_changes"] == before + 2


def test_reset_bmc() -> None:
    with running_bmc("boot:0.3") as rack:
        connect(rack).reset_bmc()
        deadline = time.monotonic() + TIMEOUT_S
        while not (status := rack.status())["cold_resets"] or status["state"] != "up":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert status["cold_resets"] == 1
        assert status["host_boots"] == 0
