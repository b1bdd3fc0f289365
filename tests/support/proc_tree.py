"""Captured trees built by hand: what /proc and /sys of a sick host look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

TICKS_PER_S = 100
UPTIME_S = 1_000_000.0
BOOTED_AT = 1_700_000_000
KERNEL_THREAD = 0x0020_8040
CLOCKS_BEHIND_S = (0.0, 900.0, -3_000.0)
"""How far the clocks of three CPUs are behind, in seconds, where one CPU has most interrupts."""


@dataclass
class FakeProcess:
    """One process; a field that is None has no file."""

    pid: int
    comm: str
    argv: list[str | bytes] = field(default_factory=list)
    exe: str | None = None
    age_s: float = 3600.0
    state: str = "S"
    parent_pid: int = 1
    group: int | None = None
    terminal: int = 0
    flags: int = 0x0040_0000
    cpu_ticks: int = 3
    run_ns: int | None = 31_000_000
    delay_ns: int = 1_000
    turns: int = 12
    counts_switches: bool = True
    idle_s: float | None = None
    processor: int = 0
    wchan: str | None = "do_select"
    stack: str | None = None
    """None: the stack begins with `wchan`, as the kernel's does; "": it is not readable."""
    uid: int = 0
    login_uid: int | None = None
    cgroup: str = "0::/system.slice/crond.service\n"
    files: dict[str, str] | None = field(default_factory=dict)
    threads: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    """Thread id: name, run time and delay in ns."""

    def stat(self, uptime_s: float) -> bytes:
        start = round((uptime_s - self.age_s) * TICKS_PER_S)
        group = self.group if self.group is not None else self.pid
        fields = [self.state, self.parent_pid, group, group, self.terminal, -1, self.flags]
        fields += [0, 0, 0, 0, self.cpu_ticks, 0, 0, 0, 20, 0, 1, 0, start]
        fields += [*[0] * 16, self.processor]
        head = f"{self.pid} (".encode() + self.comm.encode() + b") "
        return head + " ".join(map(str, fields)).encode() + b"\n"

    def write(self, root: Path, uptime_s: float) -> None:
        folder = root / str(self.pid)
        folder.mkdir()
        (folder / "stat").write_bytes(self.stat(uptime_s))
        words = [w if isinstance(w, bytes) else w.encode() for w in self.argv]
        (folder / "cmdline").write_bytes(b"".join(word + b"\0" for word in words))
        (folder / "cgroup").write_text(self.cgroup)
        login = 0xFFFF_FFFF if self.login_uid is None else self.login_uid
        (folder / "loginuid").write_text(str(login))
        switches = f"voluntary_ctxt_switches:\t{self.turns}\nnonvoluntary_ctxt_switches:\t1\n"
        if not self.counts_switches:
            switches = ""
        users = f"Uid:\t0\t{self.uid}\t0\t0\n"
        (folder / "status").write_text(f"Name:\t{self.comm}\n{users}{switches}")
        if self.exe is not None:
            (folder / "exe").symlink_to(self.exe)
        if self.run_ns is not None:
            text = f"{self.run_ns} {self.delay_ns} {self.turns}\n"
            (folder / "schedstat").write_text(text)
        if self.idle_s is not None:
            behind_s = CLOCKS_BEHIND_S[self.processor]
            (folder / "sched").write_text(sched(uptime_s - behind_s - self.idle_s))
        if self.wchan is not None:
            (folder / "wchan").write_text(self.wchan)
        stack = self.stack
        if stack is None and self.wchan is not None and self.wchan.partition(".")[0].isidentifier():
            stack = f"[<0>] {self.wchan}+0x5e2/0x6f0\n[<0>] core_sys_select+0x1c2/0x3a0\n"
        if stack:
            (folder / "stack").write_text(stack)
        if self.files is not None:
            (folder / "fd").mkdir()
            for name, target in self.files.items():
                (folder / "fd" / name).symlink_to(target)
        for thread, (name, run_ns, delay_ns) in self.threads.items():
            task = folder / "task" / str(thread)
            task.mkdir(parents=True)
            (task / "comm").write_text(name + "\n")
            (task / "schedstat").write_text(f"{run_ns} {delay_ns} 5\n")


def write_clocks(
    tasks: Path, uptime_s: float, clocks_behind_s: Sequence[float] = CLOCKS_BEHIND_S
) -> None:
    """Write what the threads of a triage recorded of the CPUs that they visited."""
    for cpu, behind_s in enumerate(clocks_behind_s):
        thread = FakeProcess(77_000 + cpu, "python3", idle_s=0.0, processor=cpu, files=None)
        place = tasks / str(thread.pid)
        place.mkdir(parents=True)
        (place / "stat").write_bytes(thread.stat(uptime_s))
        (place / "sched").write_text(sched(uptime_s - behind_s))


def sched(at_s: float) -> str:
    return f"x (1, #threads: 1)\n---\nse.exec_start   :  {at_s * 1000:.6f}\nse.vruntime : 1.0\n"


def kipmi(cpu_s: float = 0.0, pid: int = 512) -> FakeProcess:
    """The kernel's polling thread with this much CPU time."""
    return FakeProcess(
        pid,
        "kipmi0",
        age_s=UPTIME_S - 20,
        parent_pid=2,
        flags=KERNEL_THREAD,
        cpu_ticks=round(cpu_s * TICKS_PER_S),
        run_ns=round(cpu_s * 1e9),
        files=None,
    )


KTHREADD = FakeProcess(2, "kthreadd", age_s=UPTIME_S, parent_pid=0, flags=KERNEL_THREAD, files=None)


def stuck_ipmitool(pid: int = 65_113, *words: str, age_s: float = 3600.0) -> FakeProcess:
    """A client like the incident's: an orphan in select() with the device open."""
    return FakeProcess(
        pid,
        "ipmitool",
        ["ipmitool", *(words or ("mc", "info"))],
        exe="/usr/bin/ipmitool",
        age_s=age_s,
        idle_s=age_s - 0.01,
        files={"0": "/dev/null", "1": "pipe:[1]", "3": "/dev/ipmi0"},
    )


def write_proc(root: Path, processes: list[FakeProcess], uptime_s: float = UPTIME_S) -> Path:
    """A proc tree."""
    root.mkdir(parents=True)
    for process in processes:
        process.write(root, uptime_s)
    (root / "uptime").write_text(f"{uptime_s:.2f} 1.00\n")
    cpus = "".join(f"cpu{number} 1 2 3\n" for number in range(64))
    (root / "stat").write_text(f"cpu  1 2 3\n{cpus}btime {BOOTED_AT}\n")
    (root / "loadavg").write_text("190.00 150.00 100.00 3/900 7\n")
    write_clocks(root / "self/task", uptime_s)
    kernel = root / "sys/kernel"
    (kernel / "random").mkdir(parents=True)
    (kernel / "hostname").write_text("sick-host\n")
    (kernel / "osrelease").write_text("6.1.0-18-amd64\n")
    (kernel / "io_delay_type").write_text("0\n")
    (kernel / "random/boot_id").write_text("0a8b9a1e-93ee-4d0a-9ac7-2c94c4c5e9a1\n")
    (root / "pressure").mkdir()
    (root / "pressure/cpu").write_text("some avg10=55.50 avg60=1.00 avg300=1.00 total=9\n")
    return root


def write_sys(root: Path, **counters: int) -> Path:
    """A sys tree with one interface."""
    device = root / "class/ipmi/ipmi0/device"
    device.mkdir(parents=True)
    for name, value in counters.items():
        (device / name).write_text(f"{value}\n")
    dmi = root / "class/dmi/id"
    dmi.mkdir(parents=True)
    (dmi / "product_uuid").write_text("4c4c4544-0051-3010-8057-b8c04f4d3232\n")
    return root


def write_capture(
    root: Path,
    first: list[FakeProcess],
    again: list[FakeProcess],
    *,
    interval_s: float = 2.0,
    counters: tuple[dict[str, int], dict[str, int]] | None = None,
) -> Path:
    """Write two samples; `age_s` is the age at the first, so a process has one start in both."""
    write_proc(root / "proc", first)
    later = [_aged(process, interval_s) for process in again]
    write_proc(root / "proc.2", later, UPTIME_S + interval_s)
    if counters is not None:
        write_sys(root / "sys", **counters[0])
        write_sys(root / "sys.2", **counters[1])
    return root


def _aged(process: FakeProcess, interval_s: float) -> FakeProcess:
    values = dict(vars(process))
    values["age_s"] += interval_s
    if values["idle_s"] is not None:
        values["idle_s"] += interval_s
    return FakeProcess(**values)
