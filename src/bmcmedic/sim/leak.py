"""The memory leak that a port 0x80 flood causes, as a model in closed form.

The BMC's snooping daemon leaks `LEAK_BYTES_PER_WRITE` with each write that it takes. So free memory
falls linearly at a constant rate of writes. The time to answer grows as memory falls, slowly at
first and steeply at the end (reclaim and swapping). When no memory is left, the BMC's own watchdog
reboots it. The default flood takes 2.8 minutes to get there; ten times the rate takes a tenth of
that. The writes of a real machine are counted as they arrive.
"""

from __future__ import annotations

MEMORY_BYTES = 512 << 20
FREE_FRACTION_FRESH = 0.8
"""Free memory of a freshly booted BMC, as a share of all its memory."""

LEAK_BYTES_PER_WRITE = 256
LATENCY_SCALE_S = 0.004
LATENCY_S_MAX = 15.0
_EXHAUSTED_BYTES = 1 << 20


class MemoryLeak:
    """The free memory of one BMC. Time is an argument (`now`) and never goes backwards."""

    __slots__ = ("_free_bytes", "_memory_bytes", "_since", "_writes_per_s")

    def __init__(self, now: float, writes_per_s: float, memory_bytes: float = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._free_bytes = memory_bytes * FREE_FRACTION_FRESH
        self._since = now
        self._writes_per_s = writes_per_s

    def set_rate(self, writes_per_s: float, now: float) -> None:
        """Change the rate of the flood; memory that has leaked so far stays lost."""
        self._free_bytes = self.free_bytes(now)
        self._since = now
        self._writes_per_s = writes_per_s

    def add_writes(self, count: int, now: float) -> None:
        """Add that many single writes to those of the flood."""
        self._free_bytes = max(0.0, self.free_bytes(now) - count * LEAK_BYTES_PER_WRITE)
        self._since = now

    def free_bytes(self, now: float) -> float:
        """Return the free memory, in bytes."""
        leaked = (now - self._since) * self._writes_per_s * LEAK_BYTES_PER_WRITE
        return max(0.0, self._free_bytes - leaked)

    def free_fraction(self, now: float) -> float:
        """Return the free memory as a share of all memory, 0 to 1."""
        return self.free_bytes(now) / self._memory_bytes

    def latency_s(self, now: float) -> float:
        """Return how much longer an answer takes than on a fresh BMC, in seconds."""
        left = self.free_fraction(now) / FREE_FRACTION_FRESH
        if left * left <= LATENCY_SCALE_S / LATENCY_S_MAX:
            return LATENCY_S_MAX
        return LATENCY_SCALE_S * (1 / (left * left) - 1)

    def exhausted_at(self) -> float | None:
        """Return when the BMC's own watchdog reboots it at this rate; None: never."""
        left_bytes = self._free_bytes - _EXHAUSTED_BYTES
        if left_bytes <= 0:
            return self._since
        rate = self._writes_per_s * LEAK_BYTES_PER_WRITE
        return self._since + left_bytes / rate if rate else None
