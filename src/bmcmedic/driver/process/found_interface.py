"""The way to the BMC that this host has, found when it is needed, and again when it has gone.

A driver that starts before the kernel's module, or outlives it, neither ends nor asks for a person:
it says what it misses and goes on looking.
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
"""A device that vanished is expected back for so long, since its module may be loaded anew; only
then are the registers touched, which the module would be probing."""


class Makers(Protocol):
    """How the two ways are made; a test has its own."""

    device_exchange_s_max: float

    def device(self, path: str) -> InBand:
        """The kernel's device, whether or not it is there now."""

    def ports(self, base: int) -> InBand:
        """The registers. Raises: ConfigurationError when they cannot be had."""


class FoundInterface:
    """An `InBand` that is made as the configuration says, `auto` as the host has it now."""

    def __init__(
        self,
        config: InterfaceConfig,
        makers: Makers,
        report: Callable[[str], None],
        changed: Callable[[InBand], None],
        monotonic: Callable[[], float],
    ) -> None:
        """`report` takes a line for the log, `changed` each interface that was found.

        Raises: ConfigurationError where what was asked for by name cannot be used.
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
        """What was used until it was closed."""
        if config.kind == "auto":
            if Path(config.device).exists():
                self._use(makers.device(config.device))
            else:
                with contextlib.suppress(InterfaceGone):  # it was said, and the driver looks again
                    self._find()
        elif config.kind == "dev-ipmi":
            self._use(makers.device(config.device))
        else:
            self._use(makers.ports(config.port_base))
        self._tell_missing()

    @property
    def name(self) -> str:
        """What it is now."""
        if self._inner is None:
            return "no interface yet" if self._let_go is None else f"{self._let_go}, let go"
        return self._inner.name

    @property
    def exchange_s_max(self) -> float:
        """The longest that one attempt can hold the interface; the kernel's while none is found."""
        if self._inner is None:
            return self._makers.device_exchange_s_max
        return self._inner.exchange_s_max

    @property
    def missing(self) -> str | None:
        """Why there is none; None too while it is let go."""
        return self._missing if self._inner is None else self._inner.missing

    def attempt(
        self, request: bytes, deadline: float, claim: InterfaceClaim, *, idempotent: bool
    ) -> bytes:
        """One exchange with what there is."""
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
        """Forget the exchange under way."""
        if self._inner is not None:
            self._inner.take_over()

    def close(self) -> None:
        """Let the interface go; the next attempt looks for it anew."""
        inner, self._inner = self._inner, None
        if inner is not None:
            self._let_go = inner.name
            inner.close()

    def _tell_missing(self) -> None:
        missing = self.missing
        if missing is not None and missing != self._missing:  # else it was said
            self._report(f"no interface to a BMC yet, looking on: {missing}")

    def _find(self) -> InBand:
        try:
            return self._use(self._made())
        except ConfigurationError as error:
            missing = str(error)
        if missing != self._missing:
            self._missing = missing
            self._report(f"no interface to a BMC yet, looking on: {missing}")
        raise InterfaceGone(missing)

    def _made(self) -> InBand:
        config = self._config
        if config.kind == "port-io":
            return self._makers.ports(config.port_base)
        if config.kind == "dev-ipmi" or Path(config.device).exists():
            return self._makers.device(config.device)
        if self._let_go == config.device:  # its module may just be on its way back
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
        """Look for another the next time; one that was asked for by name comes back by itself."""
        if self._config.kind == "auto" and self._inner is inner:
            self._inner = None
            if inner.name == self._config.device:
                self._awaited_until = self._monotonic() + DEVICE_AWAITED_S
            self._report(f"{inner.name} has gone; looking for another interface")
            inner.close()
