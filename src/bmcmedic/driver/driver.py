"""The driver: one worker owns the interface, and serves the driver's own requests first.

The design and the names are those of FreeBSD's `ipmi(4)`. A caller that can sleep queues its
request and waits. `kcs_loop` takes the next request, `pending_requests_highpri` before
`pending_requests`, and holds `io_lock` for one attempt at a time. A caller that cannot sleep polls.

This driver adds to it. A request of the driver's own has a deadline, interrupts the error recovery
of a client's request, and leaves nothing queued when its caller gives up. The polled path works
even when the worker is stuck or dead.

Spec: none; the driver carries the messages of a system interface (chapter 9).
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

from bmcmedic.driver.breaker import AnswerCache, Breaker, is_missing
from bmcmedic.driver.parking import Parking
from bmcmedic.driver.polling import PolledPath, WorkerState, unforeseen_error
from bmcmedic.driver.preemption import ClientClaim, DriverClaim
from bmcmedic.driver.requests import (
    ATTEMPTS_MAX,
    DriverLimits,
    DriverRequest,
    Request,
    RequestKey,
    RequestQueues,
)
from bmcmedic.driver.watchdog.pretimeout import WAITING_S_MAX
from bmcmedic.errors import BmcmedicError, NoAnswer, Refused, RemoteProtocolError, TransportError
from bmcmedic.service.runtime import Runtime, held
from bmcmedic.transport.in_band import InBand, InterfaceBusy, Interrupted

_GET_DEVICE_ID: Final = b"\x18\x01"
_COMPLETION_CODE_AT = 2
_COMPLETION_CODE_TIMEOUT: Final = 0xC3
"""The BMC, or a device in front of it, gave up waiting."""


class Driver:
    """The queues, the worker and the polled path of one interface."""

    def __init__(
        self, interface: InBand, runtime: Runtime, limits: DriverLimits | None = None
    ) -> None:
        self.interface = interface
        self.limits = limits or DriverLimits()
        self.breaker = Breaker(self.limits.breaker)
        self.stopping = False
        self.dying = False
        """Set when the process dies; from then on no caller sleeps."""
        self.counts: Counter[str] = Counter()
        self._runtime = runtime
        self._queues = RequestQueues(self.limits.client_requests_max)
        self._cached_answers: AnswerCache[RequestKey] = AnswerCache(self.limits.cached_answers_max)
        self._requests_lock = runtime.lock()
        self._wakeup = runtime.signal()
        self.parking = Parking(runtime, self._requests_lock, self._wakeup)
        self.polling = PolledPath(
            interface, runtime, self.limits, self.parking, self.counts, self._note_answer
        )
        self._worker = WorkerState(runtime.monotonic())
        self._sleepless: set[int] = set()
        self._last_answer_at: float | None = None
        self._in_flight_at = math.inf
        """When the exchange in flight began; infinite while there is none."""

    # ----------------------------------------------------------------- the driver's own requests

    def driver_request(
        self, data: bytes, deadline: float, waiting: Callable[[], None] | None = None
    ) -> bytes:
        """Send a request before everybody else's, and wait for the response.

        The request may be sent more than once, so it must do no harm when it is repeated, as a pat.
        `waiting` is called while the request is queued or in flight, at least every
        `WAITING_S_MAX`.

        Shape: netFn<<2 | LUN, command, data; the response has a completion code after the command.
        Raises: NoAnswer, RemoteProtocolError, InterfaceGone, InterfaceBusy.
        """
        if self.can_sleep():
            return self._driver_request_queue(data, deadline, waiting)
        return self.polling.driver_request_poll(data, deadline, waiting)

    def can_sleep(self) -> bool:
        """Return whether the caller may wait for the worker."""
        thread_id = self._runtime.thread_id()
        return not (
            self.dying
            or not self._worker.is_alive
            or self._worker.is_stuck
            or thread_id == self._worker.thread_id
            or thread_id in self._sleepless
        )

    @contextlib.contextmanager
    def cannot_sleep(self) -> Iterator[None]:
        """Mark the calling thread, such as one in a signal handler, as one that must poll."""
        thread_id = self._runtime.thread_id()
        self._sleepless.add(thread_id)
        try:
            yield
        finally:
            self._sleepless.discard(thread_id)

    def _driver_request_queue(
        self, data: bytes, deadline: float, waiting: Callable[[], None] | None
    ) -> bytes:
        runtime = self._runtime
        request = DriverRequest(data, deadline, runtime.signal())
        late = False
        now = runtime.monotonic()
        with held(self._requests_lock):
            # Checked under the lock: the thread that ends the worker refuses all queued requests
            # then.
            has_worker = self._worker.is_alive
            self.parking.refuse(now)
            if has_worker:
                self._queues.enqueue_request(request, now)
        if not has_worker:
            return self.polling.driver_request_poll(data, deadline, waiting)
        self._wakeup.set()
        while now < (give_up_at := min(deadline, self._worker_stuck_at(request))):
            left_s = give_up_at - now
            if request.signal.wait(left_s if waiting is None else min(left_s, WAITING_S_MAX)):
                break
            now = runtime.monotonic()
            if waiting is not None:
                waiting()
        else:
            with held(self._requests_lock):
                if not request.done:  # otherwise the answer arrived after all
                    request.done = True
                    self._queues.complete_request(request)
                    request.error = NoAnswer("the driver's own request was not answered in time")
                    late = True
        if late and now < deadline:
            self.counts["worker_stuck"] += 1
            self._worker.mark_stuck()
            return self.polling.driver_request_poll(data, deadline, waiting)
        if request.error is not None:
            raise request.error
        assert request.response is not None
        return request.response

    def _worker_stuck_at(self, request: Request) -> float:
        """Return when the worker counts as stuck, unless it makes progress until then."""
        seen_at = max(self._worker.seen_at, request.enqueued_at)
        return seen_at + self.interface.exchange_s_max + self.limits.worker_slack_s

    @property
    def highpri_waits(self) -> bool:
        """Whether a request of the driver's own is queued."""
        return bool(self._queues.pending_requests_highpri)

    # --------------------------------------------------------------------------------- clients

    def submit(self, request: Request) -> None:
        """Queue a client's request; its `on_done` is called exactly once, unless it is abandoned.

        `on_done` is called with the driver's lock held, in the thread that completes the request,
        which may be this one. It must be short, must not raise, and must not call the driver.
        Raises: QueueFull.
        """
        now = self._runtime.monotonic()
        with held(self._requests_lock):
            self._notice_silence(now)
            if self.stopping:
                request.settle(None, TransportError("the driver is stopping"))
            elif request.deadline <= now:
                request.settle(None, request.deadline_error())
            elif self.parking.is_on(now):
                self._settle_without_bmc(request, self.parking.refusal(now), now)
            elif self.breaker.is_open:
                self._settle_without_bmc(request, self.breaker.refusal(now), now)
            else:
                try:
                    self._queues.enqueue_request(request, now)
                except BmcmedicError:
                    self.counts["queue_full"] += 1
                    raise
        self._wakeup.set()

    def abandon(self, request: Request) -> None:
        """Give up a client's request; it is never sent unless it is in flight already."""
        with held(self._requests_lock):
            request.done = True
            self._queues.forget_unwanted()

    def expire(self) -> float | None:
        """Complete the clients' requests whose deadline has passed.

        Return when the next deadline is.

        The worker does this between exchanges. A caller that cannot wait for the worker calls it
        too.
        """
        now = self._runtime.monotonic()
        with held(self._requests_lock):
            self._notice_silence(now)
            for request in self._queues.expired(now):
                self.counts["too_late"] += 1
                request.settle(None, request.deadline_error())
            self._queues.forget_unwanted()
            return self._queues.next_deadline()

    # -------------------------------------------------------------------------------- the worker

    def kcs_loop(self) -> None:
        """Serve requests until `stop`; the worker's thread runs this."""
        runtime = self._runtime
        self._worker.thread_id = runtime.thread_id()
        if (missing := self.interface.missing) is not None:
            self._bmc_silent(missing, missing=True)
        try:
            while not self.stopping:
                now = self._worker.seen_at = runtime.monotonic()
                next_deadline = self.expire()
                with held(self._requests_lock):
                    is_parked = self.parking.refresh(now) and not self.highpri_waits
                    request = None if is_parked else self._queues.dequeue_request()
                if is_parked:
                    self._stay_parked()
                elif request is not None:
                    self._serve(request)
                elif self.breaker.is_open and now >= self.breaker.next_probe_at:
                    self._probe()
                else:
                    probe_at = self.breaker.next_probe_at if self.breaker.is_open else None
                    due = [at for at in (next_deadline, probe_at) if at is not None]
                    self._wakeup.wait(min(due) - now if due else None)
        finally:
            self._worker.thread_id = None
            with held(self._requests_lock):
                for request in self._queues.unfinished():
                    self.complete_request(request, None, TransportError("the driver is stopping"))

    def _stay_parked(self) -> None:
        """Close the interface if it is still open, refuse what waits, and sleep while parked."""
        parking = self.parking
        if not parking.is_closed:
            io_lock = self.polling.io_lock
            if io_lock.acquire(self.limits.io_lock_s):
                try:
                    if io_lock is self.polling.io_lock:
                        self._close_parked_interface()
                finally:
                    io_lock.release()
        now = self._runtime.monotonic()
        with held(self._requests_lock):
            self.give_up_clients(parking.refusal(now), now)
            ends_at = parking.ends_at
        if parking.is_closed and ends_at is not None:
            self._wakeup.wait(ends_at - now)

    def _close_parked_interface(self) -> None:
        try:
            self.interface.close()
        except Exception:  # noqa: BLE001 - as in an exchange: no error may end the worker
            self.counts["unforeseen_errors"] += 1
        self.counts["parks"] += 1
        self.parking.is_closed = True

    def stop(self) -> None:
        """Let the worker end after the driver's own exchange that is in flight."""
        self.stopping = True
        self._wakeup.set()

    def _serve(self, request: Request) -> None:
        """Make one attempt, and complete the request or queue it again."""
        # The claim is made before the lock is acquired. Made later, it could carry the generation
        # of a poller that came in between, and nothing would fence this thread off.
        claim = self._claim(request)
        io_lock = self.polling.io_lock
        if not io_lock.acquire(self.limits.io_lock_s):
            self._requeue(request)
            return
        try:
            fenced_off = io_lock is not self.polling.io_lock
            if fenced_off or not request.may_be_sent(self._runtime.monotonic()):
                self._requeue(request)  # drops it if its deadline passed during the wait
                return
            response = self._attempt(request, claim)
        except Interrupted as error:
            self.counts["interrupted"] += 1
            if error.may_have_run and not request.idempotent:
                self._complete(request, None, error)
            else:
                self._requeue(request)
            return
        except (TransportError, RemoteProtocolError) as error:
            self._failed(request, error)
            return
        except Refused as error:
            self._complete(request, None, error)  # the BMC was not asked at all
            return
        except Exception as error:  # noqa: BLE001 - no request may end the worker
            self._failed(request, unforeseen_error(self.interface, self.counts, error))
            return
        finally:
            self._in_flight_at = math.inf
            io_lock.release()
            self._worker.seen_at = self._runtime.monotonic()
        if response is not None:
            self._answered(request, response)

    def _claim(self, request: Request) -> DriverClaim:
        generation = self.polling.current_generation
        if request.highpri:
            return DriverClaim(generation)
        return ClientClaim(
            generation, is_wanted=self._interface_is_wanted, stopping=lambda: self.stopping
        )

    def _interface_is_wanted(self) -> bool:
        """Whether a pat or a park waits for the exchange in flight to end."""
        return self.highpri_waits or self.parking.is_awaited

    def _attempt(self, request: Request, claim: DriverClaim) -> bytes | None:
        """Make one exchange.

        Return None where the answer of a controller behind the BMC comes later.
        """
        request.attempts += 1
        if request.invalidates_cache:
            with held(self._requests_lock):
                self._cached_answers.clear()
        now = self._runtime.monotonic()
        # The client's deadline does not shorten the exchange: cut short, it would need error
        # recovery.
        deadline = now + self.interface.exchange_s_max
        if request.highpri:
            deadline = min(deadline, request.deadline)
        if request.target is None:
            self._in_flight_at = now
            return self.interface.attempt(
                request.data, deadline, claim, idempotent=request.idempotent
            )
        with held(self._requests_lock):
            self._queues.await_bridged(request)
        self.interface.send_bridged(
            request.data,
            request.target,
            request.latest_deadline,
            claim,
            lambda result: self._bridged_done(request, result),
        )
        return None

    def _answered(self, request: Request, response: bytes) -> None:
        if response[_COMPLETION_CODE_AT] == _COMPLETION_CODE_TIMEOUT:
            self._bmc_silent(f"completion code 0x{_COMPLETION_CODE_TIMEOUT:02x}")
        else:
            self._bmc_answered()
        self._complete(request, response, None)

    def _failed(self, request: Request, error: TransportError | RemoteProtocolError) -> None:
        self._bmc_silent(str(error), missing=is_missing(error, self._last_answer_at))
        if isinstance(error, InterfaceBusy):
            request.attempts -= 1  # the request did not reach the BMC
            self._wakeup.wait(self.limits.busy_pause_s)
        now = self._runtime.monotonic()
        again = request.idempotent or not error.may_have_run or isinstance(error, InterfaceBusy)
        without_bmc = self.breaker.is_open and not request.highpri
        in_time = request.may_be_sent(now)
        if again and in_time and not without_bmc and request.attempts < ATTEMPTS_MAX:
            self._requeue(request)
        elif without_bmc:
            with held(self._requests_lock):
                self._queues.complete_request(request)
                self._settle_without_bmc(request, error, now)
        else:
            self._complete(request, None, error)

    def _requeue(self, request: Request) -> None:
        with held(self._requests_lock):
            if request.is_wanted:
                self._queues.requeue_request(request)
            else:
                self._queues.complete_request(request)

    def _complete(
        self, request: Request, response: bytes | None, error: BmcmedicError | None
    ) -> None:
        with held(self._requests_lock):
            self.complete_request(request, response, error)

    def complete_request(
        self, request: Request, response: bytes | None, error: BmcmedicError | None
    ) -> None:
        """Complete the request for everybody who waits for it; the lock is held."""
        self._queues.complete_request(request)
        if request.is_cacheable and response and response[_COMPLETION_CODE_AT] == 0:
            self._cached_answers.put(request.key, response, self._runtime.monotonic())
        for caller in list(request.callers()):
            caller.settle(response, error)

    def _bridged_done(self, request: Request, result: bytes | BmcmedicError) -> None:
        """Take the result of a bridged request from a thread of the transport's."""
        now = self._runtime.monotonic()
        with held(self._requests_lock):
            if not isinstance(result, BmcmedicError):
                self.complete_request(request, result, None)
            elif self._queues.may_be_bridged_again(request, now) and not self.breaker.is_open:
                self._queues.requeue_request(request)  # a caller that joined later waits longer
            else:
                self.complete_request(request, None, result)
        self._wakeup.set()

    def _probe(self) -> None:
        """Ask once whether the BMC is back. Nobody waits for it, so a failure is not retried."""
        deadline = self._runtime.monotonic() + 2 * self.limits.io_lock_s
        self._serve(Request(_GET_DEVICE_ID, deadline=deadline))

    def _bmc_answered(self) -> None:
        self.counts["answers"] += 1
        self._note_answer()
        self.breaker.succeeded()

    def _note_answer(self) -> None:
        self._last_answer_at = self._runtime.monotonic()

    def _bmc_silent(self, reason: str, *, missing: bool = False) -> None:
        self.counts["failures"] += 1
        now = self._runtime.monotonic()
        with held(self._requests_lock):
            if self.breaker.failed(now, reason, now - self._in_flight_at, missing=missing):
                self.give_up_clients(self.breaker.refusal(now), now)

    def _notice_silence(self, now: float) -> None:
        """Open the breaker while an exchange that takes too long is still in flight.

        The lock is held.
        """
        self.breaker.note_wait(now, now - self._in_flight_at)
        if self.breaker.is_open:  # also for a request that was in flight then and was queued again
            self.give_up_clients(self.breaker.refusal(now), now)

    def give_up_clients(self, error: BmcmedicError, now: float) -> None:
        """Complete all waiting clients' requests with that error or a cached answer.

        The lock is held.
        """
        for request in self._queues.drain_clients():
            self._settle_without_bmc(request, error, now)

    def _settle_without_bmc(self, request: Request, error: BmcmedicError, now: float) -> None:
        """Answer a read from the cache where possible, and any other request with the error."""
        cached = self._cached_answers.get(request.key, now) if request.idempotent else None
        self.counts["old_answers"] += request.settle_without_bmc(cached, error)

    def status(self) -> dict[str, Any]:
        """Return what the driver is doing as JSON data; durations are in seconds."""
        now = self._runtime.monotonic()
        last_answer_at = self._last_answer_at
        with held(self._requests_lock):
            self._notice_silence(now)
            return {
                "interface": self.interface.name,
                "interface_missing": self.breaker.interface_missing,
                "breaker": self.breaker.describe(now),
                "parked": self.parking.describe(),
                "last_answer_age_s": None if last_answer_at is None else now - last_answer_at,
                **self._queues.describe(),
                "worker_alive": self._worker.is_alive,
                "counts": dict(self.counts),
            }
