"""The events that a `RemoteConsole` reports to its caller."""

from __future__ import annotations

from dataclasses import dataclass

from bmcmedic.errors import BmcmedicError, NoAnswer
from bmcmedic.ipmi.cipher_suites import CipherSuite
from bmcmedic.ipmi.message import ResponseMessage


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The session is active; `suite` is the cipher suite that the BMC accepted."""

    suite: CipherSuite


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """The session could not be set up."""

    error: BmcmedicError


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """The response to the outstanding request, whatever its completion code."""

    response: ResponseMessage


@dataclass(frozen=True, slots=True)
class RequestUnanswered:
    """The request's deadline passed; it is unknown whether the BMC executed the request."""

    error: NoAnswer


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The session is closed: the BMC confirmed it, or did not answer before the deadline."""


SessionEvent = SessionOpened | SessionFailed | ResponseReceived | RequestUnanswered | SessionClosed
