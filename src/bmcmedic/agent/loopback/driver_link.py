"""The agent's way to the driver: one connection, many requests in flight, in an event loop.

It is made when it is needed and made anew when the driver was restarted; who asks while there is
no driver is told at once. What the driver takes from one connection at a time is kept to here, and
the rest waits its turn, no longer than its own deadline.
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
"""Of requests; the last one is left for a question about the driver itself."""
WAITING_MAX = 256
ANSWER_GRACE_S = 2.0
"""The driver says itself that a deadline has passed; this much later it is taken for dead."""
CONNECT_S_MAX = 1.0

Done: TypeAlias = Callable[[ServerFrame], None]


class _Asked:
    """A question that has no answer yet."""

    __slots__ = ("deadline", "done", "frame", "may_share", "timer")

    def __init__(self, frame: RequestFrame | StatusFrame, deadline: float, done: Done) -> None:
        self.frame = frame
        self.deadline = deadline
        self.done = done
        self.timer: asyncio.TimerHandle | None = None
        self.may_share = False
        """Whether what the driver says from now on was answered after this was asked."""

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
        self._waiting: deque[_Asked] = deque()
        self._in_flight: dict[int, _Asked] = {}
        self._requests_in_flight = 0
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._transport is not None

    @property
    def unanswered(self) -> int:
        """How many questions wait for their turn or their answer."""
        return len(self._waiting) + len(self._in_flight)

    def ask(self, frame: RequestFrame, done: Done) -> None:
        """Send a request under an id of ours; `done` is called once, later, with what came of it.

        `deadline_s` counts from now, the time that it waits for its turn included. Whatever goes
        wrong comes as an ErrorFrame, as if the driver had said it.
        """
        if len(self._waiting) >= WAITING_MAX:
            error = QueueFull(f"{WAITING_MAX} requests wait already")
            self._running_loop().call_soon(done, error_frame(error))
            return
        self._take(_Asked(frame, self._running_loop().time() + frame.deadline_s, done))

    async def status(self, timeout_s: float) -> dict[str, Any]:
        """How the driver is. Raises: what `socket_errors` has for it."""
        loop = self._running_loop()
        answered: asyncio.Future[ServerFrame] = loop.create_future()

        def done(frame: ServerFrame) -> None:
            if not answered.done():
                answered.set_result(frame)

        self._take(_Asked(StatusFrame(0), loop.time() + timeout_s, done))
        answer = await answered
        if isinstance(answer, StatusAnswer):
            return answer.status
        if isinstance(answer, ErrorFrame):
            raise to_error(answer.kind, answer.message, answer.details or {})
        raise DriverGone("the driver answered another question", may_have_run=False)

    async def close(self) -> None:
        """Hang up; who still waits is told."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        everybody = [*self._waiting, *self._in_flight.values()]
        self._waiting.clear()
        self._in_flight.clear()
        self._requests_in_flight = 0
        for asked in everybody:
            self._tell(asked, _unavailable("the agent is ending"))

    # --------------------------------------------------------------------------------- sending

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _take(self, asked: _Asked) -> None:
        loop = self._running_loop()
        asked.timer = loop.call_at(asked.deadline, self._late, asked)
        if asked.is_request:
            self._waiting.append(asked)
        else:
            self._waiting.appendleft(asked)
        # What is read in this turn or the next may lie in the socket already.
        loop.call_soon(loop.call_soon, setattr, asked, "may_share", True)
        self._pump()

    def _pump(self) -> None:
        """Send what may be sent."""
        if self._transport is None:
            if self._waiting and self._connecting is None:
                self._connecting = self._running_loop().create_task(self._connect())
            return
        while self._waiting:
            asked = self._waiting[0]
            if asked.is_request and self._requests_in_flight >= IN_FLIGHT_MAX:
                return
            self._waiting.popleft()
            self._send(asked)

    def _send(self, asked: _Asked) -> None:
        assert self._transport is not None
        frame_id = next(self._ids) % ID_MAX
        left_s = max(0.0, asked.deadline - self._running_loop().time())
        line: ClientFrame
        if isinstance(asked.frame, RequestFrame):
            line = replace(asked.frame, frame_id=frame_id, deadline_s=left_s)
            self._requests_in_flight += 1
        else:
            line = StatusFrame(frame_id)
        self._in_flight[frame_id] = asked
        # From here on the driver keeps the time; we only see to it that it lives.
        if asked.timer is not None:
            asked.timer.cancel()
        late_at = asked.deadline + ANSWER_GRACE_S
        asked.timer = self._running_loop().call_at(late_at, self._silent, frame_id)
        self._transport.write(encode_question(line))

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await self._running_loop().create_unix_connection(
                    lambda: _Connection(self), self.path
                )
        except TimeoutError:
            problem = f"the driver at {self.path} takes no connection"
        except OSError as error:
            problem = f"no driver at {self.path}: {error.strerror or error}"
        else:
            self._connecting = None
            self._pump()
            return
        self._connecting = None
        waiting, self._waiting = self._waiting, deque()
        for asked in waiting:
            self._tell(asked, _unavailable(problem))

    # ------------------------------------------------------------------------------- receiving

    def connected(self, transport: asyncio.Transport) -> None:
        """There is a connection."""
        self._transport = transport
        self.counts["connections"] += 1

    def answered(self, frame: ServerFrame) -> None:
        """A line of the driver's came."""
        if frame.frame_id is None:
            # It closes now: the connection was idle, or had no rights.
            assert isinstance(frame, ErrorFrame)
            if self._transport is not None:
                self._transport.abort()
                self.lost(frame)
            return
        asked = self._in_flight.pop(frame.frame_id, None)
        if asked is None:
            return  # one whose time had passed
        self._requests_in_flight -= asked.is_request
        self._tell(asked, frame)
        question = _read(asked.frame)
        if question is not None and isinstance(frame, AnswerFrame) and _is_of_now(frame):
            self._share(question, frame)
        self._pump()

    def _share(self, question: bytes, answer: AnswerFrame) -> None:
        """Tell those who wait for their turn to ask the same, as the driver would have.

        A tool begins each session with the same four reads: without this, as many tools at once
        as are not in flight ask a slow BMC for them over and over.
        """
        same = [
            asked for asked in self._waiting if asked.may_share and _read(asked.frame) == question
        ]
        for asked in same:
            self._waiting.remove(asked)
            self.counts["shared"] += 1
            self._tell(asked, answer)

    def lost(self, last: ErrorFrame | None = None) -> None:
        """The connection is gone."""
        if self._transport is None:
            return
        self._transport = None
        self.counts["lost"] += 1
        if last is None:
            gone = f"the driver at {self.path} went away and had the request"
            last = error_frame(Interrupted(gone, may_have_run=True))
        self._requests_in_flight = 0
        in_flight, self._in_flight = self._in_flight, {}
        for asked in in_flight.values():
            self._tell(asked, last)
        self._pump()

    def is_of(self, transport: asyncio.BaseTransport) -> bool:
        """Whether that is the connection in use."""
        return transport is self._transport

    def _late(self, asked: _Asked) -> None:
        """Its deadline passed before it had its turn."""
        if asked in self._waiting:
            self._waiting.remove(asked)
            self._tell(asked, error_frame(NoAnswer("the deadline passed before it was sent")))

    def _silent(self, frame_id: int) -> None:
        """The driver did not even say that the deadline has passed."""
        asked = self._in_flight.pop(frame_id, None)
        if asked is None:
            return
        self._requests_in_flight -= asked.is_request
        self.counts["silent"] += 1
        if asked.is_request and self._transport is not None:
            self._transport.write(encode_question(CancelFrame(next(self._ids) % ID_MAX, frame_id)))
        self._tell(asked, error_frame(NoAnswer("the driver is silent")))
        self._pump()

    def _tell(self, asked: _Asked, frame: ServerFrame) -> None:
        if asked.timer is not None:
            asked.timer.cancel()
        asked.done(frame)


class _Connection(asyncio.Protocol):
    """Cuts what the driver says into lines."""

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
            # Something else than the driver; whoever waits is told that it went away.
            self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._lose()

    def _lose(self) -> None:
        transport = self._transport
        if transport is not None and self._link.is_of(transport):
            cast("asyncio.Transport", transport).abort()
            self._link.lost()


def _read(frame: RequestFrame | StatusFrame) -> bytes | None:
    """What one asks that the driver lets others share; None: it is nothing of that kind."""
    if isinstance(frame, RequestFrame) and frame.bridge is None and is_read(frame.message):
        return frame.message
    return None


def _is_of_now(answer: AnswerFrame) -> bool:
    """Whether the BMC has just said so: not once before, and not the driver in its place."""
    return answer.age_s is None and answer.reason is None


def error_frame(error: BmcmedicError) -> ErrorFrame:
    """An error of ours, in the driver's words."""
    return ErrorFrame(0, kind_of(error), message_of(error), details_of(error))


def _unavailable(message: str) -> ErrorFrame:
    return ErrorFrame(0, ErrorKind.STOPPING, message)
