"""The KCS interface: its registers, its codes, and the transition table that both sides share.

Spec: chapter 9. A message is netFn<<2 | LUN, command, data; a response has a completion code after
the command. It travels a byte at a time through two registers, and has no checksum.

The phase is how far a transfer has come. Both sides track it: the host (`kcs_host.py`) from what it
wrote, the BMC (`kcs_bmc.py`) from what it read. `TRANSITIONS` gives the next phase. The BMC shows
the interface state, two bits, in the status register; the host checks that they match its phase.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

STATUS_OBF = 0x01
"""Output buffer full: the BMC has put a byte into data-out; the host clears it by reading it."""
STATUS_IBF = 0x02
"""Input buffer full: the host has written a byte; the BMC clears it by reading it."""
STATUS_SMS_ATN = 0x04
"""The BMC requests attention: a message, an event or a watchdog pretimeout is pending."""
STATUS_COMMAND = 0x08
"""C/D: the last byte that the host wrote went to the command register, not to data-in."""
STATUS_STATE = 0xC0
"""Mask of the interface state, bits 7:6."""

STATUS_NOTHING_THERE = 0xFF
"""Value of a status port that no BMC drives: there is no BMC, or it is restarting."""

REQUEST_BYTES_MIN = 2
RESPONSE_BYTES_MIN = 3
MESSAGE_BYTES_MAX = 272
"""Longest request or response, in bytes. The specification sets no limit; this is Linux's."""


class InterfaceState(IntEnum):
    """The interface state, as it stands in bits 7:6 of the status register."""

    IDLE = 0x00
    READ = 0x40
    WRITE = 0x80
    ERROR = 0xC0


class KcsControlCode(IntEnum):
    """Control codes of the host. READ is written to data-in, the others to the command register."""

    GET_STATUS = 0x60
    """GET_STATUS/ABORT: abort the transfer and report the error code."""
    WRITE_START = 0x61
    WRITE_END = 0x62
    READ = 0x68


class ErrorCode(IntEnum):
    """The error codes that the BMC returns to GET_STATUS/ABORT."""

    NONE = 0x00
    ABORTED = 0x01
    ILLEGAL_CONTROL_CODE = 0x02
    LENGTH = 0x06
    UNSPECIFIED = 0xFF


class KcsPhase(IntEnum):
    """How far a transfer has come."""

    IDLE = 0
    WRITE_START = 1
    """The transfer has begun; the BMC expects the first byte, or WRITE_END before the only one."""
    WRITE_DATA = 2
    WRITE_END = 3
    """The BMC expects the last byte."""
    EXECUTING = 4
    """The BMC has the whole request and has no response yet."""
    READ = 5
    """The next byte of the response is in data-out, or will be."""
    ABORT_REQUESTED = 6
    """GET_STATUS/ABORT was written; the BMC expects a byte 0x00."""
    ABORT_STATUS = 7
    """The error code is in data-out, or will be."""
    ERROR = 8
    """One side violated the protocol or gave up; the host recovers with GET_STATUS/ABORT."""


class KcsTrigger(IntEnum):
    """The events that move a transfer from one phase to the next."""

    WRITE_START = 0
    BYTE = 1
    WRITE_END = 2
    RESPONSE = 3
    """The BMC has a response and puts its first byte into data-out."""
    READ_NEXT = 4
    """The host wrote READ, and another byte follows."""
    READ_END = 5
    """The host wrote READ, and no byte follows."""
    GET_STATUS = 6
    VIOLATION = 7
    """A byte, a code or a state that is not allowed in this phase, or a time limit that passed."""
    RESTART = 8
    """The BMC restarted."""


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
    # These four are accepted in every phase, so that a host can always start over.
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
    # The specification does not define the state of this phase, so a host must not check it.
    KcsPhase.ABORT_REQUESTED: InterfaceState.WRITE,
    KcsPhase.ABORT_STATUS: InterfaceState.READ,
    KcsPhase.ERROR: InterfaceState.ERROR,
}
"""The interface state that the status register shows in each phase."""


class KcsRegisters(Protocol):
    """The two ports of one KCS interface, as the host sees them: `kcs_bmc.BmcKcs` or real ports."""

    def read_status(self) -> int:
        """Read the status register."""

    def read_data(self) -> int:
        """Read the data-out register; this clears OBF."""

    def write_data(self, byte: int) -> None:
        """Write the data-in register; this sets IBF and clears C/D."""

    def write_command(self, byte: int) -> None:
        """Write the command register; this sets IBF and C/D."""
