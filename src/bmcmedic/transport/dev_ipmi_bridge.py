"""Requests to controllers behind the BMC, whose answers arrive at any later time.

They use an open /dev/ipmi0 of their own, and a thread that waits for the answers there.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from bmcmedic.errors import BmcmedicError, NoAnswer, QueueFull, TransportError
from bmcmedic.transport.dev_ipmi_device import RESPONSE_RECV_TYPE, Device, Received, response_to
from bmcmedic.transport.in_band import InterfaceBusy, InterfaceGone, Ipmb

BRIDGED_MAX = 8
"""Most requests that may await an answer; the kernel has 64 sequence numbers per channel."""
ANSWER_S_MAX = 60.0
"""Longest time that the kernel waits for an answer, in seconds."""
LATE_S = 2.0
"""Extra wait after the kernel's own limit, in seconds.

The kernel itself reports that no answer came; after this time its report is no longer expected.
"""
CHECK_PERIOD_S = 1.0
"""Time between two checks that the interface still exists, while answers are due, in seconds."""
JOIN_S = 1.0
"""Longest wait of `close` for the thread to end, in seconds."""

Done = Callable[[bytes | BmcmedicError], None]


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: bytes
    until: float
    done: Done


class DevIpmiBridge:
    """One open device for bridged requests; `open_device` opens it at its first use."""

    def __init__(
        self, open_device: Callable[[], Device], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_device = open_device
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._msgids = itertools.count(1)
        self._device: Device | None = None
        self._thread: threading.Thread | None = None

    def send(self, request: bytes, target: Ipmb, deadline: float, done: Done) -> int:
        """Queue the request in the kernel; return its id for `forget` and `is_waiting`.

        Raises: QueueFull, NoAnswer, InterfaceGone, InterfaceBusy, Refused.
        """
        now = self._monotonic()
        answer_s = min(deadline - now, ANSWER_S_MAX)
        if answer_s <= 0:
            raise NoAnswer("the deadline passed before the request was sent")
        device = self._open_once()
        with self._lock:
            if len(self._waiting) >= BRIDGED_MAX:
                raise QueueFull(
                    f"{BRIDGED_MAX} bridged requests are already waiting for their answers"
                )
            msgid = next(self._msgids)
            self._waiting[msgid] = _Waiting(request, now + answer_s + LATE_S, done)
        try:
            device.send_ipmb(msgid, request, target, int(answer_s * 1000))
        except BaseException as error:
            self.forget(msgid)
            if isinstance(error, InterfaceGone):
                self._drop(device, error)
            raise
        with self._lock:
            if self._device is device:
                device.wake()  # so that the thread also watches the deadline of this request
        return msgid

    def forget(self, msgid: int) -> bool:
        """Stop waiting, so that `done` is not called; return False if it was called already."""
        with self._lock:
            return self._waiting.pop(msgid, None) is not None

    def is_waiting(self, msgid: int) -> bool:
        """Return whether the answer to the request is still due."""
        return msgid in self._waiting

    def close(self) -> None:
        """End the thread; every waiting request ends with an error."""
        with self._lock:
            device, thread = self._device, self._thread
        if device is None:
            return
        self._drop(device, TransportError("the interface was closed"))
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_S)

    # ------------------------------------------------------------------------------ its thread

    def _open_once(self) -> Device:
        with self._lock:
            if self._device is not None:
                return self._device
            device = self._device = self._open_device()
            thread = threading.Thread(
                target=self._collect, args=(device,), name="bridged-answers", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                self._device = None
                device.close()
                raise InterfaceBusy(f"no thread to wait for bridged answers: {error}") from None
            self._thread = thread
        return device

    def _collect(self, device: Device) -> None:
        """Deliver answers until the device is dropped or gone."""
        try:
            while self._device is device:
                device.wait(CHECK_PERIOD_S if self._waiting else None)
                while (received := device.receive()) is not None:
                    self._on_message(received)
                self._expire()
                device.check()
        except BmcmedicError as error:
            self._drop(device, error)
        except Exception as error:  # noqa: BLE001 - no request may wait in vain
            self._drop(device, TransportError(f"no more bridged answers: {error!r}"))
        finally:
            with self._lock:
                device.close()

    def _on_message(self, received: Received) -> None:
        if received.kind != RESPONSE_RECV_TYPE:
            return
        with self._lock:
            waiting = self._waiting.pop(received.msgid, None)
        if waiting is not None:
            _deliver(waiting, received)

    def _expire(self) -> None:
        now = self._monotonic()
        with self._lock:
            late = [msgid for msgid, entry in self._waiting.items() if entry.until <= now]
            entries = [self._waiting.pop(msgid) for msgid in late]
        for entry in entries:
            entry.done(NoAnswer("no answer came from the controller behind the BMC"))

    def _drop(self, device: Device, error: BmcmedicError) -> None:
        """Release the device, and end every waiting request with the error."""
        with self._lock:
            if self._device is not device:
                return
            self._device = self._thread = None
            entries = list(self._waiting.values())
            self._waiting.clear()
            device.wake()
        for entry in entries:
            entry.done(error)


def _deliver(waiting: _Waiting, received: Received) -> None:
    try:
        result: bytes | BmcmedicError = response_to(waiting.request, received)
    except BmcmedicError as error:
        result = error
    waiting.done(result)
