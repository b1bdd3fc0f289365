"""One run for all who ask the same at the same time, and what it gave, for when the BMC is silent.

A lock and two results a command line, in a folder of the user's own. Whoever has the lock runs;
the others wait for it and take the result. Times are those of the boot clock, which starts anew
with the folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time

FOLDER = "shim"
KEPT_BYTES_MAX = 4 << 20
"""What is longer is not kept, and nobody shares it."""
FILES_MAX = 1024
"""Above this the oldest go."""
_MAGIC = b"bmcmedic-shim-1"


class Result:
    """What a run came to."""

    __slots__ = ("error", "finished_at", "output", "started_at", "status")

    def __init__(
        self, status: int, output: bytes, error: bytes, started_at: float, finished_at: float
    ) -> None:
        self.status = status
        self.output = output
        self.error = error
        self.started_at = started_at
        self.finished_at = finished_at


class Results:
    """The results of one command line."""

    def __init__(self, runtime_dir: str, key: bytes) -> None:
        """Raises: OSError when there is no folder that is ours alone."""
        self._folder = os.path.join(runtime_dir, FOLDER)
        self._key = key
        self._name = os.path.join(self._folder, hashlib.sha256(key).hexdigest()[:32])
        try:
            os.mkdir(self._folder, 0o700)
        except FileExistsError:
            pass
        found = os.lstat(self._folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(f"{self._folder} is not ours alone")
        self._lock_fd = -1

    def claim(self) -> bool:
        """Take the lock, if nobody has it."""
        return self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def wait(self) -> None:
        """Until whoever has the lock lets go of it; a signal's handler may end the wait."""
        if self._lock(fcntl.LOCK_SH):
            self.release()

    def release(self) -> None:
        """Let the others have it."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def latest(self) -> Result | None:
        """The last result, good or not."""
        good, bad = self._read(".ok"), self._read(".failed")
        if good is None or bad is None:
            return good or bad
        return max(good, bad, key=lambda result: result.finished_at)

    def last_good(self) -> Result | None:
        """The last one that was kept as good."""
        return self._read(".ok")

    def keep(self, result: Result, *, is_good: bool) -> None:
        """Leave it for the others, and for later if it is good; a full disk is no failure."""
        if len(result.output) + len(result.error) > KEPT_BYTES_MAX:
            return
        path = self._name + (".ok" if is_good else ".failed")
        head = (
            f"{result.status} {result.started_at!r} {result.finished_at!r} {len(self._key)} "
            f"{len(result.output)} {len(result.error)}\n"
        )
        raw = b"\n".join((_MAGIC, head.encode())) + self._key + result.output + result.error
        try:
            self._make_room()
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
            for left in (path + ".new", path):
                try:
                    os.unlink(left)
                except OSError:
                    pass

    def changed(self) -> None:
        """The BMC was told to change something: what began before is of the past."""
        path = os.path.join(self._folder, "changed")
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            os.utime(path)
        except OSError:
            pass

    def changed_at(self) -> float:
        """When that was last, by the boot clock."""
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
                pass  # room was made meanwhile
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

    def _make_room(self) -> None:
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
    """Seconds since the boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def began_at() -> float:
    """When this process began, as its parent started it: long before it could look at a clock."""
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
