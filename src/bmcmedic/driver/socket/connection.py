"""One connection of the driver's socket: its input, its waiting requests and its output."""

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
"""Bytes read from one connection before the next connection has its turn."""

_RESPONSE_BYTES_MIN = 3
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How much the socket's users may use, all together and each."""

    connections_max: int = 256
    connections_per_uid_max: int = 192
    in_flight_max: int = 8
    """Requests in flight of one connection."""
    in_flight_per_uid_max: int = 48
    """Fewer than the driver queues, so that one user's backlog leaves room for the others."""
    output_bytes_max: int = 32_768
    """Answers that a connection has not read, in bytes. While there are more, none of its requests
    is read."""
    half_line_s_max: float = 10.0
    """Longest time from a line's first byte to its newline, in seconds."""
    unread_s_max: float = 10.0
    """Longest time that a connection may leave its answers unread, in seconds."""
    idle_s_max: float = 600.0
    closing_s_max: float = 2.0
    """Time for the last line to a connection that is being closed, in seconds."""
    accept_pause_s: float = 0.5
    """Pause when no file descriptors are left, in seconds."""
    sweep_s_min: float = 0.1
    """Shortest time between two checks for overdue connections, in seconds."""
    accepts_per_turn_max: int = 16
    lines_per_turn_max: int = 4
    events_per_turn_max: int = 64
    busy_share_max: float = 0.5
    """Share of a processor that all users together can make this thread use."""
    busy_debt_s_max: float = 0.002
    """How long the thread may work before it must rest, in seconds."""
    rest_s_max: float = 0.02
    """Longest rest, in seconds. A turn that was long because the thread did not run causes no long
    rest."""


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
        """Pass the completed request on; any thread calls this, with the driver's lock held."""
        self._push(self)

    def answer(self) -> ServerFrame:
        """Return the frame that the client gets."""
        request = self.request
        response, age_s = request.response, request.answer_age_s
        if request.error is not None:
            return error_frame(self.frame_id, request.error)
        if response is None or len(response) < _RESPONSE_BYTES_MIN:
            return ErrorFrame(self.frame_id, ErrorKind.FAILED, "the driver has no response")
        if age_s is not None and not self.accept_old:
            kind, message = ErrorKind.BREAKER_OPEN, "the BMC does not answer"
            if isinstance(request.cached_because, Parked):
                kind, message = ErrorKind.PARKED, str(request.cached_because)
            message += f"; accept_old would allow a cached answer from {age_s:.1f} s ago"
            return ErrorFrame(self.frame_id, kind, message)
        return AnswerFrame(self.frame_id, response[2], response[3:], age_s)


def error_frame(frame_id: int | None, error: BmcmedicError) -> ErrorFrame:
    """Return the frame that reports an error."""
    return ErrorFrame(frame_id, kind_of(error), message_of(error), details_of(error))


class Connection:
    """The state of one connection; it never blocks, and its limits bound what it holds."""

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
        """Whether the client sends no more; it may still wait for answers."""
        self.interest = select.EPOLLIN
        self.last_active = now
        self.half_line_since: float | None = None
        self.unread_since: float | None = None
        self.closing_since: float | None = None
        """When the close began; since then the connection only gets its last line."""
        self._limits = limits

    @property
    def takes_lines(self) -> bool:
        """Whether its lines are worked on; not while it leaves its answers unread."""
        return self.closing_since is None and len(self.output) < self._limits.output_bytes_max

    @property
    def has_work(self) -> bool:
        """Whether a complete line waits to be worked on."""
        return self.takes_lines and self.reader.has_line

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do for the connection."""
        if self.output:
            return False
        if self.closing_since is not None:
            return True
        return self.read_ended and not self.pending and not self.reader.has_line

    def wanted_interest(self) -> int:
        """Return the events to wait for; a hang-up is always reported."""
        wanted = 0
        if self.takes_lines and not self.read_ended and not self.reader.has_line:
            wanted |= select.EPOLLIN
        if self.output:
            wanted |= select.EPOLLOUT
        return wanted

    def read(self, now: float) -> None:
        """Read once from the socket; raises OSError when the client is gone."""
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
        """Remember when an unfinished line began."""
        if self.read_ended or not self.reader.held_bytes or self.reader.has_line:
            self.half_line_since = None
        elif self.half_line_since is None or took_line:
            self.half_line_since = now

    def put(self, frame: ServerFrame, now: float) -> None:
        """Queue a line."""
        try:
            line = encode_answer(frame)
        except (LineTooLong, ValueError, TypeError, RecursionError) as error:
            # A defect in our own answer must not fail the clients that wait.
            message = f"the driver cannot encode its answer: {error}"
            line = encode_answer(ErrorFrame(frame.frame_id, ErrorKind.FAILED, message))
        self.output += line
        if self.unread_since is None:
            self.unread_since = now

    def flush(self, now: float) -> None:
        """Send what the socket takes now; raises OSError when the client is gone."""
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
        """Return which limit the connection has exceeded, as text for its client, or None."""
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
        """Return when the connection may next exceed a limit."""
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
