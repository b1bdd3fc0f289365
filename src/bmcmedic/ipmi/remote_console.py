"""The remote console's side of one RMCP+ session (sections 13.14 to 13.24, 6.12).

    console = RemoteConsole(credentials, …)
    console.open(now, deadline)
    console.datagrams_to_send()           -> what belongs on the wire now
    console.receive_datagram(data, now)   -> an event or None
    console.get_timer()                   -> when to call handle_timer(now)

One request is outstanding at a time: BMCs do one thing at a time and answer more with silence.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bmcmedic.errors import (
    AuthenticationFailed,
    BmcmedicError,
    LocalProtocolError,
    NoAnswer,
    RemoteProtocolError,
)
from bmcmedic.ipmi.cipher_suites import DEFAULT_CIPHER_SUITES, cipher_suite
from bmcmedic.ipmi.constants import (
    NetFn,
    PrivilegeLevel,
    RmcpPlusStatus,
)
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.events import (
    Event,
    RequestUnanswered,
    ResponseReceived,
    SessionClosed,
    SessionFailed,
    SessionOpened,
)
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage
from bmcmedic.ipmi.packet import Packet, PayloadType, decode_datagram
from bmcmedic.ipmi.rakp import (
    NAME_ONLY_LOOKUP,
    SUITE_REFUSALS,
    KeyExchange,
    OpenSessionRequest,
    OpenSessionResponse,
    Rakp1,
    Rakp2,
    Rakp3,
    Rakp4,
    session_refusal,
)
from bmcmedic.ipmi.session import (
    REMOTE_CONSOLE_AHEAD_MAX,
    AesFactory,
    RandomBytes,
    Session,
    random_session_id,
)
from bmcmedic.ipmi.states import TRANSITIONS, State, Trigger

if TYPE_CHECKING:
    # Loaded by who bridges, and by nobody else: a sweep starts without it.
    from bmcmedic.ipmi.bridge import Bridge

RETRANSMIT_FIRST_S = 0.25
RETRANSMIT_BACKOFF_FACTOR = 1.1
"""Small on purpose: under loss each doubling costs more answers than it saves datagrams."""
RAKP_TRANSMISSIONS_MAX = 4
"""Unanswered RAKP messages after which set-up starts anew: the BMC may have dropped our half."""
REOPEN_AFTER_TRANSMISSIONS = 4
"""Unanswered transmissions of a request after which a new session is set up, where allowed."""
HANDSHAKES_MAX = 16
"""Set-ups that one `open()` may start before it gives up, whatever its deadline."""

_CLOSE_SESSION = 0x3C
_SEND_MESSAGE_RESPONSE = (NetFn.APP | 1, 0x34)


class RemoteConsole:
    """One RMCP+ session from the remote console's side, without I/O.

    Raises LocalProtocolError when it is used out of turn. What comes from the network never
    raises: a datagram that does not belong is dropped and counted in `discarded` by its reason.
    """

    __slots__ = (
        "_aes",
        "_bridge",
        "_console_session_id",
        "_credentials",
        "_deadline",
        "_exchange",
        "_handshakes",
        "_interval",
        "_kept_request",
        "_lookup",
        "_may_reopen",
        "_outbox",
        "_payload",
        "_payload_type",
        "_privilege",
        "_rakp1",
        "_random_bytes",
        "_repeats",
        "_request",
        "_retransmit_at",
        "_retransmit_first_s",
        "_role",
        "_sequence",
        "_session",
        "_suites",
        "_tag",
        "_transmissions",
        "discarded",
        "state",
        "suite",
    )

    def __init__(
        self,
        credentials: Credentials,
        *,
        random_bytes: RandomBytes,
        aes: AesFactory,
        privilege: PrivilegeLevel = PrivilegeLevel.USER,
        cipher_suites: Sequence[int] = DEFAULT_CIPHER_SUITES,
        name_only_lookup: bool = True,
        may_reopen: bool = False,
        retransmit_first_s: float = RETRANSMIT_FIRST_S,
    ) -> None:
        """`retransmit_first_s`: longer for a BMC known to be slow, which each repeat slows more."""
        self._credentials = credentials
        self._random_bytes = random_bytes
        self._aes = aes
        self._privilege = privilege
        self._role = privilege | (NAME_ONLY_LOOKUP if name_only_lookup else 0)
        self._suites = tuple(cipher_suite(suite_id) for suite_id in cipher_suites)
        if not self._suites:
            raise LocalProtocolError("no cipher suite to propose")
        self.suite = self._suites[0]
        self._may_reopen = may_reopen
        self._retransmit_first_s = retransmit_first_s
        self.state = State.IDLE
        self.discarded: Counter[str] | None = None
        self._outbox: list[bytes] = []
        self._session: Session | None = None
        self._exchange: KeyExchange | None = None
        self._rakp1: Rakp1 | None = None
        self._request: RequestMessage | None = None
        self._bridge: Bridge | None = None
        self._kept_request: tuple[RequestMessage, Bridge | None] | None = None
        self._tag = 0
        self._sequence = 0
        self._handshakes = 0
        self._transmissions = 0
        self._payload = b""
        self._payload_type = PayloadType.OPEN_SESSION_REQUEST
        self._repeats = True
        self._deadline = 0.0
        self._interval = self._retransmit_first_s
        self._retransmit_at = 0.0

    # -- what the caller does --------------------------------------------------------------

    def open(self, now: float, deadline: float) -> None:
        """Start to set the session up."""
        self._move(Trigger.OPEN)
        self._deadline = deadline
        self._propose(now)

    def request(
        self,
        message: RequestMessage,
        now: float,
        deadline: float,
        *,
        idempotent: bool = True,
        bridge: Bridge | None = None,
    ) -> None:
        """Send a request, through `bridge` if there is one; its `sequence` is set here.

        A request that is not idempotent leaves exactly once.
        """
        self._move(Trigger.REQUEST)
        self._deadline = deadline
        self._send_request(message, bridge, now, repeats=idempotent)

    def close(self, now: float, deadline: float) -> None:
        """Ask the BMC to free the session's slot (Close Session, section 22.19)."""
        self._move(Trigger.CLOSE)
        assert self._session is not None
        session_id = self._session.outbound_id.to_bytes(4, "little")
        self._deadline = deadline
        message = RequestMessage(NetFn.APP, _CLOSE_SESSION, session_id)
        self._send_request(message, None, now, repeats=True)

    def datagrams_to_send(self) -> list[bytes]:
        """What belongs on the wire now; each is handed out once."""
        datagrams, self._outbox = self._outbox, []
        return datagrams

    def get_timer(self) -> float | None:
        """When `handle_timer` wants to be called, or None while nothing is awaited."""
        if self.state not in _AWAITING:
            return None
        return min(self._retransmit_at, self._deadline) if self._repeats else self._deadline

    def handle_timer(self, now: float) -> Event | None:
        """Retransmit, start anew, or give up; harmless when called early."""
        if self.state not in _AWAITING:
            return None
        if now >= self._deadline:
            return self._deadline_passed()
        if not self._repeats or now < self._retransmit_at:
            return None
        if self._transmissions >= _TRANSMISSIONS_MAX.get(self.state, self._transmissions + 1) and (
            self.state is not State.REQUESTING or self._may_reopen
        ):
            return self._start_anew(now)
        self._interval *= RETRANSMIT_BACKOFF_FACTOR
        self._transmit(now)
        return None

    def receive_datagram(self, data: bytes, now: float) -> Event | None:
        """Take one datagram that came from the BMC's address."""
        try:
            packet = decode_datagram(data)
            if type(packet) is not Packet:
                raise RemoteProtocolError("not an RMCP+ packet", section="13.6")
            if self._session is not None and packet.session_id:
                return self._receive_in_session(packet, data)
            return self._receive_set_up(packet, now)
        except RemoteProtocolError as error:
            self._discard(str(error.args[0]))
            return None

    # -- setting up ------------------------------------------------------------------------

    def _propose(self, now: float) -> None:
        self._handshakes += 1
        self._session = self._exchange = self._rakp1 = None
        self._console_session_id = random_session_id(self._random_bytes)
        self._next_tag()
        proposal = OpenSessionRequest.for_suite(
            self._tag, self._privilege, self._console_session_id, self.suite
        )
        self._send(PayloadType.OPEN_SESSION_REQUEST, proposal.encode(), now)

    def _start_anew(self, now: float) -> Event | None:
        if self._handshakes >= HANDSHAKES_MAX:
            return self._fail(NoAnswer(f"no answer to {self._waiting_for()}"))
        if self.state is State.REQUESTING:
            assert self._request is not None
            self._kept_request = self._request, self._bridge
        self._move(Trigger.START_ANEW)
        self._propose(now)
        return None

    def _receive_set_up(self, packet: Packet, now: float) -> Event | None:
        expected = _SET_UP_ANSWER.get(self.state)
        if packet.payload_type != expected or packet.is_encrypted or packet.is_authenticated:
            raise RemoteProtocolError("not the set-up message awaited", section="13.15")
        if self.state is State.OPENING:
            return self._receive_open_session_response(packet.payload, now)
        if self.state is State.AUTHENTICATING:
            return self._receive_rakp_2(packet.payload, now)
        return self._receive_rakp_4(packet.payload, now)

    def _receive_open_session_response(self, payload: bytes, now: float) -> Event | None:
        response = OpenSessionResponse.decode(payload)
        self._check_tag(response.tag)
        if response.status in SUITE_REFUSALS:
            position = self._suites.index(self.suite) + 1
            if position < len(self._suites):
                self.suite = self._suites[position]
                return self._start_anew(now)
        if response.status:
            return self._refused("Open Session", response.status, now)
        self._check_session_id(response.console_session_id)
        if response.suite is not self.suite or not response.managed_session_id:
            return self._fail(
                RemoteProtocolError(
                    "the BMC took other algorithms than were proposed",
                    section="13.18",
                    raw=response.algorithms,
                )
            )
        self._move(Trigger.OPEN_SESSION_RESPONSE)
        self._next_tag()
        rakp1 = Rakp1(
            self._tag,
            response.managed_session_id,
            self._random_bytes(16),
            self._role,
            self._credentials.user_name,
        )
        self._rakp1 = rakp1
        self._send(PayloadType.RAKP_1, rakp1.encode(), now)
        return None

    def _receive_rakp_2(self, payload: bytes, now: float) -> Event | None:
        rakp2 = Rakp2.decode(payload, self.suite)
        self._check_tag(rakp2.tag)
        if rakp2.status:
            return self._refused("RAKP 2", rakp2.status, now)
        self._check_session_id(rakp2.console_session_id)
        rakp1 = self._rakp1
        assert rakp1 is not None
        exchange = self._exchange = KeyExchange(
            suite=self.suite,
            console_session_id=self._console_session_id,
            managed_session_id=rakp1.managed_session_id,
            console_random=rakp1.console_random,
            managed_random=rakp2.managed_random,
            managed_guid=rakp2.managed_guid,
            role=self._role,
            user_name=rakp1.user_name,
            password=self._credentials.password,
            kg=self._credentials.kg,
        )
        self._next_tag()
        if not hmac.compare_digest(exchange.rakp2_code(), rakp2.key_exchange_code):
            # Telling the BMC frees its half of the session (section 13.22).
            goodbye = Rakp3(
                self._tag,
                RmcpPlusStatus.INVALID_INTEGRITY_CHECK_VALUE,
                exchange.managed_session_id,
            )
            self._outbox.append(
                Packet(PayloadType.RAKP_3, False, False, 0, 0, goodbye.encode()).encode()
            )
            return self._fail(
                AuthenticationFailed(
                    "the BMC's key exchange code does not fit: wrong password "
                    f"for user {self._credentials.user!r}"
                )
            )
        self._move(Trigger.RAKP_2)
        rakp3 = Rakp3(self._tag, 0, exchange.managed_session_id, exchange.rakp3_code())
        self._send(PayloadType.RAKP_3, rakp3.encode(), now)
        return None

    def _receive_rakp_4(self, payload: bytes, now: float) -> Event | None:
        rakp4 = Rakp4.decode(payload, self.suite)
        self._check_tag(rakp4.tag)
        if rakp4.status:
            return self._refused("RAKP 4", rakp4.status, now)
        self._check_session_id(rakp4.console_session_id)
        exchange = self._exchange
        assert exchange is not None
        sik = exchange.sik()
        if not hmac.compare_digest(exchange.rakp4_value(sik), rakp4.integrity_check_value):
            return self._fail(
                AuthenticationFailed(
                    "the password is right but the session keys differ: K_g is wrong or missing"
                    if not exchange.kg
                    else "the password is right but the session keys differ: wrong K_g"
                )
            )
        self._session = Session(
            self.suite,
            inbound_id=self._console_session_id,
            outbound_id=exchange.managed_session_id,
            k1=exchange.k1(sik),
            k2=exchange.k2(sik),
            aes=self._aes,
            random_bytes=self._random_bytes,
            ahead_max=REMOTE_CONSOLE_AHEAD_MAX,
        )
        self._exchange = None
        self._move(Trigger.RAKP_4)
        if self._kept_request is not None:
            request, bridge = self._kept_request
            self._kept_request = None
            self._move(Trigger.REQUEST)
            self._send_request(request, bridge, now, repeats=True)
            return None
        return SessionOpened(self.suite)

    def _refused(self, name: str, status: int, now: float) -> Event | None:
        # A lost answer leaves the BMC a step ahead; it then no longer knows the id we repeat.
        if (
            status in (RmcpPlusStatus.INVALID_SESSION_ID, RmcpPlusStatus.INACTIVE_SESSION_ID)
            and self.state is not State.OPENING
            and self._transmissions > 1
        ):
            return self._start_anew(now)
        return self._fail(session_refusal(name, status))

    # -- in the session --------------------------------------------------------------------

    def _receive_in_session(self, packet: Packet, data: bytes) -> Event | None:
        session = self._session
        assert session is not None
        if packet.session_id != session.inbound_id or packet.payload_type != PayloadType.IPMI:
            raise RemoteProtocolError("not a message of this session", section="13.6")
        response = ResponseMessage.decode(session.open(packet, data))
        request = self._request
        if request is None or response.sequence != request.sequence:
            raise RemoteProtocolError("not the answer awaited", section="13.8")
        if self._bridge is None:
            if response.netfn != request.netfn | 1 or response.command != request.command:
                raise RemoteProtocolError("not the answer awaited", section="13.8")
            return self._answered(response)
        is_first_part = (response.netfn, response.command) == _SEND_MESSAGE_RESPONSE
        if is_first_part and response.completion_code:
            return self._answered(response)
        inner = self._bridge.unwrap(request, response)
        if inner is not None:
            return self._answered(inner)
        if is_first_part:
            # Accepted: sending it again would ask the satellite twice.
            self._repeats = False
        return None

    def _answered(self, response: ResponseMessage) -> Event:
        self._request = self._bridge = None
        if self.state is State.CLOSING:
            self._move(Trigger.CLOSED)
            self._session = None
            return SessionClosed()
        self._move(Trigger.RESPONSE)
        return ResponseReceived(response)

    def _send_request(
        self, message: RequestMessage, bridge: Bridge | None, now: float, *, repeats: bool
    ) -> None:
        self._sequence = self._sequence + 1 & 0x3F
        request = self._request = message.with_sequence(self._sequence)
        self._bridge = bridge
        outer = request if bridge is None else bridge.wrap(request)
        self._send(PayloadType.IPMI, outer.encode(), now, repeats=repeats)

    # -- sending and giving up -------------------------------------------------------------

    def _send(
        self, payload_type: PayloadType, payload: bytes, now: float, *, repeats: bool = True
    ) -> None:
        self._payload_type = payload_type
        self._payload = payload
        self._repeats = repeats
        self._transmissions = 0
        self._interval = self._retransmit_first_s
        self._transmit(now)

    def _transmit(self, now: float) -> None:
        self._transmissions += 1
        self._retransmit_at = now + self._interval
        payload = self._payload
        if self._session is not None:
            self._outbox.append(self._session.seal(payload))
        else:
            self._outbox.append(Packet(self._payload_type, False, False, 0, 0, payload).encode())

    def _deadline_passed(self) -> Event:
        error = NoAnswer(f"no answer to {self._waiting_for()}{self._discarded_text()}")
        if self.state is State.CLOSING:
            self._move(Trigger.CLOSED)
            self._session = None
            return SessionClosed()
        if self.state is State.REQUESTING:
            self._move(Trigger.REQUEST_DEADLINE)
            self._request = self._bridge = None
            return RequestUnanswered(error)
        return self._fail(error)

    def _fail(self, error: BmcmedicError) -> SessionFailed:
        self._move(Trigger.FAILURE)
        self._exchange = None
        return SessionFailed(error)

    def _waiting_for(self) -> str:
        if self.state is State.REQUESTING and self._request is not None:
            return f"request {self._request.netfn:02x}/{self._request.command:02x}"
        return _SET_UP_NAME.get(self.state, "a request")

    def _discarded_text(self) -> str:
        if not self.discarded:
            return ""
        reason, _ = self.discarded.most_common(1)[0]
        return f" ({self.discarded.total()} datagrams discarded, most often: {reason})"

    def _discard(self, reason: str) -> None:
        if self.discarded is None:
            self.discarded = Counter()
        # The reasons hold numbers from the wire, so their count is bounded here.
        key = reason if reason in self.discarded or len(self.discarded) < 16 else "other"
        self.discarded[key] += 1

    def _move(self, trigger: Trigger) -> None:
        try:
            self.state = TRANSITIONS[self.state, trigger]
        except KeyError:
            raise LocalProtocolError(
                f"{trigger.name.lower()} in state {self.state.name.lower()}"
            ) from None

    def _next_tag(self) -> None:
        self._tag = self._tag + 1 & 0xFF

    def _check_tag(self, tag: int) -> None:
        if tag != self._tag:
            raise RemoteProtocolError("message tag of another message", section="13.18")

    def _check_session_id(self, session_id: int) -> None:
        if session_id != self._console_session_id:
            raise RemoteProtocolError("session id of another session", section="13.18")


_AWAITING = frozenset(
    {State.OPENING, State.AUTHENTICATING, State.ACTIVATING, State.REQUESTING, State.CLOSING}
)
_SET_UP_ANSWER = {
    State.OPENING: PayloadType.OPEN_SESSION_RESPONSE,
    State.AUTHENTICATING: PayloadType.RAKP_2,
    State.ACTIVATING: PayloadType.RAKP_4,
}
_SET_UP_NAME = {
    State.OPENING: "Open Session",
    State.AUTHENTICATING: "RAKP 1",
    State.ACTIVATING: "RAKP 3",
}
_TRANSMISSIONS_MAX = {
    State.AUTHENTICATING: RAKP_TRANSMISSIONS_MAX,
    State.ACTIVATING: RAKP_TRANSMISSIONS_MAX,
    State.REQUESTING: REOPEN_AFTER_TRANSMISSIONS,
}
