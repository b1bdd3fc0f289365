"""The demonstration's stage: a rack of simulated BMCs in a process of its own, and its doors."""

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
HTTP_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0

USER = "admin"
PASSWORD = "secret"  # noqa: S105 - the simulator's documented default


class DemoFailed(BmcmedicError):
    """The demonstration could not be set up."""


def program(*arguments: str) -> list[str]:
    """The command line of this very program."""
    return [sys.executable, "-m", "bmcmedic", *arguments]


def environment() -> dict[str, str]:
    """The environment of the programs that are started: the simulator's credentials."""
    return os.environ | {
        "BMCMEDIC_USER": USER,
        "BMCMEDIC_PASSWORD": PASSWORD,
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
    }


@dataclass(frozen=True, slots=True)
class DemoRack:
    """A running rack: where each BMC listens, and where its control door is."""

    targets: dict[str, str]
    """`host:port` by name."""
    control: str

    def triage_command(self, name: str) -> list[str]:
        """What stands in for `ssh host bmcmedic triage --json`."""
        return program("sim", "triage", "--control", self.control, name, "--json")

    async def get(self, path: str) -> Any:  # noqa: ANN401 - JSON of many shapes
        """Ask the control door; None when it has no answer to give."""
        return await asyncio.to_thread(self._request, "GET", path, None)

    async def set_faults(self, name: str, *faults: str) -> None:
        """Replace a BMC's faults."""
        body = json.dumps({"faults": list(faults)})
        await asyncio.to_thread(self._request, "POST", f"/bmcs/{name}/faults", body)

    def _request(self, method: str, path: str, body: str | None) -> Any:  # noqa: ANN401 - JSON
        connection = http.client.HTTPConnection(self.control, timeout=HTTP_TIMEOUT_S)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DemoFailed(f"the simulator's control door does not answer: {error}") from None
        finally:
            connection.close()
        return json.loads(raw) if response.status == http.client.OK else None


@contextlib.asynccontextmanager
async def running_rack(
    count: int, base_address: str, options: Sequence[str]
) -> AsyncIterator[DemoRack]:
    """Start `bmcmedic sim rack`, wait until it is ready, and stop it in the end."""
    process = await asyncio.create_subprocess_exec(
        *program("sim", "rack", "--count", str(count), "--base-address", base_address),
        *("--port", "0", "--control", "127.0.0.1:0"),
        *options,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
        start_new_session=True,  # Ctrl-C is for the demonstration, which then stops the rack
    )
    try:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                rack = await _read_doors(process)
        except TimeoutError:
            raise DemoFailed(f"the rack was not ready within {READY_TIMEOUT_S:g} s") from None
        yield rack
    finally:
        await stop(process)


async def _read_doors(process: asyncio.subprocess.Process) -> DemoRack:
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
    raise DemoFailed("the rack ended before it was ready; what it said stands above")


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a process that was started here: with SIGTERM, and SIGKILL when that is not heard."""
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
