"""Whatever driver and BMC do, a round ends in time, with all readings or the reason why not."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from bmcmedic.agent.metrics.sensor_reader import (
    GIVE_WAY_S,
    INTERFACE_SHARE_MAX,
    ROUND_S_MAX,
    WALK_S_MAX,
    SensorReader,
)
from bmcmedic.driver.socket.errors import DriverGone, DriverUnavailable
from bmcmedic.errors import BmcmedicError, BreakerOpen, NoAnswer, QueueFull, RemoteProtocolError
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.service.runtime import ThreadRuntime
from bmcmedic.sim.profile import profile_with
from bmcmedic.transport.in_band import InterfaceGone, Interrupted
from tests.support.sensor_zoo import ANALOG
from tests.support.sim import START, ask, sim_bmc

PERIOD_S = 60.0
EXCHANGE_S_MAX = 15.0
ROUNDS = 3

ERRORS: tuple[BmcmedicError, ...] = (
    NoAnswer("silence"),
    QueueFull("full"),
    Interrupted("a pat", may_have_run=False),
    BreakerOpen("the BMC has not answered"),
    DriverUnavailable("no driver"),
    DriverGone("it went away", may_have_run=True),
    InterfaceGone("no device"),
    RemoteProtocolError("no bytes", section="35.14"),
)
CODES = (0xC0, 0xC1, 0xC3, 0xC5, 0xCA, 0xCB, 0xD0, 0xFF)
HAPPENS = st.one_of(
    st.just("answer"), st.just("answer"), st.sampled_from(ERRORS), st.sampled_from(CODES)
)
TAKES_S = st.sampled_from([0.0, 0.005, 0.1, 1.0, EXCHANGE_S_MAX])


class Time(ThreadRuntime):
    def __init__(self) -> None:
        self.now = START
        self.monotonic = lambda: self.now


class Moody:
    """A driver to which these outcomes happen over and over."""

    def __init__(self, time: Time, happens: list[tuple[Any, float]]) -> None:
        self._time = time
        self._happens = happens
        self._asked = 0
        self._bmc = sim_bmc()
        self._bmc.profile = profile_with(ANALOG, 1000)

    def exchange(self, request: Command[Any], *, lun: int = 0) -> Any:  # noqa: ANN401 - each its own
        assert lun == 0
        what, takes_s = self._happens[self._asked % len(self._happens)]
        self._asked += 1
        self._time.now += takes_s
        if isinstance(what, BmcmedicError):
            raise what
        if isinstance(what, int):
            raise request.completion_code_error(what)
        return ask(self._bmc, request, self._time.now)


@given(st.lists(st.tuples(HAPPENS, TAKES_S), min_size=1, max_size=30))
def test_every_round_ends_in_time_with_all_readings_or_a_reason(
    happens: list[tuple[Any, float]],
) -> None:
    time = Time()
    driver = Moody(time, happens)
    said: list[str] = []
    reader = SensorReader(lambda: PERIOD_S, lambda: 0, said.append, time)
    pause_s_max = max(GIVE_WAY_S, 2 * EXCHANGE_S_MAX / INTERFACE_SHARE_MAX)
    # The records, the sensors, and the request in progress when the time of each stage is over.
    round_s_max = WALK_S_MAX + ROUND_S_MAX + 2 * (pause_s_max + EXCHANGE_S_MAX)
    for _ in range(ROUNDS):
        began_at = time.now
        reader.begin_if_due()
        while (pause_s := reader.pause_s) is not None:
            assert pause_s <= pause_s_max
            time.now += pause_s
            reader.go_on(driver)
            assert time.now - began_at <= round_s_max
        snapshot = reader.snapshot()
        assert reader.up is (snapshot is not None)
        assert reader.up or said[-1].startswith("the sensors cannot be read: ")
        time.now += PERIOD_S
