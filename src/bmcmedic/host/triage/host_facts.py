"""Facts about the host as a whole: its identity, its load, and what may write port 0x80."""

from bmcmedic.host.kernel.proc import ProcError, Tree, shown
from bmcmedic.host.typed import Dict, List, NamedTuple, Optional

IO_DELAY_TYPES = {0: "port 0x80", 1: "port 0xed", 2: "a loop", 3: "none"}
"""`kernel.io_delay_type`: how the kernel waits after each slow port access."""

_PRESSURES = ("cpu", "io", "memory")


class HostId(NamedTuple):
    """The host that the symptoms are about; None: unknown."""

    hostname: Optional[str]
    product_uuid: Optional[str]
    bmc_guid: Optional[str]
    """Always None: on the host only the BMC itself knows it, and triage never asks the BMC."""
    boot_id: Optional[str]


class HostFacts(NamedTuple):
    """The host at one moment."""

    host_id: HostId
    kernel: Optional[str]
    cpus: Optional[int]
    load: List[float]
    """The load over 1, 5 and 15 minutes; empty: unknown."""
    pressure: Dict[str, float]
    """Percent of the last 10 s for which something waited; empty: the kernel has no such figure."""
    io_delay_type: Optional[int]


def read_host_facts(proc: Tree, sys: Optional[Tree]) -> HostFacts:
    """Read the facts about the host; never raises."""
    uuid = sys.text("class/dmi/id/product_uuid") if sys is not None else None
    return HostFacts(
        host_id=HostId(
            hostname=proc.text("sys/kernel/hostname") or None,
            product_uuid=uuid or None,
            bmc_guid=None,
            boot_id=proc.text("sys/kernel/random/boot_id") or None,
        ),
        kernel=proc.text("sys/kernel/osrelease") or None,
        cpus=_cpus(proc),
        load=_load(proc),
        pressure=_pressure(proc),
        io_delay_type=proc.number("sys/kernel/io_delay_type"),
    )


def boot_time_s(proc: Tree) -> Optional[int]:
    """Return when the host booted, in epoch seconds; None: unknown."""
    for line in _lines(proc, "stat"):
        name, _, value = line.partition(b" ")
        if name == b"btime" and value.strip().isdigit():
            return int(value)
    return None


def _cpus(proc: Tree) -> Optional[int]:
    count = sum(line[:3] == b"cpu" and line[3:4].isdigit() for line in _lines(proc, "stat"))
    return count or None


def _lines(proc: Tree, path: str) -> List[bytes]:
    try:
        return proc.read(path).splitlines()
    except ProcError:
        return []


def _load(proc: Tree) -> List[float]:
    numbers = [_number(word) for word in (proc.text("loadavg") or "").split()[:3]]
    return [number for number in numbers if number is not None]


def _pressure(proc: Tree) -> Dict[str, float]:
    found = {}
    for name in _PRESSURES:
        for line in _lines(proc, f"pressure/{name}"):
            kind, _, rest = shown(line).partition(" ")
            share = _number(rest.partition("avg10=")[2].partition(" ")[0])
            if kind == "some" and share is not None:
                found[name] = share
    return found


def _number(text: str) -> Optional[float]:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
