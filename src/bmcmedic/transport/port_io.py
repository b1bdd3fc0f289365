"""KCS over the host's own I/O ports, for hosts where the kernel's driver is not loaded.

An exchange runs in the calling thread, one register access at a time. Before each access it checks
that it may go on, so a better claim waits for one access at most.
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
"""Default port of the data registers."""
SPACING = 1
"""Default distance from the data port to the status and command port, in ports."""

PORT_IO_LIMITS = KcsLimits(recoveries_max=3, exchange_s=10.0, poll_s_max=4e-3)
"""Limits of one exchange over the ports.

Polling a hanging BMC every millisecond would cost 4 % of a core; with `poll_s_max` it costs 1 %.
An exchange is short because a pat waits for one exchange. `exchange_s` suffices for a BMC that
stalls on a byte for the 5 s that Linux allows, the recovery, and the whole request once more. A
longer disturbance is not momentary, and the next exchange begins with the recovery.
"""

EXCHANGE_SLACK_S = 0.2
"""Time that an exchange may exceed its limit, in seconds.

The sleep before the last reading of the clock may end late.
"""
CLAIM_PERIOD_S = 0.02
"""Time between two checks of the claim while no access is due, in seconds."""
GUARD_PERIOD_S = 0.01
"""Time between two checks of the guard, in seconds.

For so long an exchange may not notice that the kernel's driver has been loaded.
"""
TAKE_OVER_S = 0.1
"""Longest wait for a fenced-off thread to end its register access, in seconds.

The access itself takes 2 us.
"""

_WHERE = "dmidecode -t 38 names the BMC's address"
_BETTER_CLAIM = "a request with a better claim has the interface"

# Looked up once here, because the loop in `_play` takes most of the time of an exchange.
_READ_STATUS: Final = KcsAction.READ_STATUS
_READ_DATA: Final = KcsAction.READ_DATA
_WRITE_DATA: Final = KcsAction.WRITE_DATA
_DONE: Final = KcsAction.DONE
_FAILED: Final = KcsAction.FAILED
_WAIT: Final = KcsAction.WAIT


class PortIo:
    """One KCS interface through its registers.

    `registers` and `guard` default to those of this host.

    Raises: ConfigurationError for impossible ports, without permission, or when a driver has the
    ports.
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
        """Make one exchange, with a bounded error recovery, and return the response.

        Shape: netFn<<2 | LUN, command, data; the response has a completion code after the command.
        Raises: KcsTimeout, NothingThere, KcsViolation, Interrupted, InterfaceGone.
        """
        with self._access:
            # Check first: a thread that was just fenced off must not touch the new state machine.
            host = self._host
            if claim.must_stop(recovering=False):
                raise Interrupted(_BETTER_CLAIM, may_have_run=False)
            host.abort()  # in case an exception left an exchange unfinished
        self._check_guard(host)
        now = self._monotonic()
        host.start(request, now, idempotent=idempotent, deadline=deadline)
        try:
            self._play(host, claim, now)
        finally:
            host.abort()
        # The last access may have ended after another exchange, and read the end of that one.
        if host is not self._host:
            raise _interrupted(host)
        if host.next_action is _DONE:
            return host.response()
        error = host.error()
        if isinstance(error, NothingThere):
            error.advice = f"this is {self.name}, and {_WHERE}"
        raise error

    def _play(self, host: HostKcs, claim: InterfaceClaim, now: float) -> None:
        """Do what the state machine requests, until it is done or has failed."""
        registers, monotonic, access = self._registers, self._monotonic, self._access
        step, must_stop = host.step, claim.must_stop
        guard_at = now + GUARD_PERIOD_S
        action = host.next_action
        while action is not _DONE and action is not _FAILED:
            if now >= guard_at:
                self._check_guard(host)
                guard_at = now + GUARD_PERIOD_S
            if action is _WAIT:
                self._check_claim(host, claim)
                pause_s = host.not_before - now
                if pause_s > 0:
                    self._sleep(min(pause_s, CLAIM_PERIOD_S))
                now = monotonic()
                action = step(now)
                continue
            # `take_over` waits for this lock, so no access that was allowed earlier follows it.
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
        request: bytes,  # noqa: ARG002 - the signature of InBand
        target: Ipmb,
        deadline: float,  # noqa: ARG002
        claim: InterfaceClaim,  # noqa: ARG002
        done: Callable[[bytes | BmcmedicError], None],  # noqa: ARG002
    ) -> None:
        """Refuse every bridged request: its answer would need additional exchanges.

        Raises: Refused.
        """
        raise Refused(
            f"{self.name} reaches the BMC alone, not {target.address:#04x} on its channel "
            f"{target.channel}: load ipmi_si and use /dev/ipmi0"
        )

    @property
    def missing(self) -> str | None:
        """Return that nothing drives the status register; reading it has no side effect."""
        try:
            status = self._registers.read_status()
        except InterfaceGone as error:
            return str(error)
        if status != STATUS_NOTHING_THERE:
            return None
        return f"nothing answers at {self.name}: {_WHERE}"

    def take_over(self) -> None:
        """Forget the current exchange; another thread has fenced off the one that made it."""
        # The fenced-off thread keeps its old state machine, and sees that it was replaced.
        access = self._access
        held = access.acquire(timeout=TAKE_OVER_S)
        self._host = HostKcs(self._limits)
        if held:
            access.release()
        else:
            self._access = threading.Lock()  # the fenced-off thread may never release the old lock

    def close(self) -> None:
        """Release the interface."""
        self._host.abort()
        if self._device is not None:
            self._device.close()
        if self._guard is not None:
            self._guard.close()

    def _check_claim(self, host: HostKcs, claim: InterfaceClaim) -> None:
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
