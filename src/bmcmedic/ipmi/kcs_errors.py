"""The ways in which an exchange over KCS can fail, and the evidence that each failure keeps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from bmcmedic.errors import BmcmedicError, NoAnswer, RemoteProtocolError, TransportError
from bmcmedic.ipmi.kcs import KcsPhase


class KcsFault(IntEnum):
    """The fault that ended an exchange."""

    NONE = 0
    IBF_STUCK = 1
    """The BMC did not take a byte in time."""
    OBF_MISSING = 2
    """The BMC did not put out a byte in time."""
    OBF_STUCK = 3
    """OBF stays set, however often data-out is read."""
    NOTHING_THERE = 4
    """The status register reads 0xFF."""
    EXCHANGE_LIMIT = 5
    """The whole exchange took too long."""
    WRONG_STATE = 6
    """Bits 7:6 of the status register do not match the phase."""
    RESTARTED = 7
    """The status register read 0xFF for a while in the middle of a transfer."""
    TOO_SHORT = 8
    TOO_LONG = 9
    NOT_OURS = 10
    """The response belongs to another request: its netFn or command does not match."""
    ABORTED = 11
    """The host side aborted the exchange."""


@dataclass(frozen=True, slots=True)
class KcsEvidence:
    """What the host saw when an exchange failed."""

    fault: KcsFault
    phase: KcsPhase
    status: int
    """The last value read from the status register; 0xFF before the first read."""
    recoveries: int
    """The number of faults in this exchange that called for a recovery."""
    error_code: int | None
    """The last error code that the BMC returned to GET_STATUS/ABORT, if any."""
    may_have_run: bool
    """Whether the BMC received the whole request, so that it may have executed it."""

    def __str__(self) -> str:
        facts = [f"status 0x{self.status:02x}"]
        if self.recoveries > 1:
            facts.append(f"fault {self.recoveries} of this exchange")
        if self.error_code is not None:
            facts.append(f"BMC error code 0x{self.error_code:02x}")
        facts.append("the command may have run" if self.may_have_run else "the command did not run")
        return "; ".join(facts)

    @property
    def waited_for(self) -> str:
        """What the host was waiting for, as text."""
        return _WAITED_FOR[self.phase]


class KcsTimeout(NoAnswer):
    """The BMC did not react within a time limit."""

    def __init__(self, evidence: KcsEvidence) -> None:
        super().__init__(_message(evidence))
        self.evidence = evidence
        self.may_have_run = evidence.may_have_run


class NothingThere(KcsTimeout):
    """No BMC drives the port: there is none at this address, or it is restarting."""


class KcsViolation(RemoteProtocolError):
    """The BMC violated the protocol; `raw` is the part of the response received so far."""

    def __init__(self, evidence: KcsEvidence, raw: bytes) -> None:
        super().__init__(_message(evidence), section="9", raw=raw)
        self.evidence = evidence
        self.may_have_run = evidence.may_have_run


class KcsAborted(TransportError):
    """The exchange was aborted: another user with a better claim took over the interface."""

    def __init__(self, evidence: KcsEvidence) -> None:
        super().__init__(_message(evidence))
        self.evidence = evidence
        self.may_have_run = evidence.may_have_run


def kcs_error(evidence: KcsEvidence, raw: bytes) -> BmcmedicError:
    """Return the exception for a failed exchange."""
    match evidence.fault:
        case KcsFault.NOTHING_THERE:
            return NothingThere(evidence)
        case (
            KcsFault.IBF_STUCK | KcsFault.OBF_MISSING | KcsFault.OBF_STUCK | KcsFault.EXCHANGE_LIMIT
        ):
            return KcsTimeout(evidence)
        case KcsFault.ABORTED:
            return KcsAborted(evidence)
        case _:
            return KcsViolation(evidence, raw)


def _message(evidence: KcsEvidence) -> str:
    fault = _FAULT_TEXT[evidence.fault]
    return f"KCS: {fault}, while waiting for {evidence.waited_for} ({evidence})"


_FAULT_TEXT: dict[KcsFault, str] = {
    KcsFault.NONE: "no fault",
    KcsFault.IBF_STUCK: "the BMC does not read what the host wrote, IBF stays set",
    KcsFault.OBF_MISSING: "the BMC sends nothing, OBF stays clear",
    KcsFault.OBF_STUCK: "OBF stays set, however often data-out is read",
    KcsFault.NOTHING_THERE: "no BMC at this address, or it is restarting",
    KcsFault.EXCHANGE_LIMIT: "the time limit of the exchange has passed",
    KcsFault.WRONG_STATE: "the interface is in the wrong state",
    KcsFault.RESTARTED: "the BMC restarted in the middle of a transfer",
    KcsFault.TOO_SHORT: "the response is too short",
    KcsFault.TOO_LONG: "the response is too long",
    KcsFault.NOT_OURS: "the response belongs to another request",
    KcsFault.ABORTED: "the exchange was aborted",
}

_WAITED_FOR: dict[KcsPhase, str] = {
    KcsPhase.IDLE: "an idle interface",
    KcsPhase.WRITE_START: "WRITE_START to be taken",
    KcsPhase.WRITE_DATA: "a byte of the request to be taken",
    KcsPhase.WRITE_END: "WRITE_END to be taken",
    KcsPhase.EXECUTING: "the response",
    KcsPhase.READ: "the next byte of the response",
    KcsPhase.ABORT_REQUESTED: "GET_STATUS/ABORT to be taken",
    KcsPhase.ABORT_STATUS: "the error code",
    KcsPhase.ERROR: "recovery",
}
