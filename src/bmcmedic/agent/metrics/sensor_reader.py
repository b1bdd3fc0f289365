"""The BMC's sensors, for metrics: read in rounds, one request at a time, behind everything else.

A round asks whether the repository of records has changed, and then each sensor. The records are
read when they have changed, or the BMC may have restarted. After each few requests the interface is
left to others for longer than it was used; whoever comes meanwhile waits for one answer at most.
What is slow or fails costs a sick BMC less and less: the pauses grow, and what was read is served.
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
"""Of the interface's time, at most, while a round goes on."""
BURST_S_MAX = 0.1
"""Of the BMC's answers without a pause. Waking up for each costs a host more than the answer."""
BURST_REQUESTS_MAX = 16
PAUSE_S_MIN = 0.05
GIVE_WAY_S = 2.0
"""When the driver's queue is full, or a pat needed the interface: then the same is asked again."""
ROUND_S_MAX = 600.0
"""Then those sensors come first the next time that were not reached."""
WALK_S_MAX = 1800.0
"""Reading the records: 240 take 960 s where a BMC needs 1 s for each, at a quarter of its time."""
FAILED_PAUSE_S_MAX = 600.0
"""From a failed round's end to the next; a period after the first, doubled after each."""
WALK_AGAIN_S_MIN = 600.0
"""Some BMCs give another time stamp each time, and some have records that nobody can read: they
are read no more often than this."""
DRIVER_RETRY_S = 5.0
"""Where there was no driver, which may only just begin."""
PERIODS_KEPT = 3
"""What is older is no longer told: nobody has scraped meanwhile."""
FACTORS_KEPT_MAX = 512

_BMC_NOT_ASKED = (DriverUnavailable, InterfaceBusy, InterfaceGone, Refused)
"""Rounds that end so cost the BMC nothing, so they need not become fewer."""


class AskingAnyLun(Protocol):
    """The driver's client."""

    def exchange(self, request: Command[Any], *, lun: int = 0) -> Any:  # noqa: ANN401 - each its own
        """Ask, and wait for the answer."""


class OutOfTime(TransportError):
    """What takes so long is left for another time."""


@dataclass(frozen=True, slots=True)
class SensorSnapshot:
    """What is known of all sensors, each as it was read last."""

    readings: tuple[SensorReading, ...]
    oldest_at: float
    """When the first of them was read; monotonic."""
    took_s: float
    """How long the BMC's answers took together in the last round."""


@dataclass(frozen=True, slots=True)
class _Round:
    """The last one."""

    began_at: float
    ended_at: float
    took_s: float

    @property
    def wall_s(self) -> float:
        return self.ended_at - self.began_at

    def age_s_max(self, period_s: float) -> float:
        """How long a reading may be told: until a next round as slow as this has read it again."""
        return PERIODS_KEPT * period_s + 2 * self.wall_s


@dataclass(frozen=True, slots=True)
class _KnownSensors:
    """What the repository was found to hold."""

    stamp: RepositoryStamp
    restarts: Hashable
    sensors: tuple[Sensor, ...]


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
        """Whether the last round read sensors; None before the first has ended."""
        self._taken: dict[int, tuple[SensorReading, float]] = {}
        """By record: what is served, and when it was read."""
        self._last: _Round | None = None
        self._failures = 0
        """Rounds in a row that failed though the BMC was asked."""
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
        """Which comes first in this round, since the last had no time for it."""
        self._problem: str | None = None

    # ------------------------------------------------------------------------------ for the metrics

    def told(self) -> SensorSnapshot | None:
        """What may be told: nothing that is old, nothing at all once the last round is."""
        last, period_s, now = self._last, self._period_s(), self._runtime.monotonic()
        if not self.up or last is None or period_s is None:
            return None
        if now > last.began_at + last.age_s_max(period_s):
            return None
        fresh_from = now - last.age_s_max(period_s)
        fresh = [each for each in list(self._taken.values()) if each[1] >= fresh_from]
        oldest_at = min((at for _, at in fresh), default=last.began_at)
        return SensorSnapshot(tuple(reading for reading, _ in fresh), oldest_at, last.took_s)

    def age_s(self, told: SensorSnapshot) -> float:
        """How old its first reading is."""
        return self._runtime.monotonic() - told.oldest_at

    # ------------------------------------------------------------------------------ for the thread

    @property
    def pause_s(self) -> float | None:
        """How long until `go_on` has something to do; None: until somebody scrapes."""
        if self._steps is None:
            return None
        return max(0.0, self._next_at - self._runtime.monotonic())

    def begin_if_due(self) -> None:
        """Somebody scrapes: begin a round, unless one goes on, or it is not time yet."""
        period_s, now = self._period_s(), self._runtime.monotonic()
        if self._steps is not None:
            return
        if period_s is None:
            self._forget()
            return
        if now < self._due_at(period_s):
            return
        if self._last is not None:
            # What is old already is not told again because the round that begins is a slow one.
            fresh_from = now - self._last.age_s_max(period_s)
            self._taken = {key: each for key, each in self._taken.items() if each[1] >= fresh_from}
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
            # A slow BMC is let alone for as long as it was asked.
            return max(last.began_at + period_s, last.ended_at + last.wall_s)
        if self._retry_s is not None:
            return last.ended_at + min(period_s, self._retry_s)
        doublings = min(max(self._failures - 1, 0), 16)
        pause_s = min(period_s * 2.0**doublings, max(period_s, FAILED_PAUSE_S_MAX))
        due_at = last.ended_at + pause_s
        return due_at if self._known is not None else max(due_at, self._walk_again_at)

    def go_on(self, driver: AskingAnyLun) -> None:
        """Ask the next thing, if its time has come."""
        now = self._runtime.monotonic()
        if self._request is None or now < self._next_at:
            return
        if self._period_s() is None:
            self._steps = self._request = None
            self._forget()
        elif now > self._stage_began_at + self._stage_s_max:
            late = OutOfTime(f"they were not read within {self._stage_s_max:g} s")
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
        self._over()
        self.up = True
        self._failures = 0
        if self._slow is not None:
            self._note("slow", self._slow)
        elif self._walk_problem is not None:
            self._note("records", self._walk_problem)
        elif self._problem is not None:
            self._problem = None
            self._tell("the sensors are read again")

    def _fail(self, error: BmcmedicError) -> None:
        self._over()
        self.up = False
        self._taken.clear()
        if isinstance(error, DriverUnavailable):
            self._retry_s = DRIVER_RETRY_S
        if not isinstance(error, _BMC_NOT_ASKED):
            self._failures += 1
        self._note(type(error).__name__, f"the sensors cannot be read: {error}")

    def _over(self) -> None:
        self._steps = self._request = None
        now = self._runtime.monotonic()
        self._last = _Round(self._began_at, now, self._took_s)

    def _forget(self) -> None:
        """They are not wanted, or not any more."""
        self.up = self._last = self._problem = None
        self._failures = 0
        self._taken.clear()

    def _note(self, problem: str, line: str) -> None:
        """Say it once."""
        if problem != self._problem:
            self._problem = problem
            self._tell(line)

    # ------------------------------------------------------------------------------ what is asked

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
        """Read the records anew; where that cannot be done, those stay that are known."""
        self._stage_began_at = self._runtime.monotonic()
        self._stage_s_max = WALK_S_MAX
        try:
            repository: SdrRepository = yield from walk_repository(info)
        except (CompletionCodeError, RemoteProtocolError, OutOfTime) as error:
            self._walked()
            if self._known is None:
                raise
            self._walk_problem = (
                "the records of the sensors cannot be read again, and are taken as they were: "
                f"{error}"
            )
        except NoAnswer:
            if self._known is not None:
                self._walked()  # the sensors are read the next time, whatever record it was
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
        # The driver's breaker, which a silent sensor opens, is a reason to read the records: what
        # is known of that sensor must outlive it.
        same = {each.record_id for each in sensors if each in before}
        self._silent.keep(same)
        for record_id in self._taken.keys() - same:
            del self._taken[record_id]

    def _read_all(self, sensors: tuple[Sensor, ...]) -> Steps[None]:
        order = self._in_order(sensors)
        self._first_record_id = None
        for place, sensor in enumerate(order):
            try:
                reading = yield from self._read(sensor)
            except OutOfTime:
                if place == 0:
                    raise
                self._first_record_id = sensor.record_id
                self._slow = (
                    f"only {place} of {len(order)} sensors were read within {ROUND_S_MAX:g} s; the "
                    "others come first the next time"
                )
                return
            except NoAnswer:
                was_suspect = sensor in self._silent
                self._was_silent(sensor)
                if was_suspect and place > 0:
                    return  # it is the sensor, and what was read before it holds
                raise
            self._silent.answered(sensor)
            if reading is None:
                self._taken.pop(sensor.record_id, None)
            else:
                self._taken[sensor.record_id] = reading, self._runtime.monotonic()

    def _in_order(self, sensors: tuple[Sensor, ...]) -> list[Sensor]:
        """From where the last round had no time any more; those that may be silent again last."""
        ids = [each.record_id for each in sensors]
        first = ids.index(self._first_record_id) if self._first_record_id in ids else 0
        turned = sensors[first:] + sensors[:first]
        return self._silent.last_in(turned, self._runtime.monotonic())

    def _read(self, sensor: Sensor) -> Steps[SensorReading | None]:
        """One sensor; None where it says nothing, or the BMC says no."""
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
            if len(self._factors) >= FACTORS_KEPT_MAX:
                self._factors.clear()
            self._factors[key] = known
        return known

    def _was_silent(self, sensor: Sensor) -> None:
        self._taken.pop(sensor.record_id, None)
        rest_s = self._silent.was_silent(sensor, self._runtime.monotonic())
        if rest_s > 0:
            self._tell(
                f"the BMC falls silent when it is asked for sensor {sensor.name!r} (record "
                f"{sensor.record_id}): it is let alone for {rest_s / 3600:g} h"
            )
