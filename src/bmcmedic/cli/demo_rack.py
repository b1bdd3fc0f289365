"""The rack of the demonstration: simulated BMCs in a process of their own, and its endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from bmcmedic.errors import BmcmedicError

READY_TIMEOUT_S = 30.0
"""Time for the rack to start, in seconds."""
HTTP_TIMEOUT_S = 10.0
"""Time for an answer of the control endpoint, in seconds."""
STOP_TIMEOUT_S = 5.0
"""Time for a process to end after SIGTERM, in seconds; then it gets SIGKILL."""

USER = "admin"
PASSWORD = "secret"  # noqa: S105 - the simulator's documented default


class DemoFailed(BmcmedicError):
    """The demonstration could not be set up."""


def program(*arguments: str) -> list[str]:
    """Return the command line that runs this program with `arguments`."""
    return [sys.executable, "-m", "bmcmedic", *arguments]


def environment() -> dict[str, str]:
    """Return the environment for the started programs, with the simulator's credentials."""
    return os.environ | {
        "BMCMEDIC_USER": USER,
        "BMCMEDIC_PASSWORD": PASSWORD,
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
    }


@dataclass(frozen=True, slots=True)
class DemoRack:
    """A running rack: the address of each BMC, and of the control endpoint."""

    targets: dict[str, str]
    """The address of each BMC as `host:port`, by its name."""
    control: str

    def triage_command(self, name: str) -> list[str]:
        """Return the command that replaces `ssh host bmcmedic triage --json` here."""
        return program("sim", "triage", "--control", self.control, name, "--json")

    async def get(self, path: str) -> Any:  # noqa: ANN401 - JSON of many shapes
        """Send a GET to the control endpoint; None unless it answers with 200."""
        return await asyncio.to_thread(self._request, "GET", path, None)

    async def set_faults(self, name: str, *faults: str) -> None:
        """Replace the faults of a BMC."""
        body = json.dumps({"faults": list(faults)})
        await asyncio.to_thread(self._request, "POST", f"/bmcs/{name}/faults", body)

    def _request(self, method: str, path: str, body: str | None) -> Any:  # noqa: ANN401 - JSON
        connection = http.client.HTTPConnection(self.control, timeout=HTTP_TIMEOUT_S)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DemoFailed(f"the simulator's control endpoint does not answer: {error}") from None
        finally:
            connection.close()
        return json.loads(raw) if response.status == http.client.OK else None


@contextlib.asynccontextmanager
async def running_rack(
    count: int, base_address: str, options: Sequence[str]
) -> AsyncIterator[DemoRack]:
    """Start `bmcmedic sim rack`, wait until it is ready, and stop it at the end."""
    process = await asyncio.create_subprocess_exec(
        *program("sim", "rack", "--count", str(count), "--base-address", base_address),
        *("--port", "0", "--control", "127.0.0.1:0"),
        *options,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
        start_new_session=True,  # Ctrl-C ends the demonstration, which then stops the rack
    )
    try:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                rack = await _read_addresses(process)
        except TimeoutError:
            raise DemoFailed(f"the rack was not ready within {READY_TIMEOUT_S:g} s") from None
        yield rack
    finally:
        await stop(process)


async def _read_addresses(process: asyncio.subprocess.Process) -> DemoRack:
    assert process.stdout is not None
    targets: dict[str, str] = {}
    control = ""
    while line := (await process.stdout.readline()).decode().split():
        match line:
            case ["ready"]:
                return DemoRack(targets, control)
            case [name, "lan", address]:
                targets[name] = address
            case ["control", address]:
                control = address
    raise DemoFailed("the rack ended before it was ready; its own output above has the reason")


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a process with SIGTERM, and with SIGKILL if it does not end in time."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
