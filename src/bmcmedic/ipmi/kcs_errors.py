"""How an exchange over KCS can fail, and the evidence that each failure leaves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from bmcmedic.errors import BmcmedicError, NoAnswer, RemoteProtocolError, TransportError
from bmcmedic.ipmi.kcs import KcsPhase


class Fault(IntEnum):
    """What went wrong in an exchange."""

    NONE = 0
    IBF_STUCK = 1
    """The BMC did not take a byte."""
    OBF_MISSING = 2
    """The BMC did not put out a byte."""
    OBF_STUCK = 3
    """Data-out stays full, however often it is read."""
    NOTHING_THERE = 4
    """The status register reads 0xFF."""
    EXCHANGE_LIMIT = 5
    """All of it together took too long."""
    WRONG_STATE = 6
    """Bits 7:6 of the status register are not those of this phase."""
    RESTARTED = 7
    """The status register read 0xFF in the middle of a transfer, and then no more."""
    TOO_SHORT = 8
    TOO_LONG = 9
    NOT_OURS = 10
    """The response is another request's: netFn or command do not fit."""
    ABORTED = 11
    """We gave the exchange up ourselves."""


@dataclass(frozen=True, slots=True)
class KcsEvidence:
    """What was seen when an exchange failed."""

    fault: Fault
    phase: KcsPhase
    status: int
    """The status register as read last; 0xFF until it was read."""
    recoveries: int
    """How often the interface had to be recovered, or should have been."""
    error_code: int | None
    """What the BMC answered to GET_STATUS/ABORT last."""
    may_have_run: bool
    """Whether the BMC had the whole request, so that it may have executed it."""

    def __str__(self) -> str:
        facts = [f"status 0x{self.status:02x}"]
        if self.recoveries > 1:
            facts.append(f"fault {self.recoveries} of this exchange")
        if self.error_code is not None:
            facts.append(f"the BMC's error code 0x{self.error_code:02x}")
        facts.append("it may have run" if self.may_have_run else "it did not run")
        return "; ".join(facts)

    @property
    def waited_for(self) -> str:
        """What the host was waiting for."""
        return _WAITED_FOR[self.phase]


class KcsTimeout(NoAnswer):
    """The BMC let a time limit pass."""

    def __init__(self, evidence: KcsEvidence) -> None:
        super().__init__(_told(evidence))
        self.evidence = evidence


class NothingThere(KcsTimeout):
    """No BMC drives the port: there is none at this address, or it restarts."""


class KcsViolation(RemoteProtocolError):
    """The BMC broke the protocol; `raw` is what it had answered so far."""

    def __init__(self, evidence: KcsEvidence, raw: bytes) -> None:
        super().__init__(_told(evidence), section="9", raw=raw)
        self.evidence = evidence


class KcsAborted(TransportError):
    """Somebody with a better claim took the interface over in the middle of the exchange."""

    def __init__(self, evidence: KcsEvidence) -> None:
        super().__init__(_told(evidence))
        self.evidence = evidence


def kcs_error(evidence: KcsEvidence, raw: bytes) -> BmcmedicError:
    """The exception that tells of a failed exchange."""
    match evidence.fault:
        case Fault.NOTHING_THERE:
            return NothingThere(evidence)
        case Fault.IBF_STUCK | Fault.OBF_MISSING | Fault.OBF_STUCK | Fault.EXCHANGE_LIMIT:
            return KcsTimeout(evidence)
        case Fault.ABORTED:
            return KcsAborted(evidence)
        case _:
            return KcsViolation(evidence, raw)


def _told(evidence: KcsEvidence) -> str:
    return f"KCS: {_WHAT[evidence.fault]}, waiting for {evidence.waited_for} ({evidence})"


_WHAT: dict[Fault, str] = {
    Fault.NONE: "no fault",
    Fault.IBF_STUCK: "the BMC does not take what was written, IBF stays set",
    Fault.OBF_MISSING: "the BMC puts out nothing, OBF stays clear",
    Fault.OBF_STUCK: "OBF stays set, however often data is read",
    Fault.NOTHING_THERE: "nothing is at this address, or the BMC restarts",
    Fault.EXCHANGE_LIMIT: "the time for the whole exchange is over",
    Fault.WRONG_STATE: "the interface is in a wrong state",
    Fault.RESTARTED: "the BMC was away in the middle of a transfer",
    Fault.TOO_SHORT: "the response is too short",
    Fault.TOO_LONG: "the response is too long",
    Fault.NOT_OURS: "the response is another request's",
    Fault.ABORTED: "the exchange was aborted",
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
