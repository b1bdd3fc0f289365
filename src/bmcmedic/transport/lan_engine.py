"""Many RMCP+ sessions driven from one socket an address family, one reader and one timer heap.

No coroutine, Future or Task a request: a sweep over thousands of BMCs spends its time in the
protocol and in the kernel. `lanplus.LanPlus` is the comfortable way in for one BMC.
"""

from __future__ import annotations

import errno
import heapq
import math
import os
import select
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from bmcmedic.errors import PortClosed, TransportError, Unreachable
from bmcmedic.ipmi.events import SessionEvent
from bmcmedic.ipmi.packet import DATAGRAM_BYTES_MAX
from bmcmedic.ipmi.remote_console import RemoteConsole

Address = tuple[Any, ...]
"""A socket address as `socket.getaddrinfo` gives it: two items for IPv4, four for IPv6."""

RECEIVE_BYTES_PER_LINK = 2048
"""What one queued answer may be charged against the buffer; the kernel counts whole skbs."""
TIMER_GRID_S = 0.02
"""Timers are late by up to this much, so that many fire at once."""
COALESCE_S = 0.002
"""With many links, datagrams are taken at most this often: a wake-up for each would cost more
than its protocol. Network cards do the same with their interrupts."""
COALESCE_LINKS_MIN = 32
DRAIN_DATAGRAMS_MAX = 256
"""Datagrams taken in a row before the timers get their turn."""
SEND_ATTEMPTS_MAX = 64
"""Attempts to send one datagram while errors about other addresses keep coming in."""
NO_ROOM_TO_SEND = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
"""The kernel has no room just now: as if the datagram had been lost, so it is repeated."""

_IP_RECVERR = 11
_IPV6_RECVERR = 25
_EXTENDED_ERROR = struct.Struct("=I")
_ERROR_ANCILLARY_BYTES = 512


def transport_error(error_number: int) -> TransportError:
    """What an errno from the network means to the operator."""
    text = os.strerror(error_number).lower()
    if error_number == errno.ECONNREFUSED:
        return PortClosed(
            "port closed: nothing listens there (ICMP port unreachable); "
            "check the port, and that IPMI over LAN is enabled"
        )
    if error_number in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL):
        return Unreachable(f"unreachable: {text}; check the address and the route to it")
    if error_number in (errno.EPERM, errno.EACCES, errno.EINVAL):
        return Unreachable(f"unreachable: {text}; check the address and the firewall")
    return TransportError(f"network error: {text}")


class LanPeer(ABC):
    """One BMC's session in the engine; its owner subclasses it to be told what happens."""

    __slots__ = ("address", "console", "is_silent", "sock", "timer_at", "wake_at")

    sock: socket.socket
    """The engine's socket of the address's family; set when the link is attached."""

    def __init__(self, address: Address, console: RemoteConsole) -> None:
        self.address = address
        self.console = console
        self.is_silent = False
        self.timer_at = math.inf
        self.wake_at = math.inf

    def on_wake(self, now: float) -> None:
        """The moment of `LanEngine.wake` has come."""
        del now

    @abstractmethod
    def on_event(self, event: SessionEvent, now: float) -> None:
        """The session went a step on."""

    @abstractmethod
    def on_transport_error(self, error: TransportError, now: float) -> None:
        """The network says that the address cannot be reached."""

    @abstractmethod
    def on_silence(self) -> None:
        """A message had to be repeated: the BMC is slow, gone, or a datagram was lost."""

    @abstractmethod
    def on_answer(self) -> None:
        """A datagram came after silence."""


class LanEngine:
    """The socket reader and the timer heap; `step()` is one round.

    `window` is how many links may await an answer at once: what was asked for, or fewer where the
    kernel grants a smaller receive buffer (net.core.rmem_max), as answers beyond it are lost.
    """

    def __init__(
        self,
        *,
        window: int,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.window = window
        self.stray_count = 0
        self._receive_bytes = window * RECEIVE_BYTES_PER_LINK
        self._monotonic = monotonic
        self._sleep = sleep
        self._drained_at = 0.0
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._readers: dict[int, Callable[[], None]] = {}
        self._links: dict[Address, LanPeer] = {}
        self._timers: list[float] = []
        self._timed: dict[float, list[LanPeer]] = {}
        """The links of each moment in the heap."""

    def close(self) -> None:
        """Give the descriptors back."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._poll.close()

    def watch(self, fileno: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever another descriptor is readable."""
        self._poll.register(fileno, select.EPOLLIN)
        self._readers[fileno] = reader

    def attach(self, link: LanPeer) -> None:
        """Take datagrams from the link's address."""
        link.sock = self._socket_for(link.address)
        self._links[link.address] = link

    def detach(self, link: LanPeer) -> None:
        """Forget the link; what still comes from its address is a stray."""
        if self._links.get(link.address) is link:
            del self._links[link.address]

    def flush(self, link: LanPeer, now: float) -> None:
        """Send what the link's console wants sent, and keep its timer."""
        for datagram in link.console.datagrams_to_send():
            self._send(link, datagram, now)
        timer = link.console.get_timer()
        # A later timer is found when the earlier entry comes up: few links ever push a second.
        if timer is not None and timer < link.timer_at:
            self._arm(link, timer)

    def wake(self, link: LanPeer, when: float) -> None:
        """Call the link's `on_wake` at a moment; its console must have no timer until then."""
        link.wake_at = when
        self._arm(link, when)

    def step(self, wait_s: float) -> None:
        """Wait for datagrams or a timer, for at most `wait_s` seconds, and handle them."""
        if self._timers:
            wait_s = min(wait_s, max(0.0, self._timers[0] - self._monotonic()))
        if len(self._links) >= COALESCE_LINKS_MIN:
            pause_s = self._drained_at + COALESCE_S - self._monotonic()
            if pause_s > 0:
                self._sleep(pause_s)
                wait_s = max(0.0, wait_s - pause_s)
        for fileno, _ in self._poll.poll(wait_s):
            self._readers[fileno]()
        self._drained_at = self._monotonic()
        self._fire_timers()

    # -- timers ----------------------------------------------------------------------------

    def _arm(self, link: LanPeer, timer: float) -> None:
        # On a grid: under loss thousands of timers would else wake the process one by one.
        when = link.timer_at = math.ceil(timer / TIMER_GRID_S) * TIMER_GRID_S
        links = self._timed.get(when)
        if links is None:
            self._timed[when] = [link]
            heapq.heappush(self._timers, when)
        else:
            links.append(link)

    def _fire_timers(self) -> None:
        now = self._monotonic()
        timers = self._timers
        while timers and timers[0] <= now:
            when = heapq.heappop(timers)
            for link in self._timed.pop(when):
                if when == link.timer_at:
                    self._fire(link, now)

    def _fire(self, link: LanPeer, now: float) -> None:
        link.timer_at = math.inf
        if self._links.get(link.address) is not link:
            return
        if link.wake_at <= now:
            link.wake_at = math.inf
            link.on_wake(now)
            self.flush(link, now)
            return
        timer = link.console.get_timer()
        if timer is None:
            return
        if timer <= now:
            event = link.console.handle_timer(now)
            if event is not None:
                link.on_event(event, now)
            elif not link.is_silent:
                link.is_silent = True
                link.on_silence()
        self.flush(link, now)

    # -- sockets ---------------------------------------------------------------------------

    def _socket_for(self, address: Address) -> socket.socket:
        family = socket.AF_INET if len(address) == 2 else socket.AF_INET6
        sock = self._sockets.get(family)
        return self._open(family) if sock is None else sock

    def _open(self, family: int) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)
        granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.window = max(1, min(self.window, granted // RECEIVE_BYTES_PER_LINK))
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        self._sockets[family] = sock
        self.watch(sock.fileno(), lambda: self._drain(sock))
        return sock

    def _send(self, link: LanPeer, datagram: bytes, now: float) -> None:
        sock = link.sock
        try:
            sock.sendto(datagram, link.address)
            return
        except BlockingIOError:
            return
        except OSError as error:
            self._send_again(link, datagram, error, now)

    def _send_again(self, link: LanPeer, datagram: bytes, error: OSError, now: float) -> None:
        """With IP_RECVERR, an ICMP error about some other address is reported by `sendto` first.

        So an error is the link's own only where the error queue has nothing to say.
        """
        for _ in range(SEND_ATTEMPTS_MAX):
            if error.errno in NO_ROOM_TO_SEND or self._links.get(link.address) is not link:
                return
            if not self._drain_errors(link.sock, now):
                link.on_transport_error(transport_error(error.errno or 0), now)
                return
            try:
                link.sock.sendto(datagram, link.address)
                return
            except OSError as another:
                error = another

    def _drain(self, sock: socket.socket) -> None:
        links = self._links
        monotonic = self._monotonic
        receive = sock.recvfrom
        for _ in range(DRAIN_DATAGRAMS_MAX):
            try:
                data, address = receive(DATAGRAM_BYTES_MAX + 1)
            except BlockingIOError:
                return
            except OSError:
                self._drain_errors(sock, monotonic())
                continue
            link = links.get(address)
            if link is None:
                self.stray_count += 1
                continue
            now = monotonic()
            if link.is_silent:
                link.is_silent = False
                link.on_answer()
            event = link.console.receive_datagram(data, now)
            if event is not None:
                link.on_event(event, now)
            self.flush(link, now)

    def _drain_errors(self, sock: socket.socket, now: float) -> bool:
        """Read the socket's error queue (ip(7), IP_RECVERR) and tell the links it speaks of.

        Whether there was anything in it.
        """
        found = False
        while True:
            try:
                _, ancillary, _, address = sock.recvmsg(
                    DATAGRAM_BYTES_MAX, _ERROR_ANCILLARY_BYTES, socket.MSG_ERRQUEUE
                )
            except OSError:
                return found
            found = True
            link = self._links.get(address)
            for _, kind, data in ancillary:
                if kind in (_IP_RECVERR, _IPV6_RECVERR) and link is not None:
                    (error_number,) = _EXTENDED_ERROR.unpack_from(data)
                    link.on_transport_error(transport_error(error_number), now)
                    break
