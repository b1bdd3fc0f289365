"""The driver's client for Python programs: blocking, standard library only."""

from __future__ import annotations

import itertools
import select
import socket
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from bmcmedic.driver.parking import PARK_S_DEFAULT
from bmcmedic.driver.socket.errors import DriverGone, DriverUnavailable, NoRights, to_error
from bmcmedic.driver.socket.listener import SOCKET_PATH_DEFAULT
from bmcmedic.driver.socket.protocol import (
    ANSWER_LINE_BYTES_MAX,
    DEADLINE_S_DEFAULT,
    DEADLINE_S_MAX,
    ID_MAX,
    AnswerFrame,
    BadLine,
    ClientFrame,
    ErrorFrame,
    LineReader,
    LineTooLong,
    ParkAnswer,
    ParkFrame,
    RequestFrame,
    ServerFrame,
    StatusAnswer,
    StatusFrame,
    WatchdogAction,
    WatchdogAnswer,
    WatchdogFrame,
    decode_answer,
    encode_question,
)
from bmcmedic.errors import LocalProtocolError, QueueFull, Refused
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.transport.in_band import Ipmb

ANSWER_GRACE_S = 3.0
"""The driver itself reports a passed deadline. A driver that is silent for this much longer, in
seconds, counts as dead."""

CONNECT_RETRY_S = 0.02
"""Pause between attempts while the driver's backlog is full, in seconds."""

READ_BYTES_MAX = 4096

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class DriverAnswer:
    """A response with any completion code."""

    completion_code: int
    data: bytes
    age_s: float | None = None
    """Age of the response in seconds; None when the BMC gave it for this request."""
    reason: str | None = None
    """Why the driver itself refused; None when the completion code is the BMC's."""


class DriverClient:
    """One connection to the driver, made when it is needed, and again after it was lost.

    It is for one thread at a time; each thread has its own client.
    """

    def __init__(
        self, path: str = SOCKET_PATH_DEFAULT, timeout_s: float = DEADLINE_S_DEFAULT
    ) -> None:
        if not 0 < timeout_s <= DEADLINE_S_MAX:
            raise LocalProtocolError(
                f"the time-out must be at most {DEADLINE_S_MAX} s: {timeout_s}"
            )
        self.path = path
        self.timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._reader = LineReader(ANSWER_LINE_BYTES_MAX)
        self._ids = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next call connects again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._reader = LineReader(ANSWER_LINE_BYTES_MAX)

    def exchange(
        self,
        request: Command[R],
        *,
        lun: int = 0,
        bridge: Ipmb | None = None,
        accept_old: bool = False,
    ) -> R:
        """Send a request and return its decoded response.

        Raises: CompletionCodeError, RemoteProtocolError, NoAnswer, BreakerOpen, InterfaceGone,
        InterfaceBusy, Interrupted; QueueFull and Refused when the driver refused and sent nothing;
        DriverUnavailable, DriverGone, NoRights.
        """
        answer = self.raw(
            request.netfn,
            request.command,
            request.encode(),
            lun=lun,
            bridge=bridge,
            accept_old=accept_old,
        )
        if answer.reason is not None:
            busy = answer.completion_code == CompletionCode.NODE_BUSY
            raise (QueueFull if busy else Refused)(answer.reason)
        return request.decode_response(answer.completion_code, answer.data)

    def raw(
        self,
        netfn: int,
        command: int,
        data: bytes = b"",
        *,
        lun: int = 0,
        bridge: Ipmb | None = None,
        accept_old: bool = False,
    ) -> DriverAnswer:
        """Send any request; a completion code other than 0 is not an error here.

        Raises: as `exchange`, except CompletionCodeError, QueueFull and Refused.
        """
        frame = RequestFrame(
            self._next_id(), netfn, command, data, lun, bridge, self.timeout_s, accept_old
        )
        answer = self._ask(frame, self.timeout_s + ANSWER_GRACE_S)
        if not isinstance(answer, AnswerFrame):
            self._confused(answer)
        return DriverAnswer(answer.completion_code, answer.data, answer.age_s, answer.reason)

    def status(self) -> dict[str, Any]:
        """Return the state of driver, watchdog and socket.

        Raises: DriverUnavailable, DriverGone, NoRights.
        """
        answer = self._ask(StatusFrame(self._next_id()), self.timeout_s)
        if not isinstance(answer, StatusAnswer):
            self._confused(answer)
        return answer.status

    def watchdog(
        self, action: WatchdogAction = WatchdogAction.GET, seconds: float | None = None
    ) -> dict[str, Any]:
        """Return the watchdog's status, or give it an order.

        An order is accepted at once and carried out by the pat thread, which may have to wait for
        the BMC. `settled` in the answer to GET tells when the timer is as ordered.
        Raises: Refused, NoRights, DriverUnavailable, DriverGone.
        """
        answer = self._ask(WatchdogFrame(self._next_id(), action, seconds), self.timeout_s)
        if not isinstance(answer, WatchdogAnswer):
            self._confused(answer)
        return answer.watchdog

    def park(self, seconds: float = PARK_S_DEFAULT) -> dict[str, Any] | None:
        """Let the interface go for that long; it is let go when the status has `closed`.

        Raises: Refused, while the watchdog needs it; NoRights, DriverUnavailable, DriverGone.
        """
        return self._order_park(seconds)

    def resume(self) -> None:
        """End a park, if there is one. Raises: NoRights, DriverUnavailable, DriverGone."""
        self._order_park(None)

    def _order_park(self, seconds: float | None) -> dict[str, Any] | None:
        answer = self._ask(ParkFrame(self._next_id(), seconds), self.timeout_s)
        if not isinstance(answer, ParkAnswer):
            self._confused(answer)
        return answer.parked

    # ------------------------------------------------------------------------------- connection

    def _next_id(self) -> int:
        return next(self._ids) % ID_MAX

    def _ask(self, frame: ClientFrame, timeout_s: float) -> ServerFrame:
        """Send one question and return its answer.

        After any failure the connection is not used again.
        """
        until = time.monotonic() + timeout_s
        line = encode_question(frame)
        connected = self._connect(until)
        try:
            self._send(connected, line, until)
            answer = self._receive(connected, frame.frame_id, until)
        except BaseException:
            self.close()
            raise
        if isinstance(answer, ErrorFrame):
            if answer.frame_id is None:
                self.close()
            raise to_error(answer.kind, answer.message, answer.details or {})
        return answer

    def _connect(self, until: float) -> socket.socket:
        if self._socket is not None and self._is_dead(self._socket):
            self.close()
        if self._socket is not None:
            return self._socket
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            while True:
                try:
                    made.settimeout(max(0.001, until - time.monotonic()))
                    made.connect(self.path)
                    break
                except BlockingIOError:  # the backlog is full; connect() never waits for it
                    if time.monotonic() >= until:
                        raise DriverUnavailable(
                            f"the driver at {self.path} accepts no more connections"
                        ) from None
                    time.sleep(CONNECT_RETRY_S)
        except OSError as error:
            made.close()
            raise self._no_connection(error) from None
        except BaseException:
            made.close()
            raise
        self._socket = made
        return made

    def _no_connection(self, error: OSError) -> Exception:
        match error:
            case FileNotFoundError():
                return DriverUnavailable(f"no driver runs here: there is no {self.path}")
            case ConnectionRefusedError():
                return DriverUnavailable(
                    f"no driver runs here: {self.path} is left over from one that ended"
                )
            case PermissionError():
                return NoRights(f"this user may not open {self.path}")
        return DriverUnavailable(f"cannot connect to {self.path}: {error}")

    @staticmethod
    def _is_dead(connected: socket.socket) -> bool:
        """Return whether the driver hung up meanwhile, or sent something unasked."""
        poll = select.poll()
        poll.register(connected, select.POLLIN)
        return bool(poll.poll(0))

    def _send(self, connected: socket.socket, line: bytes, until: float) -> None:
        try:
            connected.settimeout(max(0.001, until - time.monotonic()))
            connected.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reason why it hung up may be readable
        except TimeoutError:
            raise DriverGone(
                f"the driver at {self.path} accepts no data", may_have_run=False
            ) from None

    def _receive(self, connected: socket.socket, frame_id: int, until: float) -> ServerFrame:
        while True:
            try:
                line = self._reader.next_line()
                if line is None:
                    connected.settimeout(max(0.001, until - time.monotonic()))
                    data = connected.recv(READ_BYTES_MAX)
                    if not data:
                        raise ConnectionResetError
                    self._reader.feed(data)
                    continue
                answer = decode_answer(line)
            except TimeoutError:
                raise DriverGone(
                    f"the driver at {self.path} has not answered", may_have_run=True
                ) from None
            except OSError:
                raise DriverGone(
                    f"the driver at {self.path} went away while it had the request",
                    may_have_run=True,
                ) from None
            except (BadLine, LineTooLong) as error:
                raise DriverGone(
                    f"{self.path} is served by another program than the driver: {error}",
                    may_have_run=True,
                ) from None
            if answer.frame_id in (frame_id, None):
                return answer

    def _confused(self, answer: ServerFrame) -> NoReturn:
        self.close()
        raise DriverGone(
            f"the driver at {self.path} answered another question: {type(answer).__name__}",
            may_have_run=True,
        )
