"""The driver's socket server: one thread serves all clients and waits for none.

The thread blocks in one place, and `ServerLimits` bounds everything that clients can make it hold
or do. The contract with them is `docs/reference/driver-socket.md`.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from bmcmedic.driver.socket import policy
from bmcmedic.driver.socket.backend import DriverBackend, WatchdogBackend
from bmcmedic.driver.socket.connection import Connection, Pending, ServerLimits, error_frame
from bmcmedic.driver.socket.errors import Cancelled, ErrorKind
from bmcmedic.driver.socket.listener import Listener, peer_of
from bmcmedic.driver.socket.orders import OrderDispatcher
from bmcmedic.driver.socket.policy import Access, Peer, Rights
from bmcmedic.driver.socket.protocol import (
    AnswerFrame,
    BadLine,
    CancelAnswer,
    CancelFrame,
    ErrorFrame,
    LineTooLong,
    ParkFrame,
    RequestFrame,
    ServerFrame,
    StatusAnswer,
    StatusFrame,
    WatchdogFrame,
    decode_question,
    encode_answer,
)
from bmcmedic.errors import NoAnswer, QueueFull
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.service.runtime import Runtime

SEND_BUFFER_BYTES = 32_768
"""What the kernel buffers for a client that does not read, in bytes."""

REPORT_PERIOD_S = 60.0
"""Shortest time between two reports of one kind, in seconds."""

_NEVER: Final = float("inf")
_GONE: Final = select.EPOLLHUP | select.EPOLLERR


class SocketServer:
    """Serves one listening socket; `run` is the body of its thread."""

    def __init__(
        self,
        listener: Listener,
        driver: DriverBackend,
        watchdog: WatchdogBackend | None,
        runtime: Runtime,
        access: Access | None = None,
        limits: ServerLimits | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.limits = limits or ServerLimits()
        self.counts: Counter[str] = Counter()
        self._listener = listener
        self._listener_fd = listener.socket.fileno()
        self._driver = driver
        self._watchdog = watchdog
        self._runtime = runtime
        self.access = access or Access()
        """May be replaced at run time; it then applies to clients that connect later."""
        self._orders = OrderDispatcher(driver, watchdog, self.counts)
        self._report_line = report
        self._reported: dict[str, float] = {}
        self._connections: dict[int, Connection] = {}
        self._uid_connections: Counter[int] = Counter()
        self._uid_in_flight: Counter[int] = Counter()
        self._with_work: dict[int, Connection] = {}
        """Connections with lines left from their last turn."""
        self._completed: deque[Pending] = deque()
        # Kept open as long as the object lives: a late completion must not write into another file.
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._due = _NEVER
        self._swept_at = -_NEVER
        self._accept_again_at: float | None = None
        self._busy_debt_s = 0.0

    # ----------------------------------------------------------------------- from other threads

    def stop(self) -> None:
        """Let `run` return; any thread may call it, and a signal handler too."""
        self._stopping = True
        self._wake()

    def close(self) -> None:
        """Close the rest, once no request can be completed any more."""
        self._listener.close()
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1

    def _push(self, pending: Pending) -> None:
        """Take a completed request; called in any thread, with the driver's lock held."""
        self._completed.append(pending)
        self._wake()

    def _wake(self) -> None:
        # A closed descriptor or a full counter is no problem: the thread is awake then.
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake_fd, 1)

    # ------------------------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Serve until `stop`; then tell the waiting clients, and remove the socket."""
        self._epoll = select.epoll()
        try:
            self._epoll.register(self._wake_fd, select.EPOLLIN)
            self._epoll.register(self._listener_fd, select.EPOLLIN)
            while not self._stopping:
                self._turn()
        finally:
            for connection in list(self._connections.values()):
                self._close_with(connection, ErrorKind.STOPPING, "the driver is stopping")
                self._drop(connection)
            self._epoll.close()
            self._listener.close()

    def _turn(self) -> None:
        monotonic = self._runtime.monotonic
        waits_from = monotonic()
        events = self._epoll.poll(self._wait_s(waits_from), self.limits.events_per_turn_max)
        now = monotonic()
        self._busy_debt_s = max(0.0, self._busy_debt_s - (now - waits_from))
        touched = self._with_work
        self._with_work = {}
        accepts = False
        for fd, flags in events:
            if fd == self._wake_fd:
                os.eventfd_read(fd)
            elif fd == self._listener_fd:
                accepts = True
            elif (connection := self._connections.get(fd)) is None:
                pass
            elif flags & _GONE:
                touched.pop(fd, None)
                self._drop(connection)
            else:
                touched[fd] = connection
        for connection in touched.values():
            self._serve(connection, now)
        self._complete(now)
        if now >= max(self._due, self._swept_at + self.limits.sweep_s_min):
            self._sweep(now)
        if accepts:  # last: a new connection may get a descriptor that was in `events`
            self._accept(now)
        self._rest(monotonic() - now)

    def _wait_s(self, now: float) -> float | None:
        if self._with_work or self._completed:
            return 0.0
        due = max(self._due, self._swept_at + self.limits.sweep_s_min)
        return None if due == _NEVER else max(0.0, due - now)

    def _rest(self, worked_s: float) -> None:
        """Leave the processor and the interpreter to the pat thread for a while."""
        share = self.limits.busy_share_max
        debt_s = self._busy_debt_s + worked_s * (1 - share) / share
        self._busy_debt_s = min(debt_s, self.limits.rest_s_max)
        if debt_s >= self.limits.busy_debt_s_max:
            before = self._runtime.monotonic()
            self._runtime.sleep(self._busy_debt_s)
            slept_s = self._runtime.monotonic() - before
            self._busy_debt_s = max(0.0, self._busy_debt_s - slept_s)

    # ------------------------------------------------------------------------ opening and closing

    def _accept(self, now: float) -> None:
        for _ in range(self.limits.accepts_per_turn_max):
            try:
                connected, _address = self._listener.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._report(f"no connection can be accepted: {error.strerror}", "accept", now)
                self._epoll.unregister(self._listener_fd)
                self._accept_again_at = now + self.limits.accept_pause_s
                self._due = min(self._due, self._accept_again_at)
                return
            connected.setblocking(False)
            try:
                self._admit(connected, now)
            except OSError:
                connected.close()  # it is gone already

    def _admit(self, connected: socket.socket, now: float) -> None:
        peer = peer_of(connected)
        rights = self.access.rights(peer)
        refused = self._admission_error(peer, rights)
        if refused is not None:
            self.counts[f"refused_{refused.kind.name.lower()}"] += 1
            self._report(f"{peer}: {refused.message}", refused.kind.value, now)
            connected.send(encode_answer(refused))
            connected.close()
            return
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        connection = Connection(connected, peer, rights, self.limits, now)
        self._epoll.register(connection.fd, connection.interest)
        self._connections[connection.fd] = connection
        self._uid_connections[peer.uid] += 1
        self._due = min(self._due, connection.next_due())
        self.counts["accepted"] += 1

    def _admission_error(self, peer: Peer, rights: Rights) -> ErrorFrame | None:
        limits = self.limits
        if rights is Rights.NONE:
            return ErrorFrame(
                None, ErrorKind.NO_RIGHTS, f"uid {peer.uid} has no rights on this socket"
            )
        if self._uid_connections[peer.uid] >= limits.connections_per_uid_max:
            message = f"uid {peer.uid} has {limits.connections_per_uid_max} connections already"
            return ErrorFrame(None, ErrorKind.TOO_MANY, message)
        if len(self._connections) >= limits.connections_max:
            message = f"there are {limits.connections_max} connections already"
            return ErrorFrame(None, ErrorKind.TOO_MANY, message)
        return None

    def _drop(self, connection: Connection) -> None:
        """Close a connection and abandon its requests."""
        if self._connections.pop(connection.fd, None) is None:
            return
        self._abandon_all(connection)
        uid = connection.peer.uid
        self._uid_connections[uid] -= 1
        for counter in (self._uid_connections, self._uid_in_flight):
            if not counter[uid]:
                del counter[uid]
        self._epoll.unregister(connection.fd)
        connection.socket.close()

    def _close_with(self, connection: Connection, kind: ErrorKind, message: str) -> None:
        """Tell a connection why it is closed.

        It is dropped when it has read that, or soon after.
        """
        now = self._runtime.monotonic()
        self._abandon_all(connection)
        if connection.closing_since is None:
            self.counts[f"closed_{kind.name.lower()}"] += 1
            connection.closing_since = now
            connection.half_line_since = None
            connection.put(ErrorFrame(None, kind, message), now)
        try:
            connection.flush(now)
        except OSError:
            connection.output.clear()

    def _abandon_all(self, connection: Connection) -> None:
        for pending in list(connection.pending.values()):
            self._forget(pending)
            self._driver.abandon(pending.request)

    def _forget(self, pending: Pending) -> bool:
        """Stop waiting for a request; return False when it was answered or forgotten before."""
        connection = pending.connection
        if connection.pending.get(pending.frame_id) is not pending:
            return False
        del connection.pending[pending.frame_id]
        self._uid_in_flight[connection.peer.uid] -= 1
        return True

    # ---------------------------------------------------------------------------------- serving

    def _serve(self, connection: Connection, now: float) -> None:
        """Give a connection its turn: read, work on a few lines, send."""
        try:
            connection.flush(now)
            connection.read(now)
            took_line = False
            for _ in range(self.limits.lines_per_turn_max):
                line = connection.reader.next_line() if connection.takes_lines else None
                if line is None:
                    break
                took_line = True
                self._answer_line(connection, line, now)
            connection.note_half_line(now, took_line=took_line)
        except LineTooLong as error:
            self._close_with(connection, ErrorKind.TOO_LONG, str(error))
        except OSError:
            self._drop(connection)
            return
        except Exception as error:  # noqa: BLE001 - no client may end the thread
            self.counts["internal_errors"] += 1
            self._report(f"{connection.peer}: {error!r}", "internal", now)
            self._close_with(connection, ErrorKind.FAILED, "the driver failed on this request")
        self._after(connection, now)

    def _after(self, connection: Connection, now: float) -> None:
        """Send what is queued, and update what is waited for."""
        try:
            connection.flush(now)
        except OSError:
            self._drop(connection)
            return
        if connection.is_over:
            self._drop(connection)
            return
        if connection.has_work:
            self._with_work[connection.fd] = connection
        interest = connection.wanted_interest()
        if interest != connection.interest:
            self._epoll.modify(connection.fd, interest)
            connection.interest = interest
        self._due = min(self._due, connection.next_due())

    def _answer_line(self, connection: Connection, line: bytes, now: float) -> None:
        answer: ServerFrame | None
        try:
            frame = decode_question(line)
            if frame.frame_id in connection.pending:
                raise BadLine(f"id {frame.frame_id} is in flight already")
            match frame:
                case RequestFrame():
                    answer = self._request(connection, frame, now)
                case StatusFrame():
                    answer = StatusAnswer(frame.frame_id, self.status())
                case WatchdogFrame():
                    answer = self._orders.to_watchdog(frame, connection.rights)
                case ParkFrame():
                    answer = self._orders.to_park(frame, connection.rights)
                case CancelFrame():
                    answer = self._cancel(connection, frame, now)
        except BadLine as error:
            self.counts["bad_lines"] += 1
            answer = ErrorFrame(error.frame_id, ErrorKind.BAD_REQUEST, str(error))
        if answer is not None:
            connection.put(answer, now)

    def _request(
        self, connection: Connection, frame: RequestFrame, now: float
    ) -> ServerFrame | None:
        refused = policy.refusal(
            frame.netfn,
            frame.command,
            target=frame.bridge,
            rights=connection.rights,
            watchdog_in_charge=self._watchdog_in_charge,
        )
        if refused is not None:
            self.counts["refused_requests"] += 1
            return AnswerFrame(frame.frame_id, refused.completion_code, reason=refused.reason)
        pending = Pending(connection, frame, now, self._push)
        try:
            self._begin(pending)
            self._driver.submit(pending.request)
        except QueueFull as error:
            self._forget(pending)
            self.counts["node_busy"] += 1
            return AnswerFrame(frame.frame_id, CompletionCode.NODE_BUSY, reason=str(error))
        self.counts["requests"] += 1
        return None

    def _watchdog_in_charge(self) -> bool:
        return self._watchdog is not None and bool(self._watchdog.status()["in_charge"])

    def _begin(self, pending: Pending) -> None:
        """Count the request; raises QueueFull."""
        connection, limits = pending.connection, self.limits
        uid = connection.peer.uid
        if len(connection.pending) >= limits.in_flight_max:
            raise QueueFull(f"{limits.in_flight_max} requests of this connection are in flight")
        if self._uid_in_flight[uid] >= limits.in_flight_per_uid_max:
            raise QueueFull(f"{limits.in_flight_per_uid_max} requests of uid {uid} are in flight")
        connection.pending[pending.frame_id] = pending
        self._uid_in_flight[uid] += 1

    def _cancel(self, connection: Connection, frame: CancelFrame, now: float) -> ServerFrame:
        pending = connection.pending.get(frame.cancelled_id)
        if pending is None:
            return CancelAnswer(frame.frame_id, cancelled=False)
        self._forget(pending)
        self._driver.abandon(pending.request)
        cancelled = Cancelled(f"given up by the request with id {frame.frame_id}")
        connection.put(error_frame(frame.cancelled_id, cancelled), now)
        return CancelAnswer(frame.frame_id, cancelled=True)

    def _complete(self, now: float) -> None:
        """Send the answers that the worker has completed."""
        touched: dict[int, Connection] = {}
        while self._completed:
            pending = self._completed.popleft()
            if self._forget(pending):
                connection = pending.connection
                connection.put(pending.answer(), now)
                connection.last_active = now
                touched[connection.fd] = connection
        for connection in touched.values():
            self._after(connection, now)

    def _sweep(self, now: float) -> None:
        """Close or answer everything that is overdue."""
        self._swept_at = now
        self._due = _NEVER
        if self._accept_again_at is not None:
            if now >= self._accept_again_at:
                self._accept_again_at = None
                self._epoll.register(self._listener_fd, select.EPOLLIN)
            else:
                self._due = self._accept_again_at
        late = [
            pending
            for connection in self._connections.values()
            for pending in connection.pending.values()
            if now >= pending.deadline
        ]
        if late:
            self._driver.expire()
            self._complete(now)
        for pending in late:
            if self._forget(pending):  # normally the driver has done it; no client waits for ever
                self._driver.abandon(pending.request)
                error = NoAnswer("the deadline passed; the BMC may still execute the request")
                pending.connection.put(error_frame(pending.frame_id, error), now)
        for connection in list(self._connections.values()):
            closing_since = connection.closing_since
            if closing_since is not None and now >= closing_since + self.limits.closing_s_max:
                self._drop(connection)
                continue
            overdue = connection.overdue(now) if closing_since is None else None
            if overdue is not None:
                self._close_with(connection, ErrorKind.TOO_SLOW, overdue)
            self._after(connection, now)

    # -------------------------------------------------------------------------------------- status

    def status(self) -> dict[str, Any]:
        """Return the state of driver, watchdog and socket as JSON data; any thread may call it."""
        watchdog = self._watchdog
        return {
            "driver": self._driver.status(),
            "watchdog": None if watchdog is None else watchdog.status(),
            "socket": {
                "connections": len(self._connections),
                "in_flight": sum(list(self._uid_in_flight.values())),
                "counts": dict(self.counts),
            },
        }

    def _report(self, message: str, kind: str, now: float) -> None:
        """Report it, but not each time that a client causes it."""
        last = self._reported.get(kind)
        if self._report_line is not None and (last is None or now >= last + REPORT_PERIOD_S):
            self._reported[kind] = now
            self._report_line(message)
