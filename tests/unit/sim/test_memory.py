from __future__ import annotations

import gc
import socket
import tracemalloc

from bmcmedic.sim.front_ends.lan import LanFront
from bmcmedic.sim.rack import DEFAULT_USERS
from tests.support.sim import sim_bmc

BMCS = 300
BYTES_A_BMC_MAX = 6 * 1024
"""Of Python's memory, without sessions; the promise is 20 KiB resident with everything."""


def test_a_bmc_costs_little_memory() -> None:
    front = LanFront(users=DEFAULT_USERS)
    sim_bmc()  # the shared parts are not one BMC's
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
    assert (after - before) / BMCS < BYTES_A_BMC_MAX
