"""Run the program as its users do, against a simulator in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from bmcmedic.lab.sim_process import SimProcess, sim_processes

RUN_TIMEOUT_S = 120.0

PASSWORD = "secret"


def bmcmedic(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bmcmedic", *arguments]


def run(
    *arguments: str, stdin: str = "", password: str = PASSWORD, timeout_s: float = RUN_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run `bmcmedic` to its end; assert no traceback and no password in its output."""
    done = subprocess.run(
        bmcmedic(*arguments),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=os.environ | {"BMCMEDIC_USER": "admin", "BMCMEDIC_PASSWORD": password},
    )
    assert "Traceback" not in done.stderr
    assert password not in done.stdout + done.stderr
    return done


@dataclass(frozen=True)
class Simulator(SimProcess):
    """A running `bmcmedic sim bmc`, with a client of its control endpoint."""

    @property
    def triage_command(self) -> str:
        words = bmcmedic("sim", "triage", "--control", self.control, self.name, "--json")
        return " ".join(words)

    @property
    def changes(self) -> int:
        """Return the number of requests that change state.

        They are the resets, the watchdog's Set and Reset, and chassis control.
        """
        return self.requests("06/02", "06/03", "06/22", "06/24", "00/02")


@contextlib.contextmanager
def simulator(*options: str) -> Iterator[Simulator]:
    """Run a simulated BMC on free ports until the block ends."""
    with sim_processes("bmc", "--lan", "127.0.0.1:0", *options) as (bmc,):
        yield Simulator(**asdict(bmc))


@contextlib.contextmanager
def simulated_rack(count: int, base_address: str, *options: str) -> Iterator[dict[str, Simulator]]:
    """Run a rack of simulated BMCs on free ports until the block ends; yields them by name."""
    where = ("--count", str(count), "--base-address", base_address, "--port", "0")
    with sim_processes("rack", *where, *options) as bmcs:
        yield {bmc.name: Simulator(**asdict(bmc)) for bmc in bmcs}
