"""What every way to the BMC from inside the host offers, and the errors that they share."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bmcmedic.errors import BmcmedicError, TransportError


@dataclass(frozen=True, slots=True)
class Ipmb:
    """A controller behind the BMC.

    Units: `address` is the 8-bit slave address, such as 0x2C.
    """

    channel: int
    address: int
    lun: int = 0


class Interrupted(TransportError):
    """Somebody with a better claim took the interface in the middle of the exchange."""

    def __init__(self, message: str, *, may_have_run: bool) -> None:
        super().__init__(message)
        self.may_have_run = may_have_run


class InterfaceGone(TransportError):
    """The interface is not there: no device, no driver, or it vanished while it was in use."""


class InterfaceBusy(TransportError):
    """Something else has the interface for now, such as the kernel's maintenance mode."""


def hold_alone(fd: int, path: str) -> None:
    """Keep every other driver of ours out of a device until `fd` is closed.

    Raises: InterfaceBusy when another has it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InterfaceBusy(f"{path}: another bmcmedic driver has it; end that one first") from None


class InterfaceClaim(Protocol):
    """The right to touch the interface; it can be lost at any moment."""

    def must_stop(self, *, recovering: bool) -> bool:
        """Whether to raise Interrupted at once and touch nothing any more.

        `recovering`: the exchange has failed, and the interface is being brought back.
        """


class InBand(Protocol):
    """A way to the BMC from inside the host, for one exchange at a time."""

    @property
    def name(self) -> str:
        """What it is, for people."""

    @property
    def exchange_s_max(self) -> float:
        """The longest that one attempt can hold the interface."""

    @property
    def missing(self) -> str | None:
        """Why there is no BMC to be reached by it, where that shows without an exchange.

        For whoever has the interface, or before anybody has.
        """

    def attempt(
        self, request: bytes, deadline: float, claim: InterfaceClaim, *, idempotent: bool
    ) -> bytes:
        """One exchange, with its bounded error recovery.

        Shape: netFn<<2 | LUN, command, data; the response has a completion code after the command.
        Raises: NoAnswer, RemoteProtocolError, Interrupted, InterfaceGone, InterfaceBusy.
        """

    def send_bridged(
        self,
        request: bytes,
        target: Ipmb,
        deadline: float,
        claim: InterfaceClaim,
        done: Callable[[bytes | BmcmedicError], None],
    ) -> None:
        """Send to a controller behind the BMC; returns as soon as the BMC has taken it.

        `done` is called exactly once and later, with the response or with what went wrong, from a
        thread of the transport's own.
        Raises: as `attempt`; then `done` is not called.
        """

    def take_over(self) -> None:
        """Forget the exchange under way: another thread has fenced off the one that made it.

        The fenced-off thread may still be in `attempt`, and find out only later that it must stop.
        Whatever it does then must not touch what comes after this.
        """

    def close(self) -> None:
        """Let the interface go, between two exchanges, so that another program can have it."""
