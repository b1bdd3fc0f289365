"""Requests, and the two queues that they wait in.

Pure: `now` comes in, and the driver holds its lock around every call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bmcmedic.driver.breaker import BreakerLimits
from bmcmedic.driver.reads import is_harmless, is_kept, is_read
from bmcmedic.errors import BmcmedicError, LocalProtocolError, NoAnswer, QueueFull
from bmcmedic.ipmi.kcs import MESSAGE_BYTES_MAX, REQUEST_BYTES_MIN
from bmcmedic.service.runtime import Signal
from bmcmedic.transport.in_band import Ipmb

Key: TypeAlias = "tuple[bytes, Ipmb | None]"

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
    """One caller's request; one who asks what is being asked already follows that request.

    Shape: `data` is netFn<<2 | LUN, command, data; `response` has a completion code after the
    command.
    Units: `deadline` is a point on the runtime's monotonic clock.
    Raises: LocalProtocolError for a length that no interface carries.
    """

    __slots__ = (
        "answer_age_s", "attempts", "data", "deadline", "done", "enqueued_at", "error",
        "followers", "highpri", "idempotent", "old_because", "on_done", "response", "target",
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
        """Whether its caller has been told, or no longer wants to be."""
        self.response: bytes | None = None
        self.error: BmcmedicError | None = None
        self.answer_age_s: float | None = None
        """How old the response is; None when the BMC gave it for this request."""
        self.old_because: BmcmedicError | None = None
        """Why the BMC was not asked, where the response is an old one."""

    @property
    def key(self) -> Key:
        """What is asked, and of whom."""
        return self.data, self.target

    @property
    def answer_is_kept(self) -> bool:
        """Whether its good answer serves others later."""
        return self.idempotent and not self.highpri and is_kept(self.data)

    @property
    def may_change(self) -> bool:
        """Whether answers from before it say nothing of what is so after it."""
        return not self.idempotent and not is_harmless(self.data)

    def callers(self) -> Iterator[Request]:
        """It and those that follow it, as far as they still wait."""
        if not self.done:
            yield self
        for follower in self.followers:
            if not follower.done:
                yield follower

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return not self.done or any(not follower.done for follower in self.followers)

    def may_be_sent(self, now: float) -> bool:
        """Whether somebody waits for it whose time is not over."""
        return self.is_wanted and now < self.latest_deadline

    @property
    def latest_deadline(self) -> float:
        """How long somebody still waits for it."""
        return max((caller.deadline for caller in self.callers()), default=self.deadline)

    def too_late(self) -> NoAnswer:
        """What its caller is told when its deadline has passed."""
        asked = "request" if self.attempts == 0 else "answer"
        return NoAnswer(f"the deadline passed while the {asked} was waited for")

    def settle(
        self,
        response: bytes | None,
        error: BmcmedicError | None,
        answer_age_s: float | None = None,
    ) -> None:
        """Tell the caller, once."""
        if self.done:
            return
        self.response = response
        self.error = error
        self.answer_age_s = answer_age_s
        self.done = True
        if self.on_done is not None:
            self.on_done(self)

    def settle_without_bmc(self, kept: tuple[bytes, float] | None, error: BmcmedicError) -> int:
        """Give all callers an answer that was kept, with its age, or the error; how many got one.

        The lock is held, as for `settle`.
        """
        callers = list(self.callers())
        for caller in callers:
            if kept is None:
                caller.settle(None, error)
            else:
                caller.old_because = error
                caller.settle(kept[0], None, kept[1])
        return 0 if kept is None else len(callers)


class OwnRequest(Request):
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
        """Wake the caller."""
        super().settle(response, error, answer_age_s)
        self.signal.set()


class RequestQueues:
    """What waits for the worker: clients' requests, and the driver's own before them."""

    __slots__ = (
        "bridged", "pending_requests", "pending_requests_highpri", "requests_max",
        "_active", "_shared",
    )  # fmt: skip

    def __init__(self, requests_max: int) -> None:
        self.requests_max = requests_max
        """Of clients, until they are complete; followers count too. The driver's own do not."""
        self.pending_requests: deque[Request] = deque()
        self.pending_requests_highpri: deque[Request] = deque()
        self.bridged: list[Request] = []
        """Taken by the BMC, and not yet answered by the controller behind it."""
        self._active: Request | None = None
        self._shared: dict[Key, Request] = {}
        """Clients' reads that are queued, in flight or bridged."""

    @property
    def client_requests(self) -> int:
        """How many callers wait; what is in flight counts, even if nobody does any more."""
        return sum(
            max(1, sum(1 for _ in request.callers()))
            for request in self._unfinished()
            if not request.highpri
        )

    def enqueue_request(self, request: Request, now: float) -> None:
        """Put it in its queue, or let it follow one that asks the same; raises QueueFull."""
        request.enqueued_at = now
        if request.highpri:
            self.pending_requests_highpri.append(request)
            return
        if self.client_requests >= self.requests_max:
            raise QueueFull(f"{self.requests_max} requests wait already")
        if request.idempotent:
            leader = self._shared.setdefault(request.key, request)
            if leader is not request:
                leader.followers.append(request)
                return
        self.pending_requests.append(request)

    def requeue_request(self, request: Request) -> None:
        """Back to the head of its queue, for another attempt."""
        if self._active is request:
            self._active = None
        if request in self.bridged:
            self.bridged.remove(request)
        queue = self.pending_requests_highpri if request.highpri else self.pending_requests
        queue.appendleft(request)

    def dequeue_request(self) -> Request | None:
        """The next one, which is in flight from now on; the driver's own first."""
        queue = self.pending_requests_highpri or self.pending_requests
        self._active = queue.popleft() if queue else None
        return self._active

    def may_be_bridged_again(self, request: Request, now: float) -> bool:
        """Whether one that failed behind the BMC may be sent again, for somebody who waits on."""
        return (
            request in self.bridged
            and request.idempotent
            and request.attempts < ATTEMPTS_MAX
            and request.may_be_sent(now)
        )

    def await_bridged(self, request: Request) -> None:
        """The BMC has taken it: it is no longer in flight."""
        self._active = None
        self.bridged.append(request)

    def complete_request(self, request: Request) -> None:
        """It is queued and in flight no more."""
        if self._active is request:
            self._active = None
        if self._shared.get(request.key) is request:
            del self._shared[request.key]
        for queue in (self.pending_requests_highpri, self.pending_requests, self.bridged):
            if request in queue:
                queue.remove(request)

    def everything(self) -> list[Request]:
        """All that is queued, in flight or bridged."""
        return [*self.pending_requests_highpri, *self._unfinished()]

    def drain_clients(self) -> list[Request]:
        """Take out all clients' requests that have not reached the BMC."""
        drained = list(self.pending_requests)
        for request in drained:
            self.complete_request(request)
        return drained

    def expired(self, now: float) -> list[Request]:
        """The clients that have waited long enough; what nobody waits for leaves its queue."""
        late = []
        for request in self._unfinished():
            if request.highpri:
                continue
            late += [caller for caller in request.callers() if caller.deadline <= now]
        return late

    def forget_unwanted(self) -> None:
        """Drop what waits to be sent and nobody waits for."""
        for request in [entry for entry in self.pending_requests if not entry.is_wanted]:
            self.complete_request(request)
        for request in self._unfinished():
            if any(follower.done for follower in request.followers):
                request.followers = [each for each in request.followers if not each.done]

    def next_deadline(self) -> float | None:
        """The earliest of a client that still waits."""
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
        """How much waits."""
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
