"""BMCs of other projects, each run in a process of its own, on a free port of loopback."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bmcmedic.errors import TransportError
from bmcmedic.ipmi.commands.session import GetChannelAuthenticationCapabilitiesReq
from bmcmedic.transport.lanplus import sessionless_exchange

READY_TIMEOUT_S = 30.0
READY_POLL_S = 0.05
STOP_TIMEOUT_S = 30.0


@contextlib.contextmanager
def serving(arguments: Sequence[str], port: int, directory: Path) -> Iterator[Path]:
    """Run a foreign BMC, wait until it answers, and end it with the block; yields its output."""
    output = directory / "output.txt"
    with output.open("wb") as out:
        process = subprocess.Popen(
            arguments, cwd=directory, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        _await_answer(process, port, output)
        yield output
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        finally:
            process.kill()
            process.communicate()


def _await_answer(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    until = time.monotonic() + READY_TIMEOUT_S
    while not asyncio.run(_answers(port)):
        assert process.poll() is None, output.read_text(errors="replace")
        assert time.monotonic() < until, output.read_text(errors="replace")
        time.sleep(READY_POLL_S)


async def _answers(port: int) -> bool:
    question = GetChannelAuthenticationCapabilitiesReq()
    deadline = asyncio.get_running_loop().time() + 1.0
    try:
        await sessionless_exchange(("127.0.0.1", port), question, deadline=deadline)
    except TransportError:
        return False
    return True
