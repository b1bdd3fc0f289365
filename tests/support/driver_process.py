"""The whole driver over the registers of a simulated BMC, as a program of its own.

    python -m tests.support.driver_process RUNTIME_DIR SHUTDOWN

One thread more than usual dies when there is a file `die` in the runtime directory. At its end it
prints how the BMC's watchdog timer stands, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from pathlib import Path

from bmcmedic.driver.process.main import read_config
from bmcmedic.driver.process.service import DriverService
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.front_ends.kcs import ServedRegisters
from bmcmedic.sim.profile import server_profile
from bmcmedic.transport.in_band import InBand
from bmcmedic.transport.port_io import PortIo

POLL_S = 0.02


class Simulated:
    """A host whose ports are those of a simulated BMC."""

    device_exchange_s_max = 60.0

    def __init__(self) -> None:
        now = time.monotonic()
        self.bmc = SimBmc(
            "bmc1", server_profile(0), now=now, epoch_offset_s=0.0, host_uuid=uuid.uuid4()
        )
        self._registers = ServedRegisters(self.bmc, time.monotonic)
        threading.Thread(target=self._registers.serve, daemon=True).start()

    def device(self, path: str) -> InBand:
        raise NotImplementedError(path)

    def ports(self, base: int) -> InBand:
        return PortIo(self._registers, base=base)


def die(when: Path) -> None:
    """A thread's body that has a defect, which shows when that file is there."""
    while not when.exists():
        time.sleep(POLL_S)
    raise RuntimeError("a defect")


def main(runtime_dir: str, shutdown: str) -> int:
    simulated = Simulated()
    options = {
        "interface.kind": "port-io",
        "watchdog.mode": "bmc",
        "watchdog.pat_period_s": "0.2",
        "watchdog.shutdown": shutdown,
        "process.runtime_dir": runtime_dir,
        "process.real_time_priority": "0",
        "process.lock_memory": "no",
        "process.oom_score_adj": "0",
    }
    chosen = read_config(None, options)
    service = DriverService(chosen, lambda: chosen, makers=simulated)
    service._supervisor.start("one-more", lambda: die(Path(runtime_dir, "die")))
    status = service.run()
    json.dump(simulated.bmc.describe(time.monotonic())["watchdog"], sys.stdout)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
