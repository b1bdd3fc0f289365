"""The socket in the file system: only its users can open it, and only one driver serves it.

A lock file beside it shows whether a driver serves the socket, or whether a killed one left it
behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bmcmedic.driver.socket.policy import Peer
from bmcmedic.errors import ConfigurationError

SOCKET_PATH_DEFAULT = "/run/bmcmedic/driver.sock"
PATH_BYTES_MAX = 107
"""Longest address of a Unix socket, in bytes."""
BACKLOG = 128
_FIRST_PASSED_FD = 3
_CREDENTIALS: Final = struct.Struct("iII")
_SO_PEERGROUPS = 59
"""The option for the peer's supplementary groups (Linux 4.13), which this Python does not name."""
_GROUPS_BYTES_MAX = 1024
"""Largest buffer of Python's `getsockopt`, in bytes: 256 groups."""


@dataclass(slots=True)
class Listener:
    """A listening socket; `path` is None when another program made it and keeps it."""

    socket: socket.socket
    path: str | None = None
    lock_fd: int | None = None
    inode: int = 0

    def close(self) -> None:
        """Stop listening, and remove the file if it is still ours."""
        self.socket.close()
        if self.path is not None:
            try:
                if os.lstat(self.path).st_ino == self.inode:
                    Path(self.path).unlink()
            except OSError:
                pass  # another program was faster, or removed our rights; a stale file does no harm
            self.path = None
        if self.lock_fd is not None:
            os.close(self.lock_fd)
            self.lock_fd = None


def passed_socket(environ: MutableMapping[str, str]) -> Listener | None:
    """Return the socket that systemd opened for us (socket activation), or None.

    The variables are removed from `environ`, so that no child takes them for its own.
    Raises: ConfigurationError for a socket that cannot be served.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or count in ("", "0"):
        return None
    if count != "1":
        raise ConfigurationError(f"the driver has one socket, and {count} were passed to it")
    try:
        passed = socket.socket(fileno=_FIRST_PASSED_FD)
        listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigurationError(f"no socket was passed: {error.strerror}") from None
    if passed.family != socket.AF_UNIX or passed.type != socket.SOCK_STREAM or not listens:
        passed.detach()
        raise ConfigurationError("the socket passed is not a listening Unix stream socket")
    passed.setblocking(False)
    passed.set_inheritable(False)
    return Listener(passed)


def listen(path: str, group_id: int | None = None) -> Listener:
    """Make the socket, for its owner and `group_id` only.

    Raises: ConfigurationError when another driver serves it, or it cannot be made.
    """
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise ConfigurationError(f"the socket's path is longer than {PATH_BYTES_MAX} bytes: {path}")
    lock_fd = _lock(path)
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _remove_stale(path)
        os.fchmod(ours.fileno(), 0o600)  # the mode of the file that bind makes
        ours.bind(path)
        if group_id is not None:
            os.chown(path, -1, group_id, follow_symlinks=False)
            Path(path).chmod(0o660)
        inode = os.lstat(path).st_ino
        ours.listen(BACKLOG)  # no client can connect before this
    except OSError as error:
        ours.close()
        os.close(lock_fd)
        raise _cannot(path, error) from None
    except ConfigurationError:
        ours.close()
        os.close(lock_fd)
        raise
    return Listener(ours, path, lock_fd, inode)


def _lock(path: str) -> int:
    try:
        lock_fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _cannot(path, error) from None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock_fd)
        raise _served(path) from None
    return lock_fd


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigurationError(f"{path} exists and is not a socket; it was left unchanged")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        refused = probe.connect_ex(path)
    if refused != errno.ECONNREFUSED:
        raise _served(path)
    Path(path).unlink()


def _served(path: str) -> ConfigurationError:
    return ConfigurationError(
        f"another driver serves {path}: end it first, or give this one another socket and interface"
    )


def _cannot(path: str, error: OSError) -> ConfigurationError:
    advice = ""
    if error.errno == errno.ENOENT:
        advice = f"; make the directory {Path(path).parent} first (systemd: RuntimeDirectory=)"
    elif error.errno in (errno.EACCES, errno.EPERM):
        advice = "; run as root, or set socket.path"
    return ConfigurationError(f"cannot make the socket {path}: {error.strerror}{advice}")


def peer_of(connected: socket.socket) -> Peer:
    """Return the identity of the connected process, as it was when it connected."""
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return Peer(pid, uid, frozenset((gid, *_peer_groups(connected))))


def _peer_groups(connected: socket.socket) -> tuple[int, ...]:
    """Return no groups where the kernel cannot name them or has too many.

    The primary one counts then.
    """
    try:
        raw = connected.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES_MAX)
    except OSError:
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)
