"""Reading /proc, live or captured, where any entry may vanish, be unreadable, or lie.

A pid alone names no process, for pids are used again: pid and start time do. A process that is
looked at more closely is held by its directory (`Process`): whatever is read through it is of that
one process, and once that has ended every read says so, even when its pid belongs to another.
"""

import errno
import os
from functools import lru_cache
from stat import S_ISDIR
from types import TracebackType

from bmcmedic.host.typed import Dict, Iterable, List, NamedTuple, Optional, Type, Union

PROC = "/proc"
"""Where the kernel of this machine tells of its processes."""

READ_BYTES_MAX = 64 << 10
"""Of one file; the rest is not read."""

TICKS_PER_S = 100
"""Linux's USER_HZ, the unit of CPU and start times; the same on every machine that has IPMI."""

DESCRIPTORS_MAX = 4096
"""Of one process; more of them are not looked at."""

STATS_MAX = 2048
"""So many are remembered: that of a process which stands still is the same at each look."""

NO_LOGIN = 0xFFFF_FFFF
"""The login uid of what no login started."""

_PF_KTHREAD = 0x0020_0000
_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENOTDIR})
# Nothing in a captured tree leads out of it, and a FIFO there holds nobody up.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_FIRST_DESCRIPTORS_MAX = 16
_FOLDER_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY
_STAT_FIELDS = 37
"""So many of them are looked at, and every kernel writes more."""
_STAT_BYTES_MAX = 1 << 10
_NUMBER_BYTES_MAX = 32
_STATUS_BYTES_MAX = 1 << 10
"""Of `status`, to where it tells of the user."""
_TICKS_MAX = 1 << 62
_PIECE_BYTES = 1 << 10
"""What a kernel gives at once at the least, when there is more to come."""

ARGV_CHARACTERS_MAX = 400
"""Of the arguments of one process, where they are shown."""


class ProcError(Exception):
    """An entry told nothing; the message says why."""


class Gone(ProcError):
    """There is no such entry, or no longer: the process has ended."""


class Unreadable(ProcError):
    """It is there, but cannot be read, or holds what no kernel writes."""


class ProcessIdentity(NamedTuple):
    """One process of one boot, told from all others that have its pid."""

    pid: int
    start_ticks: int


class Stat(NamedTuple):
    """What /proc/PID/stat tells."""

    pid: int
    comm: str
    """The kernel's name of it, at most 15 bytes; anybody can set it."""
    state: str
    parent_pid: int
    group: int
    session: int
    terminal: int
    """Device number of its controlling terminal; 0: none."""
    flags: int
    cpu_ticks: int
    threads: int
    start_ticks: int
    processor: int
    """The CPU that it last ran on."""

    @property
    def identity(self) -> ProcessIdentity:
        """Which process this is."""
        return ProcessIdentity(self.pid, self.start_ticks)

    @property
    def is_kernel_thread(self) -> bool:
        """Whether it is the kernel's own."""
        return bool(self.flags & _PF_KTHREAD)


Recorded = Dict[str, Union[bytes, str]]
"""What was read, by its path: the bytes of a file, the target of a link; folders end in a slash."""


class Tree:
    """A directory of the kernel's, or a captured one: paths are relative to its root."""

    def __init__(self, root: str, record: Optional[Recorded] = None) -> None:
        """`record`: where everything that is read is noted, for a capture."""
        self.root = root
        self.record = record

    @property
    def is_of_this_machine(self) -> bool:
        """Whether it is the kernel's own, and shows what we do."""
        return self.root == PROC

    def read(self, path: str, bytes_max: int = READ_BYTES_MAX) -> bytes:
        """The bytes of a file; raises Gone or Unreadable."""
        raw = _read(self.root + "/" + path, None, bytes_max)
        if self.record is not None:
            self.record[path] = raw
        return raw

    def text(self, path: str) -> Optional[str]:
        """A small file's text without the white space around it; None where it tells nothing."""
        try:
            return shown(self.read(path)).strip()
        except ProcError:
            return None

    def number(self, path: str) -> Optional[int]:
        """A small file's number; None where it has none."""
        text = self.text(path)
        return int(text) if text is not None and _is_number(text) else None

    def names(self, path: str = "") -> List[str]:
        """The names in a directory; none where it cannot be read."""
        try:
            return os.listdir(os.path.join(self.root, path))
        except OSError:
            return []

    def folders(self, path: str) -> List[str]:
        """The same, noted for a capture: it is told there, too, that these are all."""
        names = self.names(path)
        if self.record is not None:
            self.record.update((f"{path}/{name}", b"") for name in ["", *(n + "/" for n in names)])
        return names

    def pids(self, folder: str = "") -> List[int]:
        """The processes, or the threads of `PID/task/`, in no order; empty where there are none."""
        return [int(name) for name in self.names(folder) if _is_number(name)]

    def has_processes(self) -> bool:
        """Whether this is a proc tree with somebody in it, such as us."""
        return os.path.isdir(self.root + "/self") or bool(self.pids())

    def hidden(self) -> Optional[str]:
        """What a /proc that is mounted so (hidepid) does not show; None: it hides nobody."""
        try:
            os.listdir(self.root + "/1")
        except OSError:
            return "the processes of others, which are hidden here (hidepid)"
        return None

    def stat(self, pid: int, folder: str = "") -> Stat:
        """What a process, or a thread of `PID/task/`, is doing; raises Gone or Unreadable."""
        return parse_stat(pid, self.read(f"{folder}{pid}/stat", _STAT_BYTES_MAX))

    def stat_or_none(self, pid: int) -> Optional[Stat]:
        """The same, and None where it tells nothing."""
        try:
            return self.stat(pid)
        except ProcError:
            return None

    def hold(self, pid: int) -> "Process":
        """A process to look at closely; raises Gone or Unreadable. Close it."""
        return Process(self, pid)


class Process:
    """One process, held: a read after its end raises Gone, whoever has its pid then."""

    __slots__ = ("_directory", "_tree", "pid")

    def __init__(self, tree: Tree, pid: int) -> None:
        """Raises Gone or Unreadable."""
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
        """Let it go; a second time does nothing."""
        directory, self._directory = self._directory, -1
        if directory >= 0:
            os.close(directory)

    def fileno(self) -> int:
        """Its directory, which the kernel takes for the process itself where it knows pidfds."""
        return self._directory

    def read(self, name: str, bytes_max: int = READ_BYTES_MAX) -> bytes:
        """The bytes of one of its files; raises Gone or Unreadable."""
        raw = _read(name, self._directory, bytes_max)
        if self._tree.record is not None:
            self._tree.record[f"{self.pid}/{name}"] = raw
        return raw

    def read_or_none(self, name: str, bytes_max: int = READ_BYTES_MAX) -> Optional[bytes]:
        """The same, and None where it tells nothing."""
        try:
            raw = _read(name, self._directory, bytes_max)
        except ProcError:
            return None
        if self._tree.record is not None:
            self._tree.record[f"{self.pid}/{name}"] = raw
        return raw

    def link(self, name: str) -> str:
        """Where one of its links leads, as the kernel says it; raises Gone or Unreadable."""
        try:
            target = _link(name, self._directory)
        except OSError as error:
            raise _refusal(error, name) from None
        if self._tree.record is not None:
            self._tree.record[f"{self.pid}/{name}"] = target
        return target

    def link_or_none(self, name: str) -> Optional[str]:
        """The same, and None where it tells nothing."""
        try:
            target = _link(name, self._directory)
        except OSError:
            return None
        if self._tree.record is not None:
            self._tree.record[f"{self.pid}/{name}"] = target
        return target

    def open_files(self) -> Optional[Dict[str, str]]:
        """What it has open, as the kernel says it, by number; None where that cannot be read.

        Raises Gone.
        """
        try:
            # Linux 6.2 and later tell how many there are: where these are the first ones, as they
            # mostly are, they need not be listed. A folder on a disk is larger than it has entries.
            # What is no folder is a link, which may lead out of a captured tree.
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
            self._tree.record[f"{self.pid}/fd/"] = b""  # where it has none, that is told as well
            for name, target in found.items():
                self._tree.record[f"{self.pid}/fd/{name}"] = target
        return found

    def _listed_files(self) -> Dict[str, str]:
        """Raises OSError."""
        folder = os.open("fd", _FOLDER_FLAGS, dir_fd=self._directory)
        try:
            return _links("", os.listdir(folder)[:DESCRIPTORS_MAX], folder)
        finally:
            os.close(folder)

    def names(self, path: str) -> List[str]:
        """The names in one of its directories; raises Gone or Unreadable."""
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
        """What it is doing; raises Gone or Unreadable."""
        return parse_stat(self.pid, self.read("stat", _STAT_BYTES_MAX))

    def argv(self) -> List[str]:
        """Its arguments, unmasked; empty for what has none. Raises Gone or Unreadable."""
        return split_argv(self.read("cmdline"))

    def status(self) -> Dict[str, str]:
        """The lines of its `status`; raises Gone or Unreadable."""
        lines = shown(self.read("status")).splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    def uid(self) -> Optional[int]:
        """As whom it runs: its effective user id; None: unknown."""
        if self._tree.is_of_this_machine and self._tree.record is None:
            # To that user its directory belongs, and to ask so costs a tenth.
            return os.fstat(self._directory).st_uid
        return uid_of(self.read_or_none("status", _STATUS_BYTES_MAX) or b"")

    def login_uid(self) -> Optional[int]:
        """Who logged in and started it, however far back; None: nobody, or unknown."""
        word = (self.read_or_none("loginuid", _NUMBER_BYTES_MAX) or b"").strip()
        uid = int(word) if word.isdigit() else NO_LOGIN
        return uid if uid < NO_LOGIN else None


def uid_of(status: bytes) -> Optional[int]:
    """The effective user id in a /proc/PID/status; None: it has none."""
    # In a name, the kernel writes a line's end as two characters.
    words = (b"\n" + status).partition(b"\nUid:")[2].split(None, 2)[1:2]
    return int(words[0]) if words and words[0].isdigit() and len(words[0]) <= 10 else None


def split_argv(cmdline: bytes) -> List[str]:
    """The arguments in a /proc/PID/cmdline."""
    return [shown(part) for part in cmdline.rstrip(b"\0").split(b"\0")] if cmdline else []


@lru_cache(maxsize=STATS_MAX)
def parse_stat(pid: int, raw: bytes) -> Stat:
    """The fields of a /proc/PID/stat; raises Unreadable when no kernel wrote it."""
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
    r"""Bytes as text that can be written anywhere; what is not UTF-8 stands as `\xff`."""
    return raw.decode("utf-8", "backslashreplace")


def shortened(argv: List[str]) -> List[str]:
    """As many of the arguments as fit into `ARGV_CHARACTERS_MAX`, the last of them cut."""
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
    """Seconds since the boot; raises Gone or Unreadable."""
    raw = tree.read("uptime")
    try:
        seconds = float(raw.split()[0])
    except (IndexError, ValueError):
        raise Unreadable("uptime holds no number") from None
    if not 0.0 <= seconds <= _TICKS_MAX:
        raise Unreadable("uptime holds no time")
    return seconds


def age_s(stat: Stat, now_uptime_s: float) -> float:
    """How long a process has been running."""
    return max(0.0, now_uptime_s - stat.start_ticks / TICKS_PER_S)


def _is_number(text: str) -> bool:
    # `isdigit` alone takes digits of other scripts as well; longer ones are no numbers of ours.
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
    """Raises OSError."""
    target = os.readlink(path, dir_fd=directory)
    try:
        # What is plain ASCII, as nearly all are, is the same in every encoding.
        target.encode("ascii")
    except UnicodeEncodeError:
        return shown(os.fsencode(target))
    return target


def _links(place: str, names: Iterable[str], directory: int) -> Dict[str, str]:
    """Those of them that are there."""
    found = {}
    for name in names:
        try:
            found[name] = _link(place + name, directory)
        except OSError:  # noqa: PERF203 - one that is gone leaves the others
            continue
    return found


def _refusal(error: OSError, path: str) -> ProcError:
    reason = error.strerror or str(error)
    kind = Gone if error.errno in _GONE else Unreadable
    return kind(f"{path}: {reason}")
