"""Running the program itself, as its users do, against a simulator in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

RUN_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
HTTP_TIMEOUT_S = 10.0

PASSWORD = "secret"


def bmcmedic(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bmcmedic", *arguments]


def run(
    *arguments: str, stdin: str = "", password: str = PASSWORD, timeout_s: float = RUN_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run `bmcmedic` to its end; never with a traceback, never with the password in its output."""
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
class Simulator:
    """A running `bmcmedic sim bmc`, which is asked over its control door."""

    target: str
    control: str
    name: str = "bmc1"

    def get(self, path: str = "") -> dict[str, Any]:
        with urllib.request.urlopen(
            f"http://{self.control}/bmcs/{self.name}{path}", timeout=HTTP_TIMEOUT_S
        ) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def set_faults(self, *faults: str) -> None:
        request = urllib.request.Request(
            f"http://{self.control}/bmcs/{self.name}/faults",
            data=json.dumps({"faults": list(faults)}).encode(),
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as response:  # noqa: S310
            response.read()

    @property
    def triage_command(self) -> str:
        words = bmcmedic("sim", "triage", "--control", self.control, self.name, "--json")
        return " ".join(words)

    def requests(self, *keys: str) -> int:
        counted = self.get()["requests"]
        return sum(counted.get(key, 0) for key in keys)

    @property
    def changes(self) -> int:
        """Requests that change state: resets, the watchdog's Set and Reset, chassis control."""
        return self.requests("06/02", "06/03", "06/22", "06/24", "00/02")


@contextlib.contextmanager
def simulator(*options: str) -> Iterator[Simulator]:
    """Start a simulated BMC on free ports, and stop it in the end."""
    with _running("bmc", "--lan", "127.0.0.1:0", *options) as (bmc,):
        yield bmc


@contextlib.contextmanager
def simulated_rack(count: int, base_address: str, *options: str) -> Iterator[dict[str, Simulator]]:
    """Start a rack of simulated BMCs on free ports, and stop it in the end; each by its name."""
    where = ("--count", str(count), "--base-address", base_address, "--port", "0")
    with _running("rack", *where, *options) as bmcs:
        yield {bmc.name: bmc for bmc in bmcs}


@contextlib.contextmanager
def _running(*arguments: str) -> Iterator[list[Simulator]]:
    process = subprocess.Popen(
        bmcmedic("sim", *arguments, "--control", "127.0.0.1:0"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        targets: dict[str, str] = {}
        control = ""
        for line in process.stdout:
            match line.split():
                case [name, "lan", address]:
                    targets[name] = address
                case ["control", address]:
                    control = address
                case ["ready"]:
                    break
        yield [Simulator(target, control, name) for name, target in targets.items()]
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        finally:
            process.kill()
            process.communicate()
