"""The loopback proxy: RMCP+ on 127.0.0.1 in front of the driver, for all tools that speak lanplus.

The proxy itself serves the sessions, so setting one up never waits for a BMC. It forwards the
requests of a session to the driver. A refusal of the driver becomes a completion code, at once.
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
"""Size of the receive buffer, in bytes.

It holds the datagrams of 64 clients that start at once, with their retries on a busy machine.
"""
REST_S_MAX = 0.05
"""Longest pause after a full turn of datagrams, in seconds."""
STATUS_PERIOD_S = 1.0
"""Period in which the driver is asked whether the BMC answers, in seconds."""
STATUS_S_MAX = 2.0
"""Longest wait for the status of the driver, in seconds."""

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
"""Completion codes for errors of the driver; any other error is `UNSPECIFIED`."""

_SILENT_REASONS: Final[Mapping[ErrorKind, str]] = {
    ErrorKind.BREAKER_OPEN: "",
    ErrorKind.PARKED: "the interface is parked by an order",
}
"""Errors that mean a silent BMC, and the reason to publish for each."""

_WELL: Final = (proxy_files.WELL, "")

_SEND_MESSAGE: Final = (SendMessageReq.netfn, SendMessageReq.command)


@dataclass(frozen=True, slots=True)
class LoopbackSettings:
    """Port, time limits, and the shim's settings."""

    port: int = PORT_DEFAULT
    """UDP port; 0 for any free one."""
    request_s: float = 15.0
    """Longest time for one request, in seconds; after it the tool gets 0xC3."""
    stale_answer_s_max: float = 60.0
    """Greatest age of a stale answer, in seconds.

    A read gets it while the BMC is silent. RMCP+ has no way to mark it as stale.
    """
    shim: Mapping[str, str] = field(default_factory=dict)
    """Further settings to publish for the shim."""


class LoopbackServer:
    """The proxy: `async with LoopbackServer(...)` serves it until the block ends."""

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
        self._duplicates = DuplicateFilter(2 * SESSIONS_MAX)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> LoopbackServer:
        """Raises: ConfigurationError if the port or the folder is in use."""
        self._loop = asyncio.get_running_loop()
        try:
            if not self._files.acquire():
                raise ConfigurationError(
                    f"another agent serves the proxy in {self._files.folder}: stop it first"
                )
            self._open()
        except OSError as error:
            self._files.release()
            raise ConfigurationError(
                f"cannot open the loopback proxy: {error.filename or self._files.folder}: "
                f"{error.strerror or error}"
            ) from None
        except ConfigurationError:
            self._files.release()
            raise
        self._tasks = [
            self._loop.create_task(each) for each in (self._poll_driver(), self._renew_state())
        ]
        return self

    def _open(self) -> None:
        self._socket = bind_udp((HOST, self.settings.port))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self.address = self._socket.getsockname()[:2]
            password = self._files.password()
            users = [
                User(number, name.encode(), password, PrivilegeLevel.ADMINISTRATOR)
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
            self._publish_state(proxy_files.NO_DRIVER, "not asked yet")
            host, port = self.address
            self._files.publish(host, port, self.settings.request_s, dict(self.settings.shim))
        except OSError:
            self._socket.close()
            raise
        self._flood_filter = FloodFilter(self._socket, self._has_session)
        self._loop.add_reader(self._socket.fileno(), self._readable)

    async def __aexit__(self, *_: object) -> None:
        # First withdraw the address, so that no new client comes.
        self._files.release()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.link.close()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def status(self) -> dict[str, Any]:
        """Return the state of the proxy and its counters."""
        state, reason = self._state or ("", "")
        return {
            "address": f"{self.address[0]}:{self.address[1]}",
            "state": state,
            "reason": reason,
            "sessions": self._managed_system.session_count,
            "unanswered": self.link.unanswered,
            "discarded_datagrams": self._managed_system.discarded_count
            + self._flood_filter.dropped,
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
                continue  # an ICMP error about a datagram that we sent
            self._receive(data, peer, self._loop.time())
        # Only a flood brings so many: pause, so that the agent's other work has its turn.
        rest_s = min(REST_S_MAX, self._loop.time() - began)
        self._loop.remove_reader(self._socket.fileno())
        self._loop.call_later(rest_s, self._rested)

    def _rested(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def _receive(self, data: bytes, peer: Address, now: float) -> None:
        if self._flood_filter.must_drop(peer, now):
            return
        outcome = self._managed_system.receive_datagram(data, peer, now)
        if isinstance(outcome, bytes):
            self._send(outcome, peer)
        elif outcome is not None and outcome.session_id is not None:
            self._flood_filter.uncount(peer)
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
        work = self._duplicates.take(incoming, now)
        if work is not Work.NEW:
            # The answer crossed with the repeat. A change must not run twice; a read need not.
            self.counts["duplicates"] += 1
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
            accept_old=self.settings.stale_answer_s_max > 0
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
                self.counts["stale_answers"] += 1
            code, data, second = answer.completion_code, answer.data, None
            if answer.age_s is not None and answer.age_s > self.settings.stale_answer_s_max:
                code, data = CompletionCode.DESTINATION_UNAVAILABLE, b""
            elif inner is not None and answer.reason is None:
                second = second_part(incoming.message, inner, code, data)
                code, data = CompletionCode.OK, b""
            self._respond(incoming, code, data, second, is_read=is_read)
            return
        code = CompletionCode.UNSPECIFIED
        if isinstance(answer, ErrorFrame):
            self.counts[f"error {answer.kind.value}"] += 1
            if answer.kind in _SILENT_REASONS and self._state in (None, _WELL):
                # A tool that gets this error may read the state at once.
                self._publish_state(proxy_files.SILENT, _SILENT_REASONS[answer.kind])
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
        if completion_code == CompletionCode.NODE_BUSY:  # refused for now; the tool tries again
            self._duplicates.forget(incoming)
        else:
            self._duplicates.answered(incoming, answer, self._loop.time(), is_read=is_read)
        self._send_answer(incoming, answer)

    def _send_answer(self, incoming: IncomingRequest, answer: SentAnswer) -> None:
        now = self._loop.time()
        datagram = self._managed_system.respond(incoming, answer.completion_code, answer.data, now)
        self._send(datagram, incoming.peer)
        if answer.second_part is not None:  # of a bridged request (section 6.13.3)
            datagram = self._managed_system.send_message(incoming, answer.second_part, now)
            self._send(datagram, incoming.peer)

    # -------------------------------------------------------------------- the state of the BMC

    async def _poll_driver(self) -> None:
        while True:
            await self._poll_once()
            await asyncio.sleep(STATUS_PERIOD_S)

    async def _renew_state(self) -> None:
        """Publish the last state again, each second.

        A state that nobody renews is how readers recognize a dead event loop.
        """
        while True:
            await asyncio.sleep(proxy_files.STATE_PERIOD_S)
            self._flood_filter.unmute_expired(self._loop.time())
            if self._state is not None:
                with contextlib.suppress(OSError):  # reported when it changes
                    self._files.publish_state(*self._state)

    async def _poll_once(self) -> None:
        try:
            status: dict[str, Any] = await self.link.status(STATUS_S_MAX)
        except BmcmedicError as error:
            self._publish_state(proxy_files.NO_DRIVER, str(error))
            return
        driver = status.get("driver", {})
        breaker = driver.get("breaker", {})
        if driver.get("parked"):
            self._publish_state(proxy_files.SILENT, _SILENT_REASONS[ErrorKind.PARKED])
        elif missing := driver.get("interface_missing"):
            self._publish_state(proxy_files.NO_INTERFACE, str(missing))
        elif breaker.get("open"):
            self._publish_state(proxy_files.SILENT, str(breaker.get("reason", "")))
        else:
            self._publish_state(*_WELL)

    def _publish_state(self, word: str, reason: str) -> None:
        if self._state == (word, reason):
            return
        try:
            self._files.publish_state(word, reason)
        except OSError as error:
            if self._state is None:
                raise
            self._report(f"cannot write {self._files.folder}: {error.strerror}")
            return
        self._state = (word, reason)


def _bridged(message: RequestMessage) -> tuple[Ipmb, RequestMessage]:
    """Return the target of a Send Message and the request in it. Raises: RemoteProtocolError."""
    send = SendMessageReq.decode(message.data)
    inner = wrapped_request(send)
    return Ipmb(send.channel, inner.responder, inner.responder_lun), inner


def _completion_code(error: ErrorFrame) -> CompletionCode:
    if error.kind is ErrorKind.INTERRUPTED:
        ran = (error.details or {}).get("may_have_run") is not False
        return CompletionCode.TIMEOUT if ran else CompletionCode.NODE_BUSY
    return _CODES.get(error.kind, CompletionCode.UNSPECIFIED)
