"""The host's side of KCS: a state machine that names the register access to do next.

It does no I/O and reads no clock. The caller starts a request and does what `next_action` says. It
hands the outcome and the time to `step`, until `step` returns `DONE` or `FAILED`:

    READ_STATUS, READ_DATA       read the register; `step(now, value_read)`
    WRITE_DATA, WRITE_COMMAND    write `byte` to the register; `step(now)`
    WAIT                         wait until `not_before`; `step(now)`
    DONE                         `response()`
    FAILED                       `error()`

A driver pats a watchdog through this on a host that is out of memory. An exchange therefore
allocates no memory beyond what the object has from its construction. An exception is built only
when the caller asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from bmcmedic.errors import BmcmedicError, LocalProtocolError
from bmcmedic.ipmi.kcs import (
    INTERFACE_STATE,
    MESSAGE_BYTES_MAX,
    REQUEST_BYTES_MIN,
    RESPONSE_BYTES_MIN,
    STATUS_IBF,
    STATUS_NOTHING_THERE,
    STATUS_OBF,
    STATUS_SMS_ATN,
    STATUS_STATE,
    TRANSITIONS,
    InterfaceState,
    KcsControlCode,
    KcsPhase,
    KcsTrigger,
)
from bmcmedic.ipmi.kcs_errors import KcsEvidence, KcsFault, kcs_error


@dataclass(frozen=True, slots=True)
class KcsLimits:
    """How long the host waits and how often it recovers; the first three values are Linux's own."""

    ibf_s: float = 5.0
    """Longest wait for the BMC to take a byte, in seconds."""
    obf_s: float = 5.0
    """Longest wait for the BMC to put out a byte, in seconds."""
    recoveries_max: int = 10
    """Most recoveries in one exchange."""
    exchange_s: float = 60.0
    """Longest exchange, recoveries included, in seconds: a BMC may be slow at every byte."""
    absent_s: float = 0.5
    """Longest wait for a status of 0xFF to go away, in seconds."""
    recovery_pause_s: float = 0.1
    """Pause before each recovery but the first, in seconds.

    Without it, ten recoveries would pass within a millisecond and outlast no disturbance.
    """
    poll_s_min: float = 50e-6
    """First pause between two reads of the status register, in seconds; each next one doubles."""
    poll_s_max: float = 1e-3
    """Longest pause between two reads of the status register, in seconds."""


class KcsAction(IntEnum):
    """What the caller of `HostKcs` has to do next."""

    START = 0
    READ_STATUS = 1
    READ_DATA = 2
    WRITE_DATA = 3
    WRITE_COMMAND = 4
    WAIT = 5
    DONE = 6
    FAILED = 7


class _DataOutKind(IntEnum):
    """The meaning of the byte in data-out that is read next."""

    STALE = 0
    RESPONSE = 1
    DUMMY = 2
    ERROR_CODE = 3


_LINUX = KcsLimits()


class HostKcs:
    """Runs one exchange after another over one KCS interface, seen from the host."""

    __slots__ = (
        "byte", "error_code", "fault", "limits", "may_have_run", "next_action", "not_before",
        "phase",
        "recoveries", "response_length", "status",
        "_absent_until", "_data_out_kind", "_deadline", "_discards", "_error_code_read",
        "_fault_phase", "_fault_status", "_ibf_since", "_idempotent", "_limit_at", "_obf_timed",
        "_poll_s", "_request", "_request_length", "_response", "_sent",
    )  # fmt: skip

    def __init__(self, limits: KcsLimits = _LINUX) -> None:
        self.limits = limits
        self.next_action = KcsAction.START
        self.phase = KcsPhase.IDLE
        self.byte = 0
        self.not_before = 0.0
        self.status = STATUS_NOTHING_THERE
        self.response_length = 0
        self.fault = KcsFault.NONE
        self.recoveries = 0
        self.error_code: int | None = None
        self.may_have_run = False
        self._request = bytearray(MESSAGE_BYTES_MAX)
        self._request_length = 0
        self._response = bytearray(MESSAGE_BYTES_MAX)
        self._sent = 0
        self._idempotent = False
        self._deadline = 0.0
        self._limit_at = 0.0
        self._absent_until = math.inf
        self._ibf_since = math.inf
        self._poll_s = limits.poll_s_min
        self._obf_timed = False
        self._discards = 0
        self._data_out_kind = _DataOutKind.STALE
        self._error_code_read = False
        self._fault_phase = KcsPhase.IDLE
        self._fault_status = STATUS_NOTHING_THERE

    # ------------------------------------------------------------------------- the caller's side

    def start(
        self,
        request: bytes | bytearray | memoryview,
        now: float,
        *,
        idempotent: bool,
        deadline: float = math.inf,
    ) -> KcsAction:
        """Begin an exchange; it ends at `deadline` or after `limits.exchange_s`, if not before.

        A request that is not `idempotent` is never sent again once the BMC may have all of it.

        Shape: netFn<<2 | LUN, command, data.
        Raises: LocalProtocolError for a length that KCS cannot carry, or when an exchange is
        already in progress.
        """
        length = len(request)
        if self.is_busy:
            raise LocalProtocolError("an exchange is in progress; abort it first")
        if not REQUEST_BYTES_MIN <= length <= MESSAGE_BYTES_MAX:
            raise LocalProtocolError(f"KCS cannot carry a request of {length} bytes")
        self._request[:length] = request
        self._request_length = length
        self._idempotent = idempotent
        self._deadline = min(deadline, now + self.limits.exchange_s)
        self._absent_until = math.inf
        self.status = STATUS_NOTHING_THERE
        self.fault = KcsFault.NONE
        self.recoveries = 0
        self.error_code = None
        self.may_have_run = False
        self.phase = KcsPhase.IDLE
        self._begin()
        # The time that IBF was already stuck counts. Otherwise, exchanges whose deadlines are
        # shorter than IBF's limit would wait one after another, and none would recover it.
        ibf_since = min(now, self._ibf_since)
        self._written(now)
        self._ibf_since = ibf_since
        self._limit_at = ibf_since + self.limits.ibf_s
        return self.next_action

    def step(self, now: float, value: int = -1) -> KcsAction:
        """Go on after `next_action` has been done; `value` is the byte read, if it was a read.

        Raises: LocalProtocolError when no exchange is in progress, or a read brings no byte.
        """
        action = self.next_action
        if action is KcsAction.READ_STATUS or action is KcsAction.READ_DATA:
            if not 0 <= value <= 0xFF:
                raise LocalProtocolError(f"{action.name} needs the byte that was read, not {value}")
            if action is KcsAction.READ_STATUS:
                return self._handle_status(value, now)
            return self._handle_data(value, now)
        if action is KcsAction.WRITE_DATA or action is KcsAction.WRITE_COMMAND:
            return self._written(now)
        if action is KcsAction.WAIT:
            if now >= self.not_before:
                self.next_action = KcsAction.READ_STATUS
            return self.next_action
        raise LocalProtocolError("no exchange is in progress")

    def abort(self) -> None:
        """Abort the exchange at once, in any state; its `next_action` must no longer be done.

        The interface may be left in the middle of a transfer. The exchange that `start` begins next
        detects that and recovers the interface first.
        """
        if self.is_busy:
            self._fail(KcsFault.ABORTED)

    @property
    def is_busy(self) -> bool:
        """Whether an exchange is in progress."""
        action = self.next_action
        return not (
            action is KcsAction.DONE or action is KcsAction.FAILED or action is KcsAction.START
        )

    @property
    def wants_attention(self) -> bool:
        """Whether SMS_ATN was set at the last read of the status register."""
        status = self.status
        return bool(status & STATUS_SMS_ATN) and status != STATUS_NOTHING_THERE

    def response(self) -> bytes:
        """Return the response.

        Shape: netFn<<2 | LUN, command, completion code, data.
        Raises: LocalProtocolError when there is none.
        """
        if self.next_action is not KcsAction.DONE:
            raise LocalProtocolError("there is no response")
        return bytes(self._response[: self.response_length])

    def error(self) -> BmcmedicError:
        """Return why the exchange failed: KcsTimeout, NothingThere, KcsViolation or KcsAborted.

        Raises: LocalProtocolError when it has not failed.
        """
        if self.next_action is not KcsAction.FAILED:
            raise LocalProtocolError("the exchange has not failed")
        evidence = KcsEvidence(
            fault=self.fault,
            phase=self._fault_phase,
            status=self._fault_status,
            recoveries=self.recoveries,
            error_code=self.error_code,
            may_have_run=self.may_have_run,
        )
        return kcs_error(evidence, bytes(self._response[: self.response_length]))

    # --------------------------------------------------------------------------- what comes next

    def _begin(self) -> None:
        """Rewind to the first byte of the request and drop what has come of a response."""
        self._sent = 0
        self.response_length = 0

    def _write(self, action: KcsAction, byte: int, trigger: KcsTrigger) -> KcsAction:
        self.phase = TRANSITIONS[self.phase, trigger]
        self.byte = byte
        self.next_action = action
        return action

    def _written(self, now: float) -> KcsAction:
        """Start the BMC's time limit for a byte that has just been written."""
        self._limit_at = now + self.limits.ibf_s
        self._ibf_since = now
        self._poll_s = self.limits.poll_s_min
        self._obf_timed = False
        self._discards = 0
        self.next_action = KcsAction.READ_STATUS
        return KcsAction.READ_STATUS

    def _read(self, data_out_kind: _DataOutKind) -> KcsAction:
        self._data_out_kind = data_out_kind
        self.next_action = KcsAction.READ_DATA
        return KcsAction.READ_DATA

    def _wait(self, now: float, limit_at: float) -> KcsAction:
        self.not_before = min(now + self._poll_s, limit_at, self._deadline)
        self._poll_s = min(2 * self._poll_s, self.limits.poll_s_max)
        self.next_action = KcsAction.WAIT
        return KcsAction.WAIT

    def _obf_limit_passed(self, now: float) -> bool:
        """Return whether OBF took too long; its time starts at the first read with IBF clear."""
        if self._obf_timed:
            return now >= self._limit_at
        self._obf_timed = True
        self._limit_at = now + self.limits.obf_s
        return False

    def _await_obf(self, now: float) -> KcsAction:
        if self._obf_limit_passed(now):
            return self._fail_or_recover(KcsFault.OBF_MISSING, now)
        return self._wait(now, self._limit_at)

    def _clear_obf(self, now: float) -> KcsAction:
        """Discard an unexpected byte: a late dummy byte, or a byte of an earlier response."""
        if self._obf_limit_passed(now):
            return self._fail_or_recover(KcsFault.OBF_STUCK, now)
        return self._read(_DataOutKind.STALE)

    # ------------------------------------------------------------------- what the registers return

    def _handle_status(self, status: int, now: float) -> KcsAction:
        self.status = status
        if not status & STATUS_IBF:
            self._ibf_since = math.inf
        if now >= self._deadline:
            return self._fail(KcsFault.EXCHANGE_LIMIT)
        if status == STATUS_NOTHING_THERE:
            if now >= self._absent_until:
                return self._fail(KcsFault.NOTHING_THERE)
            if self._absent_until == math.inf:
                self._absent_until = now + self.limits.absent_s
            return self._wait(now, self._absent_until)
        if self._absent_until != math.inf:
            self._absent_until = math.inf
            # Idle registers after a restart cannot be told from the end of a response.
            if self.phase is not KcsPhase.IDLE and self.phase is not KcsPhase.ERROR:
                return self._fail_or_recover(KcsFault.RESTARTED, now)
        if not status & STATUS_IBF:
            return self._STATUS_HANDLERS[self.phase](self, status, now)
        if now < self._limit_at:
            return self._wait(now, self._limit_at)
        if self.phase is KcsPhase.ERROR:
            # The BMC may have missed the last byte; only another byte can wake it.
            return self._in_error(status, now)
        return self._fail_or_recover(KcsFault.IBF_STUCK, now)

    def _in_idle(self, status: int, now: float) -> KcsAction:
        if status & STATUS_STATE != InterfaceState.IDLE:
            return self._fail_or_recover(KcsFault.WRONG_STATE, now)
        if status & STATUS_OBF:
            return self._clear_obf(now)
        return self._write(
            KcsAction.WRITE_COMMAND, KcsControlCode.WRITE_START, KcsTrigger.WRITE_START
        )

    def _in_write(self, status: int, now: float) -> KcsAction:
        if status & STATUS_STATE != InterfaceState.WRITE:
            return self._fail_or_recover(KcsFault.WRONG_STATE, now)
        if status & STATUS_OBF:
            return self._clear_obf(now)
        sent = self._sent
        last_index = self._request_length - 1
        if self.phase is KcsPhase.WRITE_END:
            self.may_have_run = True
        elif sent == last_index:
            return self._write(
                KcsAction.WRITE_COMMAND, KcsControlCode.WRITE_END, KcsTrigger.WRITE_END
            )
        self._sent = sent + 1
        return self._write(KcsAction.WRITE_DATA, self._request[sent], KcsTrigger.BYTE)

    def _in_read(self, status: int, now: float) -> KcsAction:
        state = status & STATUS_STATE
        if state == InterfaceState.READ:
            if not status & STATUS_OBF:
                return self._await_obf(now)
            is_first = self.phase is KcsPhase.EXECUTING
            trigger = KcsTrigger.RESPONSE if is_first else KcsTrigger.READ_NEXT
            self.phase = TRANSITIONS[self.phase, trigger]
            return self._read(_DataOutKind.RESPONSE)
        if state != InterfaceState.IDLE:
            return self._fail_or_recover(KcsFault.WRONG_STATE, now)
        if self.phase is KcsPhase.EXECUTING:
            return self._fail_or_recover(KcsFault.TOO_SHORT, now)
        self.phase = TRANSITIONS[self.phase, KcsTrigger.READ_END]
        if status & STATUS_OBF:
            return self._read(_DataOutKind.DUMMY)
        # Some BMCs never send the dummy byte, so the host does not wait for it. The next exchange
        # discards a late one.
        return self._finish(now)

    def _in_error(self, status: int, now: float) -> KcsAction:  # noqa: ARG002 - a status handler
        self._error_code_read = False
        return self._write(
            KcsAction.WRITE_COMMAND, KcsControlCode.GET_STATUS, KcsTrigger.GET_STATUS
        )

    def _in_abort_requested(self, status: int, now: float) -> KcsAction:
        if status & STATUS_OBF:
            return self._clear_obf(now)
        return self._write(KcsAction.WRITE_DATA, 0x00, KcsTrigger.BYTE)

    def _in_abort_status(self, status: int, now: float) -> KcsAction:
        state = status & STATUS_STATE
        if state == InterfaceState.READ and not self._error_code_read:
            if not status & STATUS_OBF:
                return self._await_obf(now)
            return self._read(_DataOutKind.ERROR_CODE)
        if state != InterfaceState.IDLE:
            return self._fail_or_recover(KcsFault.WRONG_STATE, now)
        # A BMC that is idle without an error code has restarted: the request can start over too.
        trigger = KcsTrigger.READ_END if self._error_code_read else KcsTrigger.RESTART
        self.phase = TRANSITIONS[self.phase, trigger]
        if self.may_have_run and not self._idempotent:
            return self._fail(self.fault, at_phase=self._fault_phase, status=self._fault_status)
        self._begin()
        self._written(now)
        return self._in_idle(status, now)

    _STATUS_HANDLERS: ClassVar[tuple[Callable[[HostKcs, int, float], KcsAction], ...]] = (
        _in_idle,
        _in_write,
        _in_write,
        _in_write,
        _in_read,
        _in_read,
        _in_abort_requested,
        _in_abort_status,
        _in_error,
    )
    """The handler of a status with IBF clear, for each phase in the order of `KcsPhase`."""

    def _handle_data(self, byte: int, now: float) -> KcsAction:
        data_out_kind = self._data_out_kind
        if data_out_kind is _DataOutKind.RESPONSE:
            length = self.response_length
            if length == MESSAGE_BYTES_MAX:
                return self._fail_or_recover(KcsFault.TOO_LONG, now)
            self._response[length] = byte
            self.response_length = length + 1
        elif data_out_kind is _DataOutKind.DUMMY:
            return self._finish(now)
        elif data_out_kind is _DataOutKind.STALE:
            self._discards += 1
            if self._discards > 1:
                return self._wait(now, self._limit_at)
            self.next_action = KcsAction.READ_STATUS
            return KcsAction.READ_STATUS
        else:
            self.error_code = byte
            self._error_code_read = True
        # The phase changes only once the BMC has taken READ: its state is then READ or IDLE.
        self.byte = KcsControlCode.READ
        self.next_action = KcsAction.WRITE_DATA
        return KcsAction.WRITE_DATA

    # -------------------------------------------------------------------------------- the end

    def _finish(self, now: float) -> KcsAction:
        response = self._response
        if self.response_length < RESPONSE_BYTES_MIN:
            return self._fail_or_recover(KcsFault.TOO_SHORT, now)
        # The LUN is not compared: not every BMC repeats it.
        if response[0] >> 2 != self._request[0] >> 2 | 1 or response[1] != self._request[1]:
            return self._fail_or_recover(KcsFault.NOT_OURS, now)
        self.next_action = KcsAction.DONE
        return KcsAction.DONE

    def _fail_or_recover(self, fault: KcsFault, now: float) -> KcsAction:
        """Recover the interface with GET_STATUS/ABORT, unless `recoveries_max` is reached."""
        limits = self.limits
        self.recoveries += 1
        if self.recoveries > limits.recoveries_max:
            return self._fail(fault)
        phase = self.phase
        if phase is not KcsPhase.ABORT_REQUESTED and phase is not KcsPhase.ABORT_STATUS:
            # Report the fault that made the recovery necessary, not a fault within the recovery.
            self.fault = fault
            self._fault_phase = phase
            self._fault_status = self.status
        self.phase = TRANSITIONS[phase, KcsTrigger.VIOLATION]
        # If IBF is stuck, its time is over. Otherwise IBF gets its full time to become clear before
        # GET_STATUS/ABORT is written in any case.
        self._limit_at = now if fault is KcsFault.IBF_STUCK else now + limits.ibf_s
        self._poll_s = limits.poll_s_min
        self.next_action = KcsAction.READ_STATUS
        if self.recoveries > 1:
            self.not_before = min(now + limits.recovery_pause_s, self._deadline)
            self.next_action = KcsAction.WAIT
        return self.next_action

    def _fail(
        self, fault: KcsFault, at_phase: KcsPhase | None = None, status: int | None = None
    ) -> KcsAction:
        self.fault = fault
        self._fault_phase = self.phase if at_phase is None else at_phase
        self._fault_status = self.status if status is None else status
        self.next_action = KcsAction.FAILED
        return KcsAction.FAILED


assert len(HostKcs._STATUS_HANDLERS) == len(KcsPhase) == len(INTERFACE_STATE)
