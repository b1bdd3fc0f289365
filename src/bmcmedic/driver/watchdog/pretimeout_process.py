"""The driver's side of the pretimeout watcher: the stamps file and the watcher's process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import bmcmedic.driver.watchdog.pretimeout_watcher as watcher_program
from bmcmedic.driver.watchdog.pretimeout import ENDED, STAMPS_BYTES, PretimeoutCallout, Stamps
from bmcmedic.errors import ConfigurationError

STAMPS_NAME = "pretimeout.stamps"
DRIVER_LOCK_AT = 0
RESTART_S = 10.0
"""Shortest time between two starts of a watcher that ends unexpectedly, in seconds."""
SILENT_S_MAX = 5.0
"""A watcher without a sign of life for longer than this, in seconds, is not watching."""
SYSRQ_TRIGGER = Path("/proc/sysrq-trigger")
KERNEL_LOG = Path("/dev/kmsg")


class PretimeoutAction(Enum):
    """What the watcher does when the host has stopped patting; it always logs."""

    LOG = "log"
    COMMAND = "command"
    PANIC = "panic"


@dataclass(frozen=True, slots=True)
class WatcherSettings:
    """What the watcher is started with."""

    action: PretimeoutAction = PretimeoutAction.LOG
    command: tuple[str, ...] = ()
    real_time_priority: int = 0
    """One above the driver's priority; 0: none."""
    lock_memory: bool = True
    kernel_log: Path = KERNEL_LOG
    sysrq_trigger: Path = SYSRQ_TRIGGER

    def __post_init__(self) -> None:
        if self.action is PretimeoutAction.COMMAND:
            if not self.command or not self.command[0].startswith("/"):
                raise ConfigurationError(
                    "the software pretimeout's command must begin with an absolute path: "
                    f"{' '.join(self.command) or 'nothing'}"
                )
        elif self.command:
            raise ConfigurationError(
                f"the software pretimeout has a command, but the action {self.action.value}; "
                "only the action command runs it"
            )
        if self.action is PretimeoutAction.PANIC and not os.access(self.sysrq_trigger, os.W_OK):
            raise ConfigurationError(
                f"the action panic writes to {self.sysrq_trigger}, which cannot be written "
                "here: it needs root, and a service without ProtectKernelTunables="
            )


class StampsFile:
    """The shared memory, and the exclusive right to write it."""

    def __init__(self, runtime_dir: Path) -> None:
        """Open the file; raises ConfigurationError when another driver holds it."""
        self.path = runtime_dir / STAMPS_NAME
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{self.path}: {error.strerror}") from error
        try:
            self._lock()
            os.ftruncate(self._fd, STAMPS_BYTES)
            self._memory = mmap.mmap(self._fd, STAMPS_BYTES)
        except BaseException:
            os.close(self._fd)
            raise
        self.stamps = Stamps(self._memory)

    def _lock(self) -> None:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, DRIVER_LOCK_AT)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            written = os.pread(self._fd, STAMPS_BYTES, 0).ljust(STAMPS_BYTES, b"\0")
            pid = Stamps(bytearray(written)).driver.last.pid
            raise ConfigurationError(
                f"another driver, process {pid}, has {self.path}; only one may run"
            ) from None

    def end_older_watcher(self) -> None:
        """Let an older driver's watcher end, because no pats are sent from now on."""
        if self.stamps.driver.last.state != ENDED:
            PretimeoutCallout(self.stamps, time.monotonic, 0.0, pid=os.getpid()).end()

    def close(self) -> None:
        """Unmap and close the file; its content stays."""
        self._memory.close()
        os.close(self._fd)


class PretimeoutWatcher:
    """Starts the watcher and restarts it. It is for one thread, which is not the pat thread."""

    def __init__(
        self,
        file: StampsFile,
        generation: int,
        settings: WatcherSettings,
        report: Callable[[str], None],
    ) -> None:
        """`generation` is the callout's. An older driver's watcher ends as soon as it is armed."""
        self._file = file
        self._generation = generation
        self._settings = settings
        self._report = report
        self._started_at = -RESTART_S
        self.pid: int | None = None

    def start(self) -> None:
        """Start the watcher; raises ConfigurationError when that is impossible."""
        settings = self._settings
        arguments = (
            *(sys.executable, "-I", "-S", "-E", watcher_program.__file__),
            str(self._file.path),
            str(self._generation),
            str(settings.real_time_priority),
            str(int(settings.lock_memory)),
            str(settings.kernel_log),
            str(settings.sysrq_trigger),
            settings.action.value,
            *settings.command,
        )
        self._started_at = time.monotonic()
        try:
            # A session of its own, so that a signal to the driver's process group does not end it.
            self.pid = os.posix_spawn(
                sys.executable, arguments, {"PATH": os.defpath}, setsid=True, setsigmask=()
            )
        except OSError as error:
            raise ConfigurationError(
                f"the pretimeout watcher cannot be started: {error}"
            ) from error

    def restart_if_ended(self) -> None:
        """Restart the watcher if it ended unexpectedly; called periodically."""
        if self.pid is not None:
            with contextlib.suppress(ChildProcessError):
                done, status = os.waitpid(self.pid, os.WNOHANG)
                if not done:
                    return
                code = os.waitstatus_to_exitcode(status)
                self._report(f"the pretimeout watcher ended with {code}; it is restarted")
            self.pid = None
        if time.monotonic() - self._started_at >= RESTART_S:
            try:
                self.start()
            except ConfigurationError as error:
                self._report(str(error))

    @property
    def is_watching(self) -> bool:
        """Whether the watcher has given a recent sign of life."""
        beat = self._file.stamps.watcher.read()
        return beat.generation == self._generation and time.monotonic() - beat.at <= SILENT_S_MAX

    def status(self) -> dict[str, Any]:
        """Return the watcher's state as JSON data; durations are in seconds."""
        beat = self._file.stamps.watcher.read()
        mine = beat.generation == self._generation
        stamp = self._file.stamps.driver.last
        return {
            "action": self._settings.action.value,
            "limit_s": stamp.limit_s,
            "due_in_s": stamp.due_at - time.monotonic() if stamp.state else None,
            "watching": self.is_watching,
            "watcher_pid": beat.pid if mine else self.pid,
            "fired": int(beat.extra) if mine else 0,
        }

    def wait_until_gone(self, timeout_s: float) -> bool:
        """Wait for the watcher's end after the callout's `end`; return whether it ended in time."""
        end_at = time.monotonic() + timeout_s
        while self.pid is not None:
            with contextlib.suppress(ChildProcessError):
                if not os.waitpid(self.pid, os.WNOHANG)[0]:
                    if time.monotonic() > end_at:
                        return False
                    time.sleep(watcher_program.CHECK_PERIOD_S / 10)
                    continue
            self.pid = None
        return True
