"""Who started a process whose parent is often gone: cgroup, session, login uid, user."""

import re
from functools import lru_cache
from typing import Dict, List, NamedTuple, Optional

from bmcmedic.host.proc import Process, Stat, Tree, shown

INIT_PID = 1
USERS_MAX = 100_000
"""Lines of /etc/passwd; more of them are not read."""

CGROUPS_MAX = 256
"""Of so many different cgroups it is remembered what they mean."""

_UNIT = re.compile(r"[^/]+\.(?:service|scope|socket|mount)\Z")
_SESSION = re.compile(r"session-([\w]+)\.scope\Z")
_CONTAINER = re.compile(
    r"(?:docker|libpod|crio|cri-containerd|containerd|lxc|machine)[-.:/]"
    r"(?:payload[./])?(?:conmon-)?([\w.-]+?)(?:\.scope)?(?:/|\Z)"
)
_POD = re.compile(r"kubepods[^/]*/(?:[^/]+/)*?([0-9a-f]{64})(?:/|\Z)")


class Starter(NamedTuple):
    """What is known of who started a process; None: nothing."""

    user: Optional[str]
    """Who logged in and started it; without a login, as whom it runs."""
    uid: Optional[int]
    login_uid: Optional[int]
    unit: Optional[str]
    """Its systemd unit; of a session the service that opened it, such as `crond.service`."""
    session: Optional[str]
    container: Optional[str]
    parent_pid: Optional[int]
    """None: the one that started it is gone."""
    parent: Optional[str]


class Users:
    """Names of user ids, from the local file alone: a directory service may hang as well."""

    def __init__(self, etc: Optional[Tree]) -> None:
        """`etc` None: ids have no names."""
        self._names: Dict[int, str] = {0: "root"}
        lines = (etc.text("passwd") or "").splitlines() if etc is not None else []
        for line in lines[:USERS_MAX]:
            fields = line.split(":")
            if len(fields) > 2 and fields[2].isdigit() and len(fields[2]) < 11:
                self._names.setdefault(int(fields[2]), fields[0])

    def name(self, uid: int) -> str:
        """A user's name, or its number where it has none."""
        return self._names.get(uid, f"uid {uid}")

    def lines(self, uids: List[int]) -> str:
        """As much of the file as names these users."""
        return "".join(
            f"{self._names[uid]}:x:{uid}:\n" for uid in sorted(set(uids)) if uid in self._names
        )


def starter_of(
    process: Process, stat: Stat, proc: Tree, users: Users, run: Optional[Tree]
) -> Starter:
    """Who started a process; `run` is /run."""
    placed = _placed(process.read_or_none("cgroup") or b"")
    login_uid = process.login_uid()
    uid = _uid(process)
    named = login_uid if login_uid is not None else uid
    parent = proc.stat_or_none(stat.parent_pid) if stat.parent_pid > INIT_PID else None
    return Starter(
        user=users.name(named) if named is not None else None,
        uid=uid,
        login_uid=login_uid,
        unit=(_service_of(placed.session, run) if placed.session else None) or placed.unit,
        session=placed.session,
        container=placed.container,
        parent_pid=parent.pid if parent is not None else None,
        parent=parent.comm if parent is not None else None,
    )


class _Placed(NamedTuple):
    """What a process's cgroup says of it."""

    unit: Optional[str]
    session: Optional[str]
    container: Optional[str]


@lru_cache(maxsize=CGROUPS_MAX)
def _placed(cgroups: bytes) -> _Placed:
    path = _service_path(shown(cgroups))
    return _Placed(_unit(path), _session(path), _container(path))


def _uid(process: Process) -> Optional[int]:
    raw = process.read_or_none("status")
    found = re.search(rb"^Uid:\s*([0-9]{1,10})\s", raw, re.MULTILINE) if raw is not None else None
    return int(found.group(1)) if found else None


def _service_path(cgroups: str) -> str:
    """The path that systemd or a container's runtime chose: version 2, else systemd's own."""
    paths = {}
    for line in cgroups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths[controllers] = path
    candidates = [paths.get("", ""), paths.get("name=systemd", ""), paths.get("pids", "")]
    return next((path for path in candidates if path.strip("/")), "")


def _unit(path: str) -> Optional[str]:
    for part in reversed(path.split("/")):
        if _UNIT.match(part):
            return part
    return None


def _session(path: str) -> Optional[str]:
    for part in path.split("/"):
        found = _SESSION.match(part)
        if found:
            return found.group(1)
    return None


def _container(path: str) -> Optional[str]:
    found = _POD.search(path) or _CONTAINER.search(path)
    return found.group(1)[:64] if found else None


def _service_of(session: str, run: Optional[Tree]) -> Optional[str]:
    """What opened a login session, as systemd-logind notes it: cron's jobs have sessions too."""
    text = run.text(f"systemd/sessions/{session}") if run is not None else None
    found = re.search(r"^SERVICE=([\w.@-]+)$", text, re.MULTILINE) if text is not None else None
    return f"{found.group(1)}.service" if found else None
