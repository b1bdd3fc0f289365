from __future__ import annotations

import gc
import socket
import tracemalloc

from bmcmedic.sim.front_ends.lan import LanFront
from bmcmedic.sim.rack import DEFAULT_USERS
from tests.support.sim import sim_bmc

BMCS = 300
BYTES_PER_BMC_MAX = 6 * 1024
"""Most bytes of Python's memory for each BMC without sessions; 20 KiB resident are promised."""


def test_a_bmc_costs_little_memory() -> None:
    front = LanFront(users=DEFAULT_USERS)
    sim_bmc()  # the shared parts do not count for one BMC
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(BMCS):
            bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            bound.bind(("127.0.0.1", 0))
            front.add(sim_bmc(), bound)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        front.close()
    assert (after - before) / BMCS < BYTES_PER_BMC_MAX
