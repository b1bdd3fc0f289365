"""A driver over the registers of a simulated BMC, in a process of its own, and how it is hung.

    python -m bench.support.hanging_driver FOLDER [SENSORS]

Its socket is made in the folder; while a file `hang` is there, the BMC takes nothing more. It has
so many sensors, or those of the simulated server.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.support.pid_namespace import until
from bmcmedic.driver.process import config as driver_config
from bmcmedic.driver.process.service import DriverService
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.front_ends.kcs import ServedRegisters
from bmcmedic.sim.profile import SENSORS, profile_with, server_profile
from bmcmedic.sim.sdr_build import Sensor
from bmcmedic.transport.in_band import InBand
from bmcmedic.transport.port_io import PortIo

STUCK_IBF = 0x02
SOCKET = "driver.sock"
_HANG = "hang"


def hang(folder: Path) -> None:
    """From now on the registers stay busy."""
    (folder / _HANG).touch()


@contextlib.contextmanager
def hanging_driver(folder: Path, sensors: int = 0) -> Iterator[int]:
    """Such a driver, as long as it is wanted; its pid."""
    with running(
        sys.executable, "-m", "bench.support.hanging_driver", str(folder), str(sensors)
    ) as pid:
        until((folder / SOCKET).exists)
        yield pid


@contextlib.contextmanager
def running(*words: str) -> Iterator[int]:
    """A program in a session of its own, as a service is: CPUs may be shared out by session."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process.pid
        if process.poll() is not None:
            raise SystemExit(f"{words} ended with {process.returncode}")
    finally:
        process.terminate()
        process.wait(60)


class HangingRegisters(ServedRegisters):
    """Registers of a BMC that takes nothing while a file is there."""

    def __init__(self, bmc: SimBmc, hang: Path) -> None:
        super().__init__(bmc, time.monotonic)
        self._hang = hang
        self._looked_at = 0.0
        self._hangs = False

    def read_status(self) -> int:
        now = time.monotonic()
        if now > self._looked_at + 1.0:
            self._looked_at, self._hangs = now, self._hang.exists()
        return STUCK_IBF if self._hangs else super().read_status()


class Makers:
    device_exchange_s_max = 60.0

    def __init__(self, hang: Path, sensors: int) -> None:
        now = time.monotonic()
        profile = profile_with(many(sensors), 0) if sensors else server_profile(0)
        bmc = SimBmc("bmc1", profile, now=now, epoch_offset_s=0.0, host_uuid=uuid.uuid4())
        self._registers = HangingRegisters(bmc, hang)
        threading.Thread(target=self._registers.serve, daemon=True).start()

    def device(self, path: str) -> InBand:
        raise NotImplementedError(path)

    def ports(self, base: int) -> InBand:
        return PortIo(self._registers, base=base)


def many(count: int) -> tuple[Sensor, ...]:
    """The simulated server's sensors, over and over."""
    return tuple(
        replace(SENSORS[number % len(SENSORS)], number=number + 1, name=f"Sensor {number + 1}")
        for number in range(count)
    )


def drive(folder: str, sensors: int) -> int:
    options = {
        "interface.kind": "port-io",
        "watchdog.mode": "bmc",
        "process.runtime_dir": folder,
    }
    chosen = driver_config.load(None, options)
    return DriverService(chosen, lambda: chosen, makers=Makers(Path(folder, _HANG), sensors)).run()


if __name__ == "__main__":
    raise SystemExit(drive(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0))
