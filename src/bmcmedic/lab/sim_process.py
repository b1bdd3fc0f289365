"""`bmcmedic sim` in a process of its own, started on free ports and asked over its control door."""

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
    """One BMC of a running simulator; doors that it does not have are empty."""

    name: str = "bmc1"
    target: str = ""
    """Where its LAN side is."""
    control: str = ""
    vm_socket: str = ""
    port80: str = ""

    def get(self, path: str = "") -> dict[str, Any]:
        """What the control door tells of the BMC, or of what stands below it."""
        return self._ask("GET", path)

    @property
    def host_uuid(self) -> str:
        """The product UUID of the host that it is the BMC of."""
        return str(UUID(bytes_le=bytes.fromhex(self.get()["guid"])))

    def set_faults(self, *faults: str) -> None:
        """Replace all of its faults."""
        self._ask("POST", "/faults", json.dumps({"faults": faults}))

    def requests(self, *keys: str) -> int:
        """How many of these commands reached it, such as `06/22`."""
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
    """Run `bmcmedic sim` with these arguments and a control door until the block ends."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "bmcmedic", "sim", *arguments, "--control", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        doors: dict[str, dict[str, str]] = {}
        control = ""
        is_ready = False
        for line in process.stdout:
            match line.split():
                case [name, "lan", address]:
                    doors.setdefault(name, {})["target"] = address
                case [name, "vm", address]:
                    doors.setdefault(name, {})["vm_socket"] = address
                case [name, "port80", address]:
                    doors.setdefault(name, {})["port80"] = address
                case ["control", address]:
                    control = address
                case ["ready"]:
                    is_ready = True
                    break
        if not is_ready:
            raise BmcmedicError("the simulator did not start; it says above why")
        yield [SimProcess(name, control=control, **found) for name, found in doors.items()]
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        finally:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def sim_bmc(*options: str) -> Iterator[SimProcess]:
    """Run one BMC that a guest can have, on free ports of loopback, until the block ends."""
    with sim_processes("bmc", "--vm-socket", "127.0.0.1:0", *options) as (bmc,):
        yield bmc
