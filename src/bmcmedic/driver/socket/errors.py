"""How errors travel over the driver's socket, and what the client raises for them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from bmcmedic.driver.parking import Parked
from bmcmedic.errors import (
    BmcmedicError,
    BmcRefusal,
    BreakerOpen,
    ConfigurationError,
    LocalProtocolError,
    NoAnswer,
    QueueFull,
    Refused,
    RemoteProtocolError,
    TransportError,
)
from bmcmedic.transport.in_band import InterfaceBusy, InterfaceGone, Interrupted

MESSAGE_CHARS_MAX = 500


class DriverUnavailable(TransportError):
    """No driver serves the socket."""


class DriverGone(TransportError):
    """The driver went away, or fell silent, while it had our request.

    `may_have_run`: whether the request was sent completely, so that the BMC may have executed it.
    """

    def __init__(self, message: str, *, may_have_run: bool) -> None:
        super().__init__(message)
        self.may_have_run = may_have_run


class NoRights(Refused):
    """The driver does not serve this user."""


class Cancelled(Refused):
    """The request was given up by its own connection."""


class ErrorKind(Enum):
    """The values of `error.kind`."""

    BAD_REQUEST = "bad-request"
    TOO_LONG = "too-long"
    TOO_SLOW = "too-slow"
    TOO_MANY = "too-many-connections"
    NO_RIGHTS = "no-rights"
    CANCELLED = "cancelled"
    STOPPING = "stopping"
    NO_ANSWER = "no-answer"
    BMC_VIOLATION = "bmc-violation"
    BMC_REFUSED = "bmc-refused"
    INTERRUPTED = "interrupted"
    INTERFACE_GONE = "interface-gone"
    INTERFACE_BUSY = "interface-busy"
    PARKED = "parked"
    BREAKER_OPEN = "breaker-open"
    QUEUE_FULL = "queue-full"
    REFUSED = "refused"
    FAILED = "failed"


_KINDS: Final[tuple[tuple[type[BmcmedicError], ErrorKind], ...]] = (
    (Interrupted, ErrorKind.INTERRUPTED),
    (InterfaceGone, ErrorKind.INTERFACE_GONE),
    (Parked, ErrorKind.PARKED),
    (InterfaceBusy, ErrorKind.INTERFACE_BUSY),
    (NoAnswer, ErrorKind.NO_ANSWER),
    (RemoteProtocolError, ErrorKind.BMC_VIOLATION),
    (BmcRefusal, ErrorKind.BMC_REFUSED),
    (BreakerOpen, ErrorKind.BREAKER_OPEN),
    (QueueFull, ErrorKind.QUEUE_FULL),
    (NoRights, ErrorKind.NO_RIGHTS),
    (Cancelled, ErrorKind.CANCELLED),
    (Refused, ErrorKind.REFUSED),
    (ConfigurationError, ErrorKind.REFUSED),
    (LocalProtocolError, ErrorKind.BAD_REQUEST),
)
"""The first matching class decides; any other error is `failed`."""

_RAISED: Final[Mapping[ErrorKind, type[BmcmedicError]]] = {
    ErrorKind.BAD_REQUEST: LocalProtocolError,
    ErrorKind.TOO_LONG: LocalProtocolError,
    ErrorKind.TOO_SLOW: TransportError,
    ErrorKind.TOO_MANY: QueueFull,
    ErrorKind.NO_RIGHTS: NoRights,
    ErrorKind.CANCELLED: Cancelled,
    ErrorKind.STOPPING: DriverUnavailable,
    ErrorKind.NO_ANSWER: NoAnswer,
    ErrorKind.BMC_REFUSED: BmcRefusal,
    ErrorKind.INTERFACE_GONE: InterfaceGone,
    ErrorKind.INTERFACE_BUSY: InterfaceBusy,
    ErrorKind.PARKED: Parked,
    ErrorKind.BREAKER_OPEN: BreakerOpen,
    ErrorKind.QUEUE_FULL: QueueFull,
    ErrorKind.REFUSED: Refused,
    ErrorKind.FAILED: TransportError,
}
"""Errors that need only their message; `to_error` builds the others."""


def kind_of(error: BmcmedicError) -> ErrorKind:
    """Return the kind of an error."""
    for error_type, kind in _KINDS:
        if isinstance(error, error_type):
            return kind
    return ErrorKind.FAILED


def details_of(error: BmcmedicError) -> dict[str, Any] | None:
    """Return the fields of an error besides its message, for clients that decide by them."""
    match error:
        case RemoteProtocolError():
            return {"section": error.section, "raw": error.raw.hex()}
        case Interrupted():
            return {"may_have_run": error.may_have_run}
        case _:
            return None


def message_of(error: BmcmedicError) -> str:
    """Return the message without what `details_of` returns separately."""
    if isinstance(error, RemoteProtocolError):
        return str(error.args[0])
    return str(error)


def to_error(kind: ErrorKind, message: str, details: Mapping[str, Any]) -> BmcmedicError:
    """Return the exception for an error that came over the socket."""
    match kind:
        case ErrorKind.BMC_VIOLATION:
            return RemoteProtocolError(
                message, section=str(details.get("section", "5")), raw=_octets(details.get("raw"))
            )
        case ErrorKind.INTERRUPTED:
            return Interrupted(message, may_have_run=details.get("may_have_run") is not False)
        case _:
            return _RAISED[kind](message)


def _octets(value: object) -> bytes:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return b""
