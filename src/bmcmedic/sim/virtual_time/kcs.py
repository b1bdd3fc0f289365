"""A simulated BMC's KCS interface in virtual time, modelled by whole exchanges.

The same steps take time as in `ipmi.kcs_host`: each byte, the BMC's work on the request, the host's
limits, and its recoveries. Single accesses to the registers are not modelled: with them, ten
thousand runs of twenty minutes would take an hour each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bmcmedic.errors import BmcmedicError, Refused
from bmcmedic.ipmi.kcs import STATUS_IBF, STATUS_NOTHING_THERE, ErrorCode, InterfaceState, KcsPhase
from bmcmedic.ipmi.kcs_errors import KcsEvidence, KcsFault, kcs_error
from bmcmedic.ipmi.kcs_host import KcsLimits
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.dispatch import execute
from bmcmedic.sim.handler_call import Interface
from bmcmedic.sim.virtual_time.world import World
from bmcmedic.transport.in_band import InterfaceClaim, Interrupted, Ipmb
from bmcmedic.transport.port_io import EXCHANGE_SLACK_S, PORT_IO_LIMITS

BYTE_S = 200e-6
"""Time that a healthy BMC takes for each byte in or out, in seconds."""
BYTE_SHARE = 0.004
"""Extra time for each byte of a slow BMC, as a share of its time for an answer."""

CLAIM_S_MAX = 1.0
"""Longest time between two checks of the interface claim, in seconds.

It is also checked whenever its answer may have changed.
"""

_CONTROL_BYTES = 2
_RECOVERY_BYTES = 4
"""GET_STATUS/ABORT, 0x00, the error code, READ."""
_HEADER_BYTES = 3

_SYSTEM_INTERFACE: Final = Interface.SYSTEM_INTERFACE
_EVIDENT_STATUS: Final = {
    KcsFault.IBF_STUCK: InterfaceState.WRITE | STATUS_IBF,
    KcsFault.OBF_MISSING: InterfaceState.READ,
    KcsFault.EXCHANGE_LIMIT: InterfaceState.READ,
    KcsFault.NOTHING_THERE: STATUS_NOTHING_THERE,
}


class _Exchange:
    """One exchange, from its first byte to its response or its fault."""

    __slots__ = (
        "claim", "end_at", "error_code", "fault", "idempotent", "may_have_run", "phase",
        "recoveries", "request", "response", "restarts",
    )  # fmt: skip

    def __init__(
        self, request: bytes, end_at: float, claim: InterfaceClaim, *, idempotent: bool
    ) -> None:
        self.request = request
        self.end_at = end_at
        self.claim = claim
        self.idempotent = idempotent
        self.phase = KcsPhase.IDLE
        self.fault = KcsFault.NONE
        self.recoveries = 0
        self.error_code: int | None = None
        self.may_have_run = False
        self.response = b""
        self.restarts = 0
        """The BMC's number of restarts when this transfer began."""


class WorldKcs:
    """An `InBand` interface to a simulated BMC, which also drives the BMC's own timer."""

    name = "simulated KCS"

    def __init__(
        self,
        world: World,
        bmc: SimBmc,
        limits: KcsLimits = PORT_IO_LIMITS,
        *,
        spins: bool = False,
        on_attempt: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        """Create the interface; `spins`: it waits as a kernel that cannot sleep does (DELAY)."""
        self.exchange_s_max = limits.exchange_s + EXCHANGE_SLACK_S
        self._world = world
        self._bmc = bmc
        self._limits = limits
        self._spins = spins
        self._on_attempt = on_attempt
        self._timer_at: float | None = None
        self.arm_timer()

    def attempt(
        self, request: bytes, deadline: float, claim: InterfaceClaim, *, idempotent: bool
    ) -> bytes:
        """Perform one exchange, with its bounded error recovery.

        Raises: KcsTimeout, NothingThere, KcsViolation, Interrupted.
        """
        self._on_attempt(request)
        end_at = min(deadline, self._world.now + self._limits.exchange_s)
        exchange = _Exchange(request, end_at, claim, idempotent=idempotent)
        while not self._transfer(exchange):
            if not self._recover(exchange):
                raise self._error(exchange)
        return exchange.response

    def send_bridged(
        self,
        request: bytes,  # noqa: ARG002 - part of the interface
        target: Ipmb,
        deadline: float,  # noqa: ARG002
        claim: InterfaceClaim,  # noqa: ARG002
        done: Callable[[bytes | BmcmedicError], None],  # noqa: ARG002
    ) -> None:
        """Refuse: no other controller is simulated here.

        Raises: Refused.
        """
        raise Refused(f"{self.name} reaches the BMC alone, not {target.address:#04x} behind it")

    missing = None
    """The interface is never missing, even while the BMC does not answer."""

    def take_over(self) -> None:
        """Do nothing: no state is kept between exchanges."""

    def close(self) -> None:
        """Do nothing: no resource is held."""

    # ------------------------------------------------------------------------- one transfer

    def _transfer(self, exchange: _Exchange) -> bool:
        """Transfer the request and its response; return False, with `fault` set, on failure."""
        bmc = self._bmc
        exchange.phase = KcsPhase.IDLE
        exchange.restarts = bmc.restarts
        if not self._is_there() and not self._await_bmc(exchange):
            return False
        request = exchange.request
        if bmc.faults.silences_kcs:
            exchange.phase = KcsPhase.WRITE_START
            return self._limit(exchange, self._limits.ibf_s, KcsFault.IBF_STUCK)
        exchange.phase = KcsPhase.WRITE_DATA
        if not self._pass(exchange, (len(request) + _CONTROL_BYTES) * self._byte_s()):
            return False
        exchange.phase = KcsPhase.EXECUTING
        exchange.may_have_run = True
        now = self._world.now
        message = RequestMessage(request[0] >> 2, request[1], request[2:])
        answer = execute(bmc, message, _SYSTEM_INTERFACE, now)
        self.arm_timer()
        if answer is None or answer.service_time_s > self._limits.obf_s:
            return self._limit(exchange, self._limits.obf_s, KcsFault.OBF_MISSING)
        reading_s = (len(answer.data) + _HEADER_BYTES) * self._byte_s()
        if not self._pass(exchange, answer.service_time_s + reading_s):
            return False
        header = bytes((request[0] | 4, request[1], answer.completion_code))
        exchange.response = header + answer.data
        return True

    def _recover(self, exchange: _Exchange) -> bool:
        """Recover with GET_STATUS/ABORT; return whether the request may be sent again."""
        limits, fault = self._limits, exchange.fault
        if fault is KcsFault.NOTHING_THERE or fault is KcsFault.EXCHANGE_LIMIT:
            return False
        while True:
            exchange.recoveries += 1
            if exchange.recoveries > limits.recoveries_max:
                exchange.fault = fault
                return False
            if exchange.recoveries > 1 and not self._pass(exchange, limits.recovery_pause_s):
                return False
            exchange.restarts = self._bmc.restarts
            if self._bmc.faults.silences_kcs:
                if not self._pass(exchange, limits.ibf_s):
                    return False
                continue
            if not self._pass(exchange, _RECOVERY_BYTES * self._byte_s()):
                return False
            exchange.error_code = ErrorCode.ABORTED
            return exchange.idempotent or not exchange.may_have_run

    def _limit(self, exchange: _Exchange, seconds: float, fault: KcsFault) -> bool:
        """Let a time limit run out, and set the fault; return False, as a failed transfer does."""
        if self._pass(exchange, seconds):
            exchange.fault = fault
        return False

    # ------------------------------------------------------------------------------ waiting

    def _is_there(self) -> bool:
        """Return whether the BMC drives its registers; otherwise they read 0xFF."""
        return self._bmc.boot_until is None and not self._bmc.faults.dead

    def _await_bmc(self, exchange: _Exchange) -> bool:
        """Wait for registers that read 0xFF, as long as the BMC's restart may be about to end."""
        limit_at = min(self._world.now + self._limits.absent_s, exchange.end_at)
        self._wait(exchange, limit_at, self._is_there)
        if self._is_there():
            exchange.restarts = self._bmc.restarts
            return True
        exchange.fault = KcsFault.NOTHING_THERE
        return False

    def _pass(self, exchange: _Exchange, seconds: float) -> bool:
        """Let the time of a step pass; return False when the BMC restarts or the time is over."""
        world = self._world
        until = world.now + seconds
        self._wait(exchange, min(until, exchange.end_at), self._restarted(exchange))
        if self._bmc.restarts != exchange.restarts:
            self._await_bmc(exchange)
            if self._is_there():
                exchange.fault = KcsFault.RESTARTED
            return False
        if until > exchange.end_at:
            exchange.fault = KcsFault.EXCHANGE_LIMIT
            return False
        return True

    def _restarted(self, exchange: _Exchange) -> Callable[[], bool]:
        return lambda: self._bmc.restarts != exchange.restarts

    def _wait(self, exchange: _Exchange, until: float, happened: Callable[[], bool]) -> None:
        """Wait until a point in time, or until `happened` returns true.

        Raises: Interrupted.
        """
        must_stop, recovering = exchange.claim.must_stop, exchange.recoveries > 0

        def seen() -> bool:
            return must_stop(recovering=recovering) or happened()

        world, poll_s, spins = self._world, self._limits.poll_s_max, self._spins
        while not world.wait_watching(
            min(until, world.now + CLAIM_S_MAX), seen, poll_s, spins=spins
        ):
            if world.now >= until:
                return
        if must_stop(recovering=recovering):
            raise Interrupted(
                "a request with a better claim has the interface",
                may_have_run=exchange.may_have_run,
            )

    def _byte_s(self) -> float:
        return BYTE_S + BYTE_SHARE * self._bmc.answer_latency_s(self._world.now)

    def _error(self, exchange: _Exchange) -> BmcmedicError:
        fault = exchange.fault
        evidence = KcsEvidence(
            fault=fault,
            phase=exchange.phase,
            status=_EVIDENT_STATUS.get(fault, InterfaceState.IDLE),
            recoveries=exchange.recoveries,
            error_code=exchange.error_code,
            may_have_run=exchange.may_have_run,
        )
        return kcs_error(evidence, b"")

    # ------------------------------------------------------------------ the BMC's own events

    def arm_timer(self) -> None:
        """Call the BMC when its timer is due. Call this after a change of its faults, too."""
        due = self._bmc.timer
        if due is not None and due != self._timer_at:
            self._timer_at = due
            self._world.at(due, self._timer_due, due)

    def _timer_due(self, due: float) -> None:
        if due == self._timer_at:
            self._timer_at = None
            self._bmc.handle_timer(self._world.now)
            self.arm_timer()
