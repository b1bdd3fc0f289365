"""Requests, their limits, and the two queues that they wait in.

Pure: `now` comes in, and the driver holds its lock around every call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bmcmedic.driver.breaker import BreakerLimits
from bmcmedic.driver.read_commands import is_cacheable, is_read, leaves_cache_valid
from bmcmedic.errors import BmcmedicError, LocalProtocolError, NoAnswer, QueueFull
from bmcmedic.ipmi.kcs import MESSAGE_BYTES_MAX, REQUEST_BYTES_MIN
from bmcmedic.service.runtime import Signal
from bmcmedic.transport.in_band import Ipmb

RequestKey: TypeAlias = "tuple[bytes, Ipmb | None]"

ATTEMPTS_MAX = 3
"""Attempts at a request that may be sent again; then its caller gets the error."""


@dataclass(frozen=True, slots=True)
class DriverLimits:
    """How much may wait in the driver, and for how long."""

    client_requests_max: int = 64
    cached_answers_max: int = 1024
    """Answers kept with their questions. Neither is longer than `MESSAGE_BYTES_MAX`, so all of
    them need less than 1 MiB."""
    worker_slack_s: float = 2.0
    """A worker that makes no progress for this long beyond one exchange counts as stuck."""
    io_lock_s: float = 0.5
    """The polled path waits for `io_lock` this long, and then takes the interface by force."""
    busy_pause_s: float = 0.25
    """Pause before the next attempt on an interface that another program is using."""
    breaker: BreakerLimits = field(default_factory=BreakerLimits)


class Request:
    """One caller's request; an identical read of another caller follows it and shares its answer.

    Shape: `data` is netFn<<2 | LUN, command, data; `response` has a completion code after the
    command.
    Units: `deadline` is a point on the runtime's monotonic clock.
    Raises: LocalProtocolError for a length that no interface carries.
    """

    __slots__ = (
        "answer_age_s", "attempts", "data", "deadline", "done", "enqueued_at", "error",
        "followers", "highpri", "idempotent", "cached_because", "on_done", "response", "target",
    )  # fmt: skip

    def __init__(
        self,
        data: bytes,
        *,
        deadline: float,
        target: Ipmb | None = None,
        on_done: Callable[[Request], None] | None = None,
    ) -> None:
        if not REQUEST_BYTES_MIN <= len(data) <= MESSAGE_BYTES_MAX:
            raise LocalProtocolError(f"no interface carries a request of {len(data)} bytes")
        self.data = data
        self.deadline = deadline
        self.target = target
        self.on_done = on_done
        self.highpri = False
        self.idempotent = is_read(data)
        self.followers: list[Request] = []
        self.attempts = 0
        self.enqueued_at = 0.0
        self.done = False
        """Whether its caller has been answered, or no longer waits."""
        self.response: bytes | None = None
        self.error: BmcmedicError | None = None
        self.answer_age_s: float | None = None
        """Age of the response in seconds; None when the BMC answered this very request."""
        self.cached_because: BmcmedicError | None = None
        """Why the BMC was not asked, where the response comes from the cache."""

    @property
    def key(self) -> RequestKey:
        """The request and its target; requests with the same key are the same question."""
        return self.data, self.target

    @property
    def is_cacheable(self) -> bool:
        """Whether its good answer goes into the cache."""
        return self.idempotent and not self.highpri and is_cacheable(self.data)

    @property
    def invalidates_cache(self) -> bool:
        """Whether the request may invalidate cached answers."""
        return not self.idempotent and not leaves_cache_valid(self.data)

    def callers(self) -> Iterator[Request]:
        """Yield the request and its followers, as far as their callers still wait."""
        if not self.done:
            yield self
        for follower in self.followers:
            if not follower.done:
                yield follower

    @property
    def is_wanted(self) -> bool:
        """Whether any caller still waits for it."""
        return not self.done or any(not follower.done for follower in self.followers)

    def may_be_sent(self, now: float) -> bool:
        """Return whether a caller whose deadline has not passed waits for it."""
        return self.is_wanted and now < self.latest_deadline

    @property
    def latest_deadline(self) -> float:
        """The latest deadline of the callers that still wait."""
        return max((caller.deadline for caller in self.callers()), default=self.deadline)

    def deadline_error(self) -> NoAnswer:
        """Return the error for a caller whose deadline has passed."""
        if self.attempts == 0:
            return NoAnswer("the deadline passed before the request was sent")
        return NoAnswer("the deadline passed before the BMC answered")

    def settle(
        self,
        response: bytes | None,
        error: BmcmedicError | None,
        answer_age_s: float | None = None,
    ) -> None:
        """Give the caller the response or the error; later calls do nothing."""
        if self.done:
            return
        self.response = response
        self.error = error
        self.answer_age_s = answer_age_s
        self.done = True
        if self.on_done is not None:
            self.on_done(self)

    def settle_without_bmc(self, cached: tuple[bytes, float] | None, error: BmcmedicError) -> int:
        """Give all callers the cached answer with its age, or the error.

        Return how many got an answer.

        The lock is held, as for `settle`.
        """
        callers = list(self.callers())
        for caller in callers:
            if cached is None:
                caller.settle(None, error)
            else:
                caller.cached_because = error
                caller.settle(cached[0], None, cached[1])
        return 0 if cached is None else len(callers)


class DriverRequest(Request):
    """A request of the driver's own, whose caller sleeps until it is done."""

    __slots__ = ("signal",)

    def __init__(self, data: bytes, deadline: float, signal: Signal) -> None:
        super().__init__(data, deadline=deadline)
        self.signal = signal
        self.highpri = True
        self.idempotent = True

    def settle(
        self,
        response: bytes | None,
        error: BmcmedicError | None,
        answer_age_s: float | None = None,
    ) -> None:
        """Complete the request and wake its caller."""
        super().settle(response, error, answer_age_s)
        self.signal.set()


class RequestQueues:
    """The queues in front of the worker: clients' requests, and before them the driver's own."""

    __slots__ = (
        "bridged", "pending_requests", "pending_requests_highpri", "requests_max",
        "_active", "_shared",
    )  # fmt: skip

    def __init__(self, requests_max: int) -> None:
        self.requests_max = requests_max
        """Limit of clients' unfinished requests; followers count, the driver's own do not."""
        self.pending_requests: deque[Request] = deque()
        self.pending_requests_highpri: deque[Request] = deque()
        self.bridged: list[Request] = []
        """Requests that the BMC has taken and the controller behind it has not answered yet."""
        self._active: Request | None = None
        self._shared: dict[RequestKey, Request] = {}
        """Clients' reads that are queued, in flight or bridged."""

    @property
    def client_requests(self) -> int:
        """Number of clients that wait.

        A request in flight counts even if nobody waits for it any more.
        """
        return sum(
            max(1, sum(1 for _ in request.callers()))
            for request in self._unfinished()
            if not request.highpri
        )

    def enqueue_request(self, request: Request, now: float) -> None:
        """Queue the request, or let it follow an identical read; raises QueueFull."""
        request.enqueued_at = now
        if request.highpri:
            self.pending_requests_highpri.append(request)
            return
        if self.client_requests >= self.requests_max:
            raise QueueFull(f"{self.requests_max} requests are waiting already")
        if request.idempotent:
            leader = self._shared.setdefault(request.key, request)
            if leader is not request:
                leader.followers.append(request)
                return
        self.pending_requests.append(request)

    def requeue_request(self, request: Request) -> None:
        """Put the request at the head of its queue again, for another attempt."""
        if self._active is request:
            self._active = None
        if request in self.bridged:
            self.bridged.remove(request)
        queue = self.pending_requests_highpri if request.highpri else self.pending_requests
        queue.appendleft(request)

    def dequeue_request(self) -> Request | None:
        """Take the next request, the driver's own first; from now on it is in flight."""
        queue = self.pending_requests_highpri or self.pending_requests
        self._active = queue.popleft() if queue else None
        return self._active

    def may_be_bridged_again(self, request: Request, now: float) -> bool:
        """Return whether a bridged request that failed may be sent again for a waiting caller."""
        return (
            request in self.bridged
            and request.idempotent
            and request.attempts < ATTEMPTS_MAX
            and request.may_be_sent(now)
        )

    def await_bridged(self, request: Request) -> None:
        """Mark the request as bridged: the BMC has taken it, so it is no longer in flight."""
        self._active = None
        self.bridged.append(request)

    def complete_request(self, request: Request) -> None:
        """Remove the request from its queue, from flight and from the shared reads."""
        if self._active is request:
            self._active = None
        if self._shared.get(request.key) is request:
            del self._shared[request.key]
        for queue in (self.pending_requests_highpri, self.pending_requests, self.bridged):
            if request in queue:
                queue.remove(request)

    def unfinished(self) -> list[Request]:
        """Return all requests that are queued, in flight or bridged."""
        return [*self.pending_requests_highpri, *self._unfinished()]

    def drain_clients(self) -> list[Request]:
        """Remove and return all clients' requests that have not been sent."""
        drained = list(self.pending_requests)
        for request in drained:
            self.complete_request(request)
        return drained

    def expired(self, now: float) -> list[Request]:
        """Return the clients' requests whose deadline has passed."""
        expired = []
        for request in self._unfinished():
            if request.highpri:
                continue
            expired += [caller for caller in request.callers() if caller.deadline <= now]
        return expired

    def forget_unwanted(self) -> None:
        """Remove requests that wait to be sent and that nobody waits for."""
        for request in [entry for entry in self.pending_requests if not entry.is_wanted]:
            self.complete_request(request)
        for request in self._unfinished():
            if any(follower.done for follower in request.followers):
                request.followers = [each for each in request.followers if not each.done]

    def next_deadline(self) -> float | None:
        """Return the earliest deadline of a client that still waits."""
        return min(
            (
                caller.deadline
                for request in self._unfinished()
                if not request.highpri
                for caller in request.callers()
            ),
            default=None,
        )

    def describe(self) -> dict[str, Any]:
        """Return the lengths of the queues as JSON data."""
        return {
            "pending_requests": len(self.pending_requests),
            "pending_requests_highpri": len(self.pending_requests_highpri),
            "client_requests": self.client_requests,
        }

    def _unfinished(self) -> list[Request]:
        active = self._active
        return [
            *self.pending_requests,
            *self.bridged,
            *(() if active is None else (active,)),
        ]
