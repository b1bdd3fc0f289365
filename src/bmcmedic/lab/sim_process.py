"""`bmcmedic sim` in a process of its own, on free ports, with a client of its control endpoint."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from bmcmedic.errors import BmcmedicError

STOP_TIMEOUT_S = 30.0
HTTP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class SimProcess:
    """One BMC of a running simulator; the address of a front end that it lacks is empty."""

    name: str = "bmc1"
    target: str = ""
    """Address of its LAN side."""
    control: str = ""
    vm_socket: str = ""
    port80: str = ""

    def get(self, path: str = "") -> dict[str, Any]:
        """GET the BMC's object from the control endpoint, or one below its path."""
        return self._ask("GET", path)

    @property
    def host_uuid(self) -> str:
        """The product UUID of the BMC's host."""
        return str(UUID(bytes_le=bytes.fromhex(self.get()["guid"])))

    def set_faults(self, *faults: str) -> None:
        """Replace all faults of the BMC."""
        self._ask("POST", "/faults", json.dumps({"faults": faults}))

    def requests(self, *keys: str) -> int:
        """Return how often these commands, such as `06/22`, reached the BMC."""
        counted = self.get()["requests"]
        return sum(counted.get(key, 0) for key in keys)

    def _ask(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.control, timeout=HTTP_TIMEOUT_S)
        try:
            connection.request(method, f"/bmcs/{self.name}{path}", body)
            response = connection.getresponse()
            answer: dict[str, Any] = json.load(response)
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise BmcmedicError(f"the simulator refuses: {answer}")
        return answer


@contextlib.contextmanager
def sim_processes(*arguments: str) -> Iterator[list[SimProcess]]:
    """Run `bmcmedic sim` with these arguments and a control endpoint until the block ends."""
    process = subprocess.Popen(  # noqa: S603 - bmcmedic itself
        [sys.executable, "-m", "bmcmedic", "sim", *arguments, "--control", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        addresses: dict[str, dict[str, str]] = {}
        control = ""
        is_ready = False
        for line in process.stdout:
            match line.split():
                case [name, "lan", address]:
                    addresses.setdefault(name, {})["target"] = address
                case [name, "vm", address]:
                    addresses.setdefault(name, {})["vm_socket"] = address
                case [name, "port80", address]:
                    addresses.setdefault(name, {})["port80"] = address
                case ["control", address]:
                    control = address
                case ["ready"]:
                    is_ready = True
                    break
        if not is_ready:
            raise BmcmedicError(
                "the simulator did not start; its own message above gives the reason"
            )
        yield [SimProcess(name, control=control, **found) for name, found in addresses.items()]
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        finally:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def sim_bmc(*options: str) -> Iterator[SimProcess]:
    """Run one BMC for a guest, on free ports of loopback, until the block ends."""
    with sim_processes("bmc", "--vm-socket", "127.0.0.1:0", *options) as (bmc,):
        yield bmc
