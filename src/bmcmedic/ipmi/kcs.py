"""The KCS interface: its registers, its codes, and the one table that both its sides move by.

Spec: chapter 9. A message is netFn<<2 | LUN, command, data; a response has a completion code after
the command. It travels a byte at a time through two registers, and has no checksum.

The phase is where a transfer stands, and both sides know it: the host (`kcs_host.py`) from what it
wrote, the BMC (`kcs_bmc.py`) from what it read. The table says what follows; the BMC shows two bits
of it in the status register, and the host checks that they are the ones it expects.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

STATUS_OBF = 0x01
"""Output buffer full: the BMC has put a byte into data-out; the host's reading clears it."""
STATUS_IBF = 0x02
"""Input buffer full: the host has written a byte; the BMC's reading clears it."""
STATUS_SMS_ATN = 0x04
"""The BMC wants attention: a message, an event or a watchdog pretimeout waits."""
STATUS_COMMAND = 0x08
"""C/D: what the host wrote last was a command, not data."""
STATUS_STATE = 0xC0
"""The interface state, bits 7:6."""

STATUS_NOTHING_THERE = 0xFF
"""What a port reads as where no BMC drives it: none is there, or it is restarting."""

REQUEST_BYTES_MIN = 2
RESPONSE_BYTES_MIN = 3
MESSAGE_BYTES_MAX = 272
"""Longest message either way; the specification sets none, and Linux takes as many."""


class InterfaceState(IntEnum):
    """What bits 7:6 of the status register say, in their place."""

    IDLE = 0x00
    READ = 0x40
    WRITE = 0x80
    ERROR = 0xC0


class KcsControlCode(IntEnum):
    """What the host writes to the command register; READ alone goes to data-in."""

    GET_STATUS = 0x60
    """GET_STATUS/ABORT: give up the transfer and tell why."""
    WRITE_START = 0x61
    WRITE_END = 0x62
    READ = 0x68


class ErrorCode(IntEnum):
    """What the BMC answers to GET_STATUS/ABORT."""

    NONE = 0x00
    ABORTED = 0x01
    ILLEGAL_CONTROL_CODE = 0x02
    LENGTH = 0x06
    UNSPECIFIED = 0xFF


class KcsPhase(IntEnum):
    """Where a transfer stands."""

    IDLE = 0
    WRITE_START = 1
    """Begun; the BMC wants the first byte, or WRITE_END before the only one."""
    WRITE_DATA = 2
    WRITE_END = 3
    """The BMC wants the last byte."""
    EXECUTING = 4
    """The BMC has the whole request, and no response yet."""
    READ = 5
    """A byte of the response is in data-out, or comes next."""
    ABORT_REQUESTED = 6
    """GET_STATUS/ABORT was written; the BMC wants a byte 0x00."""
    ABORT_STATUS = 7
    """The error code is in data-out, or comes next."""
    ERROR = 8
    """One side broke the protocol, or gave up; the host answers with GET_STATUS/ABORT."""


class KcsTrigger(IntEnum):
    """What moves a transfer from phase to phase."""

    WRITE_START = 0
    BYTE = 1
    WRITE_END = 2
    RESPONSE = 3
    """The BMC has a response and puts out its first byte."""
    READ_NEXT = 4
    """The host wrote READ, and another byte follows."""
    READ_END = 5
    """The host wrote READ, and none follows."""
    GET_STATUS = 6
    VIOLATION = 7
    """A byte, a code or a state that has no place here; or a time limit that passed."""
    RESTART = 8
    """The BMC started anew."""


TRANSITIONS: dict[tuple[KcsPhase, KcsTrigger], KcsPhase] = {
    (KcsPhase.WRITE_START, KcsTrigger.BYTE): KcsPhase.WRITE_DATA,
    (KcsPhase.WRITE_START, KcsTrigger.WRITE_END): KcsPhase.WRITE_END,
    (KcsPhase.WRITE_DATA, KcsTrigger.BYTE): KcsPhase.WRITE_DATA,
    (KcsPhase.WRITE_DATA, KcsTrigger.WRITE_END): KcsPhase.WRITE_END,
    (KcsPhase.WRITE_END, KcsTrigger.BYTE): KcsPhase.EXECUTING,
    (KcsPhase.EXECUTING, KcsTrigger.RESPONSE): KcsPhase.READ,
    (KcsPhase.READ, KcsTrigger.READ_NEXT): KcsPhase.READ,
    (KcsPhase.READ, KcsTrigger.READ_END): KcsPhase.IDLE,
    (KcsPhase.ABORT_REQUESTED, KcsTrigger.BYTE): KcsPhase.ABORT_STATUS,
    (KcsPhase.ABORT_STATUS, KcsTrigger.READ_END): KcsPhase.IDLE,
    # These four are taken in every phase: a host that lost its way can always begin again.
    **{(phase, KcsTrigger.WRITE_START): KcsPhase.WRITE_START for phase in KcsPhase},
    **{(phase, KcsTrigger.GET_STATUS): KcsPhase.ABORT_REQUESTED for phase in KcsPhase},
    **{(phase, KcsTrigger.VIOLATION): KcsPhase.ERROR for phase in KcsPhase},
    **{(phase, KcsTrigger.RESTART): KcsPhase.IDLE for phase in KcsPhase},
}

INTERFACE_STATE: dict[KcsPhase, InterfaceState] = {
    KcsPhase.IDLE: InterfaceState.IDLE,
    KcsPhase.WRITE_START: InterfaceState.WRITE,
    KcsPhase.WRITE_DATA: InterfaceState.WRITE,
    KcsPhase.WRITE_END: InterfaceState.WRITE,
    KcsPhase.EXECUTING: InterfaceState.READ,
    KcsPhase.READ: InterfaceState.READ,
    # The specification leaves this one open, so no host may look at it.
    KcsPhase.ABORT_REQUESTED: InterfaceState.WRITE,
    KcsPhase.ABORT_STATUS: InterfaceState.READ,
    KcsPhase.ERROR: InterfaceState.ERROR,
}
"""What the status register shows in each phase."""


class Registers(Protocol):
    """The two ports as the host sees them: `kcs_bmc.BmcKcs`, or real ones."""

    def read_status(self) -> int:
        """The status register."""

    def read_data(self) -> int:
        """The data-out register; clears OBF."""

    def write_data(self, byte: int) -> None:
        """The data-in register; sets IBF and clears C/D."""

    def write_command(self, byte: int) -> None:
        """The command register; sets IBF and C/D."""
