"""The undo journal: what relief changed on this host, and what was there before each change.

Relief writes the journal before it makes the change. The journal is a small file in root's
directory in /run, so it outlives a crash of relief and ends with the boot, as the changes do. The
file is only replaced as a whole: it is the old one or the new one.
"""

import contextlib
import errno
import fcntl
import json
import os
import stat
from types import TracebackType

from bmcmedic.host.typed import Any, Callable, Dict, List, NamedTuple, Optional, Type

DIRECTORY = "/run/bmcmedic"
"""Where the journal is."""
FILE_BYTES_MAX = 64 << 10
"""Longest journal that is read, in bytes."""
CHANGES_MAX = 16
"""Number of changes in one journal."""
LOCK_WAIT_S = 2.0
"""Time to wait for another run that holds the journal, in seconds."""
LOCK_POLL_S = 0.02
"""Time between two tries to lock the journal, in seconds."""

_FILE = "undo.json"
_LOCK = "undo.lock"
_NEW = "undo.json.new"
_VERSION = 1


class JournalError(Exception):
    """The journal cannot be read or written, so nothing may be changed; the message says why."""


class Change(NamedTuple):
    """One change that must be put back."""

    path: str
    former: str
    """The value before the first change of relief; empty: nothing was written yet."""
    ours: str
    was: str
    """The value right before `ours` was written; a crash in between leaves this value."""
    at: float
    """When it was changed, in epoch seconds."""
    completed: Dict[str, int]
    """Transactions completed by then, by interface; empty: the kernel does not count them."""


class UndoJournal:
    """The journal of one host. One process at a time holds it, by `with journal:`."""

    def __init__(
        self,
        boot_id: str,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        directory: str = DIRECTORY,
    ) -> None:
        """Nothing is opened or created before `with`."""
        self._boot_id = boot_id
        self._monotonic = monotonic
        self._sleep = sleep
        self._directory = directory
        self._dir_fd = -1
        self._lock_fd = -1

    @property
    def path(self) -> str:
        """The path of the journal's file."""
        return os.path.join(self._directory, _FILE)

    def peek(self) -> List[Change]:
        """Return the changes without holding the journal or creating it; raises JournalError."""
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._error(error) from None
        try:
            self._check_owner(descriptor)
            return self._read(descriptor)
        finally:
            os.close(descriptor)

    def is_torn(self) -> bool:
        """Whether a process was killed while it wrote. The next process that holds it cleans up."""
        return os.path.lexists(os.path.join(self._directory, _NEW))

    def __enter__(self) -> "UndoJournal":
        try:
            os.makedirs(self._directory, 0o755, exist_ok=True)
            self._dir_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            self._check_owner(self._dir_fd)
            self._lock()
            _unlink(_NEW, self._dir_fd)
        except OSError as error:
            self._close()
            raise self._error(error) from None
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._close()

    def changes(self) -> List[Change]:
        """Return the changes that must be put back, oldest first; raises JournalError."""
        return self._read(self._dir_fd)

    def write(self, changes: List[Change]) -> None:
        """Replace the journal; raises JournalError, and then the journal is unchanged."""
        if len(changes) > CHANGES_MAX:
            raise JournalError(f"{self.path}: more than {CHANGES_MAX} changes")
        try:
            if not changes:
                _unlink(_FILE, self._dir_fd)
            else:
                self._replace(changes)
            os.fsync(self._dir_fd)
        except OSError as error:
            raise self._error(error) from None

    def _replace(self, changes: List[Change]) -> None:
        content = {
            "version": _VERSION,
            "boot_id": self._boot_id,
            "changes": [change._asdict() for change in changes],
        }
        raw = (json.dumps(content, indent=1) + "\n").encode("utf-8")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(_NEW, flags, 0o600, dir_fd=self._dir_fd)
        try:
            while raw:
                raw = raw[os.write(descriptor, raw) :]
            os.fsync(descriptor)
        except OSError:
            _unlink(_NEW, self._dir_fd)
            raise
        finally:
            os.close(descriptor)
        os.rename(_NEW, _FILE, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)

    def _read(self, directory: int) -> List[Change]:
        try:
            descriptor = os.open(_FILE, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._error(error) from None
        try:
            self._check_owner(descriptor)
            raw = os.read(descriptor, FILE_BYTES_MAX)
        except OSError as error:
            raise self._error(error) from None
        finally:
            os.close(descriptor)
        try:
            content = json.loads(raw.decode("utf-8"))
            if content["version"] != _VERSION:
                raise JournalError(f"{self.path} was written by another version of this program")
            if content["boot_id"] != self._boot_id:
                return []  # the changes of another boot ended with it
            return [_change(each) for each in content["changes"][:CHANGES_MAX]]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise JournalError(f"{self.path} is not what this program writes") from None

    def _check_owner(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o022:
            raise JournalError(f"{self._directory}: others than root can write there")

    def _lock(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        self._lock_fd = os.open(_LOCK, flags, 0o600, dir_fd=self._dir_fd)
        until = self._monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if self._monotonic() >= until:
                raise JournalError(f"{self.path} is held by another run of this program")
            self._sleep(LOCK_POLL_S)

    def _close(self) -> None:
        for descriptor in (self._lock_fd, self._dir_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock_fd = self._dir_fd = -1

    def _error(self, error: OSError) -> JournalError:
        return JournalError(f"{self.path}: {error.strerror or error}")


def _change(raw: Dict[str, Any]) -> Change:
    completed = {str(name): int(count) for name, count in raw["completed"].items()}
    texts = [raw["path"], raw["former"], raw["ours"], raw["was"]]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("no text")
    return Change(texts[0], texts[1], texts[2], texts[3], float(raw["at"]), completed)


def _unlink(name: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
