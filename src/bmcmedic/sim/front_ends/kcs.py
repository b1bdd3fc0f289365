"""The KCS front end: a simulated BMC behind KCS registers in real time; a thread is its firmware.

The host sees `Registers`, as it does with real ports. Each access to a register changes the BMC's
side under a lock, and wakes the firmware's thread, which does the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from bmcmedic.ipmi.kcs import STATUS_NOTHING_THERE
from bmcmedic.ipmi.kcs_bmc import BmcKcs, KcsEvent
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.dispatch import execute
from bmcmedic.sim.handler_call import Interface

_SYSTEM_INTERFACE: Final = Interface.SYSTEM_INTERFACE


class ServedRegisters:
    """The KCS registers of a BMC; a thread has to run `serve`, its firmware, until `stop`."""

    def __init__(self, bmc: SimBmc, monotonic: Callable[[], float]) -> None:
        self.lock = threading.Condition()
        """Hold it to read or change the BMC."""
        self._bmc = bmc
        self._monotonic = monotonic
        self._kcs = BmcKcs()
        self._restarts = bmc.restarts
        self._answers: list[tuple[float, int, bytes]] = []
        """Responses to come: when each is ready, the number of its request, and its bytes."""
        self._stopping = False

    # ------------------------------------------------------------------------------- the host

    def read_status(self) -> int:
        """Read the status register."""
        with self.lock:
            return self._kcs.status if self._is_there() else STATUS_NOTHING_THERE

    def read_data(self) -> int:
        """Read the data-out register."""
        with self.lock:
            return self._kcs.read_data() if self._is_there() else STATUS_NOTHING_THERE

    def write_data(self, byte: int) -> None:
        """Write to the data-in register."""
        with self.lock:
            if self._is_there():
                self._kcs.write_data(byte)
                self.lock.notify()

    def write_command(self, byte: int) -> None:
        """Write to the command register."""
        with self.lock:
            if self._is_there():
                self._kcs.write_command(byte)
                self.lock.notify()

    # --------------------------------------------------------------------------- the firmware

    def serve(self) -> None:
        """Serve the registers, and handle the BMC's own events when they are due."""
        with self.lock:
            while not self._stopping:
                now = self._monotonic()
                self._bmc.handle_timer(now)
                if self._bmc.restarts != self._restarts:
                    self._restarts = self._bmc.restarts
                    self._kcs.restart()
                    self._answers.clear()
                self._serve_once(now)
                due = [at for at, _, _ in self._answers]
                if self._bmc.timer is not None:
                    due.append(self._bmc.timer)
                self.lock.wait(max(0.0, min(due) - self._monotonic()) if due else None)

    def stop(self) -> None:
        """Make `serve` return."""
        with self.lock:
            self._stopping = True
            self.lock.notify()

    def changed(self) -> None:
        """Note that the BMC's faults were changed. The caller holds the lock."""
        self.lock.notify()

    def _serve_once(self, now: float) -> None:
        kcs = self._kcs
        if not self._is_there() or self._bmc.faults.silences_kcs:
            return
        if kcs.service() is KcsEvent.REQUEST:
            request = kcs.request
            message = RequestMessage(request[0] >> 2, request[1], request[2:])
            answer = execute(self._bmc, message, _SYSTEM_INTERFACE, now)
            if answer is not None:
                header = bytes((request[0] | 4, request[1], answer.completion_code))
                ready_at = now + answer.service_time_s
                self._answers.append((ready_at, kcs.request_number, header + answer.data))
        for answered in [entry for entry in self._answers if entry[0] <= now]:
            self._answers.remove(answered)
            kcs.respond(answered[1], answered[2])

    def _is_there(self) -> bool:
        return self._bmc.boot_until is None and not self._bmc.faults.dead
