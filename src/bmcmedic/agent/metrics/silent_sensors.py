"""Sensors at which the BMC fell silent: asked last, and ever less often. Pure: `now` comes in.

Such a silence opens the driver's breaker, so it takes the BMC away from everybody for a while.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from bmcmedic.ipmi.sensor_reading import Sensor

SILENCES_MAX = 2
"""In a row at the same sensor: then it is the sensor, and it is let alone."""
SILENT_REST_S_MIN = 3600.0
SILENT_REST_S_MAX = 24 * 3600.0
"""It rests as long as the former, and twice as long after each time that it was silent again."""
_DOUBLINGS_MAX = 16


@dataclass(frozen=True, slots=True)
class _Silence:
    count: int
    """In a row."""
    at: float

    @property
    def rest_s(self) -> float:
        if self.count < SILENCES_MAX:
            return 0.0
        doublings = min(self.count - SILENCES_MAX, _DOUBLINGS_MAX)
        return min(SILENT_REST_S_MIN * 2.0**doublings, SILENT_REST_S_MAX)


class SilentSensors:
    """By their records' ids."""

    def __init__(self) -> None:
        self._silences: dict[int, _Silence] = {}

    def __contains__(self, sensor: Sensor) -> bool:
        """Whether the BMC was silent the last time that it was asked for this one."""
        return sensor.record_id in self._silences

    def was_silent(self, sensor: Sensor, now: float) -> float:
        """How long it is let alone now."""
        before = self._silences.get(sensor.record_id)
        silence = _Silence(1 if before is None else before.count + 1, now)
        self._silences[sensor.record_id] = silence
        return silence.rest_s

    def answered(self, sensor: Sensor) -> None:
        """It is as the others."""
        self._silences.pop(sensor.record_id, None)

    def keep(self, record_ids: Container[int]) -> None:
        """Forget all but these: the other records are new, or others."""
        for record_id in [each for each in self._silences if each not in record_ids]:
            del self._silences[record_id]

    def last_in(self, sensors: Iterable[Sensor], now: float) -> list[Sensor]:
        """Those that may be asked, these last: the one first that was let alone for longest."""
        others, suspects = [], []
        for each in sensors:
            silence = self._silences.get(each.record_id)
            if silence is None:
                others.append(each)
            elif now >= silence.at + silence.rest_s:
                suspects.append((silence.at, each))
        suspects.sort(key=lambda suspect: suspect[0])
        return [*others, *(each for _, each in suspects)]
