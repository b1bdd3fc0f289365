"""One connection of the driver's socket: what came in, what waits, what has to go out."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from dataclasses import dataclass

from bmcmedic.driver.parking import Parked
from bmcmedic.driver.requests import Request
from bmcmedic.driver.socket.errors import ErrorKind, details_of, kind_of, message_of
from bmcmedic.driver.socket.policy import Peer, Rights
from bmcmedic.driver.socket.protocol import (
    LINE_BYTES_MAX,
    AnswerFrame,
    ErrorFrame,
    LineReader,
    LineTooLong,
    RequestFrame,
    ServerFrame,
    encode_answer,
)
from bmcmedic.errors import BmcmedicError

READ_BYTES_MAX = 4096
"""Taken from one connection before the next has its turn."""

_RESPONSE_BYTES_MIN = 3
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How much the socket's users may have, all together and each."""

    connections_max: int = 256
    connections_per_uid_max: int = 192
    in_flight_max: int = 8
    """Requests of one connection."""
    in_flight_per_uid_max: int = 48
    """Below what the driver queues, so that one user's pile-up leaves room for the others."""
    output_bytes_max: int = 32_768
    """Answers that a connection has not read; no request of it is read while there are more."""
    half_line_s_max: float = 10.0
    """From a line's first byte to its newline."""
    unread_s_max: float = 10.0
    """That a connection may let its answers lie."""
    idle_s_max: float = 600.0
    closing_s_max: float = 2.0
    """For the last line to a connection that is closed."""
    accept_pause_s: float = 0.5
    """When there are no file descriptors left."""
    sweep_s_min: float = 0.1
    """Between two looks at what is overdue."""
    accepts_per_turn_max: int = 16
    lines_per_turn_max: int = 4
    events_per_turn_max: int = 64
    busy_share_max: float = 0.5
    """Of a processor, that all users together can make this thread take."""
    busy_debt_s_max: float = 0.002
    """How long it may work before it makes up for it."""
    rest_s_max: float = 0.02
    """A turn that was long because the thread did not run is no reason for a long rest."""


class Pending:
    """A request that a connection waits for."""

    __slots__ = ("accept_old", "connection", "deadline", "frame_id", "request", "_push")

    def __init__(
        self,
        connection: Connection,
        frame: RequestFrame,
        now: float,
        push: Callable[[Pending], None],
    ) -> None:
        self.connection = connection
        self.frame_id = frame.frame_id
        self.accept_old = frame.accept_old
        self.deadline = now + frame.deadline_s
        self.request = Request(
            frame.message, deadline=self.deadline, target=frame.bridge, on_done=self._done
        )
        self._push = push

    def _done(self, _request: Request) -> None:
        """The driver's `on_done`: any thread, with the driver's lock held."""
        self._push(self)

    def answer(self) -> ServerFrame:
        """What its client is told."""
        request = self.request
        response, age_s = request.response, request.answer_age_s
        if request.error is not None:
            return error_frame(self.frame_id, request.error)
        if response is None or len(response) < _RESPONSE_BYTES_MIN:
            return ErrorFrame(self.frame_id, ErrorKind.FAILED, "the driver has no response")
        if age_s is not None and not self.accept_old:
            kind, told = ErrorKind.BREAKER_OPEN, "the BMC does not answer"
            if isinstance(request.cached_because, Parked):
                kind, told = ErrorKind.PARKED, str(request.cached_because)
            told += f"; there is an answer from {age_s:.1f} s ago for those who say accept_old"
            return ErrorFrame(self.frame_id, kind, told)
        return AnswerFrame(self.frame_id, response[2], response[3:], age_s)


def error_frame(frame_id: int | None, error: BmcmedicError) -> ErrorFrame:
    """The frame that tells of an error."""
    return ErrorFrame(frame_id, kind_of(error), message_of(error), details_of(error))


class Connection:
    """The state of one connection; it never blocks, and it holds no more than its limits say."""

    __slots__ = (
        "closing_since", "fd", "half_line_since", "interest", "last_active", "output", "peer",
        "pending", "read_ended", "reader", "rights", "socket", "unread_since", "_limits",
    )  # fmt: skip

    def __init__(
        self,
        connected: socket.socket,
        peer: Peer,
        rights: Rights,
        limits: ServerLimits,
        now: float,
    ) -> None:
        self.socket = connected
        self.fd = connected.fileno()
        self.peer = peer
        self.rights = rights
        self.reader = LineReader(LINE_BYTES_MAX)
        self.output = bytearray()
        self.pending: dict[int, Pending] = {}
        self.read_ended = False
        """The client sends no more; it may still wait for answers."""
        self.interest = select.EPOLLIN
        self.last_active = now
        self.half_line_since: float | None = None
        self.unread_since: float | None = None
        self.closing_since: float | None = None
        """From when on it only hears its last line."""
        self._limits = limits

    @property
    def takes_lines(self) -> bool:
        """Whether what it asks is worked on; not while it does not read its answers."""
        return self.closing_since is None and len(self.output) < self._limits.output_bytes_max

    @property
    def has_work(self) -> bool:
        """Whether there is a line to work on without reading."""
        return self.takes_lines and self.reader.has_line

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do for it."""
        if self.output:
            return False
        if self.closing_since is not None:
            return True
        return self.read_ended and not self.pending and not self.reader.has_line

    def wanted_interest(self) -> int:
        """What to wait for; that the client is gone is always told."""
        wanted = 0
        if self.takes_lines and not self.read_ended and not self.reader.has_line:
            wanted |= select.EPOLLIN
        if self.output:
            wanted |= select.EPOLLOUT
        return wanted

    def read(self, now: float) -> None:
        """Take what there is, once; raises OSError when the client is gone."""
        if self.read_ended or not self.takes_lines or self.reader.has_line:
            return
        try:
            data = self.socket.recv(READ_BYTES_MAX)
        except BlockingIOError:
            return
        self.last_active = now
        if not data:
            self.read_ended = True
            self.half_line_since = None
            return
        self.reader.feed(data)

    def note_half_line(self, now: float, *, took_line: bool) -> None:
        """Keep the moment since when a line is unfinished."""
        if self.read_ended or not self.reader.held_bytes or self.reader.has_line:
            self.half_line_since = None
        elif self.half_line_since is None or took_line:
            self.half_line_since = now

    def put(self, frame: ServerFrame, now: float) -> None:
        """Queue a line."""
        try:
            line = encode_answer(frame)
        except (LineTooLong, ValueError, TypeError, RecursionError) as error:
            # What an answer is made of is our own, and no reason to fail those who wait.
            told = f"the driver cannot say it: {error}"
            line = encode_answer(ErrorFrame(frame.frame_id, ErrorKind.FAILED, told))
        self.output += line
        if self.unread_since is None:
            self.unread_since = now

    def flush(self, now: float) -> None:
        """Send what it takes now; raises OSError when the client is gone."""
        if not self.output:
            return
        try:
            sent = self.socket.send(self.output)
        except BlockingIOError:
            return
        del self.output[:sent]
        self.last_active = now
        self.unread_since = now if self.output else None

    def overdue(self, now: float) -> str | None:
        """What it has let pass, in the words that it is told."""
        limits = self._limits
        if (
            self.half_line_since is not None
            and now >= self.half_line_since + limits.half_line_s_max
        ):
            return f"a line was not finished within {limits.half_line_s_max:g} s"
        if self.unread_since is not None and now >= self.unread_since + limits.unread_s_max:
            return f"answers were not read for {limits.unread_s_max:g} s"
        if not self.pending and now >= self.last_active + limits.idle_s_max:
            return f"nothing was asked for {limits.idle_s_max:g} s"
        return None

    def next_due(self) -> float:
        """When something of it may be overdue."""
        limits = self._limits
        due = self.last_active + limits.idle_s_max if not self.pending else _NEVER
        if self.closing_since is not None:
            due = min(due, self.closing_since + limits.closing_s_max)
        if self.half_line_since is not None:
            due = min(due, self.half_line_since + limits.half_line_s_max)
        if self.unread_since is not None:
            due = min(due, self.unread_since + limits.unread_s_max)
        for pending in self.pending.values():
            due = min(due, pending.deadline)
        return due
