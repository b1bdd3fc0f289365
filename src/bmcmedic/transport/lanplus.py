"""Talk to one BMC over lanplus: `await exchange(request, deadline)`.

Deadlines are in seconds of `loop.time()`, which is time.monotonic in the standard event loop.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from bmcmedic.errors import (
    BmcRefusal,
    LocalProtocolError,
    NameNotResolved,
    NoAnswer,
    RemoteProtocolError,
    TransportError,
)
from bmcmedic.ipmi.bridge import Bridge, is_first_part
from bmcmedic.ipmi.cipher_suites import DEFAULT_CIPHER_SUITES
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.messaging import SendMessageReq
from bmcmedic.ipmi.commands.session import SetSessionPrivilegeLevelReq
from bmcmedic.ipmi.console_options import (
    RETRANSMIT_BACKOFF_FACTOR,
    RETRANSMIT_FIRST_S,
    ConsoleOptions,
)
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.events import RequestUnanswered, ResponseReceived, SessionEvent, SessionFailed
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage
from bmcmedic.ipmi.packet import DATAGRAM_BYTES_MAX, LegacyPacket, decode_datagram
from bmcmedic.ipmi.remote_console import RemoteConsole
from bmcmedic.ipmi.states import SessionState
from bmcmedic.transport.aes import aes_cbc
from bmcmedic.transport.lan_engine import (
    DRAIN_DATAGRAMS_MAX,
    NO_ROOM_TO_SEND,
    Address,
    transport_error,
)

__all__ = ["Credentials", "LanPlus", "resolve", "sessionless_exchange"]

CLOSE_TIMEOUT_S = 1.0
"""Longest wait of `close()` for the BMC to free the session slot, in seconds.

If the BMC does not answer by then, its own session timer frees the slot.
"""

R = TypeVar("R")


async def resolve(host: str, port: int) -> Address:
    """Return the first address of a host; raises NameNotResolved."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise NameNotResolved(f"host name not resolved: {error.strerror or error}") from None
    address: Address = found[0][4]
    return address


class _Datagrams:
    """A connected, non-blocking UDP socket in the event loop, drained at each wake-up."""

    def __init__(self, address: Address, receive: Callable[[bytes], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.error: TransportError | None = None
        self._receive = receive
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            raise transport_error(error.errno or 0) from None
        self.loop.add_reader(self._socket.fileno(), self._drain)

    def send(self, datagram: bytes) -> None:
        try:
            self._socket.send(datagram)
        except OSError as error:
            if error.errno not in NO_ROOM_TO_SEND:
                self.error = transport_error(error.errno or 0)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self.loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _drain(self) -> None:
        # The bound keeps a flood of datagrams from delaying the deadlines.
        for _ in range(DRAIN_DATAGRAMS_MAX):
            if self._socket.fileno() < 0:
                return
            try:
                data = self._socket.recv(DATAGRAM_BYTES_MAX + 1)
            except BlockingIOError:
                return
            except OSError as error:
                self.error = transport_error(error.errno or 0)
                self._receive(b"")
                return
            self._receive(data)


class LanPlus:
    """A session with one BMC, for one exchange at a time; `connect` creates it.

    Raises, from each method: NoAnswer when the deadline passes, PortClosed or Unreachable when
    the network reports it, RmcpPlusStatusError and AuthenticationFailed when the BMC refuses the
    session, CompletionCodeError when it refuses a command, RemoteProtocolError when its answer
    cannot be read.
    """

    def __init__(self, address: Address, console: RemoteConsole) -> None:
        self.address = address
        self._console = console
        self._waiter: asyncio.Future[SessionEvent] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._datagrams = _Datagrams(address, self._receive)

    @classmethod
    async def connect(
        cls,
        address: Address,
        credentials: Credentials,
        *,
        deadline: float,
        privilege: PrivilegeLevel = PrivilegeLevel.USER,
        cipher_suites: Sequence[int] = DEFAULT_CIPHER_SUITES,
        retransmit_first_s: float = RETRANSMIT_FIRST_S,
    ) -> LanPlus:
        """Set up a session at the given privilege level."""
        options = ConsoleOptions(
            credentials,
            os.urandom,
            aes_cbc,
            privilege=privilege,
            cipher_suites=cipher_suites,
            retransmit_first_s=retransmit_first_s,
        )
        console = RemoteConsole(options)
        bmc = cls(address, console)
        try:
            console.open(bmc._now(), deadline)
            event = await bmc._wait()
            if isinstance(event, SessionFailed):
                raise event.error
            if privilege > PrivilegeLevel.USER:
                await bmc._raise_privilege(privilege, deadline)
        except BaseException:
            await bmc.close()
            raise
        return bmc

    @property
    def cipher_suite(self) -> int:
        """Return the id of the cipher suite in use."""
        return self._console.suite.id

    async def exchange(
        self, request: Command[R], deadline: float, *, bridge: Bridge | None = None
    ) -> R:
        """Send a command and return its response; a command that is not idempotent is sent once."""
        response = await self._exchange(
            RequestMessage(request.netfn, request.command, request.encode()),
            deadline,
            bridge,
            idempotent=request.idempotent,
        )
        return request.decode_response(response.completion_code, response.data)

    async def raw(
        self,
        netfn: int,
        command: int,
        data: bytes,
        deadline: float,
        *,
        lun: int = 0,
        bridge: Bridge | None = None,
    ) -> ResponseMessage:
        """Send any command, once, and return the response with its completion code."""
        message = RequestMessage(netfn, command, data, responder_lun=lun)
        return await self._exchange(message, deadline, bridge, idempotent=False)

    async def close(self) -> None:
        """Try to free the session's slot on the BMC, and close the socket in any case."""
        try:
            if self._console.state is SessionState.ACTIVE and self._datagrams.error is None:
                now = self._now()
                self._console.close(now, now + CLOSE_TIMEOUT_S)
                await self._wait()
        except TransportError:
            pass
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the socket without a Close Session; the BMC's own timer ends the session."""
        if self._timer is not None:
            self._timer.cancel()
        self._datagrams.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _now(self) -> float:
        return self._datagrams.loop.time()

    async def _raise_privilege(self, privilege: PrivilegeLevel, deadline: float) -> None:
        answer = await self.exchange(SetSessionPrivilegeLevelReq(privilege), deadline)
        if answer.privilege_level < privilege:
            raise BmcRefusal(
                f"SetSessionPrivilegeLevel: requested {privilege.name}, "
                f"granted {answer.privilege_level.name}; use an account with a higher limit"
            )

    async def _exchange(
        self, message: RequestMessage, deadline: float, bridge: Bridge | None, *, idempotent: bool
    ) -> ResponseMessage:
        self._console.request(message, self._now(), deadline, idempotent=idempotent, bridge=bridge)
        event = await self._wait()
        if isinstance(event, RequestUnanswered):
            raise event.error
        if isinstance(event, ResponseReceived):
            response = event.response
            if bridge is not None and is_first_part(response) and response.completion_code:
                raise SendMessageReq.completion_code_error(response.completion_code)
            return response
        raise LocalProtocolError(f"unexpected {type(event).__name__} during a request")

    async def _wait(self) -> SessionEvent:
        self._waiter = self._datagrams.loop.create_future()
        self._flush()
        try:
            return await self._waiter
        except BaseException:
            # The caller cancelled, or the network reported an error. The session must stay usable
            # for the next message, above all for its Close Session.
            self._console.give_up_request()
            raise
        finally:
            self._waiter = None
            if self._timer is not None:
                self._timer.cancel()

    def _flush(self) -> None:
        for datagram in self._console.datagrams_to_send():
            self._datagrams.send(datagram)
        if self._datagrams.error is not None:
            self._finish_with_error(self._datagrams.error)
            return
        if self._timer is not None:
            self._timer.cancel()
        timer = self._console.get_timer()
        if timer is not None:
            self._timer = self._datagrams.loop.call_at(timer, self._fire)

    def _receive(self, data: bytes) -> None:
        if self._datagrams.error is not None:
            self._finish_with_error(self._datagrams.error)
            return
        self._settle(self._console.receive_datagram(data, self._now()))

    def _fire(self) -> None:
        self._settle(self._console.handle_timer(self._now()))

    def _settle(self, event: SessionEvent | None) -> None:
        self._flush()
        if event is not None and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(event)

    def _finish_with_error(self, error: TransportError) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


async def sessionless_exchange(
    address: Address,
    request: Command[R],
    *,
    deadline: float,
    retransmit_first_s: float = RETRANSMIT_FIRST_S,
    answered_after: Callable[[float], None] | None = None,
) -> R:
    """Send one command outside any session and return its response.

    A BMC answers some commands without a session, such as Get Channel Authentication
    Capabilities. Such an answer is the cheapest proof that its LAN side is alive. Each repeat has
    its own sequence number. So `answered_after` receives the time that the BMC took, in seconds,
    without the time lost to dropped datagrams.
    Spec: section 13.6, the IPMI 1.5 format.
    Raises: as `LanPlus`.
    """
    if not request.sessionless:
        raise LocalProtocolError(f"{type(request).__name__} needs a session")
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[ResponseMessage] = loop.create_future()
    sequence = os.urandom(1)[0] & 0x3F
    sent_at: dict[int, float] = {}

    def receive(data: bytes) -> None:
        if waiter.done():
            return
        if datagrams.error is not None:
            waiter.set_exception(datagrams.error)
            return
        try:
            datagram = decode_datagram(data)
            if not isinstance(datagram, LegacyPacket):
                return
            response = ResponseMessage.decode(datagram.payload)
        except RemoteProtocolError:
            return
        expected = (request.netfn | 1, request.command)
        if (response.netfn, response.command) == expected and response.sequence in sent_at:
            if answered_after is not None:
                answered_after(loop.time() - sent_at[response.sequence])
            waiter.set_result(response)

    datagrams = _Datagrams(address, receive)
    interval = retransmit_first_s
    try:
        while loop.time() < deadline:
            message = RequestMessage(
                request.netfn, request.command, request.encode(), sequence=sequence
            )
            sent_at[sequence] = loop.time()
            sequence = (sequence + 1) & 0x3F
            datagrams.send(LegacyPacket(0, 0, 0, message.encode()).encode())
            if datagrams.error is not None:
                raise datagrams.error
            wait_s = min(interval, deadline - loop.time())
            done, _ = await asyncio.wait((waiter,), timeout=max(0.0, wait_s))
            if done:
                response = waiter.result()
                return request.decode_response(response.completion_code, response.data)
            interval *= RETRANSMIT_BACKOFF_FACTOR
    finally:
        datagrams.close()
    raise NoAnswer(f"no answer to {type(request).__name__.removesuffix('Req')}")
