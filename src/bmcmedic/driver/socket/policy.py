"""Who may ask the driver for what. Pure: a table, and the rule that reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bmcmedic.driver.read_commands import READS
from bmcmedic.ipmi.constants import BMC_SLAVE_ADDRESS, CompletionCode
from bmcmedic.transport.in_band import Ipmb


class Rights(Enum):
    """What a peer may do."""

    NONE = "none"
    READ = "read"
    """Ask what changes nothing."""
    FULL = "full"
    """All that /dev/ipmi0 would give, but for what the driver keeps for itself; its orders too."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel says it."""

    pid: int
    uid: int
    gids: frozenset[int]

    def __str__(self) -> str:
        return f"process {self.pid} of uid {self.uid}"


@dataclass(frozen=True, slots=True)
class Access:
    """Whom the driver serves; uid 0 has all rights without being named."""

    full_uids: frozenset[int] = frozenset()
    full_gids: frozenset[int] = frozenset()
    read_uids: frozenset[int] = frozenset()
    read_gids: frozenset[int] = frozenset()

    def rights(self, peer: Peer) -> Rights:
        """What this peer may do."""
        if peer.uid == 0 or peer.uid in self.full_uids or peer.gids & self.full_gids:
            return Rights.FULL
        if peer.uid in self.read_uids or peer.gids & self.read_gids:
            return Rights.READ
        return Rights.NONE


@dataclass(frozen=True, slots=True)
class PolicyRefusal:
    """What the driver answers in the BMC's place."""

    completion_code: CompletionCode
    reason: str


_SHARED = "the state of the interface is everybody's, and the driver's to keep"
_TAKES = "it takes away what another's request waits for"
_USE_ORDERS = "the driver's watchdog is in charge; give it an order instead (op: watchdog)"

_APP = 0x06

THE_DRIVERS_OWN: Final[Mapping[tuple[int, int], str]] = {
    (_APP, 0x2E): _SHARED,  # Set BMC Global Enables
    (_APP, 0x30): _TAKES,  # Clear Message Flags
    (_APP, 0x32): _SHARED,  # Enable Message Channel Receive
    (_APP, 0x33): _TAKES,  # Get Message
    (_APP, 0x34): "its answer would come to nobody; give a bridge instead",  # Send Message
    (_APP, 0x35): _TAKES,  # Read Event Message Buffer
}
"""What nobody sends through the driver, and why, by (netFn, command)."""

THE_WATCHDOGS: Final = frozenset({(_APP, 0x22), (_APP, 0x24)})
"""Reset and Set Watchdog Timer: nobody sends them while the driver's watchdog is in charge."""

MORE_THAN_A_READER: Final = frozenset(
    {
        (_APP, 0x44),  # Get User Access
        (_APP, 0x46),  # Get User Name
        (0x00, 0x09),  # Get System Boot Options
        (0x0C, 0x02),  # Get LAN Configuration Parameters: it shows the SNMP community
    }
)
"""Reads that the specification itself keeps from User (appendix G)."""

RESERVATIONS: Final = frozenset({(0x0A, 0x22), (0x0A, 0x42)})
"""Reserve SDR Repository and Reserve SEL: no read of records of any length goes without."""

A_READERS: Final = (READS - MORE_THAN_A_READER) | RESERVATIONS


def refusal(
    netfn: int,
    command: int,
    *,
    target: Ipmb | None,
    rights: Rights,
    watchdog_in_charge: Callable[[], bool],
) -> PolicyRefusal | None:
    """Why a request is not sent; None when it is. The watchdog is asked where it matters."""
    what = netfn, command
    if rights is Rights.NONE or (rights is Rights.READ and what not in A_READERS):
        return PolicyRefusal(
            CompletionCode.INSUFFICIENT_PRIVILEGE,
            f"netFn 0x{netfn:02x}, command 0x{command:02x} is not for those who may only read",
        )
    if target is not None and target.address != BMC_SLAVE_ADDRESS:
        return None  # a satellite's watchdog and messages are its own
    own = THE_DRIVERS_OWN.get(what)
    if own is not None:
        return PolicyRefusal(
            CompletionCode.INSUFFICIENT_PRIVILEGE, f"not through the driver: {own}"
        )
    if what in THE_WATCHDOGS and watchdog_in_charge():
        return PolicyRefusal(CompletionCode.NOT_SUPPORTED_IN_STATE, _USE_ORDERS)
    return None
