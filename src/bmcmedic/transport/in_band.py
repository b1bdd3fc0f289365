"""The contract of every in-band interface to the BMC, and the errors that they share."""

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
    """A request with a better claim took over the interface during the exchange."""

    def __init__(self, message: str, *, may_have_run: bool) -> None:
        super().__init__(message)
        self.may_have_run = may_have_run


class InterfaceGone(TransportError):
    """The interface is missing: no device, no driver, or it disappeared while it was in use."""


class InterfaceBusy(TransportError):
    """Something else uses the interface for now, such as the kernel's maintenance mode."""


def hold_alone(fd: int, path: str) -> None:
    """Lock a device against other bmcmedic drivers until `fd` is closed.

    Raises: InterfaceBusy when another bmcmedic driver holds the lock.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InterfaceBusy(f"{path}: another bmcmedic driver has it; end that one first") from None


class InterfaceClaim(Protocol):
    """The right to use the interface; its holder can lose it at any moment."""

    def must_stop(self, *, recovering: bool) -> bool:
        """Return whether to raise Interrupted at once and not touch the interface again.

        `recovering` is true while a failed exchange recovers the interface.
        """


class InBand(Protocol):
    """An interface to the BMC from inside the host, for one exchange at a time."""

    @property
    def name(self) -> str:
        """Return the name of the interface, for messages."""

    @property
    def exchange_s_max(self) -> float:
        """Return the longest time that one attempt can hold the interface, in seconds."""

    @property
    def missing(self) -> str | None:
        """Return why this interface reaches no BMC, if that shows without an exchange.

        Only the holder of the interface may read it, or anyone before there is a holder.
        """

    def attempt(
        self, request: bytes, deadline: float, claim: InterfaceClaim, *, idempotent: bool
    ) -> bytes:
        """Make one exchange, with a bounded error recovery, and return the response.

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
        """Send to a controller behind the BMC; return as soon as the BMC has accepted it.

        A thread of the transport later calls `done` exactly once, with the response or the error.
        Raises: as `attempt`; then `done` is not called.
        """

    def take_over(self) -> None:
        """Forget the current exchange; another thread has fenced off the one that made it.

        The fenced-off thread may still be in `attempt`, and may notice only later that it must
        stop. Until then it must not disturb any later exchange.
        """

    def close(self) -> None:
        """Release the interface between two exchanges, so that another program can use it."""
