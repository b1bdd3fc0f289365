"""The check command: while it fails or hangs, nothing is patted.

The command runs at normal priority, in a session of its own, so a host that no longer schedules
ordinary processes fails it; a thread of its own waits for it. While a check runs the host counts as
well only up to its start: a check that hangs lets the pretimeout fire within its limit, and not a
deadline later.
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
"""A killed check ends within this time, or it is left behind: it hangs in the kernel."""
START_LATE_S_MAX = 2.0
"""A check that is due starts within this time, or the host has stopped running threads."""
POLL_S = 0.05
"""How often an old kernel without pidfds is asked whether the check has ended."""
LAST_READS_MAX = 64
"""After the command's end: more than a pipe holds, unless somebody else goes on writing."""
OUTPUT_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How a check ended: `failure` is None, or what was wrong."""

    failure: str | None
    output: bytes = b""

    @property
    def told(self) -> str:
        """The failure, with the end of what the command said."""
        said = " ".join(self.output.decode("utf-8", "replace").split())
        if len(said) > OUTPUT_SHOWN_CHARACTERS:
            said = "…" + said[-OUTPUT_SHOWN_CHARACTERS:]
        return f"{self.failure}: {said}" if said else str(self.failure)


class CheckCommand(Protocol):
    """Something that tells whether the host is well; a simulation has its own."""

    def run(self, deadline_s: float) -> CheckResult:
        """Do it, and return soon after `deadline_s` at the latest; never raises."""


class HostCheck(Protocol):
    """What the pat thread asks before it pats; it never waits."""

    def failure(self, now: float) -> str | None:
        """Why nothing is to be patted, or None."""

    def good_until(self, now: float) -> float:
        """Up to when the host is known to be well; `now` at the latest."""


class NoCheck:
    """Without a check command, a host that pats is well."""

    def failure(self, now: float) -> str | None:  # noqa: ARG002 - HostCheck's
        """None."""
        return None

    def good_until(self, now: float) -> float:
        """Up to now."""
        return now


class Checks:
    """Runs the check command again and again, and remembers what came of it.

    `run` is the body of a thread of its own; everything else may be asked from any.
    """

    def __init__(
        self,
        settings: CheckSettings,
        command: CheckCommand,
        runtime: Runtime,
        report: Callable[[str], None],
    ) -> None:
        """`report` takes a line for the log when something changes, and must not block."""
        self.settings = settings
        self.failures = 0
        self._command = command
        self._runtime = runtime
        self._report = report
        self._stop = runtime.signal()
        self._stopping = False
        # One tuple, replaced at once: since when a check runs or is due, whether it runs, and how
        # the last one ended.
        self._state: tuple[float, bool, str | None] = (runtime.monotonic(), False, None)

    def run(self) -> None:
        """The thread's body, until `stop`."""
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
        """Let `run` return, after the check that is under way."""
        self._stopping = True
        self._stop.set()

    def failure(self, now: float) -> str | None:
        """Why nothing is to be patted, or None."""
        since, runs, failure = self._state
        if failure is not None:
            return failure
        if runs:
            longest_s = self.settings.deadline_s + KILLED_S_MAX
            return f"has not answered for {now - since:.1f} s" if now > since + longest_s else None
        late_s = now - since
        return f"could not be started for {late_s:.1f} s" if late_s > START_LATE_S_MAX else None

    def good_until(self, now: float) -> float:
        """Up to when the host is known to be well; `now` at the latest."""
        return min(now, self._state[0])

    def status(self) -> dict[str, Any]:
        """What it is doing; durations in seconds."""
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
                self._report(f"the check command {result.told}; nothing is patted until it is well")
        elif failed is not None:
            self._report("the check command is well again; the pats go on")


class ProcessCheck:
    """The operator's own command."""

    def __init__(self, argv: tuple[str, ...]) -> None:
        self._argv = argv
        self._left_behind: int | None = None
        """A killed one that did not end."""

    def run(self, deadline_s: float) -> CheckResult:
        """Run it to its end, or kill it and all of its session at the deadline."""
        if self._left_behind is not None:
            if not _has_ended(self._left_behind):
                return CheckResult("still hangs in the kernel, though it was killed")
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
            with contextlib.suppress(OSError):  # it has ended, or became another user's
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
    """Reads the pipe so that the command never waits, and keeps the end of it."""

    def __init__(self, reader: int) -> None:
        self.reader = reader
        self._kept = b""
        os.set_blocking(reader, False)

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reader)

    def read(self) -> bool:
        """Take what is there; False at the end of it."""
        try:
            data = os.read(self.reader, CHECK_OUTPUT_BYTES_MAX)
        except BlockingIOError:
            return True  # and nothing new is kept
        self._kept = (self._kept + data)[-CHECK_OUTPUT_BYTES_MAX:]
        return bool(data)

    def end(self) -> bytes:
        """The last of it; whoever else still has the pipe is not waited for."""
        for _ in range(LAST_READS_MAX):
            before = self._kept
            if not self.read() or self._kept is before:
                break
        return self._kept


def _wait(pid: int, deadline: float, output: _Output) -> int | None:
    """How the process ended; None when the deadline came first."""
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
