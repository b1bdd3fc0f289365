"""The loopback door: RMCP+ on 127.0.0.1 in front of the driver, for all tools that speak lanplus.

Sessions are the door's own, so setting one up never waits for a BMC. What is asked in a session
goes to the driver; what the driver says no to comes back as a completion code, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from bmcmedic.agent import proxy_files
from bmcmedic.agent.loopback.driver_link import DriverLink
from bmcmedic.agent.loopback.duplicates import DuplicateFilter, SentAnswer, Work
from bmcmedic.agent.loopback.flood_filter import FloodFilter
from bmcmedic.agent.proxy_files import ProxyFiles
from bmcmedic.driver.read_commands import READS
from bmcmedic.driver.socket.errors import ErrorKind
from bmcmedic.driver.socket.listener import SOCKET_PATH_DEFAULT
from bmcmedic.driver.socket.protocol import (
    DATA_BYTES_MAX,
    AnswerFrame,
    ErrorFrame,
    RequestFrame,
    ServerFrame,
)
from bmcmedic.errors import BmcmedicError, ConfigurationError, RemoteProtocolError
from bmcmedic.ipmi.bridge import second_part, wrapped_request
from bmcmedic.ipmi.commands.messaging import SendMessageReq
from bmcmedic.ipmi.constants import CompletionCode, PrivilegeLevel
from bmcmedic.ipmi.managed_system import IncomingRequest, ManagedSystem, User
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage
from bmcmedic.transport.addresses import Address, bind_udp
from bmcmedic.transport.aes import aes_cbc
from bmcmedic.transport.in_band import Ipmb

HOST = "127.0.0.1"
PORT_DEFAULT = 6230
CIPHER_SUITES = (3, 17)
SESSIONS_MAX = 128
SESSION_TIMEOUT_S = 60.0
DATAGRAM_BYTES_MAX = 512
DATAGRAMS_A_TURN_MAX = 32
RECEIVE_BUFFER_BYTES = 1 << 20
"""64 clients that begin at once, and what they repeat while the machine is too busy for us."""
REST_S_MAX = 0.05
LOOK_PERIOD_S = 1.0
"""How often the driver is asked whether the BMC answers."""
LOOK_S_MAX = 2.0

_CODES: Final[Mapping[ErrorKind, CompletionCode]] = {
    ErrorKind.BAD_REQUEST: CompletionCode.INVALID_DATA_FIELD,
    ErrorKind.TOO_MANY: CompletionCode.NODE_BUSY,
    ErrorKind.NO_RIGHTS: CompletionCode.INSUFFICIENT_PRIVILEGE,
    ErrorKind.CANCELLED: CompletionCode.TIMEOUT,
    ErrorKind.STOPPING: CompletionCode.DESTINATION_UNAVAILABLE,
    ErrorKind.NO_ANSWER: CompletionCode.TIMEOUT,
    ErrorKind.BMC_VIOLATION: CompletionCode.RESPONSE_UNAVAILABLE,
    ErrorKind.BMC_REFUSED: CompletionCode.RESPONSE_UNAVAILABLE,
    ErrorKind.INTERFACE_GONE: CompletionCode.DESTINATION_UNAVAILABLE,
    ErrorKind.INTERFACE_BUSY: CompletionCode.NODE_BUSY,
    ErrorKind.PARKED: CompletionCode.DESTINATION_UNAVAILABLE,
    ErrorKind.BREAKER_OPEN: CompletionCode.DESTINATION_UNAVAILABLE,
    ErrorKind.QUEUE_FULL: CompletionCode.NODE_BUSY,
    ErrorKind.REFUSED: CompletionCode.NOT_SUPPORTED_IN_STATE,
}
"""What tools that know nothing of a driver are told; any other error is `UNSPECIFIED`."""

_SILENT: Final[Mapping[ErrorKind, str]] = {
    ErrorKind.BREAKER_OPEN: "",
    ErrorKind.PARKED: "the interface is parked by order",
}
"""What tells of a silent BMC, and how."""

_WELL: Final = (proxy_files.WELL, "")

_SEND_MESSAGE: Final = (SendMessageReq.netfn, SendMessageReq.command)


@dataclass(frozen=True, slots=True)
class LoopbackSettings:
    """Where the door is, and how patient."""

    port: int = PORT_DEFAULT
    """0: any."""
    request_s: float = 15.0
    """How long one request may take; then the tool is told 0xC3."""
    old_answer_s_max: float = 60.0
    """While the BMC is silent, reads get answers up to this age: RMCP+ cannot tell of it."""
    shim: Mapping[str, str] = field(default_factory=dict)
    """What the shim is to know besides."""


class LoopbackServer:
    """`async with LoopbackDoor(...)`: open until the block ends."""

    def __init__(
        self,
        settings: LoopbackSettings | None = None,
        *,
        driver_path: str = SOCKET_PATH_DEFAULT,
        runtime_dir: str = proxy_files.RUNTIME_DIR,
        report: Callable[[str], None] = lambda _message: None,
    ) -> None:
        """`report` takes a line for the log."""
        self.settings = settings or LoopbackSettings()
        self.link = DriverLink(driver_path)
        self.counts: Counter[str] = Counter()
        self.address: Address = (HOST, 0)
        self._files = ProxyFiles(runtime_dir)
        self._report = report
        self._state: tuple[str, str] | None = None
        self._repeats = DuplicateFilter(2 * SESSIONS_MAX)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> LoopbackServer:
        """Raises: ConfigurationError when the port or the folder is another's."""
        self._loop = asyncio.get_running_loop()
        try:
            if not self._files.hold():
                raise ConfigurationError(
                    f"another agent has the door in {self._files.folder}: end it first"
                )
            self._open()
        except OSError as error:
            self._files.release()
            raise ConfigurationError(
                f"cannot open the loopback door: {error.filename or self._files.folder}: "
                f"{error.strerror or error}"
            ) from None
        except ConfigurationError:
            self._files.release()
            raise
        self._tasks = [self._loop.create_task(each) for each in (self._look_on(), self._renew())]
        return self

    def _open(self) -> None:
        self._socket = bind_udp((HOST, self.settings.port))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self.address = self._socket.getsockname()[:2]
            secret = self._files.secret()
            users = [
                User(number, name.encode(), secret, PrivilegeLevel.ADMINISTRATOR)
                for number, name in enumerate((proxy_files.USER, proxy_files.SHIM_USER), 2)
            ]
            self._managed_system = ManagedSystem(
                guid=os.urandom(16),
                users=users,
                random_bytes=os.urandom,
                aes=aes_cbc,
                cipher_suites=CIPHER_SUITES,
                session_slots=SESSIONS_MAX,
                session_timeout_s=SESSION_TIMEOUT_S,
                is_proxy=True,
            )
            self._tell_state(proxy_files.NO_DRIVER, "not asked yet")
            host, port = self.address
            self._files.publish(host, port, self.settings.request_s, dict(self.settings.shim))
        except OSError:
            self._socket.close()
            raise
        self._noise = FloodFilter(self._socket, self._has_session)
        self._loop.add_reader(self._socket.fileno(), self._readable)

    async def __aexit__(self, *_: object) -> None:
        # First of all nobody is sent here any more.
        self._files.release()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.link.close()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def status(self) -> dict[str, Any]:
        """How it stands."""
        state, reason = self._state or ("", "")
        return {
            "address": f"{self.address[0]}:{self.address[1]}",
            "state": state,
            "reason": reason,
            "sessions": self._managed_system.session_count,
            "unanswered": self.link.unanswered,
            "discarded_datagrams": self._managed_system.discarded_count + self._noise.dropped,
            "counts": dict(self.counts + self.link.counts),
        }

    # ------------------------------------------------------------------------------- datagrams

    def _readable(self) -> None:
        began = self._loop.time()
        for _ in range(DATAGRAMS_A_TURN_MAX):
            try:
                data, peer = self._socket.recvfrom(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of something that we sent
            self._receive(data, peer, self._loop.time())
        # So many come in a flood alone: the agent's other work has its turn, too.
        rest_s = min(REST_S_MAX, self._loop.time() - began)
        self._loop.remove_reader(self._socket.fileno())
        self._loop.call_later(rest_s, self._rested)

    def _rested(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def _receive(self, data: bytes, peer: Address, now: float) -> None:
        if self._noise.is_to_drop(peer, now):
            return
        outcome = self._managed_system.receive_datagram(data, peer, now)
        if isinstance(outcome, bytes):
            self._send(outcome, peer)
        elif outcome is not None and outcome.session_id is not None:
            self._noise.is_in_session(peer)
            self._forward(outcome, now)

    def _has_session(self, peer: Address) -> bool:
        return self._managed_system.has_session(peer, self._loop.time())

    def _send(self, datagram: bytes | None, peer: object) -> None:
        if datagram is None:
            return  # its session is gone
        with contextlib.suppress(OSError):  # a vanished peer, a full buffer: UDP promises nothing
            self._socket.sendto(datagram, cast("Address", peer))

    # ------------------------------------------------------------------------------ to the driver

    def _forward(self, incoming: IncomingRequest, now: float) -> None:
        message = incoming.message
        self.counts["requests"] += 1
        work = self._repeats.take(incoming, now)
        if work is not Work.NEW:
            # Its answer crossed with the repeat: what changes something must not run twice, and
            # what only reads need not.
            self.counts["repeats"] += 1
            if isinstance(work, SentAnswer):
                self._send_answer(incoming, work)
            return
        bridged = None
        request = message
        if (message.netfn, message.command) == _SEND_MESSAGE:
            try:
                bridged, request = _bridged(message)
            except RemoteProtocolError:
                self._respond(incoming, CompletionCode.INVALID_DATA_FIELD)
                return
        if len(request.data) > DATA_BYTES_MAX:
            self._respond(incoming, CompletionCode.DATA_LENGTH_INVALID)
            return
        frame = RequestFrame(
            0,
            request.netfn,
            request.command,
            request.data,
            0 if bridged else request.responder_lun,
            bridged,
            self.settings.request_s,
            accept_old=self.settings.old_answer_s_max > 0
            and self._managed_system.user_name(incoming) != proxy_files.SHIM_USER.encode(),
        )
        inner = None if bridged is None else request
        self.link.ask(frame, lambda answer: self._done(incoming, inner, answer))

    def _done(
        self, incoming: IncomingRequest, inner: RequestMessage | None, answer: ServerFrame
    ) -> None:
        asked = inner or incoming.message
        is_read = (asked.netfn, asked.command) in READS
        if isinstance(answer, AnswerFrame):
            if answer.age_s is not None:
                self.counts["old_answers"] += 1
            code, data, second = answer.completion_code, answer.data, None
            if answer.age_s is not None and answer.age_s > self.settings.old_answer_s_max:
                code, data = CompletionCode.DESTINATION_UNAVAILABLE, b""
            elif inner is not None and answer.reason is None:
                second = second_part(incoming.message, inner, code, data)
                code, data = CompletionCode.OK, b""
            self._respond(incoming, code, data, second, is_read=is_read)
            return
        code = CompletionCode.UNSPECIFIED
        if isinstance(answer, ErrorFrame):
            self.counts[f"error {answer.kind.value}"] += 1
            if answer.kind in _SILENT and self._state in (None, _WELL):
                # Who is told so may look at once how the BMC is.
                self._tell_state(proxy_files.SILENT, _SILENT[answer.kind])
            code = _completion_code(answer)
        self._respond(incoming, code, is_read=is_read)

    def _respond(
        self,
        incoming: IncomingRequest,
        completion_code: int,
        data: bytes = b"",
        second: ResponseMessage | None = None,
        *,
        is_read: bool = False,
    ) -> None:
        answer = SentAnswer(completion_code, data, second)
        if completion_code == CompletionCode.NODE_BUSY:  # refused for now, and asked again
            self._repeats.forget(incoming)
        else:
            self._repeats.answered(incoming, answer, self._loop.time(), is_read=is_read)
        self._send_answer(incoming, answer)

    def _send_answer(self, incoming: IncomingRequest, answer: SentAnswer) -> None:
        now = self._loop.time()
        datagram = self._managed_system.respond(incoming, answer.completion_code, answer.data, now)
        self._send(datagram, incoming.peer)
        if answer.second_part is not None:  # of a bridged request (section 6.13.3)
            datagram = self._managed_system.send_message(incoming, answer.second_part, now)
            self._send(datagram, incoming.peer)

    # ---------------------------------------------------------------------------- how the BMC is

    async def _look_on(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(LOOK_PERIOD_S)

    async def _renew(self) -> None:
        """Each second.

        Say again what was said last: that nobody says anything is how a dead loop is told.
        """
        while True:
            await asyncio.sleep(proxy_files.STATE_PERIOD_S)
            self._noise.release(self._loop.time())
            if self._state is not None:
                with contextlib.suppress(OSError):  # reported when it changes
                    self._files.tell_state(*self._state)

    async def _look(self) -> None:
        try:
            status: dict[str, Any] = await self.link.status(LOOK_S_MAX)
        except BmcmedicError as error:
            self._tell_state(proxy_files.NO_DRIVER, str(error))
            return
        driver = status.get("driver", {})
        breaker = driver.get("breaker", {})
        if driver.get("parked"):
            self._tell_state(proxy_files.SILENT, _SILENT[ErrorKind.PARKED])
        elif missing := driver.get("interface_missing"):
            self._tell_state(proxy_files.NO_INTERFACE, str(missing))
        elif breaker.get("open"):
            self._tell_state(proxy_files.SILENT, str(breaker.get("reason", "")))
        else:
            self._tell_state(*_WELL)

    def _tell_state(self, word: str, reason: str) -> None:
        if self._state == (word, reason):
            return
        try:
            self._files.tell_state(word, reason)
        except OSError as error:
            if self._state is None:
                raise
            self._report(f"cannot write {self._files.folder}: {error.strerror}")
            return
        self._state = (word, reason)


def _bridged(message: RequestMessage) -> tuple[Ipmb, RequestMessage]:
    """Whom a Send Message is for and what it carries; raises RemoteProtocolError."""
    send = SendMessageReq.decode(message.data)
    inner = wrapped_request(send)
    return Ipmb(send.channel, inner.responder, inner.responder_lun), inner


def _completion_code(error: ErrorFrame) -> CompletionCode:
    if error.kind is ErrorKind.INTERRUPTED:
        ran = (error.details or {}).get("may_have_run") is not False
        return CompletionCode.TIMEOUT if ran else CompletionCode.NODE_BUSY
    return _CODES.get(error.kind, CompletionCode.UNSPECIFIED)
