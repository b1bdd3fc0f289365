"""The remote console's side of one RMCP+ session (sections 13.14 to 13.24, 6.12).

    console = RemoteConsole(options)
    console.open(now, deadline)
    console.datagrams_to_send()           -> the datagrams to send now
    console.receive_datagram(data, now)   -> an event or None
    console.get_timer()                   -> when to call handle_timer(now)

One request is outstanding at a time. A BMC does one thing at a time, and does not answer a request
that comes meanwhile.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from bmcmedic.errors import (
    BmcmedicError,
    BmcRefusal,
    LocalProtocolError,
    NoAnswer,
    RemoteProtocolError,
    RmcpPlusStatusError,
)
from bmcmedic.ipmi.cipher_suites import CipherSuite
from bmcmedic.ipmi.console_options import (
    RETRANSMIT_BACKOFF_FACTOR,
    RETRANSMIT_FIRST_S,
    ConsoleOptions,
)
from bmcmedic.ipmi.constants import NetFn, RmcpPlusStatus
from bmcmedic.ipmi.events import (
    RequestUnanswered,
    ResponseReceived,
    SessionClosed,
    SessionEvent,
    SessionFailed,
    SessionOpened,
)
from bmcmedic.ipmi.handshake import Handshake
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage
from bmcmedic.ipmi.packet import Packet, PayloadType, decode_datagram, plus_header
from bmcmedic.ipmi.rakp import SUITE_REFUSALS
from bmcmedic.ipmi.session import Session
from bmcmedic.ipmi.states import TRANSITIONS, SessionState, SessionTrigger

if TYPE_CHECKING:
    # Only code that bridges loads this module: a sweep starts without it.
    from bmcmedic.ipmi.bridge import Bridge

RAKP_TRANSMISSIONS_MAX = 4
"""Transmissions of an unanswered RAKP message before set-up restarts.

The BMC may have dropped the half-open session.
"""
REOPEN_AFTER_TRANSMISSIONS = 4
"""Transmissions of an unanswered request before a new session is set up, if that is allowed."""
HANDSHAKES_MAX = 16
"""Most handshakes that one `open()` or `request()` starts; after that it fails early."""
PATIENCE_FACTOR = 2.0
"""Factor on the first retransmission time for a BMC that is too slow for repetitions."""

_CLOSE_SESSION = 0x3C
_SEND_MESSAGE_RESPONSE = (NetFn.APP | 1, 0x34)


class RemoteConsole:
    """One RMCP+ session from the remote console's side, without I/O.

    A method that is called in the wrong state raises LocalProtocolError. Nothing that comes from
    the network raises an exception: a datagram that is invalid or unexpected is dropped and counted
    in `discarded` by its reason.
    """

    __slots__ = (
        "_bridge",
        "_deadline",
        "_first_interval",
        "_handshake",
        "_handshakes",
        "_handshakes_max",
        "_interval",
        "_is_request_pending",
        "_options",
        "_outbox",
        "_payload",
        "_payload_type",
        "_rakp1_repeated",
        "_repeats",
        "_request",
        "_sequence",
        "_session",
        "_timer",
        "_transmissions",
        "discarded",
        "state",
        "suite",
    )

    def __init__(self, options: ConsoleOptions) -> None:
        self._options = options
        self.suite: CipherSuite = options.suites[0]
        self.state = SessionState.IDLE
        self.discarded: Counter[str] | None = None
        self._outbox: list[bytes] = []
        self._handshake: Handshake | None = None
        self._handshakes = 0
        self._handshakes_max = HANDSHAKES_MAX
        self._rakp1_repeated = False
        self._first_interval = options.retransmit_first_s
        self._session: Session | None = None
        self._request: RequestMessage | None = None
        self._bridge: Bridge | None = None
        self._is_request_pending = False
        """Whether `_request` is to be sent again once the session has been set up again."""
        self._sequence = 0
        self._transmissions = 0
        self._payload = b""
        self._payload_type = PayloadType.OPEN_SESSION_REQUEST
        self._repeats = True
        self._deadline = 0.0
        self._interval = RETRANSMIT_FIRST_S
        self._timer: float | None = None

    # -- the caller's methods --------------------------------------------------------------

    def open(self, now: float, deadline: float) -> None:
        """Start to set up the session."""
        self._move(SessionTrigger.OPEN)
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
        """Send a request, through `bridge` if it is given; the message's `sequence` is replaced.

        A request that is not idempotent is sent exactly once.
        """
        self._move(SessionTrigger.REQUEST)
        self._deadline = deadline
        self._send_request(message, bridge, now, repeats=idempotent)

    def give_up_request(self) -> None:
        """Stop waiting for the outstanding request's answer; do nothing if there is none."""
        if self.state is SessionState.REQUESTING:
            self._move(SessionTrigger.REQUEST_DEADLINE)
            self._request = self._bridge = self._timer = None

    def close(self, now: float, deadline: float) -> None:
        """Ask the BMC to free the session's slot (Close Session, section 22.19)."""
        self._move(SessionTrigger.CLOSE)
        assert self._session is not None
        session_id = self._session.outbound_id.to_bytes(4, "little")
        self._deadline = deadline
        message = RequestMessage(NetFn.APP, _CLOSE_SESSION, session_id)
        self._send_request(message, None, now, repeats=True)

    def datagrams_to_send(self) -> list[bytes]:
        """Return the datagrams to send now; each is returned once."""
        datagrams, self._outbox = self._outbox, []
        return datagrams

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None while nothing is awaited."""
        return self._timer

    def handle_timer(self, now: float) -> SessionEvent | None:
        """Retransmit, restart the set-up, or give up; do nothing when called early."""
        if self._timer is None or now < self._timer:
            return None
        if now >= self._deadline:
            return self._deadline_passed()
        if self._transmissions >= _TRANSMISSIONS_MAX.get(self.state, self._transmissions + 1) and (
            self.state is not SessionState.REQUESTING or self._options.may_reopen
        ):
            return self._restart_set_up(now)
        self._interval *= RETRANSMIT_BACKOFF_FACTOR
        self._transmit(now)
        return None

    def receive_datagram(self, data: bytes, now: float) -> SessionEvent | None:
        """Handle one datagram that came from the BMC's address."""
        try:
            packet = decode_datagram(data)
            if type(packet) is not Packet:
                raise RemoteProtocolError("not an RMCP+ packet", section="13.6")
            if self._session is not None and packet.session_id:
                return self._receive_in_session(packet, data)
            return self._receive_during_set_up(packet, now)
        except RemoteProtocolError as error:
            self._discard(str(error.args[0]))
            return None

    # -- setting up ------------------------------------------------------------------------

    def _propose(self, now: float) -> None:
        self._session = None
        self._handshake = Handshake(self._options, self.suite, 3 * self._handshakes)
        self._handshakes += 1
        self._send(PayloadType.OPEN_SESSION_REQUEST, self._handshake.open_session_request(), now)

    def _restart_set_up(self, now: float) -> SessionEvent | None:
        if self._handshakes >= self._handshakes_max:
            return self._fail(NoAnswer(f"no answer to {self._waiting_for()}"))
        self._is_request_pending = self._request is not None
        self._move(SessionTrigger.RESTART_SET_UP)
        self._propose(now)
        return None

    def _receive_during_set_up(self, packet: Packet, now: float) -> SessionEvent | None:
        handshake = self._handshake
        if (
            handshake is None
            or packet.payload_type != _EXPECTED_PAYLOAD_TYPE.get(self.state)
            or packet.is_encrypted
            or packet.is_authenticated
        ):
            raise RemoteProtocolError("not the expected set-up message", section="13.15")
        try:
            if self.state is SessionState.OPENING:
                payload = handshake.rakp_1(packet.payload)
                self._move(SessionTrigger.OPEN_SESSION_RESPONSE)
                self._send(PayloadType.RAKP_1, payload, now)
                return None
            if self.state is SessionState.AUTHENTICATING:
                payload = handshake.rakp_3(packet.payload)
                self._rakp1_repeated = self._transmissions > 1
                self._move(SessionTrigger.RAKP_2)
                self._send(PayloadType.RAKP_3, payload, now)
                return None
            self._session = handshake.session(packet.payload)
        except BmcRefusal as error:
            return self._refused(error, now)
        return self._activated(now)

    def _activated(self, now: float) -> SessionEvent | None:
        self._handshake = self._timer = None
        self._handshakes_max = self._handshakes + HANDSHAKES_MAX
        self._move(SessionTrigger.RAKP_4)
        if not self._is_request_pending:
            return SessionOpened(self.suite)
        assert self._request is not None
        self._is_request_pending = False
        self._move(SessionTrigger.REQUEST)
        self._send_request(self._request, self._bridge, now, repeats=True)
        return None

    def _refused(self, error: BmcRefusal, now: float) -> SessionEvent | None:
        assert self._handshake is not None
        if self._handshake.final_rakp_3 is not None:
            self._outbox.append(_set_up_datagram(PayloadType.RAKP_3, self._handshake.final_rakp_3))
        if isinstance(error, RmcpPlusStatusError):
            suites = self._options.suites
            position = suites.index(self.suite) + 1
            if error.status in SUITE_REFUSALS and position < len(suites):
                self.suite = suites[position]
                return self._restart_set_up(now)
            # A lost answer leaves the BMC one step ahead; it then no longer knows the repeated id.
            if (
                error.status in _FORGOTTEN_SESSION
                and self.state is not SessionState.OPENING
                and self._transmissions > 1
            ):
                return self._restart_set_up(now)
            # The code in RAKP 2 matched, so our secrets are right. Field: a slow BMC answers a
            # repeated RAKP 1 with a new random number, and forgets the one that we use.
            if (
                error.status == RmcpPlusStatus.INVALID_INTEGRITY_CHECK_VALUE
                and self.state is SessionState.ACTIVATING
                and self._rakp1_repeated
            ):
                self._first_interval *= PATIENCE_FACTOR
                return self._restart_set_up(now)
        return self._fail(error)

    # -- in the session --------------------------------------------------------------------

    def _receive_in_session(self, packet: Packet, data: bytes) -> SessionEvent | None:
        session = self._session
        assert session is not None
        if packet.session_id != session.inbound_id or packet.payload_type != PayloadType.IPMI:
            raise RemoteProtocolError("not a message of this session", section="13.6")
        response = ResponseMessage.decode(session.open(packet, data))
        request = self._request
        if request is None or response.sequence != self._sequence:
            raise RemoteProtocolError("not the expected response", section="13.8")
        if self._bridge is None:
            if response.netfn != request.netfn | 1 or response.command != request.command:
                raise RemoteProtocolError("not the expected response", section="13.8")
            return self._answered(response)
        is_first_part = (response.netfn, response.command) == _SEND_MESSAGE_RESPONSE
        if is_first_part and response.completion_code:
            return self._answered(response)
        inner = self._bridge.unwrap(request.with_sequence(self._sequence), response)
        if inner is not None:
            return self._answered(inner)
        if is_first_part:
            # The BMC accepted the request; a repetition would reach the satellite twice.
            self._repeats = False
            self._timer = self._deadline
        return None

    def _answered(self, response: ResponseMessage) -> SessionEvent:
        self._request = self._bridge = self._timer = None
        if self.state is SessionState.CLOSING:
            self._move(SessionTrigger.CLOSED)
            self._session = None
            return SessionClosed()
        self._move(SessionTrigger.RESPONSE)
        return ResponseReceived(response)

    def _send_request(
        self, message: RequestMessage, bridge: Bridge | None, now: float, *, repeats: bool
    ) -> None:
        self._sequence = self._sequence + 1 & 0x3F
        self._request = message
        self._bridge = bridge
        if bridge is None:
            payload = message.encode(self._sequence)
        else:
            payload = bridge.wrap(message.with_sequence(self._sequence)).encode()
        self._send(PayloadType.IPMI, payload, now, repeats=repeats)

    # -- sending and giving up -------------------------------------------------------------

    def _send(
        self, payload_type: PayloadType, payload: bytes, now: float, *, repeats: bool = True
    ) -> None:
        self._payload_type = payload_type
        self._payload = payload
        self._repeats = repeats
        self._transmissions = 0
        self._interval = self._first_interval
        self._transmit(now)

    def _transmit(self, now: float) -> None:
        self._transmissions += 1
        timer = now + self._interval
        self._timer = timer if self._repeats and timer < self._deadline else self._deadline
        if self._session is None:
            self._outbox.append(_set_up_datagram(self._payload_type, self._payload))
        else:
            self._outbox.append(self._session.seal(self._payload))

    def _deadline_passed(self) -> SessionEvent:
        # Field: pyghmi's Bmc does not answer for a user name that it does not know.
        advice = _CHECK_USER if self.state is SessionState.AUTHENTICATING else ""
        error = NoAnswer(f"no answer to {self._waiting_for()}{self._discarded_text()}", advice)
        self._timer = None
        if self.state is SessionState.CLOSING:
            self._move(SessionTrigger.CLOSED)
            self._session = None
            return SessionClosed()
        if self.state is SessionState.REQUESTING:
            self._move(SessionTrigger.REQUEST_DEADLINE)
            self._request = self._bridge = None
            return RequestUnanswered(error)
        return self._fail(error)

    def _fail(self, error: BmcmedicError) -> SessionFailed:
        self._move(SessionTrigger.FAILURE)
        self._handshake = self._timer = None
        return SessionFailed(error)

    def _waiting_for(self) -> str:
        if self.state is SessionState.REQUESTING and self._request is not None:
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
        # The reasons contain numbers from the wire, so the number of different ones is bounded.
        key = reason if reason in self.discarded or len(self.discarded) < 16 else "other"
        self.discarded[key] += 1

    def _move(self, trigger: SessionTrigger) -> None:
        try:
            self.state = TRANSITIONS[self.state, trigger]
        except KeyError:
            raise LocalProtocolError(
                f"{trigger.name.lower()} in state {self.state.name.lower()}"
            ) from None


_CHECK_USER = "it answered Open Session, so check the user name: some BMCs ignore an unknown one"
_FORGOTTEN_SESSION = (RmcpPlusStatus.INVALID_SESSION_ID, RmcpPlusStatus.INACTIVE_SESSION_ID)
_EXPECTED_PAYLOAD_TYPE = {
    SessionState.OPENING: PayloadType.OPEN_SESSION_RESPONSE,
    SessionState.AUTHENTICATING: PayloadType.RAKP_2,
    SessionState.ACTIVATING: PayloadType.RAKP_4,
}
_SET_UP_NAME = {
    SessionState.OPENING: "Open Session",
    SessionState.AUTHENTICATING: "RAKP 1",
    SessionState.ACTIVATING: "RAKP 3",
}
_TRANSMISSIONS_MAX = {
    SessionState.AUTHENTICATING: RAKP_TRANSMISSIONS_MAX,
    SessionState.ACTIVATING: RAKP_TRANSMISSIONS_MAX,
    SessionState.REQUESTING: REOPEN_AFTER_TRANSMISSIONS,
}


def _set_up_datagram(payload_type: PayloadType, payload: bytes) -> bytes:
    return plus_header(payload_type, 0, 0, len(payload)) + payload
