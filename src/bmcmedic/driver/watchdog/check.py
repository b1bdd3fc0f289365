"""The check command: while it fails or hangs, no pat is sent.

The command runs at normal priority, in a session of its own, so it fails on a host that no longer
schedules ordinary processes. A separate thread waits for it. While a check runs, the host counts as
well only up to the check's start. So a check that hangs lets the pretimeout fire within its limit,
and not a deadline later.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bmcmedic.driver.watchdog.settings import CHECK_OUTPUT_BYTES_MAX, CheckSettings
from bmcmedic.service.runtime import Runtime

KILLED_S_MAX = 1.0
"""Time in which a killed check ends, in seconds. A check that does not hangs in the kernel and is
left behind."""
START_LATE_S_MAX = 2.0
"""Time in which a due check starts, in seconds; otherwise the host has stopped running threads."""
POLL_S = 0.05
"""How often a kernel without pidfds is asked whether the check has ended, in seconds."""
LAST_READS_MAX = 64
"""Reads after the command's end: more than a pipe holds, unless another process keeps writing."""
OUTPUT_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How a check ended; `failure` is None or says what was wrong."""

    failure: str | None
    output: bytes = b""

    @property
    def text(self) -> str:
        """The failure, with the end of the command's output."""
        output = " ".join(self.output.decode("utf-8", "replace").split())
        if len(output) > OUTPUT_SHOWN_CHARACTERS:
            output = "…" + output[-OUTPUT_SHOWN_CHARACTERS:]
        return f"{self.failure}: {output}" if output else str(self.failure)


class CheckCommand(Protocol):
    """Checks whether the host is well; a simulation passes its own."""

    def run(self, deadline_s: float) -> CheckResult:
        """Run the check, and return soon after `deadline_s` at the latest; never raises."""


class HostCheck(Protocol):
    """What the pat thread asks before a pat; no call waits."""

    def failure(self, now: float) -> str | None:
        """Return why no pat may be sent, or None."""

    def good_until(self, now: float) -> float:
        """Return until when the host is known to be well, which is `now` at the latest."""


class NoCheck:
    """Used without a check command: a host that pats is well."""

    def failure(self, now: float) -> str | None:  # noqa: ARG002 - HostCheck's
        """Return None."""
        return None

    def good_until(self, now: float) -> float:
        """Return `now`."""
        return now


class CheckLoop:
    """Runs the check command periodically and remembers its last result.

    `run` is the body of a thread of its own; any thread may call the rest.
    """

    def __init__(
        self,
        settings: CheckSettings,
        command: CheckCommand,
        runtime: Runtime,
        report: Callable[[str], None],
    ) -> None:
        """`report` takes a line for the log when the result changes, and must not block."""
        self.settings = settings
        self.failures = 0
        self._command = command
        self._runtime = runtime
        self._report = report
        self._stop = runtime.signal()
        self._stopping = False
        # One tuple, replaced at once: since when a check runs or is due, whether one runs, and how
        # the last one failed.
        self._state: tuple[float, bool, str | None] = (runtime.monotonic(), False, None)

    def run(self) -> None:
        """Run checks until `stop`; a thread of its own runs this."""
        while not self._stopping:
            started_at = self._runtime.monotonic()
            failed = self._state[2]
            since = self._state[0] if failed is not None else started_at
            self._state = (since, True, failed)
            result = self._command.run(self.settings.deadline_s)
            now = self._runtime.monotonic()
            self._note(result, failed)
            if result.failure is None:
                self._state = (max(now, started_at + self.settings.period_s), False, None)
            else:
                self._state = (since, False, result.failure)
            self._stop.wait(max(0.0, started_at + self.settings.period_s - now))

    def stop(self) -> None:
        """Let `run` return after the check in progress."""
        self._stopping = True
        self._stop.set()

    def failure(self, now: float) -> str | None:
        """Return why no pat may be sent, or None."""
        since, runs, failure = self._state
        if failure is not None:
            return failure
        if runs:
            longest_s = self.settings.deadline_s + KILLED_S_MAX
            return f"has not answered for {now - since:.1f} s" if now > since + longest_s else None
        late_s = now - since
        return f"could not be started for {late_s:.1f} s" if late_s > START_LATE_S_MAX else None

    def good_until(self, now: float) -> float:
        """Return until when the host is known to be well, which is `now` at the latest."""
        return min(now, self._state[0])

    def status(self) -> dict[str, Any]:
        """Return the checks' state as JSON data; durations are in seconds."""
        now = self._runtime.monotonic()
        return {
            "command": list(self.settings.argv),
            "failure": self.failure(now),
            "failures": self.failures,
            "well_age_s": now - self.good_until(now),
        }

    def _note(self, result: CheckResult, failed: str | None) -> None:
        if result.failure is not None:
            self.failures += 1
            if failed is None:
                self._report(f"the check command {result.text}; no pat is sent until it succeeds")
        elif failed is not None:
            self._report("the check command succeeds again; the pats go on")


class ProcessCheck:
    """Runs the operator's command."""

    def __init__(self, argv: tuple[str, ...]) -> None:
        self._argv = argv
        self._left_behind: int | None = None
        """A killed check that did not end."""

    def run(self, deadline_s: float) -> CheckResult:
        """Run the command to its end, or kill its whole session at the deadline."""
        if self._left_behind is not None:
            if not _has_ended(self._left_behind):
                return CheckResult("still hangs in the kernel, although it was killed")
            self._left_behind = None
        deadline = time.monotonic() + deadline_s
        try:
            reader, writer = os.pipe()
        except OSError as error:
            return CheckResult(f"cannot be started: {error}")
        try:
            try:
                pid = self._spawn(writer)
            finally:
                os.close(writer)
        except OSError as error:
            os.close(reader)
            return CheckResult(f"cannot be started: {error}")
        with _Output(reader) as output:
            status = _wait(pid, deadline, output)
            if status is not None:
                return CheckResult(_failure(status), output.end())
            with contextlib.suppress(OSError):  # it has ended, or now belongs to another user
                os.killpg(pid, signal.SIGKILL)
            if _wait(pid, time.monotonic() + KILLED_S_MAX, output) is None:
                self._left_behind = pid
            return CheckResult(f"did not end within {deadline_s:g} s", output.end())

    def _spawn(self, writer: int) -> int:
        pid = os.posix_spawn(
            self._argv[0],
            self._argv,
            {"PATH": os.defpath, "LANG": "C.UTF-8"},
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, writer, 1),
                (os.POSIX_SPAWN_DUP2, writer, 2),
            ),
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE,),
            scheduler=(os.SCHED_OTHER, os.sched_param(0)),
        )
        with contextlib.suppress(OSError):  # it has ended already
            Path(f"/proc/{pid}/oom_score_adj").write_bytes(b"0")
        return pid


class _Output:
    """Reads the pipe so that the command never blocks, and keeps the end of the output."""

    def __init__(self, reader: int) -> None:
        self.reader = reader
        self._tail = b""
        os.set_blocking(reader, False)

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reader)

    def read(self) -> bool:
        """Read what is available; return False at the end of the output."""
        try:
            data = os.read(self.reader, CHECK_OUTPUT_BYTES_MAX)
        except BlockingIOError:
            return True  # nothing new
        self._tail = (self._tail + data)[-CHECK_OUTPUT_BYTES_MAX:]
        return bool(data)

    def end(self) -> bytes:
        """Return the end of the output, without waiting for other processes that hold the pipe."""
        for _ in range(LAST_READS_MAX):
            before = self._tail
            if not self.read() or self._tail is before:
                break
        return self._tail


def _wait(pid: int, deadline: float, output: _Output) -> int | None:
    """Return how the process ended; None when the deadline came first."""
    pidfd = _pidfd(pid)
    poll = select.poll()
    poll.register(output.reader, select.POLLIN)
    if pidfd is not None:
        poll.register(pidfd, select.POLLIN)
    try:
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            if pidfd is None:
                left_s = min(left_s, POLL_S)
            for fd, _ in poll.poll(left_s * 1000):
                if fd == output.reader and not output.read():
                    poll.unregister(fd)
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:  # before Linux 5.3
        return None


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def _failure(exit_code: int) -> str | None:
    if exit_code == 0:
        return None
    if exit_code > 0:
        return f"ended with {exit_code}"
    return f"was ended by signal {-exit_code} ({signal.strsignal(-exit_code)})"
