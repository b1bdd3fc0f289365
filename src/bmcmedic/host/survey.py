"""One pass over all processes: clients, `kipmi` threads, guests, and who holds a device open.

It is the dear part of triage, so each process costs a few reads, and only those that matter more.
"""

import re
from typing import Dict, List, NamedTuple, Optional

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
KTHREADD_PID = 2


class Opener(NamedTuple):
    """A process that has a device open."""

    identity: Identity
    name: str
    argv: List[str]
    """With all secrets masked."""
    devices: List[str]


class Survey(NamedTuple):
    """All processes, sorted by what they are to triage."""

    stats: Dict[int, Stat]
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
    found = Survey({}, [], [], [], [], [], 0, sees_kernel=False)
    unread = 0
    for pid in sorted(tree.pids()):
        try:
            stat = tree.stat(pid)
        except ProcError:
            continue
        found.stats[pid] = stat
        if stat.is_kernel_thread:
            if _KIPMI.match(stat.comm):
                found.kipmi.append(stat)
            continue
        unread += not _sort(tree, stat, found)
    kthreadd = found.stats.get(KTHREADD_PID)
    sees_kernel = kthreadd is not None and kthreadd.is_kernel_thread
    return found._replace(unread=unread, sees_kernel=sees_kernel)


def _sort(tree: Tree, stat: Stat, found: Survey) -> bool:
    """Put one process where it belongs; False: its open files cannot be read."""
    executable = tree.link_or_none(f"{stat.pid}/exe")
    if _is_client(executable, stat):
        try:
            with tree.hold(stat.pid) as process:
                client = Client.of(process)
        except ProcError:
            return True
        if client is not None:
            found.clients.append(client)
            if client.holdings is not None and client.holdings.devices:
                opener = Opener(stat.identity, stat.comm, client.argv, client.holdings.devices)
                found.openers.append(opener)
            return client.holdings is not None
    elif executable is not None and is_guest(executable):
        found.guests.append(stat)
    targets = tree.open_files(stat.pid)
    if targets is None:
        return False
    devices = sorted(
        {target for target in targets if target[:9] == "/dev/ipmi" and is_device(target)}
    )
    if devices:
        found.openers.append(_opener(tree, stat, devices))
    if _PORT in targets:
        found.port_openers.append(_opener(tree, stat, [_PORT]))
    return True


def is_guest(executable: str) -> bool:
    """Whether an executable runs a virtual machine."""
    return _HYPERVISOR.match(executable) is not None


def _is_client(executable: Optional[str], stat: Stat) -> bool:
    if executable is None:
        return stat.state != "Z" and looks_like(stat.comm) is not None
    # The pattern is asked only where it can match: most processes are none of these.
    return ("ipmi" in executable or "bmc-" in executable) and program_of(executable) is not None


def _opener(tree: Tree, stat: Stat, devices: List[str]) -> Opener:
    try:
        with tree.hold(stat.pid) as process:
            argv = process.argv() if process.stat().identity == stat.identity else []
    except ProcError:
        argv = []
    return Opener(stat.identity, stat.comm, masked(argv), devices)
