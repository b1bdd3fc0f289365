"""The pretimeout watcher: checks the driver's time stamps, and outlives a stopped driver.

It is run by its path, `python -I -S -E pretimeout_watcher.py …`, and imports nothing that costs
memory (`pretimeout.py` lists what is left out). `ctypes` is worth its third of a megabyte, because
nothing else locks the rest. Everything that firing needs is opened, read and locked at the start.
The program is a loop that sleeps; it waits for nothing else.

Arguments: the stamps file, the number of the driver's start that it watches, the SCHED_RR priority
(0: none), whether to lock memory (0 or 1), the kernel log, the sysrq trigger, the action, and its
command.
"""

from __future__ import annotations

import _socket  # `socket` would bring `enum` and `selectors` with it
import errno
import fcntl
import gc
import mmap
import os
import sys
import time

if __name__ == "__main__":
    # -I and -S leave only the standard library on the path.
    sys.path.append(os.path.abspath(__file__).rsplit("/", 4)[0])  # noqa: PTH100 - pathlib would cost a megabyte

from bmcmedic.driver.watchdog.pretimeout import (
    ARMED,
    ENDED,
    STAMPS_BYTES,
    PretimeoutRule,
    Stamp,
    Stamps,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHECK_PERIOD_S = 0.25
"""Time between two checks, in seconds; a pretimeout fires no later than this after its limit."""
TAKE_OVER_S_MAX = 3.0
"""An older watcher that has not let go after this time, in seconds, is stopped, and is killed."""
WATCHER_LOCK_AT = 1
"""The byte of the stamps file that the only watcher locks; the driver locks byte 0."""
DEV_LOG = "/dev/log"
_EMERGENCY = b"<26>"  # facility daemon, severity critical
_NOTICE = b"<29>"
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


class WatcherLog:
    """The kernel's log and syslog; both are opened in advance, and neither is waited for."""

    def __init__(self, kernel_log: str) -> None:
        self._tag = b"bmcmedic-pretimeout[%d]: " % os.getpid()
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
            self._kernel_log: int | None = os.open(kernel_log, flags)
        except OSError:
            self._kernel_log = None
        # With a test's own file, syslog is not used; it goes with the machine's kernel log.
        self._syslog = _syslog() if kernel_log.startswith("/dev/") else None
        if self._kernel_log is None and self._syslog is None:
            raise OSError(errno.ENOENT, "neither syslog nor the kernel's log can be opened")

    def write(self, priority: bytes, text: str) -> None:
        """Write a line to both logs; a line that cannot be written at once is lost."""
        line = priority + self._tag + text.encode("utf-8", "replace")
        if self._kernel_log is not None:
            try:  # noqa: SIM105 - contextlib would bring `collections` with it
                os.write(self._kernel_log, line + b"\n")
            except OSError:
                pass
        if self._syslog is not None:
            try:
                self._syslog.send(line)
            except OSError:
                self._syslog = _syslog()


def _syslog() -> _socket.socket | None:
    syslog = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    syslog.setblocking(False)
    try:
        syslog.connect(DEV_LOG)
    except OSError:
        syslog.close()
        return None
    return syslog


class FiringAction:
    """What to do when the host has stopped patting."""

    def __init__(self, kind: str, command: list[str], sysrq_trigger: str, log: WatcherLog) -> None:
        self._command = command
        self._log = log
        self._child: int | None = None
        self._sysrq: int | None = None
        if kind == "panic":
            self._sysrq = os.open(sysrq_trigger, os.O_WRONLY | os.O_CLOEXEC)

    def fire(self, stamp: Stamp, now: float) -> None:
        """Log the event and carry out the action."""
        silent_s = now - stamp.at
        self._log.write(
            _EMERGENCY,
            f"the host has not patted its watchdog for {silent_s:.1f} s, the limit is "
            f"{stamp.limit_s:.1f} s; the driver is process {stamp.pid}",
        )
        if self._sysrq is not None:
            os.write(self._sysrq, b"c")
        if self._command:
            self._run(stamp, silent_s)
        self._log.write(_EMERGENCY, f"the driver's process {_state(stamp.pid)}")

    def _run(self, stamp: Stamp, silent_s: float) -> None:
        if self._child is not None:
            self._log.write(_EMERGENCY, "the last command still runs, so it is not run again")
            return
        try:
            self._child = os.posix_spawn(
                self._command[0],
                self._command,
                {
                    "PATH": os.defpath,
                    "BMCMEDIC_DRIVER_PID": str(stamp.pid),
                    "BMCMEDIC_SILENT_S": f"{silent_s:.1f}",
                },
                setsid=True,
                setsigmask=(),
                scheduler=(os.SCHED_OTHER, os.sched_param(0)),
            )
        except OSError as error:
            self._log.write(_EMERGENCY, f"the command cannot be run: {error}")

    def reap(self) -> None:
        """Log the end of the command, if it has ended."""
        if self._child is None:
            return
        done, status = os.waitpid(self._child, os.WNOHANG)
        if done:
            self._child = None
            self._log.write(_NOTICE, f"the command ended with {os.waitstatus_to_exitcode(status)}")


_NO_PROCESS = ""
_ZOMBIE = "Z"
_STATE_TEXTS = {
    _NO_PROCESS: "is gone",
    "D": "waits in the kernel",
    "T": "is stopped",
    "t": "is being traced",
    _ZOMBIE: "has died",
}


def _state_letter(pid: int) -> str:
    """Return the state of a process as in proc(5), or `_NO_PROCESS`."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib is too large here
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return _NO_PROCESS


def _state(pid: int) -> str:
    """Return what the driver's process is doing, as text for people."""
    letter = _state_letter(pid)
    return _STATE_TEXTS.get(letter, f"is alive (state {letter}) but does not pat")


def is_gone(pid: int) -> bool:
    """Return whether the driver's process has died; a stopped one has not."""
    return _state_letter(pid) in (_NO_PROCESS, _ZOMBIE)


class Watcher:
    """The watcher of one start of the driver."""

    def __init__(
        self,
        stamps: Stamps,
        generation: int,
        action: FiringAction,
        log: WatcherLog,
        is_current: Callable[[], bool] = lambda: True,
    ) -> None:
        """`is_current` returns whether drivers still use this stamps file."""
        self._is_current = is_current
        self._stamps = stamps
        self._generation = generation
        self._action = action
        self._log = log
        self._rule = PretimeoutRule()
        self._fired = 0

    def watch(self, now: float) -> bool:
        """Check the stamp once; return False when there is nothing left to watch."""
        if not (self._stamps.is_valid and self._is_current()):
            return False
        stamp = self._stamps.driver.read()
        if stamp.generation > self._generation:
            return False
        if stamp.generation < self._generation:
            return True  # the driver that started this one has not armed it yet
        if stamp.state == ENDED:
            return False
        had_fired = self._rule.has_fired
        if self._rule.should_fire(stamp, now):
            self._fired += 1
            self._action.fire(stamp, now)
        elif had_fired and not self._rule.has_fired:
            self._log.write(_NOTICE, "the host pats its watchdog again")
        self._action.reap()
        self.stamp_alive(now)
        # Nothing follows a driver that has died: the next driver starts its own watcher.
        return not (had_fired and is_gone(stamp.pid))

    def stamp_alive(self, now: float) -> None:
        """Stamp the watcher's own sign of life, for the driver to read."""
        self._stamps.watcher.last = Stamp(
            ARMED, self._generation, os.getpid(), now, 0.0, self._fired
        )
        self._stamps.watcher.write()


def take_over(fd: int, stamps: Stamps, generation: int, sleep: Callable[[float], None]) -> bool:
    """Become the only watcher; an older one lets go as soon as this start's driver stamps.

    Returns False when a later start's watcher is to have the lock.
    """
    since: float | None = None
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, WATCHER_LOCK_AT)
            return True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        stamp = stamps.driver.read()
        if stamp.generation > generation or (
            stamp.generation == generation and stamp.state == ENDED
        ):
            return False
        now = time.monotonic()
        if stamp.generation == generation:
            since = now if since is None else since
            if now - since > TAKE_OVER_S_MAX:
                _kill(stamps.watcher.read().pid)
                since = None
        sleep(CHECK_PERIOD_S)


def _kill(pid: int) -> None:
    """End an older watcher that is stopped, if the process still is one."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - pathlib is too large here
            if os.path.basename(__file__).encode() in file.read():  # noqa: PTH119
                os.kill(pid, 9)
    except OSError:
        pass


def get_priority_and_memory(priority: int, *, lock_memory: bool) -> None:
    """Get real-time priority and locked memory, where allowed; without them it only runs later."""
    gc.disable()  # nothing here makes cycles
    if priority:
        try:
            policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(priority))
        except OSError as error:
            _warn(f"no real-time priority ({error}); CAP_SYS_NICE is missing")
    if lock_memory:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
            number = ctypes.get_errno()
            _warn(f"memory is not locked ({os.strerror(number)}); CAP_IPC_LOCK is missing")


def _warn(text: str) -> None:
    os.write(2, f"<4>bmcmedic pretimeout watcher: {text}\n".encode())


def main(arguments: list[str]) -> int:
    """Watch until there is nothing left to watch; return 2 when that is impossible."""
    path, generation, priority, lock_memory, kernel_log, sysrq, kind, *command = arguments
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        stamps = Stamps(mmap.mmap(fd, STAMPS_BYTES))
        log = WatcherLog(kernel_log)
        action = FiringAction(kind, command, sysrq, log)
    except (OSError, ValueError) as error:
        _warn(f"cannot watch: {error}")
        return 2
    get_priority_and_memory(int(priority), lock_memory=lock_memory == "1")
    inode = os.fstat(fd).st_ino

    def is_current() -> bool:
        """Return False when another file has replaced this one: its driver has its own watcher."""
        try:
            return os.stat(path).st_ino == inode  # noqa: PTH116 - pathlib is too large here
        except OSError:
            return True  # it was removed, and there is no other driver yet

    watcher = Watcher(stamps, int(generation), action, log, is_current)
    if not take_over(fd, stamps, int(generation), time.sleep):
        return 0
    watcher.stamp_alive(time.monotonic())
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)  # the watcher must not keep the driver's log open
    while watcher.watch(time.monotonic()):
        time.sleep(CHECK_PERIOD_S)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
