"""The BMC's side of KCS: the registers, and the firmware that serves them.

The host's accesses only change registers. Nothing moves until the firmware calls `service`, so a
simulator makes a BMC slow by calling it late, dead by calling it never, and sick by standing
between the host and the registers. It does no I/O and needs no clock.
"""

from __future__ import annotations

from enum import Enum

from bmcmedic.errors import LocalProtocolError
from bmcmedic.ipmi.kcs import (
    INTERFACE_STATE,
    MESSAGE_BYTES_MAX,
    REQUEST_BYTES_MIN,
    STATUS_COMMAND,
    STATUS_IBF,
    STATUS_OBF,
    STATUS_SMS_ATN,
    STATUS_STATE,
    TRANSITIONS,
    ErrorCode,
    KcsControlCode,
    KcsPhase,
    KcsTrigger,
)

DUMMY_BYTE = 0x00


class KcsEvent(Enum):
    """What came of serving the interface once."""

    NOTHING = "nothing"
    REQUEST = "request"
    """`request` is to be executed and answered with `respond`."""
    CANCELLED = "cancelled"
    """The host gave up the request that is being executed; its response is no longer wanted."""
    VIOLATION = "violation"
    """The host broke the protocol; `error_code` says how."""


class BmcKcs:
    """One KCS interface, seen from the BMC; to the host it is its `Registers`.

    `sends_dummy_byte`: some BMCs leave out the byte that ends a transfer.
    `holds_ibf`: some take the last byte of a request only when they have the response.
    """

    __slots__ = (
        "error_code", "holds_ibf", "phase", "request", "request_number", "sends_dummy_byte",
        "status",
        "_buffer", "_data_in", "_data_out", "_input_pending", "_out_at", "_response",
    )  # fmt: skip

    def __init__(self, *, sends_dummy_byte: bool = True, holds_ibf: bool = False) -> None:
        self.sends_dummy_byte = sends_dummy_byte
        self.holds_ibf = holds_ibf
        self.phase = KcsPhase.IDLE
        self.status = 0
        self.error_code = ErrorCode.NONE
        self.request = b""
        """The request as it came last."""
        self.request_number = 0
        """How many requests came so far: the name of the last one."""
        self._buffer = bytearray()
        self._response = b""
        self._out_at = 0
        self._data_in = 0
        self._data_out = 0
        self._input_pending = False

    # ------------------------------------------------------------------- the registers: the host

    def read_status(self) -> int:
        """The status register."""
        return self.status

    def read_data(self) -> int:
        """The data-out register; clears OBF."""
        self.status &= ~STATUS_OBF
        return self._data_out

    def write_data(self, byte: int) -> None:
        """The data-in register; sets IBF and clears C/D."""
        self._data_in = byte
        self._input_pending = True
        self.status = self.status & ~STATUS_COMMAND | STATUS_IBF

    def write_command(self, byte: int) -> None:
        """The command register; sets IBF and C/D."""
        self._data_in = byte
        self._input_pending = True
        self.status |= STATUS_IBF | STATUS_COMMAND

    # ------------------------------------------------------------------------------ the firmware

    def service(self) -> KcsEvent:
        """Take what the host has written, if anything, and act on it."""
        if not self._input_pending:
            return KcsEvent.NOTHING
        self._input_pending = False
        byte = self._data_in
        event = self._control(byte) if self.status & STATUS_COMMAND else self._byte(byte)
        if not (self.holds_ibf and self.phase is KcsPhase.EXECUTING):
            # Last of all: the host trusts the state as soon as it sees IBF clear.
            self.status &= ~STATUS_IBF
        return event

    def respond(self, request_number: int, response: bytes) -> bool:
        """Give the response to a request; False when the host no longer waits for that one.

        Shape: netFn<<2 | LUN, command, completion code, data.
        Raises: LocalProtocolError for no byte at all.
        """
        if not response:
            raise LocalProtocolError("a response has at least one byte")
        if self.phase is not KcsPhase.EXECUTING or request_number != self.request_number:
            return False
        if self._input_pending:
            return False  # the host has already written over it
        self._response = response
        self._out_at = 1
        self._enter(KcsTrigger.RESPONSE)
        self._put_out(response[0])
        self.status &= ~STATUS_IBF
        return True

    def set_attention(self, wanted: bool) -> None:
        """Set or clear SMS_ATN."""
        self.status = self.status | STATUS_SMS_ATN if wanted else self.status & ~STATUS_SMS_ATN

    def restart(self) -> None:
        """What a cold reset does: the registers are clear, what was under way is forgotten."""
        self._enter(KcsTrigger.RESTART)
        self.status = 0
        self.error_code = ErrorCode.NONE
        self._input_pending = False
        self._data_out = 0
        self._buffer.clear()
        self._response = b""

    def fail(self, error_code: ErrorCode = ErrorCode.UNSPECIFIED) -> KcsEvent:
        """Show the ERROR state, and `error_code` to whoever asks for it."""
        self._enter(KcsTrigger.VIOLATION)
        self.error_code = error_code
        self._put_out(DUMMY_BYTE)
        if not self._input_pending:
            self.status &= ~STATUS_IBF  # it may have been held for a request
        return KcsEvent.VIOLATION

    # --------------------------------------------------------------------------- what was written

    def _control(self, code: int) -> KcsEvent:
        cancelled = self.phase is KcsPhase.EXECUTING
        if code == KcsControlCode.WRITE_START:
            self._enter(KcsTrigger.WRITE_START)
            self.error_code = ErrorCode.NONE
            self._buffer.clear()
        elif code == KcsControlCode.GET_STATUS:
            if self.error_code is ErrorCode.NONE and self.phase is not KcsPhase.IDLE:
                self.error_code = ErrorCode.ABORTED
            self._enter(KcsTrigger.GET_STATUS)
        elif code == KcsControlCode.WRITE_END and (self.phase, KcsTrigger.WRITE_END) in TRANSITIONS:
            self._enter(KcsTrigger.WRITE_END)
        else:
            return self.fail(ErrorCode.ILLEGAL_CONTROL_CODE)
        return KcsEvent.CANCELLED if cancelled else KcsEvent.NOTHING

    def _byte(self, byte: int) -> KcsEvent:
        if self.phase is KcsPhase.READ or self.phase is KcsPhase.ABORT_STATUS:
            return self._read_on(byte)
        if (self.phase, KcsTrigger.BYTE) not in TRANSITIONS:
            return self.fail()
        if self.phase is KcsPhase.ABORT_REQUESTED:
            self._enter(KcsTrigger.BYTE)
            self._put_out(self.error_code)
            return KcsEvent.NOTHING
        buffer = self._buffer
        if len(buffer) == MESSAGE_BYTES_MAX:
            return self.fail(ErrorCode.LENGTH)
        buffer.append(byte)
        ends = self.phase is KcsPhase.WRITE_END
        if ends and len(buffer) < REQUEST_BYTES_MIN:
            return self.fail(ErrorCode.LENGTH)
        self._enter(KcsTrigger.BYTE)
        if not ends:
            return KcsEvent.NOTHING
        self.request = bytes(buffer)
        self.request_number += 1
        return KcsEvent.REQUEST

    def _read_on(self, byte: int) -> KcsEvent:
        """The host has taken a byte and wants the next."""
        if byte != KcsControlCode.READ:
            return self.fail(ErrorCode.ILLEGAL_CONTROL_CODE)
        if self.phase is KcsPhase.READ and self._out_at < len(self._response):
            self._enter(KcsTrigger.READ_NEXT)
            self._put_out(self._response[self._out_at])
            self._out_at += 1
            return KcsEvent.NOTHING
        self.error_code = ErrorCode.NONE
        self._enter(KcsTrigger.READ_END)
        if self.sends_dummy_byte:
            self._put_out(DUMMY_BYTE)
        return KcsEvent.NOTHING

    def _enter(self, trigger: KcsTrigger) -> None:
        self.phase = TRANSITIONS[self.phase, trigger]
        self.status = self.status & ~STATUS_STATE | INTERFACE_STATE[self.phase]

    def _put_out(self, byte: int) -> None:
        self._data_out = byte
        self.status |= STATUS_OBF
