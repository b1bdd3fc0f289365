"""The software pretimeout: time stamps in shared memory, and the rule that checks them.

The driver writes the stamps, and the watcher, a still smaller process, checks them. So the
pretimeout fires when the *host* has stopped patting: the driver is stopped or dead, a pat was never
queued, or the check command failed or hangs. It does not fire while a pat is queued and only the
*BMC* is silent, because the pat thread keeps stamping while it waits.

The time is CLOCK_MONOTONIC. All processes share it, and it stands still while the machine is
suspended, so a suspended host has not stopped patting. The BMC's own timer may run on meanwhile.

This module imports only what the watcher needs: `enum`, `dataclasses` and `typing` would cost the
watcher another megabyte of locked memory. So states are plain numbers, and a record is a class.
"""

from __future__ import annotations

import struct
from binascii import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

STAMPS_BYTES = 4096
"""Size of the file: one page."""
MAGIC = b"bmcmedic stamps1"
"""The file's first bytes; another layout has another number."""
LIMIT_S_MIN = 1.0
WAITING_S_MAX = 1.0
"""While a pat waits for the BMC, the sign of life is renewed this often, in seconds."""

LATE_CHECKS_MAX = 3
"""Late checks in a row after which the rule still does not fire."""

OFF = 0
"""No pats are expected, so there is nothing to watch."""
ARMED = 1
ENDED = 2
"""The driver ended in order, and the watcher with it."""

_DRIVER_AT = 64
_WATCHER_AT = 512
_SLOT_BYTES = 128
_RECORD = struct.Struct("<QIIddd")
_CRC = struct.Struct("<I")


class Stamp:
    """What one side wrote last.

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
        """OFF, ARMED or ENDED. The watcher writes ARMED while it watches."""
        self.generation = generation
        """Number of the driver's start; in the watcher's stamp, of the start that it watches."""
        self.pid = pid
        self.at = at
        """The last sign of life: the host's, or in the watcher's stamp the watcher's own."""
        self.limit_s = limit_s
        """The pretimeout fires after this long without a sign of life."""
        self.extra = extra
        """In the watcher's stamp: how often it has fired."""

    @property
    def due_at(self) -> float:
        """When the pretimeout fires, unless another sign of life comes."""
        return self.at + self.limit_s

    def is_overdue(self, now: float) -> bool:
        """Return whether the host has stopped patting; this is the rule.

        A stamp from the future belongs to another boot, and proves nothing.
        """
        return self.state == ARMED and self.at <= now and now > self.at + self.limit_s


class _Slots:
    """A record with one writer; no reader ever sees it half written.

    The writer alternates between two slots, each with its number and checksum. A writer that is
    stopped in the middle leaves the other slot, which is older and still valid.
    """

    __slots__ = ("_at", "_buffer", "_sequence", "last")

    def __init__(self, buffer: mmap.mmap | bytearray, at: int) -> None:
        self._buffer = buffer
        self._at = at
        self._sequence = 0
        self.last = Stamp()
        """The newest stamp that was read or written."""
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
        """Return the newest record that is complete, or else the one before it."""
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
    """The shared memory: one record of the driver's and one of the watcher's.

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
        """Whether the memory still has this layout."""
        return self._buffer[: len(MAGIC)] == MAGIC


class PretimeoutCallout:
    """The driver's side: it stamps that the host is alive, and how long that is valid."""

    __slots__ = ("_monotonic", "_slots")

    def __init__(
        self, stamps: Stamps, monotonic: Callable[[], float], limit_s: float, *, pid: int = 0
    ) -> None:
        """Begin a start of the driver; nothing is armed yet, and an older start's stamp is kept.

        Shape: `monotonic` is the machine's CLOCK_MONOTONIC, or a simulation's.
        """
        self._monotonic = monotonic
        self._slots = stamps.driver
        last = stamps.driver.last
        self._slots.last = Stamp(last.state, last.generation + 1, pid, last.at, limit_s)

    @property
    def stamp(self) -> Stamp:
        """The stamp in the shared memory."""
        return self._slots.last

    @property
    def generation(self) -> int:
        """Number of this start of the driver."""
        return self._slots.last.generation

    def arm(self) -> None:
        """Expect signs of life from now on."""
        stamp = self._slots.last
        stamp.state = ARMED
        stamp.at = self._monotonic()
        self._slots.write()

    def reset(self, good_until: float | None = None) -> None:
        """Stamp that the host is alive: after a pat, and while a pat waits for the BMC.

        Units: `good_until`: the host is known to be well only until then, because a check that
        started at that time has not returned.
        """
        stamp = self._slots.last
        at = self._monotonic()
        if good_until is not None and good_until < at:
            at = good_until
        if stamp.state == ARMED and at > stamp.at:
            stamp.at = at
            self._slots.write()

    def disarm(self) -> None:
        """Expect no pats for now."""
        self._slots.last.state = OFF
        self._slots.write()

    def end(self) -> None:
        """Let the watcher end: the driver ends in order."""
        self._slots.last.state = ENDED
        self._slots.write()


class PretimeoutRule:
    """The watcher's side: it fires once an episode, and again only after a recovery."""

    __slots__ = ("_has_fired", "_late_checks", "_late_s_max", "_checked_at")

    def __init__(self, late_s_max: float = WAITING_S_MAX) -> None:
        """`late_s_max`: a check that comes later was held up, and so maybe was the driver.

        Then the driver gets until one more check. A machine that was paused as a whole, as a guest
        can be, has not stopped patting. But a machine whose checks are late more than
        `LATE_CHECKS_MAX` times in a row is not paused.
        """
        self._late_s_max = late_s_max
        self._checked_at: float | None = None
        self._late_checks = 0
        self._has_fired = False

    @property
    def has_fired(self) -> bool:
        """Whether an episode is in progress."""
        return self._has_fired

    def should_fire(self, stamp: Stamp, now: float) -> bool:
        """Return whether to fire now."""
        checked_at, self._checked_at = self._checked_at, now
        is_late = checked_at is not None and now - checked_at > self._late_s_max
        self._late_checks = self._late_checks + 1 if is_late else 0
        if not stamp.is_overdue(now):
            self._has_fired = False
            return False
        if self._has_fired or self._late_checks in range(1, LATE_CHECKS_MAX + 1):
            return False
        self._has_fired = True
        return True
