"""Session slots of a managed system: from Open Session to RAKP 4 (sections 13.14 to 13.24)."""

from __future__ import annotations

import hmac
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from bmcmedic.ipmi.cipher_suites import CipherSuite
from bmcmedic.ipmi.constants import PrivilegeLevel, RmcpPlusStatus
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.ipmi.packet import PayloadType
from bmcmedic.ipmi.rakp import (
    NAME_ONLY_LOOKUP,
    KeyExchange,
    OpenSessionRequest,
    OpenSessionResponse,
    Rakp1,
    Rakp2,
    Rakp3,
    Rakp4,
)
from bmcmedic.ipmi.session import (
    MANAGED_SYSTEM_AHEAD_MAX,
    AesFactory,
    RandomBytes,
    Session,
    random_session_id,
)

SET_UP_TIMEOUT_S = 20.0
"""How long a half-open session keeps its slot without a further message, in seconds."""

SetUpAnswer = tuple[PayloadType, bytes]


@dataclass(frozen=True, slots=True)
class User:
    """An account of the BMC."""

    user_id: int
    name: bytes
    password: bytes = field(repr=False)
    privilege_limit: PrivilegeLevel = PrivilegeLevel.ADMINISTRATOR


class SessionSlot:
    """One session slot, from Open Session to its end."""

    __slots__ = (
        "console_session_id",
        "exchange",
        "executing",
        "expires_at",
        "managed_session_id",
        "peer",
        "privilege",
        "privilege_limit",
        "rakp1",
        "rakp2",
        "rakp4",
        "session",
        "suite",
        "tag",
        "user",
    )

    def __init__(
        self,
        request: OpenSessionRequest,
        suite: CipherSuite,
        managed_session_id: int,
        peer: Hashable,
    ) -> None:
        self.tag = request.tag
        self.console_session_id = request.console_session_id
        self.managed_session_id = managed_session_id
        self.suite = suite
        self.peer = peer
        self.expires_at = 0.0
        self.privilege_limit = PrivilegeLevel.CALLBACK
        self.privilege = PrivilegeLevel.CALLBACK
        self.user: User | None = None
        self.rakp1: Rakp1 | None = None
        self.rakp2 = b""
        self.rakp4 = b""
        self.exchange: KeyExchange | None = None
        self.session: Session | None = None
        self.executing: RequestMessage | None = None


class SessionSlots:
    """The slots of one LAN channel, their set-up and their expiry."""

    __slots__ = (
        "_aes",
        "_guid",
        "_kg",
        "_random_bytes",
        "_session_timeout_s",
        "_slots",
        "_suites",
        "_users",
        "replaces_half_open",
        "slots_max",
    )

    def __init__(
        self,
        *,
        guid: bytes,
        users: Sequence[User],
        kg: bytes,
        cipher_suites: Sequence[int],
        slots_max: int,
        session_timeout_s: float,
        random_bytes: RandomBytes,
        aes: AesFactory,
    ) -> None:
        self._guid = guid
        self._users = tuple(users)
        self._kg = kg
        self._suites = tuple(cipher_suites)
        self._session_timeout_s = session_timeout_s
        self._random_bytes = random_bytes
        self._aes = aes
        self._slots: dict[int, SessionSlot] = {}
        self.slots_max = slots_max
        self.replaces_half_open = False
        """Whether a new session takes the slot of a half-open one when no slot is free."""

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[SessionSlot]:
        return iter(self._slots.values())

    def get(self, managed_session_id: int) -> SessionSlot | None:
        """Return the slot with that id, in any state."""
        return self._slots.get(managed_session_id)

    def active(self, managed_session_id: int, peer: Hashable, now: float) -> SessionSlot | None:
        """Return the slot of that peer's session if the session is active and has not expired."""
        slot = self._slots.get(managed_session_id)
        if slot is None or slot.session is None or slot.peer != peer or slot.expires_at <= now:
            return None
        return slot

    def touch(self, slot: SessionSlot, now: float) -> None:
        """Restart the idle time of a session (section 6.12.15)."""
        slot.expires_at = now + self._session_timeout_s

    def free(self, managed_session_id: int) -> None:
        """End a session."""
        self._slots.pop(managed_session_id, None)

    def clear(self) -> None:
        """End all sessions."""
        self._slots.clear()

    def free_oldest_half_open(self, peer: Hashable) -> bool:
        """Free the slot of the oldest half-open session; return False when there is none.

        A half-open session of `peer` itself goes first, so that a peer which opens one session
        after another harms only itself.
        """
        half_open = [slot for slot in self._slots.values() if slot.session is None]
        if not half_open:
            return False
        oldest = next((slot for slot in half_open if slot.peer == peer), half_open[0])
        del self._slots[oldest.managed_session_id]
        return True

    def expire(self, now: float) -> None:
        """End the sessions that have been idle for too long."""
        for session_id in [key for key, slot in self._slots.items() if slot.expires_at <= now]:
            del self._slots[session_id]

    def receive_open_session(
        self, payload: bytes, peer: Hashable, now: float
    ) -> SetUpAnswer | None:
        """Handle an Open Session Request: assign a slot, or refuse with the reason."""
        request = OpenSessionRequest.decode(payload)
        slot, status = self._slot_for(request, peer)
        if slot is None:
            refusal = OpenSessionResponse(
                request.tag, status, request.privilege, request.console_session_id
            )
            return PayloadType.OPEN_SESSION_RESPONSE, refusal.encode()
        slot.expires_at = now + SET_UP_TIMEOUT_S
        response = OpenSessionResponse(
            request.tag,
            RmcpPlusStatus.OK,
            request.privilege or PrivilegeLevel.ADMINISTRATOR,
            request.console_session_id,
            slot.managed_session_id,
            request.algorithms,
        )
        return PayloadType.OPEN_SESSION_RESPONSE, response.encode()

    def _slot_for(
        self, request: OpenSessionRequest, peer: Hashable
    ) -> tuple[SessionSlot | None, RmcpPlusStatus]:
        for slot in self._slots.values():
            # A repeated request must not occupy a second slot.
            if (
                slot.peer == peer
                and slot.console_session_id == request.console_session_id
                and slot.tag == request.tag
                and slot.rakp1 is None
            ):
                return slot, RmcpPlusStatus.OK
        if request.privilege > PrivilegeLevel.OEM:
            return None, RmcpPlusStatus.INVALID_ROLE
        suite = request.suite
        if suite is None or suite.id not in self._suites:
            return None, RmcpPlusStatus.NO_CIPHER_SUITE_MATCH
        if len(self._slots) >= self.slots_max and not (
            self.replaces_half_open and self.free_oldest_half_open(peer)
        ):
            return None, RmcpPlusStatus.INSUFFICIENT_RESOURCES
        session_id = random_session_id(self._random_bytes)
        while session_id in self._slots:
            session_id = random_session_id(self._random_bytes)
        slot = self._slots[session_id] = SessionSlot(request, suite, session_id, peer)
        return slot, RmcpPlusStatus.OK

    def receive_rakp_1(self, payload: bytes, peer: Hashable, now: float) -> SetUpAnswer | None:
        """Handle RAKP 1: look up the user and answer with a challenge of our own."""
        rakp1 = Rakp1.decode(payload)
        slot = self._slots.get(rakp1.managed_session_id)
        if slot is None or slot.peer != peer or slot.session is not None:
            refusal = Rakp2(rakp1.tag, RmcpPlusStatus.INVALID_SESSION_ID, 0)
            return PayloadType.RAKP_2, refusal.encode()
        slot.expires_at = now + SET_UP_TIMEOUT_S
        if slot.rakp1 == rakp1:
            return PayloadType.RAKP_2, slot.rakp2
        user, status = self._look_up(rakp1)
        if user is None:
            del self._slots[slot.managed_session_id]
            return (
                PayloadType.RAKP_2,
                Rakp2(rakp1.tag, status, slot.console_session_id).encode(),
            )
        slot.user = user
        slot.rakp1 = rakp1
        requested = PrivilegeLevel(rakp1.role & 0x0F)
        slot.privilege_limit = (
            min(requested, user.privilege_limit) if requested else user.privilege_limit
        )
        managed_random = self._random_bytes(16)
        exchange = slot.exchange = KeyExchange(
            slot.suite,
            console_session_id=slot.console_session_id,
            rakp1=rakp1,
            managed_random=managed_random,
            managed_guid=self._guid,
            password=user.password,
            kg=self._kg,
        )
        slot.rakp2 = Rakp2(
            rakp1.tag,
            RmcpPlusStatus.OK,
            slot.console_session_id,
            managed_random,
            self._guid,
            exchange.rakp2_code(),
        ).encode()
        return PayloadType.RAKP_2, slot.rakp2

    def _look_up(self, rakp1: Rakp1) -> tuple[User | None, RmcpPlusStatus]:
        """Return the account that RAKP 1 names, or the reason to refuse it (section 13.20).

        A lookup by name alone takes the first entry of that name. A lookup by name and privilege
        takes the entry whose limit is the requested level, or else the first whose limit reaches
        it.
        """
        requested = rakp1.role & 0x0F
        if requested > PrivilegeLevel.OEM:
            return None, RmcpPlusStatus.INVALID_ROLE
        named = [user for user in self._users if user.name == rakp1.user_name]
        if not named:
            return None, RmcpPlusStatus.UNAUTHORIZED_NAME
        if rakp1.role & NAME_ONLY_LOOKUP:
            if named[0].privilege_limit < requested:
                return None, RmcpPlusStatus.UNAUTHORIZED_ROLE
            return named[0], RmcpPlusStatus.OK
        allowed = [user for user in named if user.privilege_limit >= requested]
        if not allowed:
            return None, RmcpPlusStatus.UNAUTHORIZED_NAME
        exact = (user for user in allowed if user.privilege_limit == requested)
        return next(exact, allowed[0]), RmcpPlusStatus.OK

    def receive_rakp_3(self, payload: bytes, peer: Hashable, now: float) -> SetUpAnswer | None:
        """Handle RAKP 3: check the console's code; if it matches, the session becomes active."""
        rakp3 = Rakp3.decode(payload)
        slot = self._slots.get(rakp3.managed_session_id)
        if slot is None or slot.peer != peer or slot.exchange is None:
            refusal = Rakp4(rakp3.tag, RmcpPlusStatus.INVALID_SESSION_ID, 0)
            return PayloadType.RAKP_4, refusal.encode()
        if rakp3.status:
            # The console gave up and expects no answer (section 13.22).
            if slot.session is None:
                del self._slots[rakp3.managed_session_id]
            return None
        exchange = slot.exchange
        if not hmac.compare_digest(exchange.rakp3_code(), rakp3.key_exchange_code):
            if slot.session is None:
                del self._slots[rakp3.managed_session_id]
            refusal = Rakp4(
                rakp3.tag, RmcpPlusStatus.INVALID_INTEGRITY_CHECK_VALUE, slot.console_session_id
            )
            return PayloadType.RAKP_4, refusal.encode()
        if slot.session is None:
            self._activate(slot, rakp3.tag)
        self.touch(slot, now)
        return PayloadType.RAKP_4, slot.rakp4

    def _activate(self, slot: SessionSlot, tag: int) -> None:
        exchange = slot.exchange
        assert exchange is not None
        sik = exchange.sik()
        slot.session = Session(
            slot.suite,
            inbound_id=slot.managed_session_id,
            outbound_id=slot.console_session_id,
            k1=exchange.k1(sik),
            k2=exchange.k2(sik),
            aes=self._aes,
            random_bytes=self._random_bytes,
            ahead_max=MANAGED_SYSTEM_AHEAD_MAX,
        )
        # A session starts at User level, whatever its limit (section 22.18).
        slot.privilege = min(PrivilegeLevel.USER, slot.privilege_limit)
        slot.rakp4 = Rakp4(
            tag, RmcpPlusStatus.OK, slot.console_session_id, exchange.rakp4_value(sik)
        ).encode()
