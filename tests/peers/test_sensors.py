"""Values and severities of every kind of sensor, compared with those of the FreeIPMI tools."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bmcmedic.ipmi.commands.sensor import GetSensorReadingReq
from bmcmedic.ipmi.sensor_reading import SensorReading, interpret_reading, sensors_in
from bmcmedic.ipmi.sensor_states import Severity
from bmcmedic.ipmi.sensor_types import sensor_type_name
from bmcmedic.sim.profile import profile_with
from bmcmedic.sim.sdr_build import UC, UNC, AnalogSensor, Sensor
from tests.support.sdr_walks import walked_sim
from tests.support.sensor_zoo import ANALOG, discrete
from tests.support.sim import START, RunningRack, ask, running_bmc, sim_bmc

TIMEOUT_S = 60
TOOL = "ipmimonitoring"
"""The command that ipmi_exporter runs, with its options."""
OPTIONS = (
    "-Q",
    "--ignore-unrecognized-events",
    "--comma-separated-output",
    "--no-header-output",
    "--sdr-cache-recreate",
    "--output-event-bitmask",
    "--output-sensor-state",
)
GENERIC = range(0x02, 0x0D)
SENSOR_SPECIFIC = 0x6F
SENSOR_TYPES = (*range(0x01, 0x2E), 0xC0)
STATES = 15

pytestmark = pytest.mark.skipif(shutil.which(TOOL) is None, reason=f"{TOOL} is not installed")

Row = tuple[str, str, Severity | None, float | None]
"""Name, type, severity and value."""
_built_at_s = itertools.count(1_700_000_000)
"""Each repository is newer than the one before; otherwise FreeIPMI would use its cache."""


@pytest.fixture(scope="module")
def rack() -> Iterator[RunningRack]:
    with running_bmc() as running:
        yield running


def theirs(rack: RunningRack, sensors: tuple[Sensor, ...], cache: Path) -> dict[int, Row]:
    """Return what ipmimonitoring reports, by record id."""
    rack.bmc().profile = profile_with(sensors, next(_built_at_s))
    host, port = rack.address()
    login = ("-h", f"{host}:{port}", "-u", "admin", "-p", "secret", "-D", "LAN_2_0")
    done = subprocess.run(
        [TOOL, *login, f"--sdr-cache-directory={cache}", *OPTIONS],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    rows = {}
    for line in done.stdout.splitlines():
        record_id, name, kind, state, value, _unit, _states = line.split(",")
        severity = None if state == "N/A" else Severity[state.upper()]
        rows[int(record_id)] = (name, kind, severity, None if value == "N/A" else float(value))
    return rows


def ours(sensors: tuple[Sensor, ...]) -> dict[int, Row]:
    """Return what this program reports of such a BMC."""
    bmc = sim_bmc()
    bmc.profile = profile_with(sensors, 0)
    rows = {}
    for sensor in sensors_in(walked_sim(bmc).records):
        reading = interpret_reading(sensor, ask(bmc, GetSensorReadingReq(sensor.number), START))
        if reading is not None and sensor.is_owned_by_bmc:
            rows[sensor.record_id] = row(reading)
    return rows


def row(reading: SensorReading) -> Row:
    value = None if reading.value is None else round(reading.value, 2)
    kind = sensor_type_name(reading.sensor.sensor_type)
    return reading.sensor.name, kind, reading.severity, value


def test_every_kind_of_sensor_reads_the_same(rack: RunningRack, tmp_path: Path) -> None:
    rows = theirs(rack, ANALOG, tmp_path)
    assert ours(ANALOG) == rows
    by_name = {each[0]: each for each in rows.values()}
    assert by_name["Outside"][2:] == (Severity.NOMINAL, -5)
    assert by_name["Freezing"][2:] == (Severity.CRITICAL, -35)
    assert by_name["-12V"][3] == -12.33
    assert not {"Not there yet", "Not scanned", "Behind a bridge"} & by_name.keys()


def test_a_non_critical_threshold_is_a_warning_here_and_nominal_there(
    rack: RunningRack, tmp_path: Path
) -> None:
    first = ANALOG[0]
    assert isinstance(first, AnalogSensor)
    sensors = (replace(first, nominal=90, thresholds={UNC: 85, UC: 95}),)
    assert [each[2] for each in theirs(rack, sensors, tmp_path).values()] == [Severity.NOMINAL]
    assert [each[2] for each in ours(sensors).values()] == [Severity.WARNING]


@pytest.mark.parametrize("event_types", [GENERIC[:5], GENERIC[5:], (SENSOR_SPECIFIC,)], ids=str)
def test_both_give_every_discrete_state_the_same_severity(
    rack: RunningRack, tmp_path: Path, event_types: tuple[int, ...]
) -> None:
    kinds = list(itertools.product(event_types, SENSOR_TYPES))
    graves = set()
    for states in (0, *(1 << state for state in range(STATES))):
        for at in range(0, len(kinds), 200):
            sensors = discrete(kinds[at : at + 200], states)
            rows = theirs(rack, sensors, tmp_path)
            assert ours(sensors) == rows, f"states {states:#06x}"
            graves |= {each[2] for each in rows.values()}
    assert graves == {None, *Severity}
