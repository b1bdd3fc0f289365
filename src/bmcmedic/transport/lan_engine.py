"""Drive many RMCP+ sessions with one socket per address family, one reader and one timer heap.

A request needs no coroutine, Future or Task of its own. So a sweep over thousands of BMCs spends
its time in the protocol and in the kernel. For a single BMC, use `lanplus.LanPlus`.
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
"""A socket address as `socket.getaddrinfo` returns it: two items for IPv4, four for IPv6."""

RECEIVE_BYTES_PER_LINK = 2048
"""Receive buffer reserved for one queued answer, in bytes.

The kernel charges whole skbs against the buffer, not only the datagram's own bytes.
"""
TIMER_GRID_S = 0.02
"""Longest delay added to a timer, in seconds, so that many timers fire at once."""
COALESCE_S = 0.002
"""Shortest time between two reads of the sockets, in seconds, while there are many links.

A wake-up for each datagram would cost more than the protocol work for it. Network cards coalesce
their interrupts for the same reason.
"""
COALESCE_LINKS_MIN = 32
"""Number of links from which on the engine coalesces its wake-ups."""
DRAIN_DATAGRAMS_MAX = 256
"""Most datagrams that one drain reads before it checks the timers again."""
SEND_ATTEMPTS_MAX = 64
"""Most attempts to send one datagram while the socket reports errors of other addresses."""
NO_ROOM_TO_SEND = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
"""Errors that mean that the kernel has no room for a datagram at the moment.

The engine treats the datagram as lost, and the session's retransmission repeats it.
"""

_IP_RECVERR = 11
_IPV6_RECVERR = 25
_EXTENDED_ERROR = struct.Struct("=I")
_ERROR_ANCILLARY_BYTES = 512


def transport_error(error_number: int) -> TransportError:
    """Return the error that tells the operator what an errno from the network means."""
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
    """One BMC's session in the engine; a subclass implements the callbacks for its events."""

    __slots__ = ("address", "console", "is_silent", "sock", "timer_at", "wake_at")

    sock: socket.socket
    """The engine's socket for the address's family; `LanEngine.attach` sets it."""

    def __init__(self, address: Address, console: RemoteConsole) -> None:
        self.address = address
        self.console = console
        self.is_silent = False
        self.timer_at = math.inf
        self.wake_at = math.inf

    def on_wake(self, now: float) -> None:
        """Handle the wake-up that `LanEngine.wake` scheduled."""
        del now

    @abstractmethod
    def on_event(self, event: SessionEvent, now: float) -> None:
        """Handle an event of the session."""

    @abstractmethod
    def on_transport_error(self, error: TransportError, now: float) -> None:
        """Handle the network's report that the address cannot be reached."""

    @abstractmethod
    def on_silence(self) -> None:
        """Note a retransmission: the BMC is slow or gone, or the network lost a datagram."""

    @abstractmethod
    def on_answer(self) -> None:
        """Note the first datagram after a silence."""


class LanEngine:
    """Read the sockets and fire the timers; `step()` is one round.

    `window` is the number of links that may await an answer at once. It is lower than requested
    where the kernel grants a smaller receive buffer (net.core.rmem_max). The kernel drops answers
    that do not fit into that buffer.
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
        """The links whose timer fires at each time in the heap."""

    def close(self) -> None:
        """Close the sockets and the epoll descriptor."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._poll.close()

    def watch(self, fileno: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever another descriptor is readable."""
        self._poll.register(fileno, select.EPOLLIN)
        self._readers[fileno] = reader

    def attach(self, link: LanPeer) -> None:
        """Deliver datagrams from the link's address to the link from now on."""
        link.sock = self._socket_for(link.address)
        self._links[link.address] = link

    def detach(self, link: LanPeer) -> None:
        """Remove the link; later datagrams from its address count as strays."""
        if self._links.get(link.address) is link:
            del self._links[link.address]

    def flush(self, link: LanPeer, now: float) -> None:
        """Send the datagrams that the link's console has ready, and arm its timer."""
        for datagram in link.console.datagrams_to_send():
            self._send(link, datagram, now)
        timer = link.console.get_timer()
        # The earlier entry finds a later timer when it fires, so few links ever push a second one.
        if timer is not None and timer < link.timer_at:
            self._arm(link, timer)

    def wake(self, link: LanPeer, when: float) -> None:
        """Call the link's `on_wake` at time `when`; its console must have no timer until then."""
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
        # Round up to the grid. Under loss, thousands of timers would wake the process one by one.
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
            self._retry_send(link, datagram, error, now)

    def _retry_send(self, link: LanPeer, datagram: bytes, error: OSError, now: float) -> None:
        """Retry a failed send while the failure belongs to another address.

        With IP_RECVERR, `sendto` first reports a pending ICMP error about any other address.
        So the error is the link's own only if the error queue is empty.
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
        """Pass each error in the socket's queue (ip(7), IP_RECVERR) to the link that it concerns.

        Returns whether the queue held an error.
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
