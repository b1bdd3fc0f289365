"""Whatever a BMC answers about its repository, the walk soon ends, with a defined error if any."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from bmcmedic.errors import CompletionCodeError, RemoteProtocolError
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.sdr import (
    GetSdrRepositoryInfoRsp,
    GetSdrReq,
    GetSdrRsp,
    ReserveSdrRepositoryRsp,
)
from bmcmedic.ipmi.commands.sensor import GetSensorReadingRsp
from bmcmedic.ipmi.sdr_walk import REQUESTS_MAX, SdrRepository
from bmcmedic.ipmi.sensor_reading import interpret_reading, sensors_in
from tests.support.sdr_walks import walked

CODES = st.sampled_from([0x80, 0xC0, 0xC1, 0xC3, 0xC5, 0xC7, 0xC9, 0xCA, 0xCB, 0xD0, 0xFF])
HEADERS = st.builds(
    lambda own, kind, length: own.to_bytes(2, "little") + bytes((0x51, kind, length)),
    st.integers(0, 0xFFFF),
    st.sampled_from([0x01, 0x02, 0x11, 0x12, 0xC0]),
    st.integers(0, 0xFF),
)
RECORD_BYTES = st.builds(lambda head, body: head + body, HEADERS, st.binary(max_size=250))
NEXT_IDS = st.one_of(st.integers(0, 12), st.integers(0, 0xFFFF), st.just(0xFFFF))
ANSWERS = st.one_of(
    CODES,
    st.builds(GetSdrRsp, NEXT_IDS, st.one_of(RECORD_BYTES, st.binary(max_size=20))),
)
READINGS = st.builds(
    GetSensorReadingRsp,
    st.integers(0, 0xFF),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.binary(max_size=2),
)


class Hostile:
    """Returns the given answers over and over."""

    def __init__(self, says: list[int | GetSdrRsp]) -> None:
        self._says = says
        self.asked = 0

    def __call__(self, request: Command[Any]) -> Any:  # noqa: ANN401 - each its own
        says = self._says[self.asked % len(self._says)]
        self.asked += 1
        assert self.asked <= REQUESTS_MAX
        if isinstance(says, int):
            raise request.completion_code_error(says)
        if isinstance(request, GetSdrReq):
            return says
        return ReserveSdrRepositoryRsp(self.asked & 0xFFFF)


@given(st.lists(ANSWERS, min_size=1, max_size=12), READINGS)
def test_every_walk_ends_in_records_or_in_an_error_with_a_reason(
    says: list[int | GetSdrRsp], reading: GetSensorReadingRsp
) -> None:
    repository: SdrRepository | None = None
    problem = ""
    try:
        repository = walked(GetSdrRepositoryInfoRsp(3, 0), Hostile(says))
    except (RemoteProtocolError, CompletionCodeError) as error:
        problem = str(error)
    assert (repository is None) == bool(problem)
    if repository is not None:
        assert len(dict(repository.records)) == len(repository.records)
        for sensor in sensors_in(repository.records):
            seen = interpret_reading(sensor, reading)
            assert seen is None or isinstance(seen.value, float | None)


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), RECORD_BYTES), max_size=8), READINGS)
def test_records_of_any_bytes_are_sensors_or_skipped(
    records: list[tuple[int, bytes]], reading: GetSensorReadingRsp
) -> None:
    sensors = list(sensors_in(records))
    assert len(sensors) <= len(records)
    for sensor in sensors:
        assert 0 <= sensor.number <= 0xFF
        seen = interpret_reading(sensor, reading)
        assert (seen is None) == (not reading.available or not reading.scanning_enabled)
