"""Runs the operator's triage command, such as `ssh host bmcmedic triage --json`.

The command runs in a process group of its own, so that its children end with it. It has a deadline,
and its output is read only up to a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from dataclasses import dataclass

from bmcmedic.errors import BmcmedicError, ConfigurationError, reason_of
from bmcmedic.fleet.host_evidence.triage_document import REPORT_BYTES_MAX, parse_host_report
from bmcmedic.model.heal import HostReport

TRIAGE_TIMEOUT_S = 60.0
"""Time for one run, in seconds; a login to a sick host is slow, but not that slow."""

_STDERR_BYTES_MAX = 16 << 10
"""How much of the end of the command's stderr is kept, in bytes."""
_SHOWN_CHARACTERS_MAX = 200
"""Longest excerpt of the command's stderr in an error, in characters."""
_OK_STATUSES = frozenset({0, 1})
"""The exit statuses of `bmcmedic triage` that come with a report: no symptom, and symptoms."""

SECRET_VARIABLES = frozenset({"BMCMEDIC_PASSWORD", "BMCMEDIC_KG"})
"""The environment variables that the triage command must not inherit."""


class _TooMuch(Exception):
    """The command printed more than a report can have."""


class TriageFailed(BmcmedicError):
    """The triage command gave no report, for the reason in the message."""


@dataclass(frozen=True, slots=True)
class TriageCommand:
    """A command that prints what `bmcmedic triage --json` prints."""

    argv: tuple[str, ...]
    timeout_s: float = TRIAGE_TIMEOUT_S

    @classmethod
    def parse(cls, text: str, *, timeout_s: float = TRIAGE_TIMEOUT_S) -> TriageCommand:
        """Split a command line as a shell does, but without a shell; raises ConfigurationError."""
        try:
            argv = tuple(shlex.split(text))
        except ValueError as error:
            raise ConfigurationError(f"--triage-command: {error}: {text!r}") from None
        if not argv:
            raise ConfigurationError("--triage-command: the command is empty")
        return cls(argv, timeout_s)

    async def run(self) -> HostReport:
        """Run the command once; raises TriageFailed if it gives no report."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if k not in SECRET_VARIABLES},
            )
        except (OSError, ValueError) as error:
            reason = reason_of(error)
            raise TriageFailed(f"the triage command {self.argv[0]!r}: {reason}") from None
        try:
            async with asyncio.timeout(self.timeout_s):
                output, errors = await _read(process)
                status = await process.wait()
        except _TooMuch:
            await _end_group(process)
            raise TriageFailed(
                f"the triage command printed more than {REPORT_BYTES_MAX} bytes and was ended"
            ) from None
        except TimeoutError:
            await _end_group(process)
            raise TriageFailed(
                f"the triage command gave no report within {self.timeout_s:g} s and was ended"
            ) from None
        except asyncio.CancelledError:
            await _end_group(process)
            raise
        return self._report(output, errors, status)

    def _report(self, output: bytes, errors: bytes, status: int) -> HostReport:
        if status not in _OK_STATUSES:
            last_line = _last_line(errors)
            how = f"ended with status {status}" if status >= 0 else f"was killed by {-status}"
            raise TriageFailed(
                f"the triage command {how}" + (f": {last_line}" if last_line else "")
            )
        try:
            return parse_host_report(output, source="the triage command's output")
        except ConfigurationError as error:
            last_line = _last_line(errors)
            reported = f"; its last line on stderr: {last_line}" if last_line else ""
            raise TriageFailed(f"{error}{reported}") from None


async def _read(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = await asyncio.gather(_read_all(process.stdout), _read_last(process.stderr))
    return output, errors


async def _read_all(stream: asyncio.StreamReader) -> bytes:
    """Read a stream to its end; raises _TooMuch."""
    kept = bytearray()
    while chunk := await stream.read(1 << 16):
        kept += chunk
        if len(kept) > REPORT_BYTES_MAX:
            raise _TooMuch
    return bytes(kept)


async def _read_last(stream: asyncio.StreamReader) -> bytes:
    """Read a stream and keep its last bytes, so that its writer never blocks."""
    kept = b""
    while chunk := await stream.read(1 << 16):
        kept = (kept + chunk)[-_STDERR_BYTES_MAX:]
    return kept


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """Kill the process group that we started, at its deadline.

    If the command ended by itself, nothing is killed: it may have left a process behind on purpose,
    such as a shared ssh connection.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    transport = getattr(process, "_transport", None)
    if transport is not None:  # `wait` also waits for unread pipes and those of a grandchild
        for descriptor in (1, 2):
            if (pipe := transport.get_pipe_transport(descriptor)) is not None:
                pipe.close()
    await process.wait()


def _last_line(raw: bytes) -> str:
    lines = raw.decode("utf-8", "replace").strip().splitlines()
    text = "".join(c if c.isprintable() else "?" for c in lines[-1]) if lines else ""
    return text[:_SHOWN_CHARACTERS_MAX]
