"""One scan of all processes: clients, `kipmi` threads, guests, and programs with a device open.

The scan is the expensive part of triage, so it reads little of each process, and more only of those
that matter.
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
from bmcmedic.host.kernel.progress import Mark
from bmcmedic.host.triage.guests import naming_words
from bmcmedic.host.typed import List, NamedTuple, Optional

# It is compiled at its first use: most hosts, and most runs, do not need it.
_HYPERVISOR = (
    r"(?:.*/)?(?:qemu-system-\w+|qemu-kvm|kvm|cloud-hypervisor|firecracker|crosvm)"
    r"(?: \(deleted\))?\Z"
)
_HYPERVISORS_BEGIN = ("qemu-", "kvm", "cloud-hypervisor", "firecracker", "crosvm")
_PORT = "/dev/port"
_POWER_METER = "/ACPI000D:"
"""Part of the path of an ACPI power meter's files. To read some of them, ACPI asks the BMC."""


class Opener(NamedTuple):
    """A process that has a device open."""

    identity: ProcessIdentity
    name: str
    argv: List[str]
    """Its arguments as far as they are shown, with all secrets redacted."""
    devices: List[str]
    mark: Optional[Mark] = None
    """How far the process had come; None: it is not compared with a later sample."""


class ProcessScan(NamedTuple):
    """All processes, sorted by what they mean to triage."""

    processes: int
    kipmi: List[Stat]
    clients: List[Client]
    guests: List[Stat]
    openers: List[Opener]
    """The processes that have /dev/ipmi* open."""
    port_openers: List[Opener]
    """The processes that have /dev/port open, through which a byte can be written to port 0x80."""
    meter_readers: List[Opener]
    """The processes that have a file of an ACPI power meter open."""
    unread: int
    """Number of processes whose open files cannot be read: they may have a device open."""
    sees_kernel: bool
    """Whether kernel threads can be seen: inside a container they cannot."""
    hidden: int
    """Number of processes that cannot be read at all, such as in a /proc that hides them."""


def scan_processes(tree: Tree) -> ProcessScan:
    """Read every process once; processes that end meanwhile are left out."""
    pids = sorted(tree.pids())
    found = ProcessScan(len(pids), [], [], [], [], [], [], 0, sees_kernel=False, hidden=0)
    unread = hidden = 0
    sees_kernel = False
    for pid in pids:
        try:
            with tree.hold(pid) as process:
                executable = process.link_or_none("exe")
                if executable is not None:
                    unread += not _sort(process, executable, found)
                    continue
                # A kernel thread, a zombie, or a process that we may not read.
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
    """Sort one process into the scan; returns whether its open files could be read.

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
        opener = _opener(process, sorted(set(devices)), guest=guest)
        found.openers.append(opener._replace(mark=Mark.of(process)))
    if _POWER_METER in "\n".join(targets):
        meters = sorted({target for target in targets if _POWER_METER in target})
        found.meter_readers.append(_opener(process, meters, guest=guest))
    if _PORT in targets:
        found.port_openers.append(_opener(process, [_PORT], guest=guest))
    return True


def _add_client(process: Process, executable: Optional[str], found: ProcessScan) -> bool:
    """Add a client to the scan; returns whether its open files could be read.

    Raises Gone or Unreadable.
    """
    client = Client.of(process, executable, with_ending=True)
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
