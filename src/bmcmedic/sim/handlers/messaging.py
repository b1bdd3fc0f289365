"""Chapter 22: messaging, channels and users, except for the session commands."""

from __future__ import annotations

from bmcmedic.errors import RemoteProtocolError
from bmcmedic.ipmi.bridge import second_part, wrapped_request
from bmcmedic.ipmi.commands.channel import (
    AccessMode,
    ChannelMedium,
    ChannelProtocol,
    GetChannelAccessReq,
    GetChannelAccessRsp,
    GetChannelInfoReq,
    GetChannelInfoRsp,
    GetUserAccessReq,
    GetUserAccessRsp,
    GetUserNameReq,
    GetUserNameRsp,
    SessionSupport,
    UserEnableStatus,
)
from bmcmedic.ipmi.commands.messaging import (
    BmcGlobalEnables,
    ClearMessageFlagsReq,
    GetBmcGlobalEnablesReq,
    GetBmcGlobalEnablesRsp,
    GetMessageFlagsReq,
    GetMessageFlagsRsp,
    GetMessageReq,
    GetMessageRsp,
    GetSystemGuidReq,
    MessageFlags,
    MessageTracking,
    SendMessageReq,
    SetBmcGlobalEnablesReq,
)
from bmcmedic.ipmi.constants import PRESENT_CHANNEL, CompletionCode, PrivilegeLevel
from bmcmedic.sim import satellite
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.handler_call import Bridged, Call, CommandRefusal, Interface
from bmcmedic.sim.profile import IPMB_CHANNEL

USERS_MAX = 10
QUEUED_MESSAGES_MAX = 8
_NAK = 0x83
_QUEUE_EMPTY = 0x80
_NO_SESSIONS = 0x82
_CHANNELS = {
    0: (ChannelMedium.IPMB, ChannelProtocol.IPMB, SessionSupport.SESSIONLESS),
    Interface.LAN: (ChannelMedium.LAN_802_3, ChannelProtocol.IPMB, SessionSupport.MULTI_SESSION),
    IPMB_CHANNEL: (ChannelMedium.IPMB, ChannelProtocol.IPMB, SessionSupport.SESSIONLESS),
    Interface.SYSTEM_INTERFACE: (
        ChannelMedium.SYSTEM_INTERFACE,
        ChannelProtocol.KCS,
        SessionSupport.SESSIONLESS,
    ),
}


def _channel(number: int, call: Call) -> int:
    return call.interface if number == PRESENT_CHANNEL else number


def set_bmc_global_enables(bmc: SimBmc, request: SetBmcGlobalEnablesReq, call: Call) -> bytes:
    """Set BMC Global Enables (22.1); only the host may do so."""
    if call.interface is not Interface.SYSTEM_INTERFACE:
        raise CommandRefusal(CompletionCode.INSUFFICIENT_PRIVILEGE)
    bmc.volatile.global_enables = int(request.enables)
    return b""


def get_bmc_global_enables(bmc: SimBmc, _request: GetBmcGlobalEnablesReq, _call: Call) -> bytes:
    """Get BMC Global Enables (22.2)."""
    return GetBmcGlobalEnablesRsp(BmcGlobalEnables(bmc.volatile.global_enables)).encode()


def clear_message_flags(bmc: SimBmc, request: ClearMessageFlagsReq, _call: Call) -> bytes:
    """Clear Message Flags (22.3)."""
    bmc.volatile.message_flags &= ~request.flags
    if request.flags & MessageFlags.RECEIVE_MESSAGE_AVAILABLE:
        bmc.volatile.messages = ()
    return b""


def get_message_flags(bmc: SimBmc, _request: GetMessageFlagsReq, _call: Call) -> bytes:
    """Get Message Flags (22.4)."""
    return GetMessageFlagsRsp(MessageFlags(bmc.volatile.message_flags)).encode()


def get_message(bmc: SimBmc, _request: GetMessageReq, _call: Call) -> bytes:
    """Get Message (22.6)."""
    if not bmc.volatile.messages:
        raise CommandRefusal(_QUEUE_EMPTY)
    message, bmc.volatile.messages = bmc.volatile.messages[0], bmc.volatile.messages[1:]
    if not bmc.volatile.messages:
        bmc.volatile.message_flags &= ~MessageFlags.RECEIVE_MESSAGE_AVAILABLE
    return GetMessageRsp(IPMB_CHANNEL, message).encode()


def send_message(bmc: SimBmc, request: SendMessageReq, call: Call) -> bytes:
    """Send Message (22.7) to the IPMB; the satellite answers, any other address returns NAK."""
    if request.channel != IPMB_CHANNEL:
        raise CommandRefusal(CompletionCode.INVALID_DATA_FIELD)
    try:
        message = wrapped_request(request)
    except RemoteProtocolError:
        raise CommandRefusal(CompletionCode.INVALID_DATA_FIELD) from None
    answered = satellite.answer(message, power_on=bmc.host.power_on)
    if answered is None:
        raise CommandRefusal(_NAK)
    if call.interface is Interface.LAN and request.tracking is MessageTracking.TRACK_REQUEST:
        raise Bridged(second_part(call.message, message, *answered))
    if len(bmc.volatile.messages) < QUEUED_MESSAGES_MAX:
        # The first byte on the IPMB is the receiver's address, which the bus has consumed.
        bmc.volatile.messages += (message.reply(*answered).encode()[1:],)
        bmc.volatile.message_flags |= MessageFlags.RECEIVE_MESSAGE_AVAILABLE
    return b""


def get_system_guid(bmc: SimBmc, _request: GetSystemGuidReq, _call: Call) -> bytes:
    """Get System GUID (22.14)."""
    return bmc.guid


def get_channel_access(_bmc: SimBmc, request: GetChannelAccessReq, call: Call) -> bytes:
    """Get Channel Access (22.23)."""
    channel = _channel(request.channel, call)
    if channel not in _CHANNELS:
        raise CommandRefusal(CompletionCode.INVALID_DATA_FIELD)
    if channel != Interface.LAN:
        raise CommandRefusal(_NO_SESSIONS)
    return GetChannelAccessRsp(AccessMode.ALWAYS_AVAILABLE, PrivilegeLevel.ADMINISTRATOR).encode()


def get_channel_info(_bmc: SimBmc, request: GetChannelInfoReq, call: Call) -> bytes:
    """Get Channel Info (22.24)."""
    channel = _channel(request.channel, call)
    known = _CHANNELS.get(channel)
    if known is None:
        raise CommandRefusal(CompletionCode.INVALID_DATA_FIELD)
    medium, protocol, sessions = known
    active = 1 if channel == call.interface == Interface.LAN else 0
    auxiliary = b"\xff\xff" if channel == Interface.SYSTEM_INTERFACE else b"\x00\x00"
    return GetChannelInfoRsp(
        channel, medium, protocol, sessions, active_sessions=active, auxiliary=auxiliary
    ).encode()


def get_user_access(bmc: SimBmc, request: GetUserAccessReq, call: Call) -> bytes:
    """Get User Access (22.27); user 1 is the disabled null user, the real users follow."""
    if _channel(request.channel, call) != Interface.LAN or not 1 <= request.user_id <= USERS_MAX:
        raise CommandRefusal(CompletionCode.INVALID_DATA_FIELD)
    exists = 0 <= request.user_id - 2 < len(bmc.profile.user_names)
    return GetUserAccessRsp(
        users_max=USERS_MAX,
        users_enabled=len(bmc.profile.user_names),
        users_fixed_name=1,
        privilege_limit=PrivilegeLevel.ADMINISTRATOR if exists else None,
        enable_status=UserEnableStatus.ENABLED if exists else UserEnableStatus.DISABLED,
        ipmi_messaging=exists,
    ).encode()


def get_user_name(bmc: SimBmc, request: GetUserNameReq, _call: Call) -> bytes:
    """Get User Name (22.29)."""
    if not 1 <= request.user_id <= USERS_MAX:
        raise CommandRefusal(CompletionCode.INVALID_DATA_FIELD)
    index = request.user_id - 2
    names = bmc.profile.user_names
    return GetUserNameRsp(names[index] if 0 <= index < len(names) else b"").encode()
