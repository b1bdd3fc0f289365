"""Reach the BMC through Linux's /dev/ipmi0, where the kernel's driver owns the interface.

The kernel queues requests and cannot withdraw one, so it has at most one of ours at a time. A
caller that gives up waiting leaves its request in the kernel, and the next exchange first waits for
its end. Each request has its own message id, and an answer to an earlier request is dropped.

When KCS fails during a request, Linux sends it again from its first byte, whatever the command is.
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
"""Paths of the first IPMI device; the first one that exists is used."""

EXCHANGE_S_MAX = 60.0
"""Longest wait for the answer to one exchange, in seconds.

With IBF stuck, Linux 6.1 tries eleven times for 5 s each, and returns 0xFF after 55 s. A BMC that
takes up to 5 s for every byte occupies the kernel longer; the request is then left in the kernel.
"""
LEFT_S_MAX = 120.0
"""Longest wait for the end of a request left in the kernel, in seconds.

By then it is lost, or requests of other programs have been ahead of it for minutes.
"""
SLICE_S = 0.02
"""Time between two checks of the claim while an exchange waits for its answer, in seconds."""
GATE_S = 0.1
"""Longest wait for a fenced-off thread to finish its device access, in seconds.

The access itself takes microseconds.
"""

_GET_DEVICE_ID = b"\x18\x01"
_BETTER_CLAIM = "a request with a better claim has the interface"


def _exists(path: str) -> bool:
    return os.access(path, os.F_OK)


@dataclass(frozen=True, slots=True)
class _PendingRequest:
    """A request of ours that the kernel may still be executing."""

    msgid: int | None
    until: float
    accepted: Callable[[], bool] | None = None
    """Returns whether the kernel has finished sending a bridged request.

    The answer to a bridged request arrives at the bridge's own device.
    """


class DevIpmi:
    """One IPMI device of the kernel, opened at its first use, and again after it was gone.

    `open_device` and `open_counters` open the kernel's device and counters; tests pass their own.

    Raises: ConfigurationError without permission to use the device.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        open_device: Callable[[str], Device] = IpmiDevice,
        open_counters: Callable[[str], DeviceCounters] = KernelCounters,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path or next(filter(_exists, DEVICES), DEVICES[0])
        self.name = self._path
        self.exchange_s_max = EXCHANGE_S_MAX
        if _exists(self._path) and not os.access(self._path, os.R_OK | os.W_OK):
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
        self._pending: _PendingRequest | None = None
        self._awaited_msgid = 0
        """Message id whose answer is stored for its thread if another thread receives it."""
        self._stored_answer: Received | None = None

    def attempt(
        self,
        request: bytes,
        deadline: float,
        claim: InterfaceClaim,
        *,
        idempotent: bool,  # noqa: ARG002 - the kernel repeats any request
    ) -> bytes:
        """Make one exchange, with the kernel's error recovery, and return the response.

        Shape: netFn<<2 | LUN, command, data; the response has a completion code after the command.
        Raises: NoAnswer, RemoteProtocolError, Interrupted, InterfaceGone, InterfaceBusy; Refused
        for commands that the kernel reserves for itself: Get Message, Send Message,
        Read Event Message Buffer.
        """
        with self._opened(claim, deadline) as turn:
            return turn.exchange(request)

    def send_bridged(
        self, request: bytes, target: Ipmb, deadline: float, claim: InterfaceClaim, done: Done
    ) -> None:
        """Send once to a controller behind the BMC; return as soon as the BMC has accepted it.

        The kernel does not report when that is. Its counters change when an exchange of the
        interface ends, and that is this one, as the kernel has no other request of ours. Without
        counters, a Get Device ID follows the request, and its answer proves the acceptance.
        Raises: as `attempt`; QueueFull; Refused when that channel is no IPMB.
        """
        with self._opened(claim, deadline) as turn:
            turn.send_bridged(request, target, deadline, done)

    @property
    def missing(self) -> str | None:
        """Return that the device is missing, or None if it exists."""
        if os.path.exists(self._path):  # noqa: PTH110 - as the path is everywhere here
            return None
        return f"{self._path} is not there: load ipmi_si and ipmi_devintf"

    def take_over(self) -> None:
        """Forget the current exchange; another thread has fenced off the one that made it.

        Its request stays in the kernel, ahead of the next one.
        """
        gate = self._gate
        held = gate.acquire(timeout=GATE_S)
        self._generation += 1
        self._pending = None
        if held:
            gate.release()
        else:
            self._gate = threading.Lock()  # the fenced-off thread may never release the old lock

    def close(self) -> None:
        """Close the device; bridged requests end with an error."""
        self._bridge.close()
        self._drop(self._device)

    # ------------------------------------------------------------------------------ the device

    @contextmanager
    def _opened(self, claim: InterfaceClaim, deadline: float) -> Iterator[_Turn]:
        """Yield a turn at the device, with no earlier request of ours left in the kernel."""
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
        self._pending = self._stored_answer = None
        return device

    def _drop(self, device: Device | None) -> None:
        """Close the device; the next exchange opens it again."""
        if device is None or device is not self._device:
            return
        self._device = self._pending = None
        device.close()
        if self._counters is not None:
            self._counters.close()

    @contextmanager
    def _gated(self) -> Iterator[None]:
        """Admit one thread at a time, but wait for at most `GATE_S`.

        After that the thread proceeds without the lock, whatever state its holder is in.
        """
        gate = self._gate
        held = gate.acquire(timeout=GATE_S)
        try:
            yield
        finally:
            if held:
                gate.release()

    def _receive(self, device: Device, wanted: int) -> Received | None:
        """Return the answer with that message id, if it has arrived; drop unrelated messages."""
        with self._gated():
            while (received := device.receive()) is not None:
                if received.kind != RESPONSE_RECV_TYPE:
                    continue
                pending = self._pending
                if pending is not None and pending.msgid == received.msgid:
                    self._pending = None
                if received.msgid == wanted:
                    return received
                if received.msgid == self._awaited_msgid:
                    self._stored_answer = received
            stored = self._stored_answer
            if stored is not None and stored.msgid == wanted:
                self._stored_answer = None
                return stored
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
        """Wait until the kernel has no request of ours left.

        Raises: InterfaceBusy when it still has one; nothing was sent.
        """
        owner = self._owner
        while (pending := owner._pending) is not None:
            owner._receive(self._device, 0)
            self._check_claim(recovering=True, may_have_run=False)
            now = owner._monotonic()
            if now >= pending.until or (pending.accepted is not None and pending.accepted()):
                owner._pending = None
            if owner._pending is None:
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
            self._check_claim(recovering=False, may_have_run=False)
            now = owner._monotonic()
            if now >= self._limit_at:
                raise NoAnswer(f"{owner.name}: the deadline passed before the request was sent")
            owner._awaited_msgid = msgid
            owner._stored_answer = None
            device.send(msgid, request)
            owner._pending = _PendingRequest(msgid, now + LEFT_S_MAX)
        while (received := owner._receive(device, msgid)) is None:
            self._check_claim(recovering=False, may_have_run=True)
            now = owner._monotonic()
            if now >= self._limit_at:
                raise NoAnswer(f"{owner.name}: no answer in time; the kernel still has the request")
            self._wait(now)
        response = response_to(request, received)
        if received.data[0] == CompletionCode.UNSPECIFIED and counters is not None:
            hosed = counters.hosed_count()
            if hosed_before is not None and hosed is not None and hosed > hosed_before:
                raise NoAnswer(
                    f"{owner.name}: the kernel gave up the request: the BMC does not serve KCS"
                )
        return response

    def send_bridged(self, request: bytes, target: Ipmb, deadline: float, done: Done) -> None:
        """Send a bridged request, and wait until the BMC has accepted it."""
        owner = self._owner
        before = self._counted()
        with owner._gated():
            self._check_claim(recovering=False, may_have_run=False)
            msgid = owner._bridge.send(request, target, deadline, done)

            # Without counters the end is unknown; the Get Device ID then replaces this entry.
            owner._pending = _PendingRequest(
                None,
                owner._monotonic() + LEFT_S_MAX,
                lambda: before is None or self._counted() != before,
            )
        try:
            if before is None:
                self.exchange(_GET_DEVICE_ID)
                return
            while owner._bridge.is_waiting(msgid) and self._counted() == before:
                self._check_claim(recovering=False, may_have_run=True)
                now = owner._monotonic()
                if now >= self._limit_at:
                    raise NoAnswer(
                        f"{owner.name}: the BMC did not accept the bridged request in time"
                    )
                self._wait(now)
            owner._pending = None
        except BmcmedicError:
            if owner._bridge.forget(msgid):
                raise
            # Otherwise `done` has already been called with the result.

    def _counted(self) -> tuple[int, int] | None:
        counters = self._owner._counters
        if counters is None:
            return None
        complete, hosed = counters.complete_transactions(), counters.hosed_count()
        return None if complete is None or hosed is None else (complete, hosed)

    def _check_claim(self, *, recovering: bool, may_have_run: bool) -> None:
        fenced_off = self._generation != self._owner._generation
        if fenced_off or self._claim.must_stop(recovering=recovering):
            raise Interrupted(_BETTER_CLAIM, may_have_run=may_have_run)

    def _wait(self, now: float) -> None:
        self._device.wait(min(SLICE_S, self._limit_at - now))
        self._device.check()
