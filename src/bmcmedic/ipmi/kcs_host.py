"""The host's side of KCS: one step at a time, and each says what it needs next.

It does no I/O and reads no clock. The caller starts a request, does what `need` says, and hands the
outcome and the time to `step` until that is `DONE` or `FAILED`:

    READ_STATUS, READ_DATA       read the register; `step(now, what_was_read)`
    WRITE_DATA, WRITE_COMMAND    write `byte` to it; `step(now)`
    WAIT                         nothing before `not_before`; then `step(now)`
    DONE, FAILED                 `response()`, `error()`

A driver pats a watchdog through this on a host that is out of memory, so an exchange needs no more
memory than the machine has from the start; errors are made only when they are asked for.
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
from bmcmedic.ipmi.kcs_errors import Fault, KcsEvidence, kcs_error


@dataclass(frozen=True, slots=True)
class KcsLimits:
    """How long the host waits, and how often it tries; the first three are Linux's own."""

    ibf_s: float = 5.0
    """For the BMC to take a byte."""
    obf_s: float = 5.0
    """For the BMC to put out a byte."""
    recoveries_max: int = 10
    exchange_s: float = 60.0
    """For all of an exchange, its recoveries included: a BMC may be slow at every byte."""
    absent_s: float = 0.5
    """For status 0xFF to go away."""
    recovery_pause_s: float = 0.1
    """Before each recovery but the first: ten within a millisecond outlast no disturbance."""
    poll_s_min: float = 50e-6
    poll_s_max: float = 1e-3
    """Between two looks at the status register; doubled from the one to the other."""


class Need(IntEnum):
    """What a machine needs from its caller."""

    REQUEST = 0
    READ_STATUS = 1
    READ_DATA = 2
    WRITE_DATA = 3
    WRITE_COMMAND = 4
    WAIT = 5
    DONE = 6
    FAILED = 7


class _Take(IntEnum):
    """What the byte in data-out is."""

    STALE = 0
    RESPONSE = 1
    DUMMY = 2
    ERROR_CODE = 3


_LINUX = KcsLimits()


class HostKcs:
    """One exchange after another over one KCS interface, seen from the host."""

    __slots__ = (
        "byte", "error_code", "fault", "limits", "may_have_run", "need", "not_before", "phase",
        "recoveries", "response_length", "status",
        "_absent_until", "_code_taken", "_deadline", "_discards", "_fault_phase", "_fault_status",
        "_ibf_since", "_idempotent", "_limit_at", "_obf_timed", "_poll_s", "_request",
        "_request_length", "_response", "_sent", "_take_as",
    )  # fmt: skip

    def __init__(self, limits: KcsLimits = _LINUX) -> None:
        self.limits = limits
        self.need = Need.REQUEST
        self.phase = KcsPhase.IDLE
        self.byte = 0
        self.not_before = 0.0
        self.status = STATUS_NOTHING_THERE
        self.response_length = 0
        self.fault = Fault.NONE
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
        self._take_as = _Take.STALE
        self._code_taken = False
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
    ) -> Need:
        """Begin an exchange; it ends by `deadline` and by `limits.exchange_s`.

        One that is not `idempotent` is never sent again once the BMC may have had all of it.

        Shape: netFn<<2 | LUN, command, data.
        Raises: LocalProtocolError for a length that KCS cannot carry, or in an exchange.
        """
        length = len(request)
        if self.is_busy:
            raise LocalProtocolError("an exchange is under way; abort it first")
        if not REQUEST_BYTES_MIN <= length <= MESSAGE_BYTES_MAX:
            raise LocalProtocolError(f"KCS cannot carry a request of {length} bytes")
        self._request[:length] = request
        self._request_length = length
        self._idempotent = idempotent
        self._deadline = min(deadline, now + self.limits.exchange_s)
        self._absent_until = math.inf
        self.status = STATUS_NOTHING_THERE
        self.fault = Fault.NONE
        self.recoveries = 0
        self.error_code = None
        self.may_have_run = False
        self.phase = KcsPhase.IDLE
        self._begin()
        # Where IBF was stuck before, that time counts: else exchanges with deadlines shorter than
        # IBF's limit would wait for it one after the other, and none would ever recover it.
        ibf_since = min(now, self._ibf_since)
        self._written(now)
        self._ibf_since = ibf_since
        self._limit_at = ibf_since + self.limits.ibf_s
        return self.need

    def step(self, now: float, value: int = -1) -> Need:
        """Go on after what was needed is done; `value` is what was read, if it was a read."""
        need = self.need
        if need is Need.READ_STATUS or need is Need.READ_DATA:
            if not 0 <= value <= 0xFF:
                raise LocalProtocolError(f"{need.name} gives a byte, not {value}")
            if need is Need.READ_STATUS:
                return self._look(value, now)
            return self._take(value, now)
        if need is Need.WRITE_DATA or need is Need.WRITE_COMMAND:
            return self._written(now)
        if need is Need.WAIT:
            if now >= self.not_before:
                self.need = Need.READ_STATUS
            return self.need
        raise LocalProtocolError("no exchange is under way")

    def abort(self) -> None:
        """Give the exchange up at once, whatever its state; what was needed is no longer done.

        The interface may be left in the middle of a transfer: the next `start` sees that and
        recovers it first.
        """
        if self.is_busy:
            self._fail(Fault.ABORTED)

    @property
    def is_busy(self) -> bool:
        """Whether an exchange is under way."""
        need = self.need
        return not (need is Need.DONE or need is Need.FAILED or need is Need.REQUEST)

    @property
    def wants_attention(self) -> bool:
        """Whether SMS_ATN was set when the status register was read last."""
        status = self.status
        return bool(status & STATUS_SMS_ATN) and status != STATUS_NOTHING_THERE

    def response(self) -> bytes:
        """The response: netFn<<2 | LUN, command, completion code, data.

        Raises: LocalProtocolError when there is none.
        """
        if self.need is not Need.DONE:
            raise LocalProtocolError("there is no response")
        return bytes(self._response[: self.response_length])

    def error(self) -> BmcmedicError:
        """Why the exchange failed: KcsTimeout, NothingThere, KcsViolation or KcsAborted."""
        if self.need is not Need.FAILED:
            raise LocalProtocolError("nothing has failed")
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
        """The request from its first byte, and no response yet."""
        self._sent = 0
        self.response_length = 0

    def _write(self, need: Need, byte: int, trigger: KcsTrigger) -> Need:
        self.phase = TRANSITIONS[self.phase, trigger]
        self.byte = byte
        self.need = need
        return need

    def _written(self, now: float) -> Need:
        """The register has it: from now on the BMC's time runs."""
        self._limit_at = now + self.limits.ibf_s
        self._ibf_since = now
        self._poll_s = self.limits.poll_s_min
        self._obf_timed = False
        self._discards = 0
        self.need = Need.READ_STATUS
        return Need.READ_STATUS

    def _read(self, take_as: _Take) -> Need:
        self._take_as = take_as
        self.need = Need.READ_DATA
        return Need.READ_DATA

    def _wait(self, now: float, limit_at: float) -> Need:
        self.not_before = min(now + self._poll_s, limit_at, self._deadline)
        self._poll_s = min(2 * self._poll_s, self.limits.poll_s_max)
        self.need = Need.WAIT
        return Need.WAIT

    def _obf_limit_passed(self, now: float) -> bool:
        """Whether OBF took too long; its time begins at the first look that found IBF clear."""
        if self._obf_timed:
            return now >= self._limit_at
        self._obf_timed = True
        self._limit_at = now + self.limits.obf_s
        return False

    def _await_obf(self, now: float) -> Need:
        if self._obf_limit_passed(now):
            return self._fail_or_recover(Fault.OBF_MISSING, now)
        return self._wait(now, self._limit_at)

    def _clear_obf(self, now: float) -> Need:
        """Read away a byte that nobody asked for: a late dummy byte, or one of an old response."""
        if self._obf_limit_passed(now):
            return self._fail_or_recover(Fault.OBF_STUCK, now)
        return self._read(_Take.STALE)

    # -------------------------------------------------------------------- what the registers say

    def _look(self, status: int, now: float) -> Need:
        self.status = status
        if not status & STATUS_IBF:
            self._ibf_since = math.inf
        if now >= self._deadline:
            return self._fail(Fault.EXCHANGE_LIMIT)
        if status == STATUS_NOTHING_THERE:
            if now >= self._absent_until:
                return self._fail(Fault.NOTHING_THERE)
            if self._absent_until == math.inf:
                self._absent_until = now + self.limits.absent_s
            return self._wait(now, self._absent_until)
        if self._absent_until != math.inf:
            self._absent_until = math.inf
            # Idle registers after a restart look like the end of a response.
            if self.phase is not KcsPhase.IDLE and self.phase is not KcsPhase.ERROR:
                return self._fail_or_recover(Fault.RESTARTED, now)
        if not status & STATUS_IBF:
            return self._LOOKS[self.phase](self, status, now)
        if now < self._limit_at:
            return self._wait(now, self._limit_at)
        if self.phase is KcsPhase.ERROR:
            # The BMC may have missed the last byte; only another one can wake it.
            return self._look_in_error(status, now)
        return self._fail_or_recover(Fault.IBF_STUCK, now)

    def _look_idle(self, status: int, now: float) -> Need:
        if status & STATUS_STATE != InterfaceState.IDLE:
            return self._fail_or_recover(Fault.WRONG_STATE, now)
        if status & STATUS_OBF:
            return self._clear_obf(now)
        return self._write(Need.WRITE_COMMAND, KcsControlCode.WRITE_START, KcsTrigger.WRITE_START)

    def _look_in_write(self, status: int, now: float) -> Need:
        if status & STATUS_STATE != InterfaceState.WRITE:
            return self._fail_or_recover(Fault.WRONG_STATE, now)
        if status & STATUS_OBF:
            return self._clear_obf(now)
        sent = self._sent
        last = self._request_length - 1
        if self.phase is KcsPhase.WRITE_END:
            self.may_have_run = True
        elif sent == last:
            return self._write(Need.WRITE_COMMAND, KcsControlCode.WRITE_END, KcsTrigger.WRITE_END)
        self._sent = sent + 1
        return self._write(Need.WRITE_DATA, self._request[sent], KcsTrigger.BYTE)

    def _look_in_read(self, status: int, now: float) -> Need:
        state = status & STATUS_STATE
        if state == InterfaceState.READ:
            if not status & STATUS_OBF:
                return self._await_obf(now)
            first = self.phase is KcsPhase.EXECUTING
            trigger = KcsTrigger.RESPONSE if first else KcsTrigger.READ_NEXT
            self.phase = TRANSITIONS[self.phase, trigger]
            return self._read(_Take.RESPONSE)
        if state != InterfaceState.IDLE:
            return self._fail_or_recover(Fault.WRONG_STATE, now)
        if self.phase is KcsPhase.EXECUTING:
            return self._fail_or_recover(Fault.TOO_SHORT, now)
        self.phase = TRANSITIONS[self.phase, KcsTrigger.READ_END]
        if status & STATUS_OBF:
            return self._read(_Take.DUMMY)
        # Some BMCs never send the dummy byte, so it is not waited for; `start` clears a late one.
        return self._finish(now)

    def _look_in_error(self, status: int, now: float) -> Need:  # noqa: ARG002 - as its like
        self._code_taken = False
        return self._write(Need.WRITE_COMMAND, KcsControlCode.GET_STATUS, KcsTrigger.GET_STATUS)

    def _look_in_abort(self, status: int, now: float) -> Need:
        if status & STATUS_OBF:
            return self._clear_obf(now)
        return self._write(Need.WRITE_DATA, 0x00, KcsTrigger.BYTE)

    def _look_for_error_code(self, status: int, now: float) -> Need:
        state = status & STATUS_STATE
        if state == InterfaceState.READ and not self._code_taken:
            if not status & STATUS_OBF:
                return self._await_obf(now)
            return self._read(_Take.ERROR_CODE)
        if state != InterfaceState.IDLE:
            return self._fail_or_recover(Fault.WRONG_STATE, now)
        # Idle without an error code is a BMC that restarted meanwhile: as good for a new start.
        trigger = KcsTrigger.READ_END if self._code_taken else KcsTrigger.RESTART
        self.phase = TRANSITIONS[self.phase, trigger]
        if self.may_have_run and not self._idempotent:
            return self._fail(self.fault, at_phase=self._fault_phase, status=self._fault_status)
        self._begin()
        self._written(now)
        return self._look_idle(status, now)

    _LOOKS: ClassVar[tuple[Callable[[HostKcs, int, float], Need], ...]] = (
        _look_idle,
        _look_in_write,
        _look_in_write,
        _look_in_write,
        _look_in_read,
        _look_in_read,
        _look_in_abort,
        _look_for_error_code,
        _look_in_error,
    )
    """By phase."""

    def _take(self, byte: int, now: float) -> Need:
        take_as = self._take_as
        if take_as is _Take.RESPONSE:
            length = self.response_length
            if length == MESSAGE_BYTES_MAX:
                return self._fail_or_recover(Fault.TOO_LONG, now)
            self._response[length] = byte
            self.response_length = length + 1
        elif take_as is _Take.DUMMY:
            return self._finish(now)
        elif take_as is _Take.STALE:
            self._discards += 1
            if self._discards > 1:
                return self._wait(now, self._limit_at)
            self.need = Need.READ_STATUS
            return Need.READ_STATUS
        else:
            self.error_code = byte
            self._code_taken = True
        # What this moves is known only when the BMC has taken it: READ, or IDLE.
        self.byte = KcsControlCode.READ
        self.need = Need.WRITE_DATA
        return Need.WRITE_DATA

    # -------------------------------------------------------------------------------- the end

    def _finish(self, now: float) -> Need:
        response = self._response
        if self.response_length < RESPONSE_BYTES_MIN:
            return self._fail_or_recover(Fault.TOO_SHORT, now)
        # The LUN is not compared: not every BMC repeats it.
        if response[0] >> 2 != self._request[0] >> 2 | 1 or response[1] != self._request[1]:
            return self._fail_or_recover(Fault.NOT_OURS, now)
        self.need = Need.DONE
        return Need.DONE

    def _fail_or_recover(self, fault: Fault, now: float) -> Need:
        """Bring the interface back with GET_STATUS/ABORT, unless that was tried often enough."""
        limits = self.limits
        self.recoveries += 1
        if self.recoveries > limits.recoveries_max:
            return self._fail(fault)
        phase = self.phase
        if phase is not KcsPhase.ABORT_REQUESTED and phase is not KcsPhase.ABORT_STATUS:
            # What goes wrong in a recovery that succeeds in the end is not what to tell.
            self.fault = fault
            self._fault_phase = phase
            self._fault_status = self.status
        self.phase = TRANSITIONS[phase, KcsTrigger.VIOLATION]
        # IBF has had its time already; else it gets it before GET_STATUS/ABORT is written anyway.
        self._limit_at = now if fault is Fault.IBF_STUCK else now + limits.ibf_s
        self._poll_s = limits.poll_s_min
        self.need = Need.READ_STATUS
        if self.recoveries > 1:
            self.not_before = min(now + limits.recovery_pause_s, self._deadline)
            self.need = Need.WAIT
        return self.need

    def _fail(
        self, fault: Fault, at_phase: KcsPhase | None = None, status: int | None = None
    ) -> Need:
        self.fault = fault
        self._fault_phase = self.phase if at_phase is None else at_phase
        self._fault_status = self.status if status is None else status
        self.need = Need.FAILED
        return Need.FAILED


assert len(HostKcs._LOOKS) == len(KcsPhase) == len(INTERFACE_STATE)
