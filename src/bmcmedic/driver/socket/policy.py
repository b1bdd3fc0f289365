"""Which peer may send what through the driver. Pure: a table, and the rule that reads it."""

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
    """Only requests that change nothing."""
    FULL = "full"
    """Orders, and all that /dev/ipmi0 would allow, except what the driver keeps for itself."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as the kernel reports it."""

    pid: int
    uid: int
    gids: frozenset[int]

    def __str__(self) -> str:
        return f"process {self.pid} of uid {self.uid}"


@dataclass(frozen=True, slots=True)
class Access:
    """Which users the driver serves; uid 0 always has all rights."""

    full_uids: frozenset[int] = frozenset()
    full_gids: frozenset[int] = frozenset()
    read_uids: frozenset[int] = frozenset()
    read_gids: frozenset[int] = frozenset()

    def rights(self, peer: Peer) -> Rights:
        """Return what this peer may do."""
        if peer.uid == 0 or peer.uid in self.full_uids or peer.gids & self.full_gids:
            return Rights.FULL
        if peer.uid in self.read_uids or peer.gids & self.read_gids:
            return Rights.READ
        return Rights.NONE


@dataclass(frozen=True, slots=True)
class PolicyRefusal:
    """The driver's answer in the BMC's place."""

    completion_code: CompletionCode
    reason: str


_SHARED = "the interface's state is shared by all clients, so only the driver changes it"
_TAKES = "it would remove what another client waits for"
_USE_ORDERS = "the driver's watchdog is in charge; send it an order instead (op: watchdog)"

_APP = 0x06

DRIVER_ONLY: Final[Mapping[tuple[int, int], str]] = {
    (_APP, 0x2E): _SHARED,  # Set BMC Global Enables
    (_APP, 0x30): _TAKES,  # Clear Message Flags
    (_APP, 0x32): _SHARED,  # Enable Message Channel Receive
    (_APP, 0x33): _TAKES,  # Get Message
    (_APP, 0x34): "its answer would reach no client; use a bridge instead",  # Send Message
    (_APP, 0x35): _TAKES,  # Read Event Message Buffer
}
"""Requests that nobody may send through the driver, with the reason, by (netFn, command)."""

WATCHDOG_ONLY: Final = frozenset({(_APP, 0x22), (_APP, 0x24)})
"""Reset and Set Watchdog Timer: nobody may send them while the driver's watchdog is in charge."""

READS_DENIED_TO_READERS: Final = frozenset(
    {
        (_APP, 0x44),  # Get User Access
        (_APP, 0x46),  # Get User Name
        (0x00, 0x09),  # Get System Boot Options
        (0x0C, 0x02),  # Get LAN Configuration Parameters: it shows the SNMP community
    }
)
"""Reads that the specification itself denies to User (appendix G)."""

RESERVATIONS: Final = frozenset({(0x0A, 0x22), (0x0A, 0x42)})
"""Reserve SDR Repository and Reserve SEL: reading records longer than one reply needs them."""

READER_COMMANDS: Final = (READS - READS_DENIED_TO_READERS) | RESERVATIONS


def refusal(
    netfn: int,
    command: int,
    *,
    target: Ipmb | None,
    rights: Rights,
    watchdog_in_charge: Callable[[], bool],
) -> PolicyRefusal | None:
    """Return why a request is not sent, or None. The watchdog is asked only where it matters."""
    what = netfn, command
    if rights is Rights.NONE or (rights is Rights.READ and what not in READER_COMMANDS):
        return PolicyRefusal(
            CompletionCode.INSUFFICIENT_PRIVILEGE,
            f"netFn 0x{netfn:02x}, command 0x{command:02x} is not allowed for readers",
        )
    if target is not None and target.address != BMC_SLAVE_ADDRESS:
        return None  # a satellite controller's watchdog and messages are its own
    own = DRIVER_ONLY.get(what)
    if own is not None:
        return PolicyRefusal(
            CompletionCode.INSUFFICIENT_PRIVILEGE, f"not through the driver: {own}"
        )
    if what in WATCHDOG_ONLY and watchdog_in_charge():
        return PolicyRefusal(CompletionCode.NOT_SUPPORTED_IN_STATE, _USE_ORDERS)
    return None
