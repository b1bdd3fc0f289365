"""The software pretimeout: time stamps in shared memory, and the rule that looks at them.

The driver stamps; the watcher, a still smaller process, looks. So it fires when the *host* stopped
patting: the driver is stopped or dead, a pat was never queued, or the check command failed or
hangs. It does not fire while a pat is queued and only the *BMC* is silent: as long as it waits, the
pat thread goes on stamping.

The time is CLOCK_MONOTONIC, which all processes share and which stands still while the machine is
suspended: a suspended host does not stop patting. The BMC's own timer may run on meanwhile.

Nothing is imported here that the watcher could do without: `enum`, `dataclasses` and `typing` would
cost it another megabyte of locked memory. So states are plain numbers, and a record is a class.
"""

from __future__ import annotations

import struct
from binascii import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

STAMPS_BYTES = 4096
"""The size of the file: a page."""
MAGIC = b"bmcmedic stamps1"
"""Begins the file; another layout has another number."""
LIMIT_S_MIN = 1.0
WAITING_S_MAX = 1.0
"""While a pat waits for the BMC, the host's sign of life is renewed this often."""

HELD_UP_MAX = 3
"""Looks in a row that come late and are no reason to fire."""

OFF = 0
"""Nobody pats: there is nothing to watch."""
ARMED = 1
ENDED = 2
"""The driver ended in order, and the watcher with it."""

_DRIVER_AT = 64
_WATCHER_AT = 512
_SLOT_BYTES = 128
_RECORD = struct.Struct("<QIIddd")
_CRC = struct.Struct("<I")


class Stamp:
    """What one side last said.

    Units: seconds; `at` is a point on CLOCK_MONOTONIC.
    """

    __slots__ = ("at", "extra", "generation", "limit_s", "pid", "state")

    def __init__(
        self,
        state: int = OFF,
        generation: int = 0,
        pid: int = 0,
        at: float = 0.0,
        limit_s: float = 0.0,
        extra: float = 0.0,
    ) -> None:
        self.state = state
        """OFF, ARMED or ENDED. The watcher says ARMED while it watches."""
        self.generation = generation
        """Which start of the driver, or for which start the watcher watches."""
        self.pid = pid
        self.at = at
        """The host's last sign of life; the watcher's own."""
        self.limit_s = limit_s
        """Without a sign of life for longer, it fires."""
        self.extra = extra
        """The watcher's: how often it has fired."""

    @property
    def due_at(self) -> float:
        """When it fires unless another sign of life comes."""
        return self.at + self.limit_s

    def is_overdue(self, now: float) -> bool:
        """The rule: whether the host has stopped patting.

        A stamp from the future is another boot's, and tells nothing.
        """
        return self.state == ARMED and self.at <= now and now > self.at + self.limit_s


class _Slots:
    """A record with one writer, which no reader ever sees half written.

    Written by turns to two slots, each with its number and checksum: a writer that is stopped in
    the middle leaves the other one, which is older and still true.
    """

    __slots__ = ("_at", "_buffer", "_sequence", "last")

    def __init__(self, buffer: mmap.mmap | bytearray, at: int) -> None:
        self._buffer = buffer
        self._at = at
        self._sequence = 0
        self.last = Stamp()
        """The newest that was read or written."""
        self.read()

    def write(self) -> None:
        """Publish `last`."""
        self._sequence += 1
        stamp = self.last
        sequence_and_state = self._sequence << 2 | stamp.state
        raw = _RECORD.pack(
            sequence_and_state, stamp.generation, stamp.pid, stamp.at, stamp.limit_s, stamp.extra
        )
        at = self._at + (self._sequence & 1) * _SLOT_BYTES
        self._buffer[at : at + _RECORD.size + _CRC.size] = raw + _CRC.pack(crc32(raw))

    def read(self) -> Stamp:
        """The newest record that is whole; the one before it when none is."""
        for at in (self._at, self._at + _SLOT_BYTES):
            raw = self._buffer[at : at + _RECORD.size + _CRC.size]
            numbers = _RECORD.unpack_from(raw)
            sequence = numbers[0] >> 2
            if sequence <= self._sequence:
                continue
            if _CRC.unpack_from(raw, _RECORD.size)[0] != crc32(raw[: _RECORD.size]):
                continue
            self._sequence = sequence
            self.last = Stamp(numbers[0] & 3, *numbers[1:])
        return self.last


class Stamps:
    """The shared memory: a record of the driver's and one of the watcher's.

    Shape: a file of `STAMPS_BYTES`, or any buffer of that size; MAGIC, then the two slots of the
    driver's record and the two of the watcher's. Each record has one writer.
    """

    __slots__ = ("_buffer", "driver", "watcher")

    def __init__(self, buffer: mmap.mmap | bytearray) -> None:
        self._buffer = buffer
        if buffer[: len(MAGIC)] != MAGIC:
            buffer[:STAMPS_BYTES] = bytes(STAMPS_BYTES)
            buffer[: len(MAGIC)] = MAGIC
        self.driver = _Slots(buffer, _DRIVER_AT)
        self.watcher = _Slots(buffer, _WATCHER_AT)

    @property
    def is_valid(self) -> bool:
        """Whether the layout is still this one."""
        return self._buffer[: len(MAGIC)] == MAGIC


class PretimeoutCallout:
    """The driver's side: says that the host is alive, and how long that holds."""

    __slots__ = ("_monotonic", "_slots")

    def __init__(
        self, stamps: Stamps, monotonic: Callable[[], float], limit_s: float, *, pid: int = 0
    ) -> None:
        """A start of the driver's. Nothing is armed yet, and a former start's stamp still stands.

        Shape: `monotonic` is the machine's CLOCK_MONOTONIC, or a simulation's.
        """
        self._monotonic = monotonic
        self._slots = stamps.driver
        last = stamps.driver.last
        self._slots.last = Stamp(last.state, last.generation + 1, pid, last.at, limit_s)

    @property
    def stamp(self) -> Stamp:
        """What stands in the shared memory."""
        return self._slots.last

    @property
    def generation(self) -> int:
        """Which start of the driver this is."""
        return self._slots.last.generation

    def arm(self) -> None:
        """From now on the host has to give signs of life."""
        stamp = self._slots.last
        stamp.state = ARMED
        stamp.at = self._monotonic()
        self._slots.write()

    def reset(self, good_until: float | None = None) -> None:
        """The host is alive: after a pat, and while one waits for the BMC.

        Units: `good_until`: the host is known to be well only up to then, since a check that was
        started then has not answered.
        """
        stamp = self._slots.last
        at = self._monotonic()
        if good_until is not None and good_until < at:
            at = good_until
        if stamp.state == ARMED and at > stamp.at:
            stamp.at = at
            self._slots.write()

    def disarm(self) -> None:
        """Nobody pats for now, and that is as it should be."""
        self._slots.last.state = OFF
        self._slots.write()

    def end(self) -> None:
        """The driver ends in order: the watcher may go."""
        self._slots.last.state = ENDED
        self._slots.write()


class PretimeoutRule:
    """The watcher's side: when to fire. Once an episode, and again after a recovery."""

    __slots__ = ("_has_fired", "_held_up", "_late_s_max", "_looked_at")

    def __init__(self, late_s_max: float = WAITING_S_MAX) -> None:
        """`late_s_max`: who looks again later than that was held up, and so maybe was the driver.

        Then the driver gets one more look's time: a machine that was paused whole, as a guest is,
        has not stopped patting. But one that is late `HELD_UP_MAX` times in a row is not paused.
        """
        self._late_s_max = late_s_max
        self._looked_at: float | None = None
        self._held_up = 0
        self._has_fired = False

    @property
    def has_fired(self) -> bool:
        """Whether an episode is under way."""
        return self._has_fired

    def look(self, stamp: Stamp, now: float) -> bool:
        """Whether to fire now."""
        looked_at, self._looked_at = self._looked_at, now
        is_late = looked_at is not None and now - looked_at > self._late_s_max
        self._held_up = self._held_up + 1 if is_late else 0
        if not stamp.is_overdue(now):
            self._has_fired = False
            return False
        if self._has_fired or self._held_up in range(1, HELD_UP_MAX + 1):
            return False
        self._has_fired = True
        return True
