"""One pass over all processes: clients, `kipmi` threads, guests, and who holds a device open.

It is the dear part of triage, so each process costs a few reads, and only those that matter more.
"""

import re
from contextlib import suppress
from typing import List, NamedTuple

from bmcmedic.host.clients import Client, is_device
from bmcmedic.host.mask import masked
from bmcmedic.host.proc import Identity, ProcError, Stat, Tree
from bmcmedic.host.programs import looks_like, program_of

_KIPMI = re.compile(r"kipmi[0-9]+\Z")
_HYPERVISOR = re.compile(
    r"(?:.*/)?(?:qemu-system-\w+|qemu-kvm|kvm|cloud-hypervisor|firecracker|crosvm)"
    r"(?: \(deleted\))?\Z"
)
_PORT = "/dev/port"


class Opener(NamedTuple):
    """A process that has a device open."""

    identity: Identity
    name: str
    argv: List[str]
    """With all secrets masked."""
    devices: List[str]


class Survey(NamedTuple):
    """All processes, sorted by what they are to triage."""

    processes: int
    kipmi: List[Stat]
    clients: List[Client]
    guests: List[Stat]
    openers: List[Opener]
    """Who has /dev/ipmi* open."""
    port_openers: List[Opener]
    """Who has /dev/port open, through which one byte at a time reaches port 0x80 too."""
    unread: int
    """Processes whose open files cannot be read; not to be taken for none."""
    sees_kernel: bool
    """Whether kernel threads can be seen: inside a container they cannot."""


def survey(tree: Tree) -> Survey:
    """Look at every process once; what ends meanwhile is left out."""
    pids = sorted(tree.pids())
    found = Survey(len(pids), [], [], [], [], [], 0, sees_kernel=False)
    unread = 0
    sees_kernel = False
    for pid in pids:
        executable = tree.link_or_none(f"{pid}/exe")
        if executable is None:
            # The kernel's own, a zombie, or one of another user's that is not ours to look into.
            stat = tree.stat_or_none(pid)
            if stat is None or stat.state == "Z":
                continue
            if stat.is_kernel_thread:
                sees_kernel = True
                if _KIPMI.match(stat.comm):
                    found.kipmi.append(stat)
                continue
            if looks_like(stat.comm) is not None:
                _add_client(tree, pid, found)
            unread += tree.open_files(pid) is None
        else:
            unread += not _sort(tree, pid, executable, found)
    return found._replace(unread=unread, sees_kernel=sees_kernel)


def _sort(tree: Tree, pid: int, executable: str, found: Survey) -> bool:
    """Put one process where it belongs; False: its open files cannot be read."""
    # The patterns are asked only where they can match: most processes are none of these.
    if ("ipmi" in executable or "bmc-" in executable) and program_of(executable) is not None:
        return _add_client(tree, pid, found)
    if is_guest(executable):
        stat = tree.stat_or_none(pid)
        if stat is not None:
            found.guests.append(stat)
    targets = tree.open_files(pid)
    if targets is None:
        return False
    devices = [target for target in targets if target[:9] == "/dev/ipmi" and is_device(target)]
    if devices:
        _add_opener(tree, pid, sorted(set(devices)), found.openers)
    if _PORT in targets:
        _add_opener(tree, pid, [_PORT], found.port_openers)
    return True


def _add_client(tree: Tree, pid: int, found: Survey) -> bool:
    """A client, with what it has open; False: that cannot be read."""
    try:
        with tree.hold(pid) as process:
            client = Client.of(process)
    except ProcError:
        return True
    if client is None:
        return True
    found.clients.append(client)
    holds = client.holdings
    if holds is not None and holds.devices:
        opener = Opener(client.identity, client.first.stat.comm, client.argv, holds.devices)
        found.openers.append(opener)
    return holds is not None


def _add_opener(tree: Tree, pid: int, devices: List[str], openers: List[Opener]) -> None:
    with suppress(ProcError), tree.hold(pid) as process:
        stat = process.stat()
        openers.append(Opener(stat.identity, stat.comm, masked(process.argv()), devices))


def is_guest(executable: str) -> bool:
    """Whether an executable runs a virtual machine."""
    return _HYPERVISOR.match(executable) is not None
