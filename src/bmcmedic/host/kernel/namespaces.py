"""Pid namespaces: when the first process of one ends, the kernel ends all that live in it."""

import os

from bmcmedic.host.kernel.proc import Gone, Process, Stat, Tree, Unreadable
from bmcmedic.host.typed import List, Optional

_LINK = "ns/pid"
_STATUS_BYTES_MAX = 4 << 10
_NUMBERS = b"\nNSpid:"


def depth_as_first(tree: Tree, process: Process) -> int:
    """Return how deep below ours the pid namespace is whose first process this is.

    0: it is the first process of none. Kernels before 4.1 do not tell the depth, and 1 stands for
    any. Raises Gone or Unreadable.
    """
    numbers = _numbers(process)
    if numbers:
        return len(numbers) - 1 if numbers[-1] == b"1" else 0
    home = process.link_or_none(_LINK)
    if home is None or home == _ours(tree):
        return 0
    try:
        with tree.hold(process.stat().parent_pid) as parent:
            return 0 if parent.link_or_none(_LINK) == home else 1
    except Gone:
        return 1


def others_in_namespace(tree: Tree, first: Process, depth: int) -> List[Stat]:
    """Return the other processes that live in a first process's namespace, or may live there.

    A process in another, deeper namespace may live within this one. Raises Gone or Unreadable.
    """
    home, ours = first.link_or_none(_LINK), _ours(tree)
    if home is None:
        raise Unreadable("the other processes in its pid namespace cannot be read")
    found = []
    for pid in tree.pids():
        if pid == first.pid:
            continue
        try:
            with tree.hold(pid) as process:
                link = process.link_or_none(_LINK)
                # A process in our own namespace does not end with one below it.
                if link is not None and link == ours:
                    continue
                # Some kernels hide that link from root too, such as that of the host's init.
                depth_min = depth if link is None else depth + 1
                if link == home or _may_be_as_deep(process, depth_min):
                    stat = process.stat()
                    if not stat.is_kernel_thread and stat.state not in "ZXx":
                        found.append(stat)
        except Gone:
            continue
    return found


def _may_be_as_deep(process: Process, depth: int) -> bool:
    """Whether a process may live that deep; raises Gone."""
    try:
        numbers = _numbers(process)
    except Unreadable:
        return True
    return not numbers or len(numbers) - 1 >= depth


def _numbers(process: Process) -> List[bytes]:
    """Return its pid in each namespace from ours down to its own; empty if the kernel hides them.

    Raises Gone or Unreadable.
    """
    raw = process.read("status", _STATUS_BYTES_MAX)
    # The kernel writes a line's end within a name as two characters.
    at = raw.find(_NUMBERS)
    return raw[at + len(_NUMBERS) : raw.find(b"\n", at + 1)].split() if at >= 0 else []


def _ours(tree: Tree) -> Optional[str]:
    with tree.hold(os.getpid()) as own:
        return own.link_or_none(_LINK)
