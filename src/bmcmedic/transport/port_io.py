"""KCS over the machine's own ports, for hosts where the kernel's driver is not loaded.

An exchange runs in the calling thread, an access to a register at a time. Before each it asks
whether it may go on, so a better claim waits for one access at the most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from bmcmedic.errors import BmcmedicError, ConfigurationError, Refused
from bmcmedic.ipmi.kcs import STATUS_NOTHING_THERE, KcsRegisters
from bmcmedic.ipmi.kcs_errors import NothingThere
from bmcmedic.ipmi.kcs_host import HostKcs, KcsAction, KcsLimits
from bmcmedic.transport.in_band import InterfaceClaim, InterfaceGone, Interrupted, Ipmb
from bmcmedic.transport.port_io_registers import PORT_MAX, DevPort, Guard, PortGuard

BASE = 0xCA2
SPACING = 1

PORT_IO_LIMITS = KcsLimits(recoveries_max=3, exchange_s=10.0, poll_s_max=4e-3)
"""Polled each millisecond, a BMC that hangs would take 4 % of a core; so it takes 1. A pat waits
for one exchange, so it is short. Time for a BMC that misses a byte for the 5 s that Linux gives it,
the recovery, and all of the request once more; what outlasts that is no disturbance of the moment,
and the next exchange recovers it first."""

EXCHANGE_SLACK_S = 0.2
"""Beyond the limit: the sleep before the last look at the clock may end late."""
CLAIM_PERIOD_S = 0.02
"""While nothing is due, the claim is asked so often."""
GUARD_PERIOD_S = 0.01
"""How long an exchange may go on unawares after the kernel's driver came."""
TAKE_OVER_S = 0.1
"""For the fenced-off thread to end its access to a register, which takes 2 us."""

_WHERE = "dmidecode -t 38 names the BMC's address"
_BETTER_CLAIM = "somebody with a better claim has the interface"

# Looked up once: most of the time of an exchange goes into this loop.
_READ_STATUS: Final = KcsAction.READ_STATUS
_READ_DATA: Final = KcsAction.READ_DATA
_WRITE_DATA: Final = KcsAction.WRITE_DATA
_DONE: Final = KcsAction.DONE
_FAILED: Final = KcsAction.FAILED
_WAIT: Final = KcsAction.WAIT


class PortIo:
    """One KCS interface through its registers.

    `registers` and `guard` are this machine's unless they are handed in.

    Raises: ConfigurationError for impossible ports, without rights, or when a driver has the ports.
    """

    def __init__(
        self,
        registers: KcsRegisters | None = None,
        *,
        base: int = BASE,
        spacing: int = SPACING,
        limits: KcsLimits = PORT_IO_LIMITS,
        guard: Guard | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if spacing < 1 or not 0 <= base <= PORT_MAX - spacing:
            raise ConfigurationError(
                f"no KCS interface at port {base:#x} with spacing {spacing}: both its ports must "
                f"be different and at most {PORT_MAX:#x}"
            )
        self.name = f"port-io {base:#x}"
        self.exchange_s_max = limits.exchange_s + EXCHANGE_SLACK_S
        self._limits = limits
        self._monotonic = monotonic
        self._sleep = sleep
        self._host = HostKcs(limits)
        self._access = threading.Lock()
        self._device: DevPort | None = None
        self._guard = guard
        if registers is None:
            self._guard = guard or PortGuard(base, spacing)
            try:
                self._refuse_if_owned()
                registers = self._device = DevPort(base, spacing)
            except BmcmedicError:
                self._guard.close()
                raise
        self._registers: KcsRegisters = registers

    def attempt(
        self, request: bytes, deadline: float, claim: InterfaceClaim, *, idempotent: bool
    ) -> bytes:
        """One exchange, with its bounded error recovery.

        Shape: netFn<<2 | LUN, command, data; the response has a completion code after the command.
        Raises: KcsTimeout, NothingThere, KcsViolation, Interrupted, InterfaceGone.
        """
        with self._access:
            # Asked first: whoever was fenced off on the way here must not touch the new machine.
            host = self._host
            if claim.must_stop(recovering=False):
                raise Interrupted(_BETTER_CLAIM, may_have_run=False)
            host.abort()  # what an exception may have left; else nothing
        self._check_guard(host)
        now = self._monotonic()
        host.start(request, now, idempotent=idempotent, deadline=deadline)
        try:
            self._play(host, claim, now)
        finally:
            host.abort()
        # The last access may have ended after another's exchange, and read the end of that one.
        if host is not self._host:
            raise _interrupted(host)
        if host.next_action is _DONE:
            return host.response()
        error = host.error()
        if isinstance(error, NothingThere):
            error.advice = f"this is {self.name}, and {_WHERE}"
        raise error

    def _play(self, host: HostKcs, claim: InterfaceClaim, now: float) -> None:
        """Do what the machine needs, until it needs nothing more."""
        registers, monotonic, access = self._registers, self._monotonic, self._access
        step, must_stop = host.step, claim.must_stop
        guard_at = now + GUARD_PERIOD_S
        action = host.next_action
        while action is not _DONE and action is not _FAILED:
            if now >= guard_at:
                self._check_guard(host)
                guard_at = now + GUARD_PERIOD_S
            if action is _WAIT:
                self._ask(host, claim)
                pause_s = host.not_before - now
                if pause_s > 0:
                    self._sleep(min(pause_s, CLAIM_PERIOD_S))
                now = monotonic()
                action = step(now)
                continue
            # Who takes over waits for this lock: no access follows that was allowed before.
            with access:
                if must_stop(recovering=host.recoveries > 0) or host is not self._host:
                    raise _interrupted(host)
                value = -1
                if action is _READ_STATUS:
                    value = registers.read_status()
                elif action is _READ_DATA:
                    value = registers.read_data()
                elif action is _WRITE_DATA:
                    registers.write_data(host.byte)
                else:
                    registers.write_command(host.byte)
            now = monotonic()
            action = step(now, value)

    def send_bridged(
        self,
        request: bytes,  # noqa: ARG002 - as every interface
        target: Ipmb,
        deadline: float,  # noqa: ARG002
        claim: InterfaceClaim,  # noqa: ARG002
        done: Callable[[bytes | BmcmedicError], None],  # noqa: ARG002
    ) -> None:
        """Not done here: fetching the answer takes exchanges that nobody asked for.

        Raises: Refused.
        """
        raise Refused(
            f"{self.name} reaches the BMC alone, not {target.address:#04x} on its channel "
            f"{target.channel}: load ipmi_si and use /dev/ipmi0"
        )

    @property
    def missing(self) -> str | None:
        """That nobody drives the status register; reading it has no effect."""
        try:
            status = self._registers.read_status()
        except InterfaceGone as error:
            return str(error)
        if status != STATUS_NOTHING_THERE:
            return None
        return f"nothing answers at {self.name}: {_WHERE}"

    def take_over(self) -> None:
        """Forget the exchange under way: another thread has fenced off the one that made it."""
        # The thread that had it keeps its own machine, and finds that it is no longer this one.
        access = self._access
        held = access.acquire(timeout=TAKE_OVER_S)
        self._host = HostKcs(self._limits)
        if held:
            access.release()
        else:
            self._access = threading.Lock()  # the old one may never be released

    def close(self) -> None:
        """Let the interface go."""
        self._host.abort()
        if self._device is not None:
            self._device.close()
        if self._guard is not None:
            self._guard.close()

    def _ask(self, host: HostKcs, claim: InterfaceClaim) -> None:
        if claim.must_stop(recovering=host.recoveries > 0) or host is not self._host:
            raise _interrupted(host)

    def _check_guard(self, host: HostKcs) -> None:
        owner = None if self._guard is None else self._guard.owner()
        if owner is not None:
            host.abort()
            raise InterfaceGone(f"{self.name}: {owner}")

    def _refuse_if_owned(self) -> None:
        owner = None if self._guard is None else self._guard.owner()
        if owner is not None:
            raise ConfigurationError(f"{self.name} cannot be used: {owner}")


def _interrupted(host: HostKcs) -> Interrupted:
    return Interrupted(_BETTER_CLAIM, may_have_run=host.may_have_run)
