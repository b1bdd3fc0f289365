"""The managed system's side of RMCP+: what a BMC does with the datagrams of its LAN channel.

It sets sessions up and closes them, checks privilege levels, and hands every other command up to
be executed. A BMC simulator and a local RMCP+ door in front of a driver are built on it.
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

_Reply = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """A command to execute; hand it back to `respond` with the outcome."""

    message: RequestMessage
    peer: Hashable
    privilege: PrivilegeLevel
    session_id: int | None
    """None for one that came outside of a session."""
    envelope: LegacyPacket | Packet | None = field(default=None, repr=False)


class ManagedSystem:
    """The RMCP+ state of one BMC, without I/O; `now` and random bytes are handed in.

    Nothing that comes from the network raises: what does not belong is dropped and counted.
    """

    __slots__ = (
        "_guid",
        "_kg_set",
        "_slots",
        "_stands_for_another",
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
        stands_for_another: bool = False,
    ) -> None:
        """`stands_for_another`: a door in front of a BMC, open to whoever is on the same machine.

        What is asked in a session about channels is then that BMC's to answer; and who floods the
        door with half a set-up keeps nobody out.
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
        self._slots.yields_set_ups = stands_for_another
        self._stands_for_another = stands_for_another
        self.session_requests: Counter[tuple[int, int]] | None = None
        self.discarded_count = 0

    @property
    def session_count(self) -> int:
        """Slots in use, those still being set up included; expired ones go at the next set-up."""
        return len(self._slots)

    @property
    def session_slots(self) -> int:
        """How many sessions there may be at once."""
        return self._slots.slots_max

    @session_slots.setter
    def session_slots(self, slots_max: int) -> None:
        self._slots.slots_max = slots_max

    def has_session(self, peer: Hashable, now: float) -> bool:
        """Whether that peer is in an active session."""
        return any(self._slots.active(slot.managed_session_id, peer, now) for slot in self._slots)

    def forget_sessions(self) -> None:
        """What a restart of the BMC does to its sessions."""
        self._slots.clear()

    def receive_datagram(
        self, data: bytes, peer: Hashable, now: float
    ) -> bytes | IncomingRequest | None:
        """Take one datagram.

        Returns bytes to send back to `peer` at once, a command to execute, or None where nothing
        is owed: to garbage, to unknown sessions, and to the repetition of a request in work.
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
        """The datagram that answers `incoming`; None when its session is gone meanwhile."""
        return self.send_message(incoming, incoming.message.reply(completion_code, data), now)

    def user_name(self, incoming: IncomingRequest) -> bytes | None:
        """Who asks, by the session's user; None outside of one."""
        slot = None if incoming.session_id is None else self._slots.get(incoming.session_id)
        return None if slot is None or slot.user is None else slot.user.name

    def send_message(
        self, incoming: IncomingRequest, response: ResponseMessage, now: float
    ) -> bytes | None:
        """A datagram with `response`, in the session of `incoming`.

        For the second part of a bridged request's answer (section 6.13.3); else use `respond`.
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
            raise RemoteProtocolError("IPMI 1.5 sessions are not served", section="13.6")
        return self._receive_sessionless(packet, peer)

    def _receive_outside(
        self, packet: Packet, peer: Hashable, now: float
    ) -> bytes | IncomingRequest | None:
        if packet.is_encrypted or packet.is_authenticated:
            raise RemoteProtocolError("protected, but in no session", section="13.6")
        if packet.payload_type == PayloadType.IPMI:
            return self._receive_sessionless(packet, peer)
        receive = _SET_UP.get(packet.payload_type)
        if receive is None:
            raise RemoteProtocolError("a payload type that is not served", section="13.27.3")
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
        """What the channel answers by itself, in a session or outside; None: not its business."""
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
            raise RemoteProtocolError("no such session", section="13.6")
        if packet.payload_type != PayloadType.IPMI:
            raise RemoteProtocolError("a payload type that is not active", section="13.27.3")
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
        channel_reply = None if self._stands_for_another else self._sessionless_reply(message)
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
    """What a command is told by on the wire."""
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
