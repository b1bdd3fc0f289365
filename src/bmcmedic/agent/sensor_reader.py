"""The BMC's sensors, for metrics: read in rounds, one request at a time, behind everything else.

A round asks whether the repository of records has changed, and then each sensor. The records are
read when they have changed, or the BMC may have restarted. After each few requests the interface is
left to others for longer than it was used; whoever comes meanwhile waits for one answer at most.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, TypeVar

from bmcmedic.driver.runtime import Runtime
from bmcmedic.driver.socket.errors import DriverUnavailable
from bmcmedic.errors import (
    BmcmedicError,
    CompletionCodeError,
    NoAnswer,
    QueueFull,
    RemoteProtocolError,
    TransportError,
)
from bmcmedic.ipmi.commands._command import Command
from bmcmedic.ipmi.commands.reading_factors import ReadingFactors
from bmcmedic.ipmi.commands.sdr import GetSdrRepositoryInfoReq, GetSdrRepositoryInfoRsp
from bmcmedic.ipmi.commands.sensor import (
    GetSensorReadingFactorsReq,
    GetSensorReadingFactorsRsp,
    GetSensorReadingReq,
    GetSensorReadingRsp,
)
from bmcmedic.ipmi.sdr_walk import RepositoryStamp, SdrRepository, walk
from bmcmedic.ipmi.sensor_reading import Reading, Sensor, read, sensors_in
from bmcmedic.transport.in_band import Interrupted

T = TypeVar("T")
Steps: TypeAlias = Generator[Command[Any], Any, T]

INTERFACE_SHARE_MAX = 0.25
"""Of the interface's time, at most, while a round goes on."""
BURST_S_MAX = 0.1
"""Of the BMC's answers without a pause. Waking up for each costs a host more than the answer."""
BURST_REQUESTS_MAX = 16
PAUSE_S_MIN = 0.05
GIVE_WAY_S = 2.0
"""When the driver's queue is full, or a pat needed the interface: then the same is asked again."""
ROUND_S_MAX = 300.0
"""Reading the records, and reading the sensors, may each take so long."""
WALK_AGAIN_S_MIN = 600.0
"""Some BMCs give another time stamp each time; their records are read no more often than this."""
SILENCES_MAX = 2
"""In a row at the same sensor: then it is the sensor, and it is let alone."""
SILENT_REST_S = 3600.0
DRIVER_RETRY_S = 5.0
"""Where there was no driver, which may only just begin."""
PERIODS_KEPT = 3
"""What is older is no longer told: nobody has scraped meanwhile."""
FACTORS_KEPT_MAX = 512


class AskingAnyLun(Protocol):
    """The driver's client."""

    def exchange(self, request: Command[Any], *, lun: int = 0) -> Any:  # noqa: ANN401 - each its own
        """Ask, and wait for the answer."""


@dataclass(frozen=True, slots=True)
class SensorRound:
    """All sensors, read one after the other."""

    readings: tuple[Reading, ...]
    began_at: float
    """When the first was read; monotonic."""
    ended_at: float
    took_s: float
    """How long the BMC's answers took together."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the repository was found to hold."""

    stamp: RepositoryStamp
    restarts: Hashable
    sensors: tuple[Sensor, ...]
    at: float


class SensorReader:
    """Reads them; all but `up` and `round` is for the thread that steps."""

    def __init__(
        self,
        period_s: Callable[[], float | None],
        restarts: Callable[[], Hashable],
        tell: Callable[[str], None],
        runtime: Runtime,
    ) -> None:
        """`period_s` is None while sensors are not wanted.

        `restarts` changes when the driver has seen that the BMC restarted; None: it has not been
        heard. `tell` gets a line when rounds begin to fail, and when that has another reason.
        """
        self._period_s = period_s
        self._restarts = restarts
        self._tell = tell
        self._runtime = runtime
        self.up: bool | None = None
        """Whether the last round came to its end; None before the first has."""
        self.round: SensorRound | None = None
        """The last, if it came to its end."""
        self._steps: Steps[tuple[Reading, ...]] | None = None
        self._request: Command[Any] | None = None
        self._lun = 0
        self._began_at: float | None = None
        self._stage_began_at = 0.0
        self._next_at = 0.0
        self._took_s = 0.0
        self._burst_s = 0.0
        self._burst_requests = 0
        self._retry_s: float | None = None
        self._known: _Known | None = None
        self._factors: dict[tuple[int, int], ReadingFactors] = {}
        self._silences: dict[int, tuple[int, float]] = {}
        """By record: how often in a row, and when last."""
        self._problem: str | None = None

    # ------------------------------------------------------------------------------ for the metrics

    def told(self) -> SensorRound | None:
        """What may be told of the last round: nothing once it is old."""
        last, period_s = self.round, self._period_s()
        if last is None or period_s is None:
            return None
        age_s_max = PERIODS_KEPT * period_s + (last.ended_at - last.began_at)
        return last if self._runtime.monotonic() <= last.ended_at + age_s_max else None

    def age_s(self, told: SensorRound) -> float:
        """How old its first reading is."""
        return self._runtime.monotonic() - told.began_at

    # ------------------------------------------------------------------------------ for the thread

    @property
    def pause_s(self) -> float | None:
        """How long until `go_on` has something to do; None: until somebody scrapes."""
        if self._steps is None:
            return None
        return max(0.0, self._next_at - self._runtime.monotonic())

    def begin_if_due(self) -> None:
        """Somebody scrapes: begin a round, unless one goes on, or the last was just now."""
        period_s, now = self._period_s(), self._runtime.monotonic()
        if self._steps is not None:
            return
        if period_s is None:
            self.up = self.round = None
            return
        pause_s = period_s if self._retry_s is None else min(period_s, self._retry_s)
        if self._began_at is not None and now < self._began_at + pause_s:
            return
        self._began_at = self._stage_began_at = self._next_at = now
        self._took_s, self._retry_s = 0.0, None
        self._burst_s, self._burst_requests = 0.0, 0
        self._steps = self._round()
        self._advance(next)

    def go_on(self, driver: AskingAnyLun) -> None:
        """Ask the next thing, if its time has come."""
        now = self._runtime.monotonic()
        if self._request is None or now < self._next_at:
            return
        if self._period_s() is None:
            self._end(None)
        elif now > self._stage_began_at + ROUND_S_MAX:
            self._fail(TransportError(f"they were not read within {ROUND_S_MAX:g} s"))
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

    def _advance(self, move: Callable[[Steps[tuple[Reading, ...]]], Command[Any]]) -> None:
        assert self._steps is not None
        try:
            self._request = move(self._steps)
        except StopIteration as done:
            self._end(done.value)
        except BmcmedicError as error:
            self._fail(error)

    def _end(self, readings: tuple[Reading, ...] | None) -> None:
        """None: they are not wanted any more."""
        self._steps = self._request = None
        if readings is None:
            self.up = self.round = None
        else:
            now = self._runtime.monotonic()
            self.round = SensorRound(readings, self._stage_began_at, now, self._took_s)
            self.up = True
        if self._problem is not None:
            self._problem = None
            self._tell("the sensors are read again")

    def _fail(self, error: BmcmedicError) -> None:
        self._steps = self._request = None
        self.up, self.round = False, None
        if isinstance(error, DriverUnavailable):
            self._retry_s = DRIVER_RETRY_S
        problem = type(error).__name__
        if problem != self._problem:
            self._problem = problem
            self._tell(f"the sensors cannot be read: {error}")

    # ------------------------------------------------------------------------------ what is asked

    def _round(self) -> Steps[tuple[Reading, ...]]:
        self._lun = 0
        info: GetSdrRepositoryInfoRsp | None = None
        try:
            info = yield GetSdrRepositoryInfoReq()
        except CompletionCodeError:
            if self._known is None:
                raise
        restarts = self._restarts()
        if info is not None and self._has_changed(RepositoryStamp.of(info), restarts):
            repository: SdrRepository = yield from walk(info)
            sensors = tuple(each for each in sensors_in(repository.records) if each.is_the_bmcs)
            now = self._runtime.monotonic()
            self._known = _Known(repository.stamp, restarts, sensors, now)
            self._factors.clear()
            self._silences.clear()
            self._stage_began_at = now
        assert self._known is not None
        readings = []
        for sensor in self._known.sensors:
            if not self._is_let_alone(sensor):
                reading = yield from self._read(sensor)
                readings += [] if reading is None else [reading]
        return tuple(readings)

    def _has_changed(self, stamp: RepositoryStamp, restarts: Hashable) -> bool:
        known = self._known
        if known is None:
            return True
        if known.restarts is None:
            self._known = known = replace(known, restarts=restarts)
        if self._runtime.monotonic() < known.at + WALK_AGAIN_S_MIN:
            return False
        return stamp != known.stamp or (restarts is not None and restarts != known.restarts)

    def _read(self, sensor: Sensor) -> Steps[Reading | None]:
        """One sensor; None where it says nothing, or the BMC says no."""
        self._lun = sensor.lun
        try:
            response: GetSensorReadingRsp = yield GetSensorReadingReq(sensor.number)
            factors = None
            if sensor.is_non_linear:
                factors = yield from self._factors_of(sensor, response.reading)
        except (CompletionCodeError, RemoteProtocolError):
            return None
        except NoAnswer:
            count, _ = self._silences.get(sensor.record_id, (0, 0.0))
            self._silences[sensor.record_id] = (count + 1, self._runtime.monotonic())
            raise
        self._silences.pop(sensor.record_id, None)
        return read(sensor, response, factors)

    def _factors_of(self, sensor: Sensor, raw: int) -> Steps[ReadingFactors]:
        key = sensor.record_id, raw
        known = self._factors.get(key)
        if known is None:
            answer: GetSensorReadingFactorsRsp = yield GetSensorReadingFactorsReq(
                sensor.number, raw
            )
            known = answer.factors
            if len(self._factors) >= FACTORS_KEPT_MAX:
                self._factors.clear()
            self._factors[key] = known
        return known

    def _is_let_alone(self, sensor: Sensor) -> bool:
        """One at which the BMC fell silent again and again would open the driver's breaker."""
        count, at = self._silences.get(sensor.record_id, (0, 0.0))
        if count < SILENCES_MAX:
            return False
        if self._runtime.monotonic() < at + SILENT_REST_S:
            return True
        self._silences[sensor.record_id] = (SILENCES_MAX - 1, at)
        return False
