"""Read /proc, live or captured, where any entry may vanish, be unreadable, or lie.

A pid alone identifies no process, because the kernel uses pids again; pid and start time do. A
process that is read more closely is held by its directory (`Process`). Every read through it is of
that one process. Once the process has ended every read says so, even when its pid belongs to
another.
"""

import errno
import os
from functools import lru_cache
from stat import S_ISDIR
from types import TracebackType

from bmcmedic.host.typed import Dict, Iterable, List, NamedTuple, Optional, Type, Union

PROC = "/proc"
"""The /proc of the running kernel."""

READ_BYTES_MAX = 64 << 10
"""Number of bytes that are read of one file."""

TICKS_PER_S = 100
"""Linux's USER_HZ, the unit of CPU and start times. It is 100 on every machine that has IPMI."""

DESCRIPTORS_MAX = 4096
"""Number of open files that are read of one process."""

STATS_MAX = 2048
"""Number of parsed stats that are cached. That of a process which does not run never changes."""

NO_LOGIN = 0xFFFF_FFFF
"""The login uid of a process that no login launched."""

_PF_KTHREAD = 0x0020_0000
_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENOTDIR})
# No link in a captured tree is followed, and opening a FIFO there does not block.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_FIRST_DESCRIPTORS_MAX = 16
_FOLDER_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY
_STAT_FIELDS = 37
"""Number of fields that are read after the name; every kernel writes more."""
_STAT_BYTES_MAX = 1 << 10
_NUMBER_BYTES_MAX = 32
_STATUS_BYTES_MAX = 1 << 10
"""Number of bytes of `status` up to the end of the user ids."""
_TICKS_MAX = 1 << 62
_PIECE_BYTES = 1 << 10
"""Fewest bytes that a kernel returns at once when there are more to come."""

ARGV_CHARACTERS_MAX = 400
"""Number of characters that are shown of one process's arguments."""


class ProcError(Exception):
    """An entry could not be read; the message says why."""


class Gone(ProcError):
    """The entry does not exist, or the process has ended."""


class Unreadable(ProcError):
    """The entry exists, but cannot be read, or holds what no kernel writes."""


class ProcessIdentity(NamedTuple):
    """One process of one boot. No other process has the same pid and start time."""

    pid: int
    start_ticks: int


class Stat(NamedTuple):
    """The content of /proc/PID/stat."""

    pid: int
    comm: str
    """The kernel's name for the process, at most 15 bytes; any process can set its own."""
    state: str
    parent_pid: int
    group: int
    session: int
    terminal: int
    """Device number of the controlling terminal; 0: none."""
    flags: int
    cpu_ticks: int
    threads: int
    start_ticks: int
    processor: int
    """The CPU on which the process last ran."""

    @property
    def identity(self) -> ProcessIdentity:
        """The pid and start time of the process."""
        return ProcessIdentity(self.pid, self.start_ticks)

    @property
    def is_kernel_thread(self) -> bool:
        """Whether the process is a thread of the kernel."""
        return bool(self.flags & _PF_KTHREAD)


Recorded = Dict[str, Union[bytes, str]]
"""What was read, by path: a file's bytes or a link's target. A folder's path ends in a slash."""


class Tree:
    """A tree such as /proc or /sys, or a captured one; paths are relative to its root."""

    def __init__(self, root: str, record: Optional[Recorded] = None) -> None:
        """`record`: where every read is recorded, for a capture."""
        self.root = root
        self.record = record

    @property
    def is_of_this_machine(self) -> bool:
        """Whether the tree is this machine's /proc, which also holds our own process."""
        return self.root == PROC

    def read(self, path: str, bytes_max: int = READ_BYTES_MAX) -> bytes:
        """Return the bytes of a file; raises Gone or Unreadable."""
        raw = _read(self.root + "/" + path, None, bytes_max)
        if self.record is not None:
            self.record[path] = raw
        return raw

    def text(self, path: str) -> Optional[str]:
        """Return a small file's text without surrounding white space; None: it cannot be read."""
        try:
            return shown(self.read(path)).strip()
        except ProcError:
            return None

    def number(self, path: str) -> Optional[int]:
        """Return a small file's number; None: it has none."""
        text = self.text(path)
        return int(text) if text is not None and _is_number(text) else None

    def names(self, path: str = "") -> List[str]:
        """Return the names in a directory; none if it cannot be read."""
        try:
            return os.listdir(os.path.join(self.root, path))
        except OSError:
            return []

    def folders(self, path: str) -> List[str]:
        """Return the same, recorded for a capture, which then knows that these are all."""
        names = self.names(path)
        if self.record is not None:
            self.record.update((f"{path}/{name}", b"") for name in ["", *(n + "/" for n in names)])
        return names

    def pids(self, folder: str = "") -> List[int]:
        """Return the processes, or the threads of `PID/task/`, in no order; may be empty."""
        return [int(name) for name in self.names(folder) if _is_number(name)]

    def has_processes(self) -> bool:
        """Whether this is a proc tree that holds a process, such as our own."""
        return os.path.isdir(self.root + "/self") or bool(self.pids())

    def hidden(self) -> Optional[str]:
        """Return what this /proc hides because it is mounted so (hidepid); None: nothing."""
        try:
            os.listdir(self.root + "/1")
        except OSError:
            return "the processes of others, which are hidden here (hidepid)"
        return None

    def stat(self, pid: int, folder: str = "") -> Stat:
        """Return the stat of a process, or a thread of `PID/task/`; raises Gone or Unreadable."""
        return parse_stat(pid, self.read(f"{folder}{pid}/stat", _STAT_BYTES_MAX))

    def stat_or_none(self, pid: int) -> Optional[Stat]:
        """Return the same; None: it cannot be read."""
        try:
            return self.stat(pid)
        except ProcError:
            return None

    def hold(self, pid: int) -> "Process":
        """Return a process that is held, for closer reads; raises Gone or Unreadable. Close it."""
        return Process(self, pid)


class Process:
    """One process, held. A read after its end raises Gone, even if its pid is in use again."""

    __slots__ = ("_directory", "_tree", "pid")

    def __init__(self, tree: Tree, pid: int) -> None:
        """Hold a process; raises Gone or Unreadable."""
        self.pid = pid
        self._tree = tree
        try:
            self._directory = os.open(f"{tree.root}/{pid}", _FOLDER_FLAGS)
        except OSError as error:
            raise _refusal(error, str(pid)) from None

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the process; a second call does nothing."""
        directory, self._directory = self._directory, -1
        if directory >= 0:
            os.close(directory)

    def fileno(self) -> int:
        """Its directory's descriptor, which a kernel that has pidfds takes for the process."""
        return self._directory

    def read(self, name: str, bytes_max: int = READ_BYTES_MAX) -> bytes:
        """Return the bytes of one of its files; raises Gone or Unreadable."""
        raw = _read(name, self._directory, bytes_max)
        if self._tree.record is not None:
            self._tree.record[f"{self.pid}/{name}"] = raw
        return raw

    def read_or_none(self, name: str, bytes_max: int = READ_BYTES_MAX) -> Optional[bytes]:
        """Return the same; None: it cannot be read."""
        try:
            raw = _read(name, self._directory, bytes_max)
        except ProcError:
            return None
        if self._tree.record is not None:
            self._tree.record[f"{self.pid}/{name}"] = raw
        return raw

    def link(self, name: str) -> str:
        """Return the target of one of its links; raises Gone or Unreadable."""
        try:
            target = _link(name, self._directory)
        except OSError as error:
            raise _refusal(error, name) from None
        if self._tree.record is not None:
            self._tree.record[f"{self.pid}/{name}"] = target
        return target

    def link_or_none(self, name: str) -> Optional[str]:
        """Return the same; None: it cannot be read."""
        try:
            target = _link(name, self._directory)
        except OSError:
            return None
        if self._tree.record is not None:
            self._tree.record[f"{self.pid}/{name}"] = target
        return target

    def open_files(self) -> Optional[Dict[str, str]]:
        """Return the targets of its open files, by number; None: they cannot be read.

        Raises Gone.
        """
        try:
            # From Linux 6.2 on the folder's size is the number of open files. They are mostly the
            # first numbers, and then need no listing. On a disk the size of a folder is larger.
            # An `fd` that is no folder is a link, which may lead out of a captured tree.
            folder = os.stat("fd", dir_fd=self._directory, follow_symlinks=False)
            count = folder.st_size if S_ISDIR(folder.st_mode) else 0
            numbers = map(str, range(count)) if count <= _FIRST_DESCRIPTORS_MAX else ()
            found = _links("fd/", numbers, self._directory)
            if count == 0 or len(found) != count:
                found = self._listed_files()
        except OSError as error:
            if error.errno in _GONE:
                raise _refusal(error, "fd") from None
            return None
        if self._tree.record is not None:
            self._tree.record[f"{self.pid}/fd/"] = b""  # recorded even if no file is open
            for name, target in found.items():
                self._tree.record[f"{self.pid}/fd/{name}"] = target
        return found

    def _listed_files(self) -> Dict[str, str]:
        """Return the same by listing the folder; raises OSError."""
        folder = os.open("fd", _FOLDER_FLAGS, dir_fd=self._directory)
        try:
            return _links("", os.listdir(folder)[:DESCRIPTORS_MAX], folder)
        finally:
            os.close(folder)

    def names(self, path: str) -> List[str]:
        """Return the names in one of its directories; raises Gone or Unreadable."""
        try:
            descriptor = os.open(path, _FOLDER_FLAGS, dir_fd=self._directory)
        except OSError as error:
            raise _refusal(error, path) from None
        try:
            return os.listdir(descriptor)
        except OSError as error:
            raise _refusal(error, path) from None
        finally:
            os.close(descriptor)

    def stat(self) -> Stat:
        """Return its present stat; raises Gone or Unreadable."""
        return parse_stat(self.pid, self.read("stat", _STAT_BYTES_MAX))

    def argv(self) -> List[str]:
        """Return its arguments, not redacted; may be empty. Raises Gone or Unreadable."""
        return split_argv(self.read("cmdline"))

    def status(self) -> Dict[str, str]:
        """Return the lines of its `status` by key; raises Gone or Unreadable."""
        lines = shown(self.read("status")).splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    def uid(self) -> Optional[int]:
        """Return its effective user id; None: unknown."""
        if self._tree.is_of_this_machine and self._tree.record is None:
            # The directory belongs to that user, and asking for its owner costs a tenth.
            return os.fstat(self._directory).st_uid
        return uid_of(self.read_or_none("status", _STATUS_BYTES_MAX) or b"")

    def login_uid(self) -> Optional[int]:
        """Return the user whose login launched it, however far back; None: none or unknown."""
        word = (self.read_or_none("loginuid", _NUMBER_BYTES_MAX) or b"").strip()
        uid = int(word) if word.isdigit() else NO_LOGIN
        return uid if uid < NO_LOGIN else None


def uid_of(status: bytes) -> Optional[int]:
    """Return the effective user id in a /proc/PID/status; None: it has none."""
    # The kernel writes a line's end within a name as two characters.
    words = (b"\n" + status).partition(b"\nUid:")[2].split(None, 2)[1:2]
    return int(words[0]) if words and words[0].isdigit() and len(words[0]) <= 10 else None


def split_argv(cmdline: bytes) -> List[str]:
    """Return the arguments in a /proc/PID/cmdline."""
    return [shown(part) for part in cmdline.rstrip(b"\0").split(b"\0")] if cmdline else []


@lru_cache(maxsize=STATS_MAX)
def parse_stat(pid: int, raw: bytes) -> Stat:
    """Parse a /proc/PID/stat; raises Unreadable if no kernel wrote it."""
    # The name may hold spaces, parentheses and newlines: it ends at the last parenthesis.
    opened, closed = raw.find(b"("), raw.rfind(b")")
    fields = raw[closed + 1 :].split(None, _STAT_FIELDS)
    if opened < 0 or closed < opened or len(fields) < _STAT_FIELDS:
        raise Unreadable(f"{pid}/stat is no stat of a process")
    try:
        if int(raw[:opened]) != pid:
            raise Unreadable(f"{pid}/stat is of another process")
        stat = Stat(
            pid,
            shown(raw[opened + 1 : closed]),
            shown(fields[0]),
            int(fields[1]),
            int(fields[2]),
            int(fields[3]),
            int(fields[4]),
            int(fields[6]),
            int(fields[11]) + int(fields[12]),
            int(fields[17]),
            int(fields[19]),
            int(fields[36]),
        )
    except ValueError:
        raise Unreadable(f"{pid}/stat holds no numbers") from None
    if not (0 <= stat.start_ticks <= _TICKS_MAX and 0 <= stat.cpu_ticks <= _TICKS_MAX):
        raise Unreadable(f"{pid}/stat holds numbers of no size for ticks")
    return stat


def shown(raw: bytes) -> str:
    r"""Return bytes as text that can be written anywhere; bytes that are not UTF-8 as `\xff`."""
    return raw.decode("utf-8", "backslashreplace")


def shortened(argv: List[str]) -> List[str]:
    """Return as many of the arguments as fit into `ARGV_CHARACTERS_MAX`, the last of them cut."""
    room = ARGV_CHARACTERS_MAX
    if sum(map(len, argv)) + len(argv) <= room:
        return argv
    words = []
    for word in argv:
        words.append(word if len(word) <= room else word[:room] + "…")
        room -= len(word) + 1
        if room <= 0:
            break
    return words


def uptime_s(tree: Tree) -> float:
    """Return the seconds since the boot; raises Gone or Unreadable."""
    raw = tree.read("uptime")
    try:
        seconds = float(raw.split()[0])
    except (IndexError, ValueError):
        raise Unreadable("uptime holds no number") from None
    if not 0.0 <= seconds <= _TICKS_MAX:
        raise Unreadable("uptime holds no time")
    return seconds


def age_s(stat: Stat, now_uptime_s: float) -> float:
    """Return for how long a process has existed, in seconds."""
    return max(0.0, now_uptime_s - stat.start_ticks / TICKS_PER_S)


def _is_number(text: str) -> bool:
    # `isdigit` alone accepts digits of other scripts; longer numbers are none of the kernel's.
    return text.isdigit() and len(text) <= 20 and text.encode("utf-8").isdigit()


def _read(path: str, directory: Optional[int], bytes_max: int) -> bytes:
    try:
        descriptor = os.open(path, _READ_FLAGS, dir_fd=directory)
    except OSError as error:
        raise _refusal(error, path) from None
    try:
        raw = os.read(descriptor, bytes_max)
        # Most files come in one piece; long lists come a page at a time.
        while _PIECE_BYTES <= len(raw) < bytes_max:
            piece = os.read(descriptor, bytes_max - len(raw))
            if not piece:
                break
            raw += piece
        return raw
    except OSError as error:
        raise _refusal(error, path) from None
    finally:
        os.close(descriptor)


def _link(path: str, directory: Optional[int]) -> str:
    """Return the target of a link; raises OSError."""
    target = os.readlink(path, dir_fd=directory)
    try:
        # An ASCII target, as nearly all are, is the same in every encoding.
        target.encode("ascii")
    except UnicodeEncodeError:
        return shown(os.fsencode(target))
    return target


def _links(folder: str, names: Iterable[str], directory: int) -> Dict[str, str]:
    """Return the targets of those links that exist."""
    found = {}
    for name in names:
        try:
            found[name] = _link(folder + name, directory)
        except OSError:  # noqa: PERF203 - the other links are read all the same
            continue
    return found


def _refusal(error: OSError, path: str) -> ProcError:
    reason = error.strerror or str(error)
    kind = Gone if error.errno in _GONE else Unreadable
    return kind(f"{path}: {reason}")
