"""The shim's cache of results, by command line, and the lock by which callers share a run.

Each command line has one lock and two results (the last good one and the last failed one) in a
folder that belongs to the user. The caller that has the lock runs ipmitool; the others wait for the
lock and take the result. While the BMC is silent, the last good result is the cached answer. Times
are in seconds of the boot clock, which starts anew with the folder.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

FOLDER = "shim"
STORED_BYTES_MAX = 4 << 20
"""Longest output that is stored, in bytes. A longer one is neither shared nor cached."""
FILES_MAX = 1024
"""Number of files above which the older half is deleted."""
_MAGIC = b"bmcmedic-shim-1"


class Result:
    """The exit status and the output of one run."""

    __slots__ = ("error", "finished_at", "output", "started_at", "status")

    def __init__(
        self, status: int, output: bytes, error: bytes, started_at: float, finished_at: float
    ) -> None:
        self.status = status
        self.output = output
        self.error = error
        self.started_at = started_at
        self.finished_at = finished_at

    def age_s(self) -> float:
        """Return the age of the oldest part of the output, in seconds: it counts from the start."""
        return now() - self.started_at


class ResultCache:
    """The stored results of one command line."""

    def __init__(self, runtime_dir: str, key: bytes) -> None:
        """`key` identifies the command line. Raises: OSError if the folder is not private to us."""
        import hashlib  # it takes 2 ms to load, and a call that bypasses the proxy needs none

        self._folder = os.path.join(runtime_dir, FOLDER)
        self._key = key
        self._name = os.path.join(self._folder, hashlib.sha256(key).hexdigest()[:32])
        try:
            os.mkdir(self._folder, 0o700)
        except FileExistsError:
            pass
        found = os.lstat(self._folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(f"{self._folder} is not private to this user")
        self._lock_fd = -1

    def try_lock(self) -> bool:
        """Take the lock if it is free, and return whether it was."""
        return self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def wait_for_unlock(self) -> None:
        """Wait until the holder releases the lock; a signal handler may end the wait."""
        if self._lock(fcntl.LOCK_SH):
            self.unlock()

    def unlock(self) -> None:
        """Release the lock, if we hold it."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def latest(self) -> Result | None:
        """Return the last result, good or failed."""
        good, failed = self._read(".ok"), self._read(".failed")
        if good is None or failed is None:
            return good or failed
        return max(good, failed, key=lambda result: result.finished_at)

    def last_good(self) -> Result | None:
        """Return the last result that was stored as good."""
        return self._read(".ok")

    def cached_answer(self, age_s_max: float) -> Result | None:
        """Return the last good result, unless it is too old or the BMC was changed since."""
        result = self.last_good()
        if result is None or result.started_at <= self.changed_at():
            return None
        return result if 0 <= result.age_s() <= age_s_max else None

    def store(self, result: Result, *, is_good: bool) -> None:
        """Store a result for other callers, and as the cached answer if it is good.

        A result that cannot be written, for example on a full disk, is left out without an error.
        """
        if len(result.output) + len(result.error) > STORED_BYTES_MAX:
            return
        path = self._name + (".ok" if is_good else ".failed")
        head = (
            f"{result.status} {result.started_at!r} {result.finished_at!r} {len(self._key)} "
            f"{len(result.output)} {len(result.error)}\n"
        )
        raw = b"\n".join((_MAGIC, head.encode())) + self._key + result.output + result.error
        try:
            self._delete_older_half()
            descriptor = os.open(
                path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600
            )
            try:
                while raw:
                    raw = raw[os.write(descriptor, raw) :]
            finally:
                os.close(descriptor)
            os.rename(path + ".new", path)
        except OSError:
            for unfinished in (path + ".new", path):
                try:
                    os.unlink(unfinished)
                except OSError:
                    pass

    def mark_changed(self) -> None:
        """Record that a command changed the BMC: results of runs that began earlier are void."""
        path = os.path.join(self._folder, "changed")
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            os.utime(path)
        except OSError:
            pass

    def changed_at(self) -> float:
        """Return when a command last changed the BMC, in seconds of the boot clock."""
        try:
            changed = os.stat(os.path.join(self._folder, "changed")).st_mtime
        except OSError:
            return float("-inf")
        return now() - max(0.0, time.time() - changed)

    def _lock(self, how: int) -> bool:
        path = self._name + ".lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, how)
                if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                    self._lock_fd = descriptor
                    return True
            except BlockingIOError:
                os.close(descriptor)
                return False
            except FileNotFoundError:
                pass  # another caller deleted the older half in the meantime
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _read(self, suffix: str) -> Result | None:
        try:
            descriptor = os.open(self._name + suffix, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return None
        with open(descriptor, "rb") as file:
            magic = file.readline(64).rstrip()
            head = file.readline(256).split()
            if magic != _MAGIC or len(head) != 6:
                return None
            key_bytes, output_bytes, error_bytes = (int(each) for each in head[3:])
            key, output = file.read(key_bytes), file.read(output_bytes)
            error = file.read(error_bytes)
        if key != self._key or len(error) != error_bytes:
            return None
        return Result(int(head[0]), output, error, float(head[1]), float(head[2]))

    def _delete_older_half(self) -> None:
        """Delete the older half of all files, if there are more than `FILES_MAX`."""
        names = os.listdir(self._folder)
        if len(names) <= FILES_MAX:
            return
        aged = []
        for name in names:
            path = os.path.join(self._folder, name)
            try:
                aged.append((os.stat(path).st_mtime, path))
            except OSError:
                continue
        aged.sort()
        for _, path in aged[: len(aged) // 2]:
            if not path.startswith(self._name):
                try:
                    os.unlink(path)
                except OSError:
                    pass


def now() -> float:
    """Return the seconds since the boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def process_started_at() -> float:
    """Return when this process was started, in seconds of the boot clock.

    The kernel records that long before our code can read a clock.
    """
    try:
        descriptor = os.open("/proc/self/stat", os.O_RDONLY)
        try:
            raw = os.read(descriptor, 1024)
        finally:
            os.close(descriptor)
        ticks = int(raw[raw.rindex(b")") + 2 :].split()[19])
        return min(now(), ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return now()
