"""The proxy's connection to the driver: many requests in flight on one socket, in an event loop.

The link connects when a request needs it, and again after the driver was restarted. While there is
no driver, a request fails at once. The link keeps to the number of requests that the driver takes
from one connection. Further requests wait for their turn, until their own deadline at most.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias, cast

from bmcmedic.driver.read_commands import is_read
from bmcmedic.driver.socket.connection import ServerLimits
from bmcmedic.driver.socket.errors import (
    DriverGone,
    ErrorKind,
    details_of,
    kind_of,
    message_of,
    to_error,
)
from bmcmedic.driver.socket.listener import SOCKET_PATH_DEFAULT
from bmcmedic.driver.socket.protocol import (
    ANSWER_LINE_BYTES_MAX,
    ID_MAX,
    AnswerFrame,
    BadLine,
    CancelFrame,
    ClientFrame,
    ErrorFrame,
    LineReader,
    LineTooLong,
    RequestFrame,
    ServerFrame,
    StatusAnswer,
    StatusFrame,
    decode_answer,
    encode_question,
)
from bmcmedic.errors import BmcmedicError, NoAnswer, QueueFull
from bmcmedic.transport.in_band import Interrupted

IN_FLIGHT_MAX = ServerLimits().in_flight_max - 1
"""Requests in flight; one place is left for a question about the driver itself."""
WAITING_MAX = 256
"""Requests that wait for their turn; a further one fails at once."""
ANSWER_GRACE_S = 2.0
"""Time that the driver has to report a passed deadline, in seconds; then it counts as dead."""
CONNECT_S_MAX = 1.0
"""Longest time to connect, in seconds."""

Done: TypeAlias = Callable[[ServerFrame], None]


class _PendingQuestion:
    """A question that has no answer yet."""

    __slots__ = ("deadline", "done", "frame", "may_share", "timer")

    def __init__(self, frame: RequestFrame | StatusFrame, deadline: float, done: Done) -> None:
        self.frame = frame
        self.deadline = deadline
        self.done = done
        self.timer: asyncio.TimerHandle | None = None
        self.may_share = False
        """Whether any answer read from now on was given after this question came."""

    @property
    def is_request(self) -> bool:
        return isinstance(self.frame, RequestFrame)


class DriverLink:
    """One connection to the driver, for one event loop."""

    def __init__(self, path: str = SOCKET_PATH_DEFAULT) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ids = itertools.count(1)
        self._waiting: deque[_PendingQuestion] = deque()
        self._in_flight: dict[int, _PendingQuestion] = {}
        self._requests_in_flight = 0
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the link is connected now."""
        return self._transport is not None

    @property
    def unanswered(self) -> int:
        """Number of questions that wait for their turn or their answer."""
        return len(self._waiting) + len(self._in_flight)

    def ask(self, frame: RequestFrame, done: Done) -> None:
        """Send a request under an id of ours, and call `done` once, later, with the outcome.

        `deadline_s` counts from now and includes the wait for a turn. Any failure arrives as an
        ErrorFrame, as if the driver had sent it.
        """
        if len(self._waiting) >= WAITING_MAX:
            error = QueueFull(f"{WAITING_MAX} requests are waiting already")
            self._running_loop().call_soon(done, error_frame(error))
            return
        self._enqueue(_PendingQuestion(frame, self._running_loop().time() + frame.deadline_s, done))

    async def status(self, timeout_s: float) -> dict[str, Any]:
        """Return the status of the driver. Raises: the errors of `driver.socket.errors`."""
        loop = self._running_loop()
        answered: asyncio.Future[ServerFrame] = loop.create_future()

        def done(frame: ServerFrame) -> None:
            if not answered.done():
                answered.set_result(frame)

        self._enqueue(_PendingQuestion(StatusFrame(0), loop.time() + timeout_s, done))
        answer = await answered
        if isinstance(answer, StatusAnswer):
            return answer.status
        if isinstance(answer, ErrorFrame):
            raise to_error(answer.kind, answer.message, answer.details or {})
        raise DriverGone("the driver answered another question", may_have_run=False)

    async def close(self) -> None:
        """Close the connection; questions that still wait get an error."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        unanswered = [*self._waiting, *self._in_flight.values()]
        self._waiting.clear()
        self._in_flight.clear()
        self._requests_in_flight = 0
        for pending in unanswered:
            self._finish(pending, _unavailable("the agent is ending"))

    # --------------------------------------------------------------------------------- sending

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _enqueue(self, pending: _PendingQuestion) -> None:
        loop = self._running_loop()
        pending.timer = loop.call_at(pending.deadline, self._late, pending)
        if pending.is_request:
            self._waiting.append(pending)
        else:
            self._waiting.appendleft(pending)
        # An answer that is read in this turn or the next may be in the socket already.
        loop.call_soon(loop.call_soon, setattr, pending, "may_share", True)
        self._pump()

    def _pump(self) -> None:
        """Send as many questions as the limit allows."""
        if self._transport is None:
            if self._waiting and self._connecting is None:
                self._connecting = self._running_loop().create_task(self._connect())
            return
        while self._waiting:
            pending = self._waiting[0]
            if pending.is_request and self._requests_in_flight >= IN_FLIGHT_MAX:
                return
            self._waiting.popleft()
            self._send(pending)

    def _send(self, pending: _PendingQuestion) -> None:
        assert self._transport is not None
        frame_id = next(self._ids) % ID_MAX
        left_s = max(0.0, pending.deadline - self._running_loop().time())
        line: ClientFrame
        if isinstance(pending.frame, RequestFrame):
            line = replace(pending.frame, frame_id=frame_id, deadline_s=left_s)
            self._requests_in_flight += 1
        else:
            line = StatusFrame(frame_id)
        self._in_flight[frame_id] = pending
        # From here on the driver enforces the deadline; we only check that the driver is alive.
        if pending.timer is not None:
            pending.timer.cancel()
        late_at = pending.deadline + ANSWER_GRACE_S
        pending.timer = self._running_loop().call_at(late_at, self._silent, frame_id)
        self._transport.write(encode_question(line))

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await self._running_loop().create_unix_connection(
                    lambda: _Connection(self), self.path
                )
        except TimeoutError:
            problem = f"the driver at {self.path} accepts no connection"
        except OSError as error:
            problem = f"no driver at {self.path}: {error.strerror or error}"
        else:
            self._connecting = None
            self._pump()
            return
        self._connecting = None
        waiting, self._waiting = self._waiting, deque()
        for pending in waiting:
            self._finish(pending, _unavailable(problem))

    # ------------------------------------------------------------------------------- receiving

    def connected(self, transport: asyncio.Transport) -> None:
        """Use a new connection."""
        self._transport = transport
        self.counts["connections"] += 1

    def answered(self, frame: ServerFrame) -> None:
        """Handle a frame from the driver."""
        if frame.frame_id is None:
            # The driver is closing the connection, which was idle or had no rights.
            assert isinstance(frame, ErrorFrame)
            if self._transport is not None:
                self._transport.abort()
                self.lost(frame)
            return
        pending = self._in_flight.pop(frame.frame_id, None)
        if pending is None:
            return  # its deadline had passed
        self._requests_in_flight -= pending.is_request
        self._finish(pending, frame)
        question = _shareable_read(pending.frame)
        if question is not None and isinstance(frame, AnswerFrame) and _is_fresh(frame):
            self._share(question, frame)
        self._pump()

    def _share(self, question: bytes, answer: AnswerFrame) -> None:
        """Give an answer to waiting requests that ask the same, as the driver would.

        Each tool begins a session with the same four reads. Without this, all tools whose requests
        are not in flight would ask a slow BMC for them over and over.
        """
        same = [
            pending
            for pending in self._waiting
            if pending.may_share and _shareable_read(pending.frame) == question
        ]
        for pending in same:
            self._waiting.remove(pending)
            self.counts["shared"] += 1
            self._finish(pending, answer)

    def lost(self, last: ErrorFrame | None = None) -> None:
        """Fail the questions in flight: the connection is gone."""
        if self._transport is None:
            return
        self._transport = None
        self.counts["lost"] += 1
        if last is None:
            gone = f"the driver at {self.path} went away and had the request"
            last = error_frame(Interrupted(gone, may_have_run=True))
        self._requests_in_flight = 0
        in_flight, self._in_flight = self._in_flight, {}
        for pending in in_flight.values():
            self._finish(pending, last)
        self._pump()

    def is_of(self, transport: asyncio.BaseTransport) -> bool:
        """Return whether that is the connection in use."""
        return transport is self._transport

    def _late(self, pending: _PendingQuestion) -> None:
        """Fail a question whose deadline passed before its turn."""
        if pending in self._waiting:
            self._waiting.remove(pending)
            self._finish(pending, error_frame(NoAnswer("the deadline passed before it was sent")))

    def _silent(self, frame_id: int) -> None:
        """Fail a question that the driver left without any answer, even after its deadline."""
        pending = self._in_flight.pop(frame_id, None)
        if pending is None:
            return
        self._requests_in_flight -= pending.is_request
        self.counts["silent"] += 1
        if pending.is_request and self._transport is not None:
            self._transport.write(encode_question(CancelFrame(next(self._ids) % ID_MAX, frame_id)))
        self._finish(pending, error_frame(NoAnswer("the driver is silent")))
        self._pump()

    def _finish(self, pending: _PendingQuestion, frame: ServerFrame) -> None:
        if pending.timer is not None:
            pending.timer.cancel()
        pending.done(frame)


class _Connection(asyncio.Protocol):
    """Splits the driver's bytes into lines."""

    def __init__(self, link: DriverLink) -> None:
        self._link = link
        self._reader = LineReader(ANSWER_LINE_BYTES_MAX)
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._link.connected(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._reader.feed(data)
        try:
            while self._link.is_of(self._transport) and (line := self._reader.next_line()):
                self._link.answered(decode_answer(line))
        except (BadLine, LineTooLong):
            # The peer is not our driver; pending questions fail as if the driver had gone.
            self._drop()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._drop()

    def _drop(self) -> None:
        transport = self._transport
        if transport is not None and self._link.is_of(transport):
            cast("asyncio.Transport", transport).abort()
            self._link.lost()


def _shareable_read(frame: RequestFrame | StatusFrame) -> bytes | None:
    """Return the message of a read whose answer may be shared, or None for any other question."""
    if isinstance(frame, RequestFrame) and frame.bridge is None and is_read(frame.message):
        return frame.message
    return None


def _is_fresh(answer: AnswerFrame) -> bool:
    """Return whether the BMC has just given this answer: no stale one, and none of the driver."""
    return answer.age_s is None and answer.reason is None


def error_frame(error: BmcmedicError) -> ErrorFrame:
    """Return one of our errors as a frame of the driver."""
    return ErrorFrame(0, kind_of(error), message_of(error), details_of(error))


def _unavailable(message: str) -> ErrorFrame:
    return ErrorFrame(0, ErrorKind.STOPPING, message)
