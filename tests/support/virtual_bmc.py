"""A simulated BMC and the real session code, joined in memory and in virtual time.

The remote console, the managed system and the BMC are the real ones. Only the socket and the
waiting are replaced, by a clock that jumps to the next event.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from bmcmedic.errors import NoAnswer
from bmcmedic.fleet.host_evidence.triage_command import TriageFailed
from bmcmedic.fleet.host_evidence.triage_document import parse_host_report
from bmcmedic.fleet.link import SESSIONLESS_RETRANSMIT_S, retransmit_after
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.session import SetSessionPrivilegeLevelReq
from bmcmedic.ipmi.console_options import RETRANSMIT_FIRST_S, ConsoleOptions
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.events import RequestUnanswered, ResponseReceived, SessionEvent, SessionFailed
from bmcmedic.ipmi.managed_system import IncomingRequest, ManagedSystem, User
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage
from bmcmedic.ipmi.packet import LegacyPacket, decode_datagram
from bmcmedic.ipmi.remote_console import RemoteConsole
from bmcmedic.model.heal import HostReport
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.dispatch import execute
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.handler_call import Interface
from bmcmedic.sim.profile import server_profile
from bmcmedic.sim.watchdog_timer import SimTimerSettings
from bmcmedic.transport.aes import aes_cbc

R = TypeVar("R")
Json = dict[str, Any]
Override = Callable[[RequestMessage], tuple[int, bytes] | None]

EPOCH_OFFSET_S = 1_700_000_000.0
_TRANSIT_S = 0.001


class VirtualTime:
    """Monotonic and epoch time, which pass only in a wait."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def epoch(self) -> float:
        return self.now + EPOCH_OFFSET_S

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


class VirtualBmc:
    """One simulated BMC behind its managed system; each datagram that it sends has a due time."""

    def __init__(
        self,
        *faults: str,
        watchdog_armed_s: float | None = None,
        privilege: PrivilegeLevel = PrivilegeLevel.ADMINISTRATOR,
        power_on: bool = True,
    ) -> None:
        self.time = VirtualTime()
        self.rng = random.Random(1)
        daemon = None
        if watchdog_armed_s is not None:
            daemon = SimTimerSettings(4, 1, 0, 0, watchdog_armed_s)
        self.bmc = SimBmc(
            "bmc1",
            server_profile(int(EPOCH_OFFSET_S), ("admin",)),
            now=self.time.now,
            epoch_offset_s=EPOCH_OFFSET_S,
            host_uuid=uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"),
            power_on=power_on,
            faults=FaultSet.parse(faults),
            watchdog_daemon=daemon,
        )
        self.managed = ManagedSystem(
            guid=self.bmc.guid,
            users=(User(2, b"admin", b"secret", privilege),),
            random_bytes=self.rng.randbytes,
            aes=aes_cbc,
        )
        self._restarts = 0
        self._order = itertools.count()
        self._due: list[tuple[float, int, int, object, Callable[[], bytes | None]]] = []
        self.override: Override | None = None
        """A test's answers in place of the BMC's: a completion code and data, or None."""
        self.sessionless: Callable[[], tuple[int, bytes] | None] | None = None
        """How the BMC answers outside of a session: a completion code and data; None is silence."""

    def falls_sick(self, *faults: str) -> None:
        """Set faults now, after the host's watchdog daemon has armed the timer."""
        self._catch_up()
        self.bmc.set_faults(FaultSet.parse(faults), self.time.now)

    def passes(self, seconds: float) -> None:
        """Let time pass, with the events that are due meanwhile."""
        self.receive(object(), self.time.now + seconds)

    @property
    def link(self) -> VirtualLink:
        return VirtualLink(self)

    @property
    def requests(self) -> dict[str, int]:
        return {f"{key >> 8:02x}/{key & 0xFF:02x}": n for key, n in self.bmc.requests.items()}

    def send(self, datagram: bytes, peer: object) -> None:
        """Deliver a datagram to the BMC now."""
        now, bmc = self.time.now, self.bmc
        loss = bmc.faults.lan_loss
        if loss and self.rng.random() < loss:
            return
        self._catch_up()
        if not bmc.answers(Interface.LAN):
            return
        self.managed.session_slots = bmc.faults.session_slots
        outcome = self.managed.receive_datagram(datagram, peer, now)
        if isinstance(outcome, bytes):
            self._later(bmc.take_turn(now) or 0.0, peer, lambda: self._distorted(outcome))
        elif isinstance(outcome, IncomingRequest):
            self._execute(outcome, peer)

    def _distorted(self, datagram: bytes) -> bytes | None:
        """Return the BMC's answer, or the test's outside of a session."""
        packet = decode_datagram(datagram)
        if self.sessionless is None or not isinstance(packet, LegacyPacket):
            return datagram
        answer = self.sessionless()
        if answer is None:
            return None
        response = ResponseMessage.decode(packet.payload)
        odd = response._replace(completion_code=answer[0], data=answer[1])
        return LegacyPacket(0, 0, 0, odd.encode()).encode()

    def _execute(self, incoming: IncomingRequest, peer: object) -> None:
        given = self.override(incoming.message) if self.override else None
        if given is None:
            answer = execute(self.bmc, incoming.message, Interface.LAN, self.time.now)
            if answer is None:
                return
            given, delay_s = (answer.completion_code, answer.data), answer.service_time_s
        else:
            delay_s = 0.0
        code, data = given
        self._later(
            delay_s,
            peer,
            lambda: self.managed.respond(incoming, code, data, self.time.now),
        )

    def _later(self, delay_s: float, peer: object, build: Callable[[], bytes | None]) -> None:
        when = self.time.now + delay_s + _TRANSIT_S
        item = (when, next(self._order), self.bmc.restarts, peer, build)
        heapq.heappush(self._due, item)

    def _catch_up(self) -> None:
        if self.bmc.timer is not None and self.bmc.timer <= self.time.now:
            self.bmc.handle_timer(self.time.now)
        if self._restarts != self.bmc.restarts:
            self._restarts = self.bmc.restarts
            self.managed.forget_sessions()

    def receive(self, peer: object, until: float) -> bytes | None:
        """Return the BMC's next datagram to `peer`, or None at `until`; time passes meanwhile."""
        while self._due and self._due[0][0] <= until:
            when, _, restarts, to, build = heapq.heappop(self._due)
            self.time.now = max(self.time.now, when)
            self._catch_up()
            if restarts != self.bmc.restarts or to is not peer:
                continue
            datagram = build()
            loss = self.bmc.faults.lan_loss
            if datagram is not None and not (loss and self.rng.random() < loss):
                return datagram
        self.time.now = max(self.time.now, until)
        self._catch_up()
        return None


class VirtualSession:
    """One session with a virtual BMC."""

    def __init__(
        self,
        virtual: VirtualBmc,
        privilege: PrivilegeLevel,
        password: bytes,
        retransmit_first_s: float,
    ) -> None:
        self._virtual = virtual
        self._privilege = privilege
        self._console = RemoteConsole(
            ConsoleOptions(
                Credentials("admin", password),
                virtual.rng.randbytes,
                aes_cbc,
                privilege=privilege,
                retransmit_first_s=retransmit_first_s,
            )
        )

    async def open(self, deadline: float) -> None:
        self._console.open(self._virtual.time.now, deadline)
        event = self._pump()
        if isinstance(event, SessionFailed):
            raise event.error
        if self._privilege > PrivilegeLevel.USER:
            await self.exchange(SetSessionPrivilegeLevelReq(self._privilege), deadline)

    def _pump(self) -> SessionEvent:
        time = self._virtual.time
        while True:
            for sent in self._console.datagrams_to_send():
                self._virtual.send(sent, self)
            timer = self._console.get_timer()
            assert timer is not None
            datagram = self._virtual.receive(self, timer)
            if datagram is not None:
                event = self._console.receive_datagram(datagram, time.now)
            else:
                event = self._console.handle_timer(time.now)
            if event is not None:
                return event

    async def exchange(self, request: Command[R], deadline: float) -> R:
        message = RequestMessage(request.netfn, request.command, request.encode())
        self._console.request(
            message, self._virtual.time.now, deadline, idempotent=request.idempotent
        )
        event = self._pump()
        if isinstance(event, RequestUnanswered):
            raise event.error
        assert isinstance(event, ResponseReceived)
        return request.decode_response(event.response.completion_code, event.response.data)

    async def close(self) -> None:
        now = self._virtual.time.now
        self._console.close(now, now + 1.0)
        self._pump()

    def abandon(self) -> None:
        """Do nothing: there is nothing to drop."""


class VirtualLink:
    """The link to a virtual BMC (`fleet.link.BmcLink`)."""

    def __init__(self, virtual: VirtualBmc, password: bytes = b"secret") -> None:
        self.target = "bmc1.oob"
        self.password = password
        self.is_locked = False
        self._virtual = virtual
        self._retransmit_first_s = RETRANSMIT_FIRST_S

    async def take_reset_lock(self) -> bool:
        return not self.is_locked

    def release_reset_lock(self) -> None:
        """Do nothing: no other process waits for the lock."""

    async def open_session(self, privilege: PrivilegeLevel, deadline: float) -> VirtualSession:
        session = VirtualSession(self._virtual, privilege, self.password, self._retransmit_first_s)
        await session.open(deadline)
        return session

    async def ask_sessionless(self, request: Command[R], deadline: float) -> R:
        virtual, peer = self._virtual, object()
        sent_at: list[float] = []
        while virtual.time.now < deadline:
            message = RequestMessage(
                request.netfn, request.command, request.encode(), sequence=len(sent_at)
            )
            sent_at.append(virtual.time.now)
            virtual.send(LegacyPacket(0, 0, 0, message.encode()).encode(), peer)
            raw = virtual.receive(peer, min(deadline, virtual.time.now + SESSIONLESS_RETRANSMIT_S))
            if raw is not None:
                datagram = decode_datagram(raw)
                assert isinstance(datagram, LegacyPacket)
                response = ResponseMessage.decode(datagram.payload)
                latency_s = virtual.time.now - sent_at[response.sequence]
                self._retransmit_first_s = retransmit_after(latency_s)
                return request.decode_response(response.completion_code, response.data)
        raise NoAnswer("no answer to a question without a session")


class VirtualHost:
    """The host of a virtual BMC, as a triage command would show it (`HostSource`)."""

    def __init__(
        self, virtual: VirtualBmc, change: Callable[[Json], Json] = lambda seen: seen
    ) -> None:
        self._virtual = virtual
        self._change = change
        self.runs = 0

    async def run(self) -> HostReport:
        self.runs += 1
        self._virtual.receive(object(), self._virtual.time.now)
        return report_of(self._virtual, self._change)


def report_of(
    virtual: VirtualBmc, change: Callable[[Json], Json] = lambda seen: seen
) -> HostReport:
    """Return the host's report now; `change` edits the document before it is decoded."""
    seen = virtual.bmc.triage(virtual.time.now)
    if seen is None:
        raise TriageFailed("nothing runs on the host")
    return parse_host_report(json.dumps(change(seen)).encode(), source="the host")
