"""The BMC through Linux's /dev/ipmi0, where the kernel's driver has the interface.

The kernel queues requests and cannot take one back, so at most one of ours is there at a time: who
gives up waiting leaves it, and the next exchange first waits for its end. Each has a message id of
its own; what answers an earlier one is dropped.

When KCS fails in the middle, Linux sends a request again from its first byte, whatever it asks.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bmcmedic.errors import BmcmedicError, ConfigurationError, NoAnswer
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.transport.dev_ipmi_bridge import DevIpmiBridge, Done
from bmcmedic.transport.dev_ipmi_device import (
    RESPONSE_RECV_TYPE,
    Device,
    DeviceCounters,
    IpmiDevice,
    KernelCounters,
    Received,
    response_to,
)
from bmcmedic.transport.in_band import (
    InterfaceBusy,
    InterfaceClaim,
    InterfaceGone,
    Interrupted,
    Ipmb,
)

DEVICES = ("/dev/ipmi0", "/dev/ipmi/0", "/dev/ipmidev/0")

EXCHANGE_S_MAX = 60.0
"""With IBF stuck, Linux 6.1 tries eleven times for 5 s each, and says 0xFF after 55 s. A BMC that
takes up to 5 s for every byte keeps the kernel longer; then the request is left there."""
LEFT_S_MAX = 120.0
"""What the kernel has not answered by then is lost, or others' requests are before it for minutes;
nobody waits for it any longer."""
SLICE_S = 0.02
"""While an answer is waited for, the claim is asked so often."""
GATE_S = 0.1
"""For a fenced-off thread to end what it does with the device, which takes microseconds."""

_GET_DEVICE_ID = b"\x18\x01"
_BETTER_CLAIM = "somebody with a better claim has the interface"


def _is_there(path: str) -> bool:
    return os.access(path, os.F_OK)


@dataclass(frozen=True, slots=True)
class _Left:
    """What the kernel may still be doing for us."""

    msgid: int | None
    until: float
    accepted: Callable[[], bool] | None = None
    """Whether the kernel is through with a bridged request, whose answer comes elsewhere."""


class DevIpmi:
    """One IPMI device of the kernel's, opened when it is first needed, and again when it was gone.

    `open_device` and `open_counters` are the kernel's unless they are handed in.

    Raises: ConfigurationError without the right to use it.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        open_device: Callable[[str], Device] = IpmiDevice,
        open_counters: Callable[[str], DeviceCounters] = KernelCounters,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path or next(filter(_is_there, DEVICES), DEVICES[0])
        self.name = self._path
        self.exchange_s_max = EXCHANGE_S_MAX
        if _is_there(self._path) and not os.access(self._path, os.R_OK | os.W_OK):
            raise ConfigurationError(f"no right to use {self._path}: run as root")
        self._open_device = open_device
        self._open_counters = open_counters
        self._monotonic = monotonic
        self._gate = threading.Lock()
        self._device: Device | None = None
        self._counters: DeviceCounters | None = None
        self._bridge = DevIpmiBridge(lambda: open_device(self._path), monotonic)
        self._msgids = itertools.count(1)
        self._generation = 0
        self._left: _Left | None = None
        self._wanted = 0
        """Whose answer is kept for its thread, should another thread receive it."""
        self._kept: Received | None = None

    def attempt(
        self,
        request: bytes,
        deadline: float,
        claim: InterfaceClaim,
        *,
        idempotent: bool,  # noqa: ARG002 - the kernel does not ask before it sends again
    ) -> bytes:
        """One exchange, with the kernel's error recovery.

        Shape: netFn<<2 | LUN, command, data; the response has a completion code after the command.
        Raises: NoAnswer, RemoteProtocolError, Interrupted, InterfaceGone, InterfaceBusy; Refused
        for what the kernel keeps for itself: Get Message, Send Message, Read Event Message Buffer.
        """
        with self._opened(claim, deadline) as turn:
            return turn.exchange(request)

    def send_bridged(
        self, request: bytes, target: Ipmb, deadline: float, claim: InterfaceClaim, done: Done
    ) -> None:
        """Send to a controller behind the BMC, once; returns as soon as the BMC has taken it.

        The kernel does not say when that is. Its counters move when an exchange of the interface
        ends: ours, as nothing else of ours is there. Where there are none, a Get Device ID is sent
        behind it, whose answer proves it.
        Raises: as `attempt`; QueueFull; Refused when that channel is no IPMB.
        """
        with self._opened(claim, deadline) as turn:
            turn.send_bridged(request, target, deadline, done)

    @property
    def missing(self) -> str | None:
        """That the device is not there."""
        if os.path.exists(self._path):  # noqa: PTH110 - as the path is everywhere here
            return None
        return f"{self._path} is not there: load ipmi_si and ipmi_devintf"

    def take_over(self) -> None:
        """Forget the exchange under way: another thread has fenced off the one that made it.

        Its request stays in the kernel, before the next one.
        """
        gate = self._gate
        held = gate.acquire(timeout=GATE_S)
        self._generation += 1
        self._left = None
        if held:
            gate.release()
        else:
            self._gate = threading.Lock()  # the old one may never be released

    def close(self) -> None:
        """Let the device go; bridged requests end with an error."""
        self._bridge.close()
        self._drop(self._device)

    # ------------------------------------------------------------------------------ the device

    @contextmanager
    def _opened(self, claim: InterfaceClaim, deadline: float) -> Iterator[_Turn]:
        """A turn at the device, with nothing of ours before it in the kernel."""
        limit_at = min(deadline, self._monotonic() + EXCHANGE_S_MAX)
        if claim.must_stop(recovering=False):
            raise Interrupted(_BETTER_CLAIM, may_have_run=False)
        device = self._device or self._open()
        try:
            turn = _Turn(self, device, claim, limit_at)
            turn.settle()
            yield turn
        except InterfaceGone:
            self._drop(device)
            raise

    def _open(self) -> Device:
        try:
            device = self._open_device(self._path)
        except ConfigurationError as error:
            raise InterfaceGone(str(error)) from error
        try:
            device.hold_alone()
        except InterfaceBusy:
            device.close()
            raise
        self._device = device
        self._counters = self._open_counters(self._path)
        self._left = self._kept = None
        return device

    def _drop(self, device: Device | None) -> None:
        """Close it; the next exchange opens it anew."""
        if device is None or device is not self._device:
            return
        self._device = self._left = None
        device.close()
        if self._counters is not None:
            self._counters.close()

    @contextmanager
    def _gated(self) -> Iterator[None]:
        """One thread at a time; but none waits for long, be the other in whatever state."""
        gate = self._gate
        held = gate.acquire(timeout=GATE_S)
        try:
            yield
        finally:
            if held:
                gate.release()

    def _receive(self, device: Device, wanted: int) -> Received | None:
        """The answer with that message id, if it is there; what is in the way is cleared away."""
        with self._gated():
            while (received := device.receive()) is not None:
                if received.kind != RESPONSE_RECV_TYPE:
                    continue
                left = self._left
                if left is not None and left.msgid == received.msgid:
                    self._left = None
                if received.msgid == wanted:
                    return received
                if received.msgid == self._wanted:
                    self._kept = received
            kept = self._kept
            if kept is not None and kept.msgid == wanted:
                self._kept = None
                return kept
        return None


class _Turn:
    """One caller's turn at the device."""

    __slots__ = ("_claim", "_device", "_generation", "_limit_at", "_owner")

    def __init__(
        self, owner: DevIpmi, device: Device, claim: InterfaceClaim, limit_at: float
    ) -> None:
        self._owner = owner
        self._device = device
        self._claim = claim
        self._limit_at = limit_at
        self._generation = owner._generation

    def settle(self) -> None:
        """Wait until the kernel has nothing of ours any more.

        Raises: InterfaceBusy when it still has; nothing was sent.
        """
        owner = self._owner
        while (left := owner._left) is not None:
            owner._receive(self._device, 0)
            self._ask(recovering=True, may_have_run=False)
            now = owner._monotonic()
            if now >= left.until or (left.accepted is not None and left.accepted()):
                owner._left = None
            if owner._left is None:
                return
            if now >= self._limit_at:
                raise InterfaceBusy(
                    f"{owner.name}: the kernel still has an earlier request of ours"
                )
            self._wait(now)

    def exchange(self, request: bytes) -> bytes:
        """Send a request and wait for its answer."""
        owner, device = self._owner, self._device
        counters = owner._counters
        hosed_before = None if counters is None else counters.hosed_count()
        msgid = next(owner._msgids)
        with owner._gated():
            self._ask(recovering=False, may_have_run=False)
            now = owner._monotonic()
            if now >= self._limit_at:
                raise NoAnswer(f"{owner.name}: the deadline passed before the request was sent")
            owner._wanted = msgid
            owner._kept = None
            device.send(msgid, request)
            owner._left = _Left(msgid, now + LEFT_S_MAX)
        while (received := owner._receive(device, msgid)) is None:
            self._ask(recovering=False, may_have_run=True)
            now = owner._monotonic()
            if now >= self._limit_at:
                raise NoAnswer(f"{owner.name}: no answer in time; the kernel still has the request")
            self._wait(now)
        response = response_to(request, received)
        if received.data[0] == CompletionCode.UNSPECIFIED and counters is not None:
            hosed = counters.hosed_count()
            if hosed_before is not None and hosed is not None and hosed > hosed_before:
                raise NoAnswer(
                    f"{owner.name}: the kernel gave the request up: the BMC does not serve KCS"
                )
        return response

    def send_bridged(self, request: bytes, target: Ipmb, deadline: float, done: Done) -> None:
        """Send it, and wait until the BMC has taken it."""
        owner = self._owner
        before = self._counted()
        with owner._gated():
            self._ask(recovering=False, may_have_run=False)
            msgid = owner._bridge.send(request, target, deadline, done)

            # Without counters nobody knows; the Get Device ID behind it takes this one's place.
            owner._left = _Left(
                None,
                owner._monotonic() + LEFT_S_MAX,
                lambda: before is None or self._counted() != before,
            )
        try:
            if before is None:
                self.exchange(_GET_DEVICE_ID)
                return
            while owner._bridge.is_waiting(msgid) and self._counted() == before:
                self._ask(recovering=False, may_have_run=True)
                now = owner._monotonic()
                if now >= self._limit_at:
                    raise NoAnswer(
                        f"{owner.name}: the BMC did not take the bridged request in time"
                    )
                self._wait(now)
            owner._left = None
        except BmcmedicError:
            if owner._bridge.forget(msgid):
                raise
            # Else whoever asked has been told already.

    def _counted(self) -> tuple[int, int] | None:
        counters = self._owner._counters
        if counters is None:
            return None
        complete, hosed = counters.complete_transactions(), counters.hosed_count()
        return None if complete is None or hosed is None else (complete, hosed)

    def _ask(self, *, recovering: bool, may_have_run: bool) -> None:
        fenced_off = self._generation != self._owner._generation
        if fenced_off or self._claim.must_stop(recovering=recovering):
            raise Interrupted(_BETTER_CLAIM, may_have_run=may_have_run)

    def _wait(self, now: float) -> None:
        self._device.wait(min(SLICE_S, self._limit_at - now))
        self._device.check()
