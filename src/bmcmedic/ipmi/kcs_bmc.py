"""The BMC's side of KCS: the registers, and the firmware that serves them.

The host's accesses only change registers. The transfer does not advance until the firmware calls
`service`. A simulator makes a BMC slow by calling it late, and dead by never calling it; it makes a
BMC sick by altering the registers on their way to the host. This module does no I/O and needs no
clock.
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
"""The byte that the BMC puts into data-out at the end of a transfer, and when it shows ERROR."""


class KcsEvent(Enum):
    """The outcome of one call of `BmcKcs.service`."""

    NOTHING = "nothing"
    REQUEST = "request"
    """A request is complete: execute `request` and answer it with `respond`."""
    CANCELLED = "cancelled"
    """The host aborted the request that is being executed; its response is no longer wanted."""
    VIOLATION = "violation"
    """The host violated the protocol; `error_code` says how."""


class BmcKcs:
    """One KCS interface, seen from the BMC; the host uses it as its `KcsRegisters`.

    `sends_dummy_byte` is false for a BMC that leaves out the byte that ends a transfer.
    `holds_ibf` is true for a BMC that takes the last byte of a request only once it has the
    response. Field: both kinds of BMC exist.
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
        """The last request that was received."""
        self.request_number = 0
        """The number of requests received so far; it identifies the last one."""
        self._buffer = bytearray()
        self._response = b""
        self._out_at = 0
        self._data_in = 0
        self._data_out = 0
        self._input_pending = False

    # ------------------------------------------------------------------- the registers: the host

    def read_status(self) -> int:
        """Read the status register."""
        return self.status

    def read_data(self) -> int:
        """Read the data-out register; this clears OBF."""
        self.status &= ~STATUS_OBF
        return self._data_out

    def write_data(self, byte: int) -> None:
        """Write the data-in register; this sets IBF and clears C/D."""
        self._data_in = byte
        self._input_pending = True
        self.status = self.status & ~STATUS_COMMAND | STATUS_IBF

    def write_command(self, byte: int) -> None:
        """Write the command register; this sets IBF and C/D."""
        self._data_in = byte
        self._input_pending = True
        self.status |= STATUS_IBF | STATUS_COMMAND

    # ------------------------------------------------------------------------------ the firmware

    def service(self) -> KcsEvent:
        """Read the byte that the host has written, if there is one, and act on it."""
        if not self._input_pending:
            return KcsEvent.NOTHING
        self._input_pending = False
        byte = self._data_in
        if self.status & STATUS_COMMAND:
            event = self._receive_control_code(byte)
        else:
            event = self._receive_byte(byte)
        if not (self.holds_ibf and self.phase is KcsPhase.EXECUTING):
            # IBF is cleared last: the host trusts the state as soon as it reads IBF as clear.
            self.status &= ~STATUS_IBF
        return event

    def respond(self, request_number: int, response: bytes) -> bool:
        """Send the response to a request; return False when the host no longer waits for it.

        Shape: netFn<<2 | LUN, command, completion code, data.
        Raises: LocalProtocolError for an empty response.
        """
        if not response:
            raise LocalProtocolError("a response has at least one byte")
        if self.phase is not KcsPhase.EXECUTING or request_number != self.request_number:
            return False
        if self._input_pending:
            return False  # the host has already written again, so it gave this request up
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
        """Clear the registers and drop any transfer in progress, as a cold reset does."""
        self._enter(KcsTrigger.RESTART)
        self.status = 0
        self.error_code = ErrorCode.NONE
        self._input_pending = False
        self._data_out = 0
        self._buffer.clear()
        self._response = b""

    def fail(self, error_code: ErrorCode = ErrorCode.UNSPECIFIED) -> KcsEvent:
        """Enter the ERROR state; a GET_STATUS/ABORT that follows returns `error_code`."""
        self._enter(KcsTrigger.VIOLATION)
        self.error_code = error_code
        self._put_out(DUMMY_BYTE)
        if not self._input_pending:
            self.status &= ~STATUS_IBF  # `holds_ibf` may have left it set
        return KcsEvent.VIOLATION

    # ------------------------------------------------------------------ bytes the host has written

    def _receive_control_code(self, code: int) -> KcsEvent:
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

    def _receive_byte(self, byte: int) -> KcsEvent:
        if self.phase is KcsPhase.READ or self.phase is KcsPhase.ABORT_STATUS:
            return self._put_out_next(byte)
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
        is_last = self.phase is KcsPhase.WRITE_END
        if is_last and len(buffer) < REQUEST_BYTES_MIN:
            return self.fail(ErrorCode.LENGTH)
        self._enter(KcsTrigger.BYTE)
        if not is_last:
            return KcsEvent.NOTHING
        self.request = bytes(buffer)
        self.request_number += 1
        return KcsEvent.REQUEST

    def _put_out_next(self, byte: int) -> KcsEvent:
        """Put out the next byte, now that the host has read one and written `byte`."""
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
