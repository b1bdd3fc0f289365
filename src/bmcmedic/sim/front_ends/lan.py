"""The LAN front end: a UDP socket for each BMC, and one poller and one heap of timers for all.

There is no task, future or protocol object for each BMC. The event loop watches a single `epoll`
descriptor, in which all sockets are registered. So thousands of BMCs cost little more than their
sockets.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import random
import resource
import select
import socket
from collections.abc import Sequence
from typing import cast

from bmcmedic.errors import ConfigurationError
from bmcmedic.ipmi.managed_system import IncomingRequest, ManagedSystem, User
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.dispatch import execute
from bmcmedic.sim.handler_call import HandlerAnswer, Interface
from bmcmedic.transport.addresses import Address
from bmcmedic.transport.aes import aes_cbc

DATAGRAM_BYTES_MAX = 512
"""Longest datagram that is read; a longer one is cut off, and even then too long to be valid."""

POLLS_PER_TURN_MAX = 16
"""How often the sockets are polled before the event loop gets its turn.

Each poll reads one datagram from a socket. To read until the socket is empty would cost every BMC
a second system call, which is mostly futile.
"""

EVENTS_MAX = 512
SPARE_DESCRIPTORS = 64
"""File descriptors that the process needs besides the BMCs' sockets."""


def ensure_descriptors(count: int) -> None:
    """Raise the soft limit of open files so that `count` sockets fit.

    Raises: ConfigurationError when the hard limit is too low.
    """
    needed = count + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigurationError(
            f"{count} BMCs need {needed} open files, and the hard limit is {hard}; "
            f"raise it (ulimit -Hn {needed}) or simulate at most {max(0, hard - SPARE_DESCRIPTORS)}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class LanPort:
    """The UDP socket of one BMC, and its sessions."""

    __slots__ = ("address", "bmc", "managed_system", "socket", "_front", "_restarts", "_timer")

    def __init__(
        self,
        front: LanFront,
        bmc: SimBmc,
        bound: socket.socket,
        *,
        users: Sequence[User],
        kg: bytes,
        cipher_suites: Sequence[int],
    ) -> None:
        self.bmc = bmc
        self.socket = bound
        self.address: Address = bound.getsockname()[:2]
        self.managed_system = ManagedSystem(
            guid=bmc.guid,
            users=users,
            random_bytes=os.urandom,
            aes=aes_cbc,
            kg=kg,
            cipher_suites=cipher_suites,
            session_slots=bmc.faults.session_slots,
        )
        self._front = front
        self._restarts = bmc.restarts
        self._timer: float | None = None  # the value of bmc.timer that the front end knows

    def receive_one(self, now: float) -> None:
        """Receive one datagram from the socket, if one is there."""
        try:
            data, peer = self.socket.recvfrom(DATAGRAM_BYTES_MAX)
        except OSError:
            return  # no datagram after all, or an ICMP error for an earlier answer
        self.receive(data, peer, now)

    def receive(self, data: bytes, peer: Address, now: float) -> None:
        """Handle one datagram."""
        bmc = self.bmc
        faults = bmc.faults
        if faults.lan_loss or faults.garbage:
            arrived = self._front.degrade(faults.lan_loss, faults.garbage, data)
            if arrived is None:
                return
            data = arrived
        if bmc.timer is not None and bmc.timer <= now:
            bmc.handle_timer(now)
        if bmc.answers(Interface.LAN):
            self.sync()
            outcome = self.managed_system.receive_datagram(data, peer, now)
            if isinstance(outcome, bytes):
                self._answer_at_once(outcome, peer, now)
            elif outcome is not None:
                self._execute(outcome, now)
        if bmc.timer is not None:
            self.watch_timer()

    def sync(self) -> None:
        """Forget the sessions if the BMC has restarted, and adopt the number of session slots."""
        if self._restarts != self.bmc.restarts:
            self._restarts = self.bmc.restarts
            self.managed_system.forget_sessions()
        self.managed_system.session_slots = self.bmc.faults.session_slots

    def _answer_at_once(self, datagram: bytes, peer: Address, now: float) -> None:
        """Send an answer of the channel itself, as late as the BMC's other answers.

        It does not queue behind the commands. Otherwise a client that repeats its session set-up
        every quarter of a second would lock itself out of a slow BMC.
        """
        delay_s = self.bmc.answer_latency_s(now)
        if delay_s > 0:
            self._front.later(now + delay_s, self, (datagram, peer, self._restarts))
        else:
            self.send(datagram, peer)

    def _execute(self, incoming: IncomingRequest, now: float) -> None:
        answer = execute(self.bmc, incoming.message, Interface.LAN, now)
        if answer is None:
            return
        if answer.service_time_s > 0:
            self._front.later(now + answer.service_time_s, self, (incoming, answer, self._restarts))
        else:
            self._respond(incoming, answer, now)

    def _respond(self, incoming: IncomingRequest, answer: HandlerAnswer, now: float) -> None:
        peer = cast("Address", incoming.peer)
        datagram = self.managed_system.respond(incoming, answer.completion_code, answer.data, now)
        self.send(datagram, peer)
        if answer.follow_up is not None:
            self.send(self.managed_system.send_message(incoming, answer.follow_up, now), peer)

    def handle_due(self, item: object, now: float) -> None:
        """Handle an item of the heap that is due: an answer, or a time of the BMC's own timer."""
        bmc = self.bmc
        if isinstance(item, float):
            if item != self._timer:
                return  # replaced by an earlier time since
            self._timer = None
            bmc.handle_timer(now)
        elif bmc.answers(Interface.LAN):
            assert isinstance(item, tuple)
            first, second, restarts = item
            if restarts != bmc.restarts:
                return  # the answer was lost in the restart
            if isinstance(first, bytes):
                self.send(first, second)
            else:
                self._respond(first, second, now)
        if bmc.timer is not None:
            self.watch_timer()

    def watch_timer(self) -> None:
        """Have the front end call when the BMC's next own event is due."""
        timer = self.bmc.timer
        if timer is not None and (self._timer is None or timer < self._timer):
            self._timer = timer
            self._front.later(timer, self, timer)

    def send(self, datagram: bytes | None, peer: Address) -> None:
        """Send a datagram, which the faults may lose or damage."""
        if datagram is None:
            return
        faults = self.bmc.faults
        if faults.lan_loss or faults.garbage:
            datagram = self._front.degrade(faults.lan_loss, faults.garbage, datagram)
            if datagram is None:
                return
        try:
            self.socket.sendto(datagram, peer)
        except OSError:
            return  # a full buffer or a peer that is gone: UDP guarantees nothing


class LanFront:
    """All LAN ports of one process, served by one event loop."""

    def __init__(
        self,
        *,
        users: Sequence[User],
        kg: bytes = b"",
        cipher_suites: Sequence[int] = (3, 17),
        seed: int | None = None,
    ) -> None:
        self._users = tuple(users)
        self._kg = kg
        self._cipher_suites = tuple(cipher_suites)
        self._random = random.Random(seed)
        self._ports: dict[int, LanPort] = {}
        self._poller = select.epoll()
        self._due: list[tuple[float, int, LanPort, object]] = []
        self._order = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")

    def add(self, bmc: SimBmc, bound: socket.socket) -> LanPort:
        """Serve a BMC at a bound socket, which the front end owns from now on."""
        port = LanPort(
            self,
            bmc,
            bound,
            users=self._users,
            kg=self._kg,
            cipher_suites=self._cipher_suites,
        )
        self._ports[bound.fileno()] = port
        self._poller.register(bound.fileno(), select.EPOLLIN)
        port.watch_timer()
        return port

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start serving in an event loop, by its clock."""
        self._loop = loop
        loop.add_reader(self._poller.fileno(), self._readable)
        self._set_alarm()

    def close(self) -> None:
        """Stop serving, and close the sockets."""
        if self._loop is not None:
            self._loop.remove_reader(self._poller.fileno())
            self._loop = None
        if self._alarm is not None:
            self._alarm.cancel()
        self._poller.close()
        for port in self._ports.values():
            port.socket.close()
        self._ports.clear()

    def _readable(self) -> None:
        assert self._loop is not None
        for _ in range(POLLS_PER_TURN_MAX):
            ready = self._poller.poll(0, EVENTS_MAX)
            now = self._loop.time()
            for descriptor, _ in ready:
                self._ports[descriptor].receive_one(now)
            if not ready:
                break

    def later(self, when: float, port: LanPort, item: object) -> None:
        """Call `port.handle_due(item)` at that time."""
        heapq.heappush(self._due, (when, next(self._order), port, item))
        if when < self._alarm_at:
            self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_at = float("inf")
        if self._loop is not None and self._due:
            self._alarm_at = self._due[0][0]
            self._alarm = self._loop.call_at(self._alarm_at, self._on_alarm)

    def _on_alarm(self) -> None:
        assert self._loop is not None
        self.handle_timers(self._loop.time())
        self._set_alarm()

    def handle_timers(self, now: float) -> None:
        """Handle every item that is due; the event loop calls this, or a test in virtual time."""
        self._alarm_at = float("-inf")  # `later` need not set an alarm meanwhile
        while self._due and self._due[0][0] <= now:
            _, _, port, item = heapq.heappop(self._due)
            port.handle_due(item, now)

    def degrade(self, loss: float, garbage: float, datagram: bytes) -> bytes | None:
        """Return a datagram as it leaves a bad network, perhaps damaged; None: it is lost."""
        if loss and self._random.random() < loss:
            return None
        if garbage and datagram and self._random.random() < garbage:
            return self._damage(datagram)
        return datagram

    def _damage(self, datagram: bytes) -> bytes:
        """Flip a bit, cut off the end, or replace all bytes."""
        kind = self._random.randrange(3)
        if kind == 0:
            damaged = bytearray(datagram)
            damaged[self._random.randrange(len(damaged))] ^= 1 << self._random.randrange(8)
            return bytes(damaged)
        if kind == 1:
            return datagram[: self._random.randrange(len(datagram))]
        return self._random.randbytes(len(datagram))
