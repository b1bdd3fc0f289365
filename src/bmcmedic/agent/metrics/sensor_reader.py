"""The reader of the BMC's sensors: it reads in rounds, one request at a time, after all others.

A round asks whether the repository of records has changed, and then reads each sensor. The records
are read again if they have changed, or if the BMC may have restarted. After a few requests the
interface is free for longer than it was used, so another client waits for one answer at most. If
rounds are slow or fail, the pauses grow, so a sick BMC is asked less and less.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, TypeVar

from bmcmedic.agent.metrics.silent_sensors import SilentSensors
from bmcmedic.driver.socket.errors import DriverUnavailable
from bmcmedic.errors import (
    BmcmedicError,
    CompletionCodeError,
    NoAnswer,
    QueueFull,
    Refused,
    RemoteProtocolError,
    TransportError,
)
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.reading_factors import ReadingFactors
from bmcmedic.ipmi.commands.sdr import GetSdrRepositoryInfoReq, GetSdrRepositoryInfoRsp
from bmcmedic.ipmi.commands.sensor import (
    GetSensorReadingFactorsReq,
    GetSensorReadingFactorsRsp,
    GetSensorReadingReq,
    GetSensorReadingRsp,
)
from bmcmedic.ipmi.sdr_walk import RepositoryStamp, SdrRepository, walk_repository
from bmcmedic.ipmi.sensor_reading import Sensor, SensorReading, interpret_reading, sensors_in
from bmcmedic.service.runtime import Runtime
from bmcmedic.transport.in_band import InterfaceBusy, InterfaceGone, Interrupted

T = TypeVar("T")
Steps: TypeAlias = Generator[Command[Any], Any, T]

INTERFACE_SHARE_MAX = 0.25
"""Greatest share of the interface's time that a round uses."""
BURST_S_MAX = 0.1
"""Longest time of answers without a pause, in seconds.

Waking up for each answer would cost a host more than the answer.
"""
BURST_REQUESTS_MAX = 16
"""Requests without a pause."""
PAUSE_S_MIN = 0.05
"""Shortest pause, in seconds."""
GIVE_WAY_S = 2.0
"""Wait before a request is repeated, in seconds.

It is repeated if the driver's queue was full, or if a pat needed the interface.
"""
ROUND_S_MAX = 600.0
"""Longest round, in seconds. The next round begins with the sensors that were not reached."""
WALK_S_MAX = 1800.0
"""Longest reading of all records, in seconds.

240 records take 960 s at a quarter of the interface's time, if a BMC needs 1 s for each.
"""
FAILED_PAUSE_S_MAX = 600.0
"""Longest wait after a failed round, in seconds. It begins with a period and doubles each time."""
WALK_AGAIN_S_MIN = 600.0
"""Shortest time between two readings of the records, in seconds.

Field: some BMCs report a new time stamp each time, and some have unreadable records.
"""
DRIVER_RETRY_S = 5.0
"""Wait after a round without a driver, which may be starting, in seconds."""
SERVED_PERIODS = 3
"""Periods for which a reading is served; no scrape has asked for a newer one meanwhile."""
FACTORS_CACHED_MAX = 512
"""Reading factors in the cache."""

_BMC_NOT_ASKED = (DriverUnavailable, InterfaceBusy, InterfaceGone, Refused)
"""Errors for which the BMC was not asked, so they do not lengthen the pauses."""


class AskingAnyLun(Protocol):
    """The client of the driver's socket."""

    def exchange(self, request: Command[Any], *, lun: int = 0) -> Any:  # noqa: ANN401 - each its own
        """Send a request, and return the answer."""


class OutOfTime(TransportError):
    """A round or a reading of the records took too long."""


@dataclass(frozen=True, slots=True)
class SensorSnapshot:
    """The last reading of each sensor that may be served."""

    readings: tuple[SensorReading, ...]
    oldest_at: float
    """When the oldest of them was read, as a monotonic time in seconds."""
    took_s: float
    """Time that all answers of the last round took together, in seconds."""


@dataclass(frozen=True, slots=True)
class _Round:
    """The times of the last round."""

    began_at: float
    ended_at: float
    took_s: float

    @property
    def wall_s(self) -> float:
        return self.ended_at - self.began_at

    def age_s_max(self, period_s: float) -> float:
        """Return how long a reading is served: until another round as slow has read it again."""
        return SERVED_PERIODS * period_s + 2 * self.wall_s


@dataclass(frozen=True, slots=True)
class _KnownSensors:
    """The sensors in the repository, as last read."""

    stamp: RepositoryStamp
    restarts: Hashable
    sensors: tuple[Sensor, ...]


class SensorReader:
    """Reads the sensors in steps; only `up`, `snapshot` and `age_s` are for other threads."""

    def __init__(
        self,
        period_s: Callable[[], float | None],
        restarts: Callable[[], Hashable],
        report: Callable[[str], None],
        runtime: Runtime,
    ) -> None:
        """`period_s` is None while sensors are off.

        `restarts` changes when the driver saw the BMC restart; it is None without a status of the
        driver. `report` gets a line when rounds begin to fail, or fail for a new reason.
        """
        self._period_s = period_s
        self._restarts = restarts
        self._report = report
        self._runtime = runtime
        self.up: bool | None = None
        """Whether the last round read sensors; None before the end of the first."""
        self._readings: dict[int, tuple[SensorReading, float]] = {}
        """Each served reading and its time, by the id of the record."""
        self._last: _Round | None = None
        self._failures = 0
        """Failed rounds in a row in which the BMC was asked."""
        self._steps: Steps[None] | None = None
        self._request: Command[Any] | None = None
        self._lun = 0
        self._began_at = self._stage_began_at = 0.0
        self._stage_s_max = ROUND_S_MAX
        self._next_at = 0.0
        self._took_s = 0.0
        self._burst_s = 0.0
        self._burst_requests = 0
        self._retry_s: float | None = None
        self._known: _KnownSensors | None = None
        self._factors: dict[tuple[int, int], ReadingFactors] = {}
        self._silent = SilentSensors()
        self._walk_again_at = 0.0
        self._walk_problem: str | None = None
        self._slow: str | None = None
        self._first_record_id: int | None = None
        """The record to begin with, because the last round did not reach it."""
        self._problem: str | None = None

    # ------------------------------------------------------------------------------ for the metrics

    def snapshot(self) -> SensorSnapshot | None:
        """Return the readings that may be served: none that is stale, or None if the round is."""
        last, period_s, now = self._last, self._period_s(), self._runtime.monotonic()
        if not self.up or last is None or period_s is None:
            return None
        if now > last.began_at + last.age_s_max(period_s):
            return None
        fresh_from = now - last.age_s_max(period_s)
        fresh = [each for each in list(self._readings.values()) if each[1] >= fresh_from]
        oldest_at = min((at for _, at in fresh), default=last.began_at)
        return SensorSnapshot(tuple(reading for reading, _ in fresh), oldest_at, last.took_s)

    def age_s(self, snapshot: SensorSnapshot) -> float:
        """Return the age of the oldest reading, in seconds."""
        return self._runtime.monotonic() - snapshot.oldest_at

    # ------------------------------------------------------------------------------ for the thread

    @property
    def pause_s(self) -> float | None:
        """Time until `go_on` has work, in seconds; None to wait for the next scrape."""
        if self._steps is None:
            return None
        return max(0.0, self._next_at - self._runtime.monotonic())

    def begin_if_due(self) -> None:
        """Begin a round after a scrape, unless one is under way or it is too early."""
        period_s, now = self._period_s(), self._runtime.monotonic()
        if self._steps is not None:
            return
        if period_s is None:
            self._forget()
            return
        if now < self._due_at(period_s):
            return
        if self._last is not None:
            # Drop stale readings, or a slow new round would make them valid again.
            fresh_from = now - self._last.age_s_max(period_s)
            self._readings = {
                key: each for key, each in self._readings.items() if each[1] >= fresh_from
            }
        self._began_at = self._stage_began_at = self._next_at = now
        self._stage_s_max = ROUND_S_MAX
        self._took_s, self._retry_s, self._slow = 0.0, None, None
        self._burst_s, self._burst_requests = 0.0, 0
        self._steps = self._round()
        self._advance(next)

    def _due_at(self, period_s: float) -> float:
        last = self._last
        if last is None:
            return 0.0
        if self.up:
            # A slow BMC has a pause as long as the round.
            return max(last.began_at + period_s, last.ended_at + last.wall_s)
        if self._retry_s is not None:
            return last.ended_at + min(period_s, self._retry_s)
        doublings = min(max(self._failures - 1, 0), 16)
        pause_s = min(period_s * 2.0**doublings, max(period_s, FAILED_PAUSE_S_MAX))
        due_at = last.ended_at + pause_s
        return due_at if self._known is not None else max(due_at, self._walk_again_at)

    def go_on(self, driver: AskingAnyLun) -> None:
        """Send the next request if it is due."""
        now = self._runtime.monotonic()
        if self._request is None or now < self._next_at:
            return
        if self._period_s() is None:
            self._steps = self._request = None
            self._forget()
        elif now > self._stage_began_at + self._stage_s_max:
            late = OutOfTime(f"the sensors were not read within {self._stage_s_max:g} s")
            self._advance(lambda steps: steps.throw(late))
        else:
            self._ask(driver, self._request, now)

    def _ask(self, driver: AskingAnyLun, request: Command[Any], began_at: float) -> None:
        try:
            answer = driver.exchange(request, lun=self._lun)
        except (QueueFull, Interrupted):
            self._next_at = self._runtime.monotonic() + GIVE_WAY_S
            return
        except BmcmedicError as error:
            problem = error
            self._rest_after(began_at)
            self._advance(lambda steps: steps.throw(problem))
        else:
            self._rest_after(began_at)
            self._advance(lambda steps: steps.send(answer))

    def _rest_after(self, began_at: float) -> None:
        now = self._runtime.monotonic()
        self._next_at = now
        self._took_s += now - began_at
        self._burst_s += now - began_at
        self._burst_requests += 1
        if self._burst_s >= BURST_S_MAX or self._burst_requests >= BURST_REQUESTS_MAX:
            rest_s = self._burst_s * (1.0 / INTERFACE_SHARE_MAX - 1.0)
            self._next_at += max(PAUSE_S_MIN, rest_s)
            self._burst_s, self._burst_requests = 0.0, 0

    def _advance(self, move: Callable[[Steps[None]], Command[Any]]) -> None:
        assert self._steps is not None
        try:
            self._request = move(self._steps)
        except StopIteration:
            self._end()
        except BmcmedicError as error:
            self._fail(error)

    def _end(self) -> None:
        self._finish_round()
        self.up = True
        self._failures = 0
        if self._slow is not None:
            self._report_once("slow", self._slow)
        elif self._walk_problem is not None:
            self._report_once("records", self._walk_problem)
        elif self._problem is not None:
            self._problem = None
            self._report("the sensors can be read again")

    def _fail(self, error: BmcmedicError) -> None:
        self._finish_round()
        self.up = False
        self._readings.clear()
        if isinstance(error, DriverUnavailable):
            self._retry_s = DRIVER_RETRY_S
        if not isinstance(error, _BMC_NOT_ASKED):
            self._failures += 1
        self._report_once(type(error).__name__, f"the sensors cannot be read: {error}")

    def _finish_round(self) -> None:
        self._steps = self._request = None
        now = self._runtime.monotonic()
        self._last = _Round(self._began_at, now, self._took_s)

    def _forget(self) -> None:
        """Forget the rounds and readings: sensors are off."""
        self.up = self._last = self._problem = None
        self._failures = 0
        self._readings.clear()

    def _report_once(self, problem: str, line: str) -> None:
        """Report a problem, unless it is the same as before."""
        if problem != self._problem:
            self._problem = problem
            self._report(line)

    # ------------------------------------------------------------------- the steps of a round

    def _round(self) -> Steps[None]:
        self._lun = 0
        info: GetSdrRepositoryInfoRsp | None = None
        try:
            info = yield GetSdrRepositoryInfoReq()
        except CompletionCodeError:
            if self._known is None:
                raise
        restarts = self._restarts()
        if info is not None and self._has_changed(RepositoryStamp.of(info), restarts):
            yield from self._walk(info, restarts)
        assert self._known is not None
        yield from self._read_all(self._known.sensors)

    def _has_changed(self, stamp: RepositoryStamp, restarts: Hashable) -> bool:
        known = self._known
        if known is None:
            return True
        if known.restarts is None:
            self._known = known = replace(known, restarts=restarts)
        if self._runtime.monotonic() < self._walk_again_at:
            return False
        return stamp != known.stamp or (restarts is not None and restarts != known.restarts)

    def _walk(self, info: GetSdrRepositoryInfoRsp, restarts: Hashable) -> Steps[None]:
        """Read the records again; if that fails, the known ones stay in use."""
        self._stage_began_at = self._runtime.monotonic()
        self._stage_s_max = WALK_S_MAX
        try:
            repository: SdrRepository = yield from walk_repository(info)
        except (CompletionCodeError, RemoteProtocolError, OutOfTime) as error:
            self._walked()
            if self._known is None:
                raise
            self._walk_problem = (
                "the records of the sensors cannot be read again, and the former ones stay in use: "
                f"{error}"
            )
        except NoAnswer:
            if self._known is not None:
                self._walked()  # the next round reads the sensors, not the records
            raise
        else:
            self._walked()
            self._walk_problem = None
            self._learn(repository, restarts)

    def _walked(self) -> None:
        now = self._runtime.monotonic()
        self._walk_again_at = now + max(WALK_AGAIN_S_MIN, now - self._stage_began_at)
        self._stage_began_at = now
        self._stage_s_max = ROUND_S_MAX

    def _learn(self, repository: SdrRepository, restarts: Hashable) -> None:
        before = frozenset(() if self._known is None else self._known.sensors)
        sensors = tuple(each for each in sensors_in(repository.records) if each.is_owned_by_bmc)
        self._known = _KnownSensors(repository.stamp, restarts, sensors)
        self._factors.clear()
        # A silent sensor opens the driver's breaker, which makes the agent read the records again.
        # What is known of its silences must survive that.
        same = {each.record_id for each in sensors if each in before}
        self._silent.keep(same)
        for record_id in self._readings.keys() - same:
            del self._readings[record_id]

    def _read_all(self, sensors: tuple[Sensor, ...]) -> Steps[None]:
        order = self._in_order(sensors)
        self._first_record_id = None
        for index, sensor in enumerate(order):
            try:
                reading = yield from self._read(sensor)
            except OutOfTime:
                if index == 0:
                    raise
                self._first_record_id = sensor.record_id
                self._slow = (
                    f"only {index} of {len(order)} sensors were read within {ROUND_S_MAX:g} s; the "
                    "others come first in the next round"
                )
                return
            except NoAnswer:
                was_suspect = sensor in self._silent
                self._was_silent(sensor)
                if was_suspect and index > 0:
                    return  # the sensor is the cause, and the readings before it are valid
                raise
            self._silent.answered(sensor)
            if reading is None:
                self._readings.pop(sensor.record_id, None)
            else:
                self._readings[sensor.record_id] = reading, self._runtime.monotonic()

    def _in_order(self, sensors: tuple[Sensor, ...]) -> list[Sensor]:
        """Return the sensors from where the last round ended, with the silent ones last."""
        ids = [each.record_id for each in sensors]
        first = ids.index(self._first_record_id) if self._first_record_id in ids else 0
        turned = sensors[first:] + sensors[:first]
        return self._silent.last_in(turned, self._runtime.monotonic())

    def _read(self, sensor: Sensor) -> Steps[SensorReading | None]:
        """Read one sensor; None if it has no reading, or the BMC refuses it."""
        self._lun = sensor.lun
        try:
            response: GetSensorReadingRsp = yield GetSensorReadingReq(sensor.number)
            factors = None
            if sensor.is_non_linear:
                factors = yield from self._factors_of(sensor, response.reading)
        except (CompletionCodeError, RemoteProtocolError):
            return None
        return interpret_reading(sensor, response, factors)

    def _factors_of(self, sensor: Sensor, raw: int) -> Steps[ReadingFactors]:
        key = sensor.record_id, raw
        known = self._factors.get(key)
        if known is None:
            answer: GetSensorReadingFactorsRsp = yield GetSensorReadingFactorsReq(
                sensor.number, raw
            )
            known = answer.factors
            if len(self._factors) >= FACTORS_CACHED_MAX:
                self._factors.clear()
            self._factors[key] = known
        return known

    def _was_silent(self, sensor: Sensor) -> None:
        self._readings.pop(sensor.record_id, None)
        rest_s = self._silent.was_silent(sensor, self._runtime.monotonic())
        if rest_s > 0:
            self._report(
                f"the BMC falls silent at requests for sensor {sensor.name!r} (record "
                f"{sensor.record_id}), which is not read for {rest_s / 3600:g} h"
            )
