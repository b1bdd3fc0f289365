"""The managed system's side of RMCP+: it handles the datagrams of a BMC's LAN channel.

It opens and closes sessions, checks privilege levels, and returns every other command to its caller
for execution. The BMC simulator and the loopback RMCP+ proxy of the agent are built on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bmcmedic.errors import InvalidDataField, RemoteProtocolError
from bmcmedic.ipmi.cipher_suites import CIPHER_SUITES
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.messaging import GetSystemGuidReq
from bmcmedic.ipmi.commands.registry import COMMANDS
from bmcmedic.ipmi.commands.session import (
    CIPHER_SUITE_CHUNK_BYTES,
    AuthenticationTypes,
    CipherSuiteRecord,
    CloseSessionReq,
    GetChannelAuthenticationCapabilitiesReq,
    GetChannelAuthenticationCapabilitiesRsp,
    GetChannelCipherSuitesReq,
    GetChannelCipherSuitesRsp,
    GetSessionInfoReq,
    GetSessionInfoRsp,
    SessionDetail,
    SetSessionPrivilegeLevelReq,
    SetSessionPrivilegeLevelRsp,
    encode_cipher_suite_records,
)
from bmcmedic.ipmi.constants import PRESENT_CHANNEL, CompletionCode, PrivilegeLevel
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage
from bmcmedic.ipmi.packet import (
    LegacyPacket,
    Packet,
    PayloadType,
    PresencePing,
    PresencePong,
    decode_datagram,
)
from bmcmedic.ipmi.session import AesFactory, RandomBytes
from bmcmedic.ipmi.session_slots import SessionSlot, SessionSlots, SetUpAnswer, User

__all__ = ["LAN_CHANNEL", "IncomingRequest", "ManagedSystem", "User"]

LAN_CHANNEL = 1
"""Channel number of the LAN channel."""
_Reply = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """A command to execute; pass it to `respond` together with the outcome."""

    message: RequestMessage
    peer: Hashable
    privilege: PrivilegeLevel
    session_id: int | None
    """The session of the command; None for a command that came outside of a session."""
    envelope: LegacyPacket | Packet | None = field(default=None, repr=False)


class ManagedSystem:
    """The RMCP+ state of one BMC, without I/O; time and random bytes are passed in.

    Nothing that comes from the network raises an exception: a datagram that is invalid or
    unexpected is dropped and counted.
    """

    __slots__ = (
        "_guid",
        "_is_proxy",
        "_kg_set",
        "_slots",
        "_suites",
        "_users",
        "discarded_count",
        "session_requests",
    )

    def __init__(
        self,
        *,
        guid: bytes,
        users: Sequence[User],
        random_bytes: RandomBytes,
        aes: AesFactory,
        kg: bytes = b"",
        cipher_suites: Sequence[int] = (3, 17),
        session_slots: int = 16,
        session_timeout_s: float = 60.0,
        is_proxy: bool = False,
    ) -> None:
        """Create the state of a BMC, or with `is_proxy` of a proxy in front of one.

        A proxy is open to every user of the same machine. Commands about channels within a session
        are then left to the BMC. A client that floods the proxy with half-open sessions cannot
        lock out other clients, because a new session takes the slot of a half-open one.
        """
        self._guid = guid
        self._users = tuple(users)
        self._kg_set = bool(kg)
        self._suites = tuple(cipher_suites)
        self._slots = SessionSlots(
            guid=guid,
            users=self._users,
            kg=kg,
            cipher_suites=self._suites,
            slots_max=session_slots,
            session_timeout_s=session_timeout_s,
            random_bytes=random_bytes,
            aes=aes,
        )
        self._slots.replaces_half_open = is_proxy
        self._is_proxy = is_proxy
        self.session_requests: Counter[tuple[int, int]] | None = None
        self.discarded_count = 0

    @property
    def session_count(self) -> int:
        """Number of slots in use, half-open and expired ones included.

        Expired sessions are removed when the next set-up message arrives.
        """
        return len(self._slots)

    @property
    def session_slots(self) -> int:
        """Most sessions that may exist at once."""
        return self._slots.slots_max

    @session_slots.setter
    def session_slots(self, slots_max: int) -> None:
        self._slots.slots_max = slots_max

    def has_session(self, peer: Hashable, now: float) -> bool:
        """Return whether that peer has an active session."""
        return any(self._slots.active(slot.managed_session_id, peer, now) for slot in self._slots)

    def forget_sessions(self) -> None:
        """Drop all sessions, as a restart of the BMC does."""
        self._slots.clear()

    def receive_datagram(
        self, data: bytes, peer: Hashable, now: float
    ) -> bytes | IncomingRequest | None:
        """Handle one datagram.

        Return bytes to send back to `peer` at once, a command to execute, or None if there is
        nothing to send. There is nothing to send for garbage, for unknown sessions, and for the
        repetition of a request that is being executed.
        """
        try:
            datagram = decode_datagram(data)
            if isinstance(datagram, Packet):
                if datagram.session_id:
                    return self._receive_in_session(datagram, data, peer, now)
                return self._receive_outside(datagram, peer, now)
            if isinstance(datagram, LegacyPacket):
                return self._receive_legacy(datagram, peer)
            if isinstance(datagram, PresencePing):
                return PresencePong(datagram.tag, supports_ipmi=True).encode()
        except RemoteProtocolError:
            pass
        self.discarded_count += 1
        return None

    def respond(
        self, incoming: IncomingRequest, completion_code: int, data: bytes, now: float
    ) -> bytes | None:
        """Return the datagram that answers `incoming`; None if its session has ended meanwhile."""
        return self.send_message(incoming, incoming.message.reply(completion_code, data), now)

    def user_name(self, incoming: IncomingRequest) -> bytes | None:
        """Return the name of the session's user; None outside of a session."""
        slot = None if incoming.session_id is None else self._slots.get(incoming.session_id)
        return None if slot is None or slot.user is None else slot.user.name

    def send_message(
        self, incoming: IncomingRequest, response: ResponseMessage, now: float
    ) -> bytes | None:
        """Return a datagram that carries `response` in the session of `incoming`.

        It is for the second part of the answer to a bridged request (section 6.13.3). Use `respond`
        for everything else.
        """
        payload = response.encode()
        if incoming.session_id is None:
            return _outside(incoming.envelope, payload)
        slot = self._slots.get(incoming.session_id)
        if slot is None or slot.session is None:
            return None
        if slot.executing == incoming.message:
            slot.executing = None
        self._slots.touch(slot, now)
        return slot.session.seal(payload)

    # -- outside of a session --------------------------------------------------------------

    def _receive_legacy(
        self, packet: LegacyPacket, peer: Hashable
    ) -> bytes | IncomingRequest | None:
        if packet.authentication_type or packet.session_id:
            raise RemoteProtocolError("IPMI 1.5 sessions are not supported", section="13.6")
        return self._receive_sessionless(packet, peer)

    def _receive_outside(
        self, packet: Packet, peer: Hashable, now: float
    ) -> bytes | IncomingRequest | None:
        if packet.is_encrypted or packet.is_authenticated:
            raise RemoteProtocolError("a protected packet outside of a session", section="13.6")
        if packet.payload_type == PayloadType.IPMI:
            return self._receive_sessionless(packet, peer)
        receive = _SET_UP.get(packet.payload_type)
        if receive is None:
            raise RemoteProtocolError("an unsupported payload type", section="13.27.3")
        self._slots.expire(now)
        answer = receive(self._slots, packet.payload, peer, now)
        if answer is None:
            return None
        answer_type, payload = answer
        return Packet(answer_type, False, False, 0, 0, payload).encode()

    def _receive_sessionless(
        self, packet: LegacyPacket | Packet, peer: Hashable
    ) -> bytes | IncomingRequest | None:
        message = RequestMessage.decode(packet.payload)
        command = COMMANDS.get((message.netfn, message.command))
        if command is None or not command.sessionless:
            raise RemoteProtocolError("a command that needs a session", section="G")
        reply = self._sessionless_reply(message)
        if reply is None:
            return IncomingRequest(message, peer, PrivilegeLevel.CALLBACK, None, packet)
        return _outside(packet, message.reply(*reply).encode())

    def _sessionless_reply(self, message: RequestMessage) -> _Reply | None:
        """Return the channel's own reply to a request; None if it does not answer that command."""
        answer = _CHANNEL_COMMANDS.get((message.netfn, message.command))
        if answer is None:
            return None
        self._count(message)
        try:
            return answer(self, message.data)
        except RemoteProtocolError as error:
            return _refusal(error)

    def _authentication_capabilities(self, data: bytes) -> _Reply:
        request = GetChannelAuthenticationCapabilitiesReq.decode(data)
        if request.channel not in (LAN_CHANNEL, PRESENT_CHANNEL):
            return CompletionCode.INVALID_DATA_FIELD, b""
        response = GetChannelAuthenticationCapabilitiesRsp(
            channel=LAN_CHANNEL,
            authentication_types=AuthenticationTypes.NONE & 0,
            extended=request.extended,
            k_g_set=self._kg_set,
            per_message_authentication=True,
            user_level_authentication=True,
            non_null_user_names=any(user.name for user in self._users),
            null_user_names=any(not user.name and user.password for user in self._users),
            anonymous_login=any(not user.name and not user.password for user in self._users),
            ipmi_2_0=True,
            ipmi_1_5=False,
        )
        return CompletionCode.OK, response.encode()

    def _cipher_suites(self, data: bytes) -> _Reply:
        request = GetChannelCipherSuitesReq.decode(data)
        if request.channel not in (LAN_CHANNEL, PRESENT_CHANNEL):
            return CompletionCode.INVALID_DATA_FIELD, b""
        records = encode_cipher_suite_records(
            [
                CipherSuiteRecord(
                    suite.id, suite.authentication, (suite.integrity,), (suite.confidentiality,)
                )
                for suite in (CIPHER_SUITES[suite_id] for suite_id in self._suites)
            ]
        )
        start = request.list_index * CIPHER_SUITE_CHUNK_BYTES
        chunk = records[start : start + CIPHER_SUITE_CHUNK_BYTES]
        return CompletionCode.OK, GetChannelCipherSuitesRsp(LAN_CHANNEL, chunk).encode()

    def _system_guid(self, data: bytes) -> _Reply:
        GetSystemGuidReq.decode(data)
        return CompletionCode.OK, self._guid

    # -- in a session ----------------------------------------------------------------------

    def _receive_in_session(
        self, packet: Packet, data: bytes, peer: Hashable, now: float
    ) -> bytes | IncomingRequest | None:
        slot = self._slots.active(packet.session_id, peer, now)
        if slot is None or slot.session is None:
            raise RemoteProtocolError("an unknown session", section="13.6")
        if packet.payload_type != PayloadType.IPMI:
            raise RemoteProtocolError("an inactive payload type", section="13.27.3")
        message = RequestMessage.decode(slot.session.open(packet, data))
        self._slots.touch(slot, now)
        if slot.executing == message:
            return None
        key = message.netfn, message.command
        command = COMMANDS.get(key)
        if command is not None and slot.privilege < command.privilege:
            return self._seal(slot, message, (CompletionCode.INSUFFICIENT_PRIVILEGE, b""))
        session_command = _SESSION_COMMANDS.get(key)
        if session_command is not None:
            self._count(message)
            try:
                reply = session_command(self, slot, message.data)
            except RemoteProtocolError as error:
                reply = _refusal(error)
            return self._seal(slot, message, reply)
        channel_reply = None if self._is_proxy else self._sessionless_reply(message)
        if channel_reply is not None:
            return self._seal(slot, message, channel_reply)
        slot.executing = message
        return IncomingRequest(message, peer, slot.privilege, packet.session_id)

    def _seal(self, slot: SessionSlot, message: RequestMessage, reply: _Reply) -> bytes:
        assert slot.session is not None
        return slot.session.seal(message.reply(*reply).encode())

    def _set_privilege(self, slot: SessionSlot, data: bytes) -> _Reply:
        requested = SetSessionPrivilegeLevelReq.decode(data).privilege_level
        if requested > slot.privilege_limit:
            assert slot.user is not None
            return 0x80 if requested > slot.user.privilege_limit else 0x81, b""
        if requested == PrivilegeLevel.CALLBACK:
            return CompletionCode.INVALID_DATA_FIELD, b""
        if requested:
            slot.privilege = requested
        return CompletionCode.OK, SetSessionPrivilegeLevelRsp(slot.privilege).encode()

    def _close_session(self, slot: SessionSlot, data: bytes) -> _Reply:
        request = CloseSessionReq.decode(data)
        if request.session_handle is not None:
            return 0x88, b""
        other = self._slots.get(request.session_id)
        if other is None:
            return 0x87, b""
        if other is not slot and slot.privilege < PrivilegeLevel.ADMINISTRATOR:
            return CompletionCode.INSUFFICIENT_PRIVILEGE, b""
        self._slots.free(request.session_id)
        return CompletionCode.OK, b""

    def _session_info(self, slot: SessionSlot, data: bytes) -> _Reply:
        request = GetSessionInfoReq.decode(data)
        active = [other for other in self._slots if other.session is not None]
        found: SessionSlot | None = slot
        if request.session_id is not None:
            found = self._slots.get(request.session_id)
        elif request.session_handle is not None:
            return CompletionCode.NOT_PRESENT, b""
        elif request.session_index:
            index = request.session_index - 1
            found = active[index] if index < len(active) else None
        detail = None
        if found is not None and found.user is not None:
            detail = SessionDetail(found.user.user_id, found.privilege, LAN_CHANNEL)
        handle = active.index(found) + 1 if found in active else 0
        response = GetSessionInfoRsp(
            min(handle, 0xFF), min(self.session_slots, 0x3F), min(len(active), 0x3F), detail
        )
        return CompletionCode.OK, response.encode()

    def _count(self, message: RequestMessage) -> None:
        if self.session_requests is None:
            self.session_requests = Counter()
        self.session_requests[message.netfn, message.command] += 1


def command_key(command: type[Command[Any]]) -> tuple[int, int]:
    """Return the network function and number that identify a command on the wire."""
    return command.netfn, command.command


def _refusal(error: RemoteProtocolError) -> _Reply:
    if isinstance(error, InvalidDataField):
        return CompletionCode.INVALID_DATA_FIELD, b""
    return CompletionCode.DATA_LENGTH_INVALID, b""


def _outside(envelope: LegacyPacket | Packet | None, payload: bytes) -> bytes:
    if isinstance(envelope, LegacyPacket):
        return LegacyPacket(0, 0, 0, payload).encode()
    return Packet(PayloadType.IPMI, False, False, 0, 0, payload).encode()


_SET_UP: dict[int, Callable[[SessionSlots, bytes, Hashable, float], SetUpAnswer | None]] = {
    PayloadType.OPEN_SESSION_REQUEST: SessionSlots.receive_open_session,
    PayloadType.RAKP_1: SessionSlots.receive_rakp_1,
    PayloadType.RAKP_3: SessionSlots.receive_rakp_3,
}
_CHANNEL_COMMANDS: dict[tuple[int, int], Callable[[ManagedSystem, bytes], _Reply]] = {
    command_key(
        GetChannelAuthenticationCapabilitiesReq
    ): ManagedSystem._authentication_capabilities,
    command_key(GetChannelCipherSuitesReq): ManagedSystem._cipher_suites,
    command_key(GetSystemGuidReq): ManagedSystem._system_guid,
}
_SESSION_COMMANDS: dict[tuple[int, int], Callable[[ManagedSystem, SessionSlot, bytes], _Reply]] = {
    command_key(SetSessionPrivilegeLevelReq): ManagedSystem._set_privilege,
    command_key(CloseSessionReq): ManagedSystem._close_session,
    command_key(GetSessionInfoReq): ManagedSystem._session_info,
}
