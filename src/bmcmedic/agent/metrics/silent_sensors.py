"""Sensors at which the BMC fell silent: they are read last, and less and less often.

Such a silence opens the driver's breaker, so nobody on the host can use the BMC for a while. The
module is pure: `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from bmcmedic.ipmi.sensor_reading import Sensor

SILENCES_MAX = 2
"""Silences in a row after which the sensor itself counts as the cause, and is not read."""
SILENT_REST_S_MIN = 3600.0
"""First time for which a silent sensor is not read, in seconds; it doubles after each silence."""
SILENT_REST_S_MAX = 24 * 3600.0
"""Longest time for which a silent sensor is not read, in seconds."""
_DOUBLINGS_MAX = 16


@dataclass(frozen=True, slots=True)
class _Silence:
    count: int
    """Number of silences in a row."""
    at: float

    @property
    def rest_s(self) -> float:
        if self.count < SILENCES_MAX:
            return 0.0
        doublings = min(self.count - SILENCES_MAX, _DOUBLINGS_MAX)
        return min(SILENT_REST_S_MIN * 2.0**doublings, SILENT_REST_S_MAX)


class SilentSensors:
    """The sensors at which the BMC was silent, by the ids of their records."""

    def __init__(self) -> None:
        self._silences: dict[int, _Silence] = {}

    def __contains__(self, sensor: Sensor) -> bool:
        """Whether the BMC was silent at the last reading of this sensor."""
        return sensor.record_id in self._silences

    def was_silent(self, sensor: Sensor, now: float) -> float:
        """Note a silence, and return how long the sensor is not read, in seconds."""
        before = self._silences.get(sensor.record_id)
        silence = _Silence(1 if before is None else before.count + 1, now)
        self._silences[sensor.record_id] = silence
        return silence.rest_s

    def answered(self, sensor: Sensor) -> None:
        """Forget the silences of a sensor that was read."""
        self._silences.pop(sensor.record_id, None)

    def keep(self, record_ids: Container[int]) -> None:
        """Forget all other records: they are new, or changed."""
        for record_id in [each for each in self._silences if each not in record_ids]:
            del self._silences[record_id]

    def last_in(self, sensors: Iterable[Sensor], now: float) -> list[Sensor]:
        """Return the sensors that may be read now: silent ones last, the longest unread first."""
        others, suspects = [], []
        for each in sensors:
            silence = self._silences.get(each.record_id)
            if silence is None:
                others.append(each)
            elif now >= silence.at + silence.rest_s:
                suspects.append((silence.at, each))
        suspects.sort(key=lambda suspect: suspect[0])
        return [*others, *(each for _, each in suspects)]
