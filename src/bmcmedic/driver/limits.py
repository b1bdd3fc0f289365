"""The limits of the driver's queues, waits and attempts."""

from __future__ import annotations

from dataclasses import dataclass, field

from bmcmedic.driver.breaker import BreakerLimits

ATTEMPTS_MAX = 3
"""Of a request that may be sent again; then its caller is told."""


@dataclass(frozen=True, slots=True)
class DriverLimits:
    """How much may wait, and for how long."""

    client_requests_max: int = 64
    last_answers_max: int = 1024
    """With each its question; neither is longer than `MESSAGE_BYTES_MAX`, so below 1 MiB."""
    worker_slack_s: float = 2.0
    """The worker that did nothing for this long beyond one exchange counts as stuck."""
    io_lock_s: float = 0.5
    """The polled path waits for `io_lock` no longer, and takes the interface then."""
    busy_pause_s: float = 0.25
    """Before the next attempt on an interface that something else has."""
    breaker: BreakerLimits = field(default_factory=BreakerLimits)
