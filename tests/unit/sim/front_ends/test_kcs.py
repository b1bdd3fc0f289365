from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bmcmedic.ipmi.kcs_errors import NothingThere
from bmcmedic.ipmi.kcs_host import KcsLimits
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.front_ends.kcs import ServedRegisters
from bmcmedic.sim.profile import server_profile
from bmcmedic.transport.port_io import PortIo

GET_DEVICE_ID = b"\x18\x01"
WAIT_S_MAX = 30.0
LIMITS = KcsLimits(ibf_s=10.0, obf_s=10.0, exchange_s=WAIT_S_MAX, absent_s=0.05)
NEVER = float("inf")


class Mine:
    def must_stop(self, *, recovering: bool) -> bool:  # noqa: ARG002 - Claim's
        return False


@contextmanager
def served(*faults: str) -> Iterator[tuple[PortIo, SimBmc, ServedRegisters]]:
    bmc = SimBmc(
        "bmc1",
        server_profile(0),
        now=time.monotonic(),
        epoch_offset_s=0.0,
        host_uuid=uuid.UUID(int=1),
        faults=FaultSet.parse(faults),
    )
    registers = ServedRegisters(bmc, time.monotonic)
    firmware = threading.Thread(target=registers.serve, daemon=True)
    firmware.start()
    try:
        yield PortIo(registers, limits=LIMITS), bmc, registers
    finally:
        registers.stop()
        firmware.join(WAIT_S_MAX)
        assert not firmware.is_alive()


def test_port_io_talks_to_the_simulated_bmc() -> None:
    with served() as (port_io, bmc, _):
        for _ in range(20):
            response = port_io.attempt(GET_DEVICE_ID, NEVER, Mine(), idempotent=True)
            assert response[:3] == b"\x1c\x01\x00"
        assert bmc.requests == {0x0601: 20}


def test_a_slow_answer_comes_when_it_is_ready() -> None:
    with served("slow:0.3") as (port_io, _, _):
        started_at = time.monotonic()
        port_io.attempt(GET_DEVICE_ID, NEVER, Mine(), idempotent=True)
        assert time.monotonic() - started_at >= 0.3


def test_a_bmc_that_boots_leaves_the_ports_alone() -> None:
    with served("boot:3600") as (port_io, bmc, registers):
        with registers.lock:
            bmc.schedule_restart(time.monotonic(), cold=True)
            bmc.handle_timer(time.monotonic() + 1.0)
            registers.changed()
        assert (registers.read_status(), registers.read_data()) == (0xFF, 0xFF)
        with pytest.raises(NothingThere):
            port_io.attempt(GET_DEVICE_ID, NEVER, Mine(), idempotent=True)


def test_it_answers_again_after_its_boot() -> None:
    with served("boot:0.05") as (port_io, bmc, registers):
        port_io.attempt(GET_DEVICE_ID, NEVER, Mine(), idempotent=True)
        with registers.lock:
            bmc.schedule_restart(time.monotonic(), cold=True)
            registers.changed()
        deadline = time.monotonic() + WAIT_S_MAX
        while bmc.cold_resets == 0 or registers.read_status() == 0xFF:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert port_io.attempt(GET_DEVICE_ID, NEVER, Mine(), idempotent=True)
