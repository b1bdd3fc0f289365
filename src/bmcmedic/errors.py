"""The error tree, grouped by who is at fault.

An error below `BmcmedicError` never carries a password, a key or session key material. Its text may
be printed, logged and attached to a repair ticket.
"""

from __future__ import annotations

from collections.abc import Mapping


class BmcmedicError(Exception):
    """Root of every error that this package raises on purpose."""


class ConfigurationError(BmcmedicError):
    """The operator's input is unusable; the message names the fault and the remedy."""


class LocalProtocolError(BmcmedicError):
    """Our own code was about to break the protocol: a bug in the caller, never the BMC's fault."""


class RemoteProtocolError(BmcmedicError):
    """The other side broke the protocol; the error is evidence for a diagnosis.

    `section` is the section of IPMI 2.0 rev. 1.1 that was violated, `raw` the offending bytes.
    """

    may_have_run: bool = True
    """Whether the BMC may have executed the request; False only where that is known."""

    def __init__(self, message: str, *, section: str, raw: bytes = b"") -> None:
        super().__init__(message)
        self.section = section
        self.raw = bytes(raw[:64])

    def __str__(self) -> str:
        shown = self.raw.hex(" ") or "no bytes"
        return f"{self.args[0]} (IPMI 2.0 section {self.section}; {shown})"


class InvalidDataField(RemoteProtocolError):
    """The length is right, but a field has a reserved or impossible value.

    A managed system answers such a request with 0xCC, and a request with another defect with 0xC7.
    """


class BmcRefusal(BmcmedicError):
    """The BMC understood the request and refused it."""


class CompletionCodeError(BmcRefusal):
    """A response with a completion code other than 0x00 (section 5.2)."""

    def __init__(self, request_name: str, code: int, meaning: str, *, is_temporary: bool) -> None:
        super().__init__(f"{request_name}: {meaning} (completion code 0x{code:02x})")
        self.request_name = request_name
        self.code = code
        self.is_temporary = is_temporary


class RmcpPlusStatusError(BmcRefusal):
    """A session set-up message with a status other than 0x00 (section 13.24)."""

    def __init__(self, message_name: str, status: int, meaning: str, advice: str = "") -> None:
        hint = f"; {advice}" if advice else ""
        super().__init__(f"{message_name}: {meaning} (RMCP+ status 0x{status:02x}){hint}")
        self.message_name = message_name
        self.status = status


class AuthenticationFailed(BmcRefusal):
    """The BMC's key exchange code does not match our secrets: wrong password or K_g (13.31)."""


class TransportError(BmcmedicError):
    """No answer came, or the network reported that none can come."""

    may_have_run: bool = True
    """Whether the BMC may have executed the request; False only where that is known."""


class NoAnswer(TransportError):
    """The deadline passed without an answer.

    `advice` is what to try, if the silence hints at a cause; otherwise it is empty.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.args[0]}; {self.advice}" if self.advice else str(self.args[0])


class PortClosed(TransportError):
    """An ICMP error reports that nothing listens at that address and port."""


class Unreachable(TransportError):
    """The network has no route to the address."""


class NameNotResolved(TransportError):
    """The target's host name does not resolve to an address."""


class Refused(BmcmedicError):
    """Our own policy refused the request; nothing was sent."""


class QueueFull(Refused):
    """A bounded queue is at its limit."""


class BreakerOpen(Refused):
    """The breaker is open because the BMC stopped answering."""


class GuardrailRefused(Refused):
    """A guard-rail forbids the action; `facts` are the numbers that the rule checked."""

    def __init__(self, rule: str, message: str, facts: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        self.facts = dict(facts or {})


class StoreError(BmcmedicError):
    """The controller's store could not write or read a record."""


def reason_of(error: Exception) -> str:
    """Return an error's text for a message; an OSError's text omits its number and path."""
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or str(error)
