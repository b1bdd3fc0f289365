"""The host's interface to its BMC, found when it is needed, and again after it has gone.

A driver that starts before the kernel's module, or outlives it, does not end and needs no operator.
It logs what is missing and keeps looking.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bmcmedic.driver.process.config import InterfaceConfig
from bmcmedic.errors import BmcmedicError, ConfigurationError
from bmcmedic.transport.in_band import InBand, InterfaceClaim, InterfaceGone, Ipmb

DEVICE_AWAITED_S = 60.0
"""A device that vanished is expected back for this long, in seconds, because its module may be
loaded anew. Only then does the driver touch the registers, which the module would be probing."""


class InterfaceMakers(Protocol):
    """Makes the interfaces; a test passes its own."""

    device_exchange_s_max: float

    def device(self, path: str) -> InBand:
        """Return the kernel's device, whether or not it is there now."""

    def ports(self, base: int) -> InBand:
        """Return the registers. Raises: ConfigurationError when they cannot be used."""


class FoundInterface:
    """An `InBand` made as configured; for `auto`, from what the host has at that moment."""

    def __init__(
        self,
        config: InterfaceConfig,
        makers: InterfaceMakers,
        report: Callable[[str], None],
        changed: Callable[[InBand], None],
        monotonic: Callable[[], float],
    ) -> None:
        """`report` takes a line for the log; `changed` takes each interface that is found.

        Raises: ConfigurationError where an interface that was configured by name cannot be used.
        """
        self._config = config
        self._makers = makers
        self._report = report
        self._changed = changed
        self._monotonic = monotonic
        self._missing: str | None = None
        self._awaited_until: float | None = None
        self._inner: InBand | None = None
        self._let_go: str | None = None
        """Name of the interface that was closed."""
        if config.kind == "auto":
            if Path(config.device).exists():
                self._use(makers.device(config.device))
            else:
                with contextlib.suppress(InterfaceGone):  # logged already; the driver tries again
                    self._find()
        elif config.kind == "dev-ipmi":
            self._use(makers.device(config.device))
        else:
            self._use(makers.ports(config.port_base))
        self._report_missing()

    @property
    def name(self) -> str:
        """The name of the interface in use."""
        if self._inner is None:
            return "no interface yet" if self._let_go is None else f"{self._let_go}, let go"
        return self._inner.name

    @property
    def exchange_s_max(self) -> float:
        """Longest time that one attempt can hold the interface.

        The kernel's while none is found.
        """
        if self._inner is None:
            return self._makers.device_exchange_s_max
        return self._inner.exchange_s_max

    @property
    def missing(self) -> str | None:
        """Why there is no interface; None also while it is let go."""
        return self._missing if self._inner is None else self._inner.missing

    def attempt(
        self, request: bytes, deadline: float, claim: InterfaceClaim, *, idempotent: bool
    ) -> bytes:
        """Make one exchange with the interface that there is."""
        inner = self._inner or self._find()
        try:
            return inner.attempt(request, deadline, claim, idempotent=idempotent)
        except InterfaceGone:
            self._lose(inner)
            raise

    def send_bridged(
        self,
        request: bytes,
        target: Ipmb,
        deadline: float,
        claim: InterfaceClaim,
        done: Callable[[bytes | BmcmedicError], None],
    ) -> None:
        """Send to a controller behind the BMC."""
        inner = self._inner or self._find()
        try:
            inner.send_bridged(request, target, deadline, claim, done)
        except InterfaceGone:
            self._lose(inner)
            raise

    def take_over(self) -> None:
        """Forget the exchange in flight."""
        if self._inner is not None:
            self._inner.take_over()

    def close(self) -> None:
        """Close the interface; the next attempt looks for one again."""
        inner, self._inner = self._inner, None
        if inner is not None:
            self._let_go = inner.name
            inner.close()

    def _report_missing(self) -> None:
        missing = self.missing
        if missing is not None and missing != self._missing:  # otherwise it is logged already
            self._report(f"no interface to a BMC yet; still looking: {missing}")

    def _find(self) -> InBand:
        try:
            return self._use(self._make())
        except ConfigurationError as error:
            missing = str(error)
        if missing != self._missing:
            self._missing = missing
            self._report(f"no interface to a BMC yet; still looking: {missing}")
        raise InterfaceGone(missing)

    def _make(self) -> InBand:
        config = self._config
        if config.kind == "port-io":
            return self._makers.ports(config.port_base)
        if config.kind == "dev-ipmi" or Path(config.device).exists():
            return self._makers.device(config.device)
        if self._let_go == config.device:  # its module may be loaded again soon
            self._let_go = None
            self._awaited_until = self._monotonic() + DEVICE_AWAITED_S
        awaited_until = self._awaited_until
        if awaited_until is not None and self._monotonic() < awaited_until:
            raise InterfaceGone(f"{config.device} has gone, and is expected back")
        try:
            return self._makers.ports(config.port_base)
        except ConfigurationError as error:
            raise ConfigurationError(f"{config.device} is not there, and {error}") from None

    def _use(self, inner: InBand) -> InBand:
        self._inner = inner
        self._missing = self._awaited_until = self._let_go = None
        self._changed(inner)
        return inner

    def _lose(self, inner: InBand) -> None:
        """Look for another interface the next time, unless this one was configured by name."""
        if self._config.kind == "auto" and self._inner is inner:
            self._inner = None
            if inner.name == self._config.device:
                self._awaited_until = self._monotonic() + DEVICE_AWAITED_S
            self._report(f"{inner.name} has gone; looking for another interface")
            inner.close()
