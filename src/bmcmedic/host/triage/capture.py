"""`triage --capture`: write what triage read to a tar, which --proc-root reads when it is unpacked.

The tar holds what was read and nothing else, and no secrets: arguments are redacted, and it has no
environment and no names of open files but the BMC's own devices.
"""

import io
import os
import tarfile
import time

from bmcmedic.host.client.launcher import UserDatabase
from bmcmedic.host.client.programs import program_of
from bmcmedic.host.client.redact import redacted
from bmcmedic.host.client.stuck import ARGUMENTS_BYTES_MAX
from bmcmedic.host.kernel.proc import READ_BYTES_MAX, Recorded, Tree, shown, split_argv, uid_of
from bmcmedic.host.triage.guests import naming_words
from bmcmedic.host.triage.process_scan import is_guest
from bmcmedic.host.triage.triage import Roots
from bmcmedic.host.typed import Dict, List, Optional, Union

_SHOWN_FILES = ("/dev/ipmi", "/dev/pts/", "/dev/port")
_OTHER = "other"
"""Stands for an executable that does not matter: it only shows that this is no kernel thread."""
_SESSION_KEYS = ("UID=", "USER=", "SERVICE=", "CLASS=", "TYPE=", "REMOTE_HOST=", "TTY=")


def write(roots: Roots, path: str) -> int:
    """Write what was read to a new file that only its owner can read; returns the number of files.

    Raises OSError, and then leaves no file behind.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            return _fill(tar, roots)
    except BaseException:
        os.unlink(path)
        raise


def _fill(tar: tarfile.TarFile, roots: Roots) -> int:
    trees = {"proc": roots.proc, "proc.2": roots.again, "sys": roots.sys, "sys.2": roots.sys_again}
    now = time.time()
    count = 0
    for folder, tree in trees.items():
        for name, content in sorted(_clean(tree).items()):
            _add(tar, f"{folder}/{name}", content, now)
            count += 1
    for name, content in sorted(_sessions(roots.run).items()):
        _add(tar, f"run/{name}", content, now)
        count += 1
    _add(tar, "etc/passwd", _users(roots).encode("utf-8"), now)
    return count + 1


def _add(tar: tarfile.TarFile, name: str, content: Union[bytes, str], now: float) -> None:
    member = tarfile.TarInfo(name)
    member.mtime = int(now)
    member.mode = 0o644
    if name.endswith("/"):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
    elif isinstance(content, str):
        member.type = tarfile.SYMTYPE
        member.linkname = content
        tar.addfile(member)
    else:
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _recorded(tree: Optional[Tree]) -> Recorded:
    return (tree.record or {}) if tree is not None else {}


def _clean(tree: Optional[Tree]) -> Recorded:
    """Return what was read of one tree, without the names that do not matter."""
    kept: Recorded = {}
    record = _recorded(tree)
    for name, content in record.items():
        pid, _, rest = name.partition("/")
        if isinstance(content, str):
            target = _target(rest, content)
            if target is not None:
                kept[name] = target
        elif rest == "cmdline" and pid.isdigit():
            # A process whose executable could not be read is no kernel thread in the capture too.
            kept.setdefault(f"{pid}/exe", b"")
            kept[name] = _redacted(content, record.get(f"{pid}/exe"))
        else:
            kept[name] = content
    return kept


def _target(link: str, target: str) -> Optional[str]:
    """Return the target of a process's link as far as it matters; None: it does not."""
    if link == "exe":
        return target if program_of(target) or is_guest(target) else _OTHER
    if target.startswith("socket:"):
        return "socket:[0]"
    return target if target.startswith(_SHOWN_FILES) else None


def _redacted(cmdline: bytes, executable: Union[bytes, str, None]) -> bytes:
    if not cmdline:
        return cmdline
    program = program_of(executable) if isinstance(executable, str) else None
    words = split_argv(cmdline)
    if isinstance(executable, str) and is_guest(executable):
        return _joined(redacted(naming_words(words)))
    is_cut = len(cmdline) in (ARGUMENTS_BYTES_MAX, READ_BYTES_MAX)
    if is_cut:
        words.pop()
    shown_words = _joined(redacted(words, program))
    # Arguments that were too long to be judged are too long in the capture as well.
    return shown_words.ljust(len(cmdline), b"*") if is_cut else shown_words


def _joined(words: List[str]) -> bytes:
    return b"".join(word.encode("utf-8") + b"\0" for word in words)


def _sessions(run: Optional[Tree]) -> Dict[str, bytes]:
    kept = {}
    for name, content in _recorded(run).items():
        if isinstance(content, bytes):
            lines = [line for line in shown(content).splitlines() if line.startswith(_SESSION_KEYS)]
            kept[name] = "".join(line + "\n" for line in lines).encode("utf-8")
    return kept


def _users(roots: Roots) -> str:
    """Return the lines of /etc/passwd for the users of the processes that were read."""
    uids = []
    for name, content in _recorded(roots.again).items():
        if isinstance(content, bytes) and name.endswith("/loginuid") and content.isdigit():
            uids.append(int(content))
        elif isinstance(content, bytes) and name.endswith("/status"):
            uid = uid_of(content)
            uids += [uid] if uid is not None else []
    return UserDatabase(roots.etc).lines(uids)
