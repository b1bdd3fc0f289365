"""Find out what launched a process whose parent is often gone: cgroup, session, login uid, user."""

import re
from functools import lru_cache

from bmcmedic.host.kernel.proc import Process, Stat, Tree, shown
from bmcmedic.host.typed import Dict, List, NamedTuple, Optional, Tuple

INIT_PID = 1
USERS_MAX = 100_000
"""Number of lines of /etc/passwd that are read."""

CGROUPS_MAX = 256
"""Number of different cgroups whose meaning is cached."""

_UNIT = r"[^/]+\.(?:service|scope|socket|mount)\Z"
_SESSION = r"session-([\w]+)\.scope\Z"
_CONTAINER = (
    r"(?:docker|libpod|crio|cri-containerd|containerd|lxc|machine)[-.:/]"
    r"(?:payload[./])?(?:conmon-)?([\w.-]+?)(?:\.scope)?(?:/|\Z)"
)
_POD = r"kubepods[^/]*/(?:[^/]+/)*?([0-9a-f]{64})(?:/|\Z)"

_CGROUP_BYTES_MAX = 64 << 10
"""Longest `cgroup` that is read, in bytes.

In version 1 it has a line for each of a dozen hierarchies, and nested containers have long ones.
"""
_CGROUP_BYTES_CACHED = 4 << 10
_PATH_CHARACTERS_MAX = 4096
"""Longest path that a kernel returns, in characters."""


class Launcher(NamedTuple):
    """What is known of the launcher of a process; None: unknown."""

    user: Optional[str]
    """The user who logged in and launched the process; without a login, the user it runs as."""
    uid: Optional[int]
    login_uid: Optional[int]
    unit: Optional[str]
    """Its systemd unit. For a session: the service that opened it, such as `crond.service`."""
    session: Optional[str]
    container: Optional[str]
    parent_pid: Optional[int]
    """None: the parent that launched the process is gone."""
    parent: Optional[str]


class _Placement(NamedTuple):
    """Where a process belongs, by its cgroup."""

    unit: Optional[str]
    session: Optional[str]
    container: Optional[str]


class UserDatabase:
    """Names of user ids, from the local file alone: a directory service may hang as well."""

    def __init__(self, etc: Optional[Tree]) -> None:
        """`etc` is /etc; None: ids have no names."""
        self._names: Dict[int, str] = {0: "root"}
        lines = (etc.text("passwd") or "").splitlines() if etc is not None else []
        for line in lines[:USERS_MAX]:
            fields = line.split(":")
            if len(fields) > 2 and fields[2].isdigit() and len(fields[2]) < 11:
                self._names.setdefault(int(fields[2]), fields[0])

    def name(self, uid: int) -> str:
        """Return a user's name, or `uid N` if it has none."""
        return self._names.get(uid, f"uid {uid}")

    def lines(self, uids: List[int]) -> str:
        """Return the lines of the file that name these users."""
        return "".join(
            f"{self._names[uid]}:x:{uid}:\n" for uid in sorted(set(uids)) if uid in self._names
        )


class Launchers:
    """The launchers of the processes of one scan; many in a crowd share a parent and a cgroup."""

    def __init__(self, proc: Tree, users: UserDatabase, run: Optional[Tree]) -> None:
        """`run` is /run."""
        self._proc = proc
        self._users = users
        self._run = run
        self._parents: Dict[int, Optional[Stat]] = {}
        self._services: Dict[str, Optional[str]] = {}
        self._known: Dict[Tuple[_Placement, Optional[int], Optional[int], int], Launcher] = {}

    def of(self, process: Process, stat: Stat) -> Launcher:
        """Return the launcher of a process."""
        cgroups = process.read_or_none("cgroup", _CGROUP_BYTES_MAX) or b""
        is_short = len(cgroups) <= _CGROUP_BYTES_CACHED
        placement = _cached_placement(cgroups) if is_short else _parse_cgroups(cgroups)
        key = (placement, process.login_uid(), process.uid(), stat.parent_pid)
        launcher = self._known.get(key)
        if launcher is None:
            launcher = self._known[key] = self._describe(*key)
        return launcher

    def _describe(
        self, placement: _Placement, login_uid: Optional[int], uid: Optional[int], parent_pid: int
    ) -> Launcher:
        named = login_uid if login_uid is not None else uid
        parent = self._parent(parent_pid)
        return Launcher(
            user=self._users.name(named) if named is not None else None,
            uid=uid,
            login_uid=login_uid,
            unit=self._service_of(placement.session) or placement.unit,
            session=placement.session,
            container=placement.container,
            parent_pid=parent.pid if parent is not None else None,
            parent=parent.comm if parent is not None else None,
        )

    def _parent(self, pid: int) -> Optional[Stat]:
        if pid not in self._parents:
            self._parents[pid] = self._proc.stat_or_none(pid) if pid > INIT_PID else None
        return self._parents[pid]

    def _service_of(self, session: Optional[str]) -> Optional[str]:
        """Return the service that opened a session, by systemd-logind: cron opens some too."""
        if session is None or self._run is None:
            return None
        if session not in self._services:
            text = self._run.text(f"systemd/sessions/{session}") or ""
            found = re.search(r"^SERVICE=([\w.@-]+)$", text, re.MULTILINE)
            self._services[session] = f"{found.group(1)}.service" if found else None
        return self._services[session]


def launcher_of(
    process: Process, stat: Stat, proc: Tree, users: UserDatabase, run: Optional[Tree]
) -> Launcher:
    """Return the launcher of a process; `run` is /run."""
    return Launchers(proc, users, run).of(process, stat)


def _parse_cgroups(cgroups: bytes) -> _Placement:
    path = _service_path(shown(cgroups))[:_PATH_CHARACTERS_MAX]
    return _Placement(_unit(path), _session(path), _container(path))


_cached_placement = lru_cache(maxsize=CGROUPS_MAX)(_parse_cgroups)


def _service_path(cgroups: str) -> str:
    """Return the path that systemd or a container runtime chose: version 2, else systemd's own."""
    paths = {}
    for line in cgroups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths[controllers] = path
    candidates = [paths.get("", ""), paths.get("name=systemd", ""), paths.get("pids", "")]
    return next((path for path in candidates if path.strip("/")), "")


def _unit(path: str) -> Optional[str]:
    for part in reversed(path.split("/")):
        if re.match(_UNIT, part):
            return part
    return None


def _session(path: str) -> Optional[str]:
    for part in path.split("/"):
        found = re.match(_SESSION, part)
        if found:
            return found.group(1)
    return None


def _container(path: str) -> Optional[str]:
    found = re.search(_POD, path) or re.search(_CONTAINER, path)
    return found.group(1)[:64] if found else None
