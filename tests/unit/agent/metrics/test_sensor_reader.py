"""Sensors in rounds: after everything else, no more often than set, and no stale reading served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import pytest

from bmcmedic.agent.metrics.sensor_reader import (
    BURST_REQUESTS_MAX,
    BURST_S_MAX,
    DRIVER_RETRY_S,
    FAILED_PAUSE_S_MAX,
    GIVE_WAY_S,
    INTERFACE_SHARE_MAX,
    PAUSE_S_MIN,
    ROUND_S_MAX,
    SERVED_PERIODS,
    WALK_AGAIN_S_MIN,
    WALK_S_MAX,
    SensorReader,
)
from bmcmedic.agent.metrics.silent_sensors import SILENT_REST_S_MAX
from bmcmedic.driver.parking import Parked
from bmcmedic.driver.socket.errors import DriverUnavailable
from bmcmedic.errors import (
    BmcmedicError,
    BreakerOpen,
    CompletionCodeError,
    NoAnswer,
    QueueFull,
    RemoteProtocolError,
)
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.reading_factors import ReadingFactors
from bmcmedic.ipmi.commands.sdr import (
    LAST_RECORD_ID,
    GetSdrRepositoryInfoReq,
    GetSdrReq,
    ReserveSdrRepositoryReq,
)
from bmcmedic.ipmi.commands.sensor import (
    GetSensorReadingFactorsReq,
    GetSensorReadingFactorsRsp,
    GetSensorReadingReq,
)
from bmcmedic.service.runtime import ThreadRuntime
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.profile import profile_with
from bmcmedic.sim.sdr_build import Sensor
from bmcmedic.transport.in_band import InterfaceGone, Interrupted
from tests.support.sensor_zoo import ANALOG, temperature, voltage
from tests.support.sim import START, ask, sim_bmc

PERIOD_S = 60.0
HARMLESS = (temperature(1, "Inlet", 23), temperature(2, "CPU", 47), voltage(3, "12V", 201, m=6))


class Time(ThreadRuntime):
    def __init__(self) -> None:
        self.now = START
        self.monotonic = lambda: self.now


class FakeDriver:
    """A simulated BMC behind a driver that may refuse."""

    def __init__(self, time: Time, sensors: tuple[Sensor, ...]) -> None:
        self.time = time
        self.bmc: SimBmc = sim_bmc()
        self.bmc.profile = profile_with(sensors, 1000)
        self.takes_s = 0.001
        self.asked: list[Command[Any]] = []
        self.luns: Counter[int] = Counter()
        self.fails: dict[type[Any], BmcmedicError] = {}
        self.silent_at: set[int] = set()
        self.factors: dict[int, ReadingFactors] = {}

    @property
    def counts(self) -> Counter[type[Any]]:
        return Counter(map(type, self.asked))

    def exchange(self, request: Command[Any], *, lun: int = 0) -> Any:  # noqa: ANN401 - each its own
        self.asked.append(request)
        self.luns[lun] += 1
        self.time.now += self.takes_s
        for kind in (type(request), object):
            if kind in self.fails:
                raise self.fails[kind]
        if isinstance(request, GetSensorReadingReq) and request.sensor_number in self.silent_at:
            raise NoAnswer("silence")
        if isinstance(request, GetSensorReadingFactorsReq) and self.factors:
            return GetSensorReadingFactorsRsp(0, self.factors[request.raw_reading])
        return ask(self.bmc, request, self.time.now)


class Bench:
    def __init__(self, *sensors: Sensor) -> None:
        self.time = Time()
        self.driver = FakeDriver(self.time, sensors or HARMLESS)
        self.period_s: float | None = PERIOD_S
        self.restarts: Hashable = (0, 0)
        self.reported: list[str] = []
        self.reader = SensorReader(
            lambda: self.period_s, lambda: self.restarts, self.reported.append, self.time
        )

    def scrape(self) -> None:
        self.reader.begin_if_due()

    def step(self) -> None:
        """Wait as long as the reader wants, then let it continue."""
        assert self.reader.pause_s is not None
        self.time.now += self.reader.pause_s
        self.reader.go_on(self.driver)

    def round(self) -> dict[str, float | None]:
        """Scrape after the period, and run the round that begins."""
        self.time.now += PERIOD_S
        self.driver.asked.clear()
        self.scrape()
        self.finish()
        return self.values()

    def finish(self) -> None:
        while self.reader.pause_s is not None:
            self.step()

    def values(self) -> dict[str, float | None]:
        snapshot = self.reader.snapshot()
        return {each.sensor.name: each.value for each in snapshot.readings} if snapshot else {}


def test_a_round_reads_every_sensor_once() -> None:
    bench = Bench()
    assert bench.round() == {"Inlet": 23, "CPU": 47, "12V": pytest.approx(1206)}
    assert bench.reader.up is True
    assert bench.driver.counts[GetSensorReadingReq] == 3


def test_sensors_without_a_reading_or_behind_a_bridge_are_left_out() -> None:
    bench = Bench(*ANALOG)
    seen = bench.round()
    assert seen["Outside"] == -5
    assert not {"Not there yet", "Not scanned", "Behind a bridge", "PS3 gone"} & seen.keys()
    # Nobody asks the BMC for another controller's sensor: it may have one of that number itself.
    assert GetSensorReadingReq(32) not in bench.driver.asked


def test_the_records_are_read_once() -> None:
    bench = Bench()
    bench.round()
    assert bench.driver.counts[GetSdrReq] == 6
    bench.round()
    assert bench.driver.counts == {GetSdrRepositoryInfoReq: 1, GetSensorReadingReq: 3}


def test_the_records_are_read_again_when_they_have_changed_but_not_all_the_time() -> None:
    bench = Bench()
    bench.round()
    bench.driver.bmc.profile = profile_with((*HARMLESS, temperature(9, "New", 20)), 2000)
    assert "New" not in bench.round()
    bench.time.now += WALK_AGAIN_S_MIN
    assert bench.round()["New"] == 20
    bench.time.now += WALK_AGAIN_S_MIN
    bench.round()
    assert bench.driver.counts[GetSdrReq] == 0


def test_the_records_are_read_again_when_the_bmc_has_restarted() -> None:
    bench = Bench()
    bench.restarts = None  # the driver has not been heard yet
    bench.round()
    bench.restarts = (4, 1)
    bench.time.now += WALK_AGAIN_S_MIN
    bench.round()
    assert bench.driver.counts[GetSdrReq] == 0  # that is only where it stands
    bench.restarts = None
    bench.round()
    assert bench.driver.counts[GetSdrReq] == 0
    bench.restarts = (4, 2)
    bench.round()
    assert bench.driver.counts[GetSdrReq] == 6


def test_sensors_are_read_after_scrapes_only_and_no_more_often_than_set() -> None:
    bench = Bench()
    bench.reader.go_on(bench.driver)
    assert bench.driver.asked == []
    assert bench.reader.pause_s is None
    bench.round()
    asked = len(bench.driver.asked)
    bench.time.now += PERIOD_S - 10
    bench.scrape()
    assert bench.reader.pause_s is None
    assert len(bench.driver.asked) == asked


def test_scrapes_during_a_round_do_not_hurry_it() -> None:
    bench = Bench()
    bench.driver.takes_s = BURST_S_MAX
    bench.scrape()
    bench.step()
    for _ in range(100):
        bench.scrape()
        bench.reader.go_on(bench.driver)
    assert len(bench.driver.asked) == 1


@pytest.mark.parametrize("takes_s", [0.0, 0.005, 0.02, 0.2, 0.5])
def test_most_of_the_interfaces_time_is_left_to_others(takes_s: float) -> None:
    bench = Bench(*(temperature(number, f"T{number}", 30) for number in range(1, 101)))
    bench.driver.takes_s = takes_s
    began_at = bench.time.now + PERIOD_S
    bench.round()
    requests = len(bench.driver.asked)
    took_s = bench.time.now - began_at
    burst_s = min(BURST_S_MAX, BURST_REQUESTS_MAX * takes_s) + takes_s
    assert requests * takes_s <= INTERFACE_SHARE_MAX * took_s + burst_s
    assert took_s >= (requests // BURST_REQUESTS_MAX - 1) * PAUSE_S_MIN
    assert bench.reader.up is True


@pytest.mark.parametrize(
    "problem", [QueueFull("full"), Interrupted("a pat", may_have_run=False)], ids=repr
)
def test_it_gives_way_and_repeats_the_request(problem: BmcmedicError) -> None:
    bench = Bench()
    bench.scrape()
    bench.driver.fails = {object: problem}
    bench.step()
    assert bench.reader.pause_s == GIVE_WAY_S
    bench.driver.fails = {}
    bench.finish()
    assert bench.reader.up
    assert bench.driver.counts[GetSdrRepositoryInfoReq] == 2


def test_a_driver_that_is_never_free_ends_the_round() -> None:
    bench = Bench()
    bench.driver.fails = {GetSensorReadingReq: QueueFull("full")}
    began_at = bench.time.now
    assert bench.round() == {}
    assert bench.reader.up is False
    assert bench.time.now - began_at < PERIOD_S + 2 * ROUND_S_MAX
    assert bench.reported == ["the sensors cannot be read: the sensors were not read within 600 s"]


@pytest.mark.parametrize(
    "problem",
    [
        BreakerOpen("the BMC has not answered"),
        Parked("the interface is let go"),
        InterfaceGone("no device"),
        NoAnswer("silence"),
    ],
    ids=repr,
)
def test_when_the_bmc_is_out_of_reach_nothing_is_served_and_nothing_more_asked(
    problem: BmcmedicError,
) -> None:
    bench = Bench()
    bench.round()
    bench.driver.fails = {object: problem}
    assert bench.round() == {}
    assert bench.reader.up is False
    assert len(bench.driver.asked) == 1
    bench.time.now += PERIOD_S / 2
    bench.scrape()
    assert bench.reader.pause_s is None  # it is left in peace until the next period
    bench.driver.fails = {}
    assert len(bench.round()) == 3
    assert bench.reported == [
        f"the sensors cannot be read: {problem}",
        "the sensors can be read again",
    ]


def test_a_driver_that_may_be_starting_is_tried_again_soon() -> None:
    bench = Bench()
    bench.driver.fails = {object: DriverUnavailable("no driver runs here")}
    bench.round()
    bench.driver.fails = {}
    bench.time.now += DRIVER_RETRY_S
    bench.scrape()
    assert bench.reader.pause_s == 0


def test_a_sensor_that_is_refused_is_left_out() -> None:
    bench = Bench(*HARMLESS[:2])
    bench.round()
    gone = bench.driver.bmc.profile
    bench.driver.bmc.profile = replace(gone, sensors={2: gone.sensors[2]})
    assert bench.round() == {"CPU": 47}
    bench.driver.fails = {
        GetSensorReadingReq: RemoteProtocolError("two bytes", section="35.14", raw=b"")
    }
    assert bench.round() == {}
    assert bench.reader.up is True


def test_a_bmc_without_a_repository_is_not_up() -> None:
    bench = Bench()
    code = GetSdrRepositoryInfoReq.completion_code_error(0xC1)
    bench.driver.fails = {GetSdrRepositoryInfoReq: code}
    assert bench.round() == {}
    assert bench.reader.up is False
    assert "invalid or unsupported command" in bench.reported[0]


def test_a_busy_moment_does_not_lose_the_records() -> None:
    bench = Bench()
    bench.round()
    busy: CompletionCodeError = GetSdrRepositoryInfoReq.completion_code_error(0xC0)
    bench.driver.fails = {GetSdrRepositoryInfoReq: busy}
    assert len(bench.round()) == 3


def test_an_unreadable_repository_is_reported_with_the_reason() -> None:
    bench = Bench()
    cancelled = ReserveSdrRepositoryReq.completion_code_error(0xC5)
    bench.driver.fails = {GetSdrReq: cancelled}
    assert bench.round() == {}
    assert bench.reader.up is False
    assert "cancelled the reservation" in bench.reported[0]
    bench.time.now += WALK_AGAIN_S_MIN
    bench.round()
    assert bench.driver.asked
    assert len(bench.reported) == 1  # once, not each time


def test_a_sensor_that_silences_the_bmc_is_read_last_and_less_and_less_often() -> None:
    bench = Bench()
    bench.driver.silent_at = {2}
    assert bench.round() == {}  # it may be the BMC
    assert bench.reader.up is False
    assert bench.round().keys() == {"Inlet", "12V"}
    assert bench.driver.asked[-1] == GetSensorReadingReq(2)
    for rest_h in (1, 2, 4, 8, 16, 24, 24):
        silent_at = bench.time.now
        while bench.time.now + PERIOD_S < silent_at + rest_h * 3600:
            assert bench.round().keys() == {"Inlet", "12V"}
            assert GetSensorReadingReq(2) not in bench.driver.asked
            bench.time.now += 1800
        bench.time.now = silent_at + rest_h * 3600
        assert bench.round().keys() == {"Inlet", "12V"}
        assert bench.driver.asked[-1] == GetSensorReadingReq(2)
    lines = [line for line in bench.reported if "'CPU' (record 5)" in line]
    assert [line.rpartition("for ")[2] for line in lines] == [
        f"{rest_h} h" for rest_h in (1, 2, 4, 8, 16, 24, 24, 24)
    ]
    bench.driver.silent_at = set()
    bench.time.now += SILENT_REST_S_MAX
    assert bench.round().keys() == {"Inlet", "CPU", "12V"}
    bench.round()
    assert GetSensorReadingReq(2) == bench.driver.asked[2]  # it is one as the others


def test_the_breaker_that_a_silent_sensor_opens_does_not_make_it_be_asked_again() -> None:
    bench = Bench()
    bench.driver.silent_at = {2}
    bench.round()
    bench.round()
    bench.restarts = (2, 0)  # as the driver counts openings
    bench.time.now += WALK_AGAIN_S_MIN
    assert bench.round().keys() == {"Inlet", "12V"}
    assert bench.driver.counts[GetSdrReq] == 6
    assert GetSensorReadingReq(2) not in bench.driver.asked


def test_another_sensor_under_the_same_record_has_not_been_silent() -> None:
    bench = Bench()
    bench.driver.silent_at = {2}
    bench.round()
    bench.round()
    bench.driver.bmc.profile = profile_with((HARMLESS[0], temperature(7, "New", 30)), 2000)
    bench.time.now += WALK_AGAIN_S_MIN
    assert bench.round() == {"Inlet": 23, "New": 30}


def test_after_a_silent_sensor_no_other_such_is_asked_in_the_same_round() -> None:
    bench = Bench(*HARMLESS, temperature(4, "PSU", 40))
    bench.driver.silent_at = {2}
    bench.round()
    bench.driver.silent_at = {4, 2}
    bench.time.now += FAILED_PAUSE_S_MAX
    bench.round()
    bench.time.now += FAILED_PAUSE_S_MAX
    bench.round()
    assert Counter(bench.driver.asked)[GetSensorReadingReq(2)] <= 1
    bench.time.now += FAILED_PAUSE_S_MAX
    assert bench.round().keys() == {"Inlet", "12V"}
    assert len({GetSensorReadingReq(2), GetSensorReadingReq(4)} & set(bench.driver.asked)) <= 1


def test_rounds_that_fail_become_fewer() -> None:
    bench = Bench()
    bench.driver.fails = {object: NoAnswer("silence")}
    for pause_s in (PERIOD_S, 2 * PERIOD_S, 4 * PERIOD_S, 8 * PERIOD_S, FAILED_PAUSE_S_MAX):
        bench.scrape()
        bench.finish()
        bench.time.now += pause_s - 1
        bench.scrape()
        assert bench.reader.pause_s is None
        bench.time.now += 1
    bench.driver.fails = {}
    bench.scrape()
    bench.finish()
    assert len(bench.round()) == 3  # and one that goes well ends that


def test_rounds_for_which_the_bmc_is_not_asked_need_not_become_fewer() -> None:
    bench = Bench()
    bench.driver.fails = {object: BreakerOpen("the BMC has not answered")}
    for _ in range(4):
        bench.round()
        assert len(bench.driver.asked) == 1
    bench.driver.fails = {}
    assert len(bench.round()) == 3


def test_a_pause_counts_from_the_end_of_what_took_long() -> None:
    bench = Bench(*(temperature(number, f"T{number}", 30) for number in range(1, 101)))
    bench.round()
    bench.driver.takes_s = 0.9
    began_at = bench.time.now + PERIOD_S
    assert len(bench.round()) == 100
    took_s = bench.time.now - began_at
    assert took_s > 5 * PERIOD_S
    bench.driver.asked.clear()
    bench.time.now += took_s - 1
    bench.scrape()
    bench.finish()
    assert bench.driver.asked == []
    assert len(bench.values()) == 100
    bench.time.now += 1
    bench.scrape()
    bench.finish()
    assert bench.driver.counts[GetSensorReadingReq] == 100


def test_a_slow_round_serves_what_it_read_and_the_rest_comes_first() -> None:
    bench = Bench(*(temperature(number, f"T{number}", 30) for number in range(1, 251)))
    bench.round()
    bench.driver.takes_s = 0.9
    bench.time.now += 10 * PERIOD_S  # what was read before is old
    read = bench.round().keys()
    assert bench.reader.up is True
    assert 100 < len(read) < 200
    assert "sensors were read within 600 s" in bench.reported[-1]
    bench.time.now += ROUND_S_MAX
    rest = {f"T{number}" for number in range(1, 251)} - read
    assert bench.round().keys() >= rest
    snapshot = bench.reader.snapshot()
    assert snapshot is not None
    assert bench.reader.age_s(snapshot) <= SERVED_PERIODS * PERIOD_S + 2 * (ROUND_S_MAX + 10)
    bench.driver.takes_s = 0.001
    bench.time.now += ROUND_S_MAX
    assert len(bench.round()) == 250
    assert bench.reported[-1] == "the sensors can be read again"


def lead_in_a_circle(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = bench.driver.exchange

    def misled(request: Command[Any], *, lun: int = 0) -> Any:  # noqa: ANN401 - each its own
        answer = exchange(request, lun=lun)
        if isinstance(request, GetSdrReq) and answer.next_record_id == LAST_RECORD_ID:
            return replace(answer, next_record_id=1)
        return answer

    monkeypatch.setattr(bench.driver, "exchange", misled)


def test_records_that_nobody_can_read_are_not_asked_for_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    lead_in_a_circle(bench, monkeypatch)
    assert bench.round() == {}
    ended_at = bench.time.now
    while bench.time.now + PERIOD_S < ended_at + WALK_AGAIN_S_MIN:
        bench.round()
        assert bench.driver.asked == []
    bench.round()
    assert bench.driver.counts[GetSdrReq] == 6


def test_records_that_cannot_be_read_again_do_not_take_the_known_sensors_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    bench.round()
    lead_in_a_circle(bench, monkeypatch)
    bench.restarts = (1, 0)
    bench.time.now += WALK_AGAIN_S_MIN
    for walks in (6, 0):
        assert len(bench.round()) == 3
        assert bench.driver.counts[GetSdrReq] == walks
    assert len(bench.reported) == 1
    assert "has a circle of records" in bench.reported[0]
    monkeypatch.undo()
    bench.time.now += WALK_AGAIN_S_MIN
    assert len(bench.round()) == 3
    assert bench.reported[1:] == ["the sensors can be read again"]


@pytest.mark.parametrize("problem", [NoAnswer("silence"), QueueFull("full")], ids=repr)
def test_a_record_that_silences_the_bmc_does_not_either(problem: BmcmedicError) -> None:
    bench = Bench()
    bench.round()
    bench.driver.fails = {GetSdrReq: problem}
    bench.restarts = (1, 0)
    bench.time.now += WALK_AGAIN_S_MIN
    bench.round()
    assert len(bench.round()) == 3
    assert bench.driver.counts[GetSdrReq] == 0


def test_a_slow_bmcs_records_are_read_nevertheless() -> None:
    bench = Bench(*(temperature(number, f"T{number}", 30) for number in range(1, 101)))
    bench.driver.takes_s = 0.9
    assert len(bench.round()) == 100
    assert bench.time.now < START + PERIOD_S + WALK_S_MAX


def test_a_non_linear_sensors_factors_are_asked_for_once_a_reading() -> None:
    bench = Bench(voltage(1, "Bent", 10, linearization=0x70))
    bench.driver.factors = {10: ReadingFactors(2, 1)}
    assert bench.round() == {"Bent": 21}
    assert bench.round() == {"Bent": 21}
    assert bench.driver.counts[GetSensorReadingFactorsReq] == 0


def test_another_lun_is_asked_there() -> None:
    record = bytearray(temperature(7, "On LUN 2", 30).record(4))
    record[6] = 0x02
    bench = Bench(temperature(7, "On LUN 2", 30))
    profile = bench.driver.bmc.profile
    bench.driver.bmc.profile = replace(profile, sdrs=(*profile.sdrs[:3], bytes(record)))
    assert bench.round() == {"On LUN 2": 30}
    assert bench.driver.luns[2] == 1


def test_what_nobody_scraped_for_long_is_not_served() -> None:
    bench = Bench()
    bench.round()
    snapshot = bench.reader.snapshot()
    assert snapshot is not None
    bench.time.now += SERVED_PERIODS * PERIOD_S
    assert bench.values()
    assert bench.reader.age_s(snapshot) > SERVED_PERIODS * PERIOD_S
    bench.time.now += 2
    assert bench.values() == {}


def test_a_reload_may_turn_sensors_off_in_the_middle_of_a_round() -> None:
    bench = Bench()
    bench.round()
    bench.time.now += PERIOD_S
    bench.scrape()
    bench.period_s = None
    bench.step()
    assert bench.reader.pause_s is None
    assert (bench.reader.up, bench.values()) == (None, {})
    bench.scrape()
    assert bench.reader.pause_s is None


def test_sensors_that_are_switched_off_have_not_failed() -> None:
    bench = Bench()
    bench.driver.fails = {object: BreakerOpen("the BMC has not answered")}
    bench.round()
    assert bench.reader.up is False
    bench.period_s = None
    bench.scrape()
    assert bench.reader.up is None
