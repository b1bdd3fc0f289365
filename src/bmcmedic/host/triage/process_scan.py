"""One pass over all processes: clients, `kipmi` threads, guests, and who holds a device open.

It is the dear part of triage, so each process costs a few reads, and only those that matter more.
"""

import re

from bmcmedic.host.client.programs import looks_like, program_of
from bmcmedic.host.client.redact import redacted
from bmcmedic.host.client.stuck import Client, is_device
from bmcmedic.host.kernel.kipmid import is_polling_thread
from bmcmedic.host.kernel.proc import (
    Gone,
    ProcError,
    Process,
    ProcessIdentity,
    Stat,
    Tree,
    shortened,
)
from bmcmedic.host.triage.guests import naming_words
from bmcmedic.host.typed import List, NamedTuple, Optional

# It is compiled where it is first asked: most hosts, and most runs, have no use for it.
_HYPERVISOR = (
    r"(?:.*/)?(?:qemu-system-\w+|qemu-kvm|kvm|cloud-hypervisor|firecracker|crosvm)"
    r"(?: \(deleted\))?\Z"
)
_HYPERVISORS_BEGIN = ("qemu-", "kvm", "cloud-hypervisor", "firecracker", "crosvm")
_PORT = "/dev/port"


class Opener(NamedTuple):
    """A process that has a device open."""

    identity: ProcessIdentity
    name: str
    argv: List[str]
    """With all secrets masked, as many of them as are shown."""
    devices: List[str]


class ProcessScan(NamedTuple):
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
    hidden: int
    """Processes that tell nothing of themselves: /proc may be mounted so."""


def scan_processes(tree: Tree) -> ProcessScan:
    """Look at every process once; what ends meanwhile is left out."""
    pids = sorted(tree.pids())
    found = ProcessScan(len(pids), [], [], [], [], [], 0, sees_kernel=False, hidden=0)
    unread = hidden = 0
    sees_kernel = False
    for pid in pids:
        try:
            with tree.hold(pid) as process:
                executable = process.link_or_none("exe")
                if executable is not None:
                    unread += not _sort(process, executable, found)
                    continue
                # The kernel's own, a zombie, or another user's that is not ours to look into.
                stat = process.stat()
                if stat.is_kernel_thread:
                    sees_kernel = True
                    if is_polling_thread(stat):
                        found.kipmi.append(stat)
                elif stat.state != "Z":
                    if looks_like(stat.comm) is not None:
                        _add_client(process, None, found)
                    unread += process.open_files() is None
        except Gone:
            continue
        except ProcError:
            hidden += 1
    return found._replace(unread=unread, sees_kernel=sees_kernel, hidden=hidden)


def _sort(process: Process, executable: str, found: ProcessScan) -> bool:
    """Put one process where it belongs; False: its open files cannot be read.

    Raises Gone or Unreadable.
    """
    if program_of(executable) is not None:
        return _add_client(process, executable, found)
    guest = is_guest(executable)
    if guest:
        found.guests.append(process.stat())
    files = process.open_files()
    if files is None:
        return False
    targets = files.values()
    devices = [target for target in targets if target[:9] == "/dev/ipmi" and is_device(target)]
    if devices:
        found.openers.append(_opener(process, sorted(set(devices)), guest=guest))
    if _PORT in targets:
        found.port_openers.append(_opener(process, [_PORT], guest=guest))
    return True


def _add_client(process: Process, executable: Optional[str], found: ProcessScan) -> bool:
    """A client, with what it has open; False: that cannot be read. Raises Gone or Unreadable."""
    client = Client.of(process, executable)
    if client is None:
        return True
    found.clients.append(client)
    holds = client.holdings
    if holds is not None and holds.devices:
        opener = Opener(client.identity, client.first.stat.comm, client.argv, holds.devices)
        found.openers.append(opener)
    return holds is not None


def _opener(process: Process, devices: List[str], *, guest: bool) -> Opener:
    stat, argv = process.stat(), process.argv()
    words = redacted(naming_words(argv) if guest else argv)
    return Opener(stat.identity, stat.comm, shortened(words), devices)


def is_guest(executable: str) -> bool:
    """Whether an executable runs a virtual machine."""
    name = executable.rpartition("/")[2]
    return name.startswith(_HYPERVISORS_BEGIN) and re.match(_HYPERVISOR, executable) is not None
