"""What a remote console's session tells its owner."""

from __future__ import annotations

from dataclasses import dataclass

from bmcmedic.errors import BmcmedicError, NoAnswer
from bmcmedic.ipmi.cipher_suites import CipherSuite
from bmcmedic.ipmi.message import ResponseMessage


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The session is active; `suite` is the one that the BMC took."""

    suite: CipherSuite


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """No session could be set up."""

    error: BmcmedicError


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """The answer to the outstanding request, whatever its completion code."""

    response: ResponseMessage


@dataclass(frozen=True, slots=True)
class RequestUnanswered:
    """The request's deadline passed; whether the BMC carried it out is not known."""

    error: NoAnswer


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The BMC confirmed the end of the session, or did not care to before the deadline."""


SessionEvent = SessionOpened | SessionFailed | ResponseReceived | RequestUnanswered | SessionClosed
