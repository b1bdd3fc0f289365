"""A host made of files: its /proc and /sys, its clock, and processes that answer to signals."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bmcmedic.host.kernel.proc import Tree
from bmcmedic.host.kernel.signals import Sender
from bmcmedic.host.relieve.relieve import HostTrees
from tests.support.proc_tree import CLOCKS_BEHIND_S, write_clocks

BOOT_ID = "5f0c2a34-0000-4000-8000-3d7be1f0a001"
STUCK_START_S = 1_000.0
UPTIME_S = 10_000.0
THROTTLED_PERCENT = 2.5
PF_KTHREAD = 0x0020_0000


@dataclass
class Fake:
    """One process, and what it does when it gets TERM or KILL."""

    pid: int
    argv: list[str] = field(default_factory=lambda: ["ipmitool", "mc", "info"])
    exe: str | None = "/usr/bin/ipmitool"
    comm: str = "ipmitool"
    state: str = "S"
    start_s: float = STUCK_START_S
    parent: int = 1
    group: int = 0
    terminal: int = 0
    flags: int = 0
    wchan: str | None = "do_select"
    device: bool = True
    run_ns: int = 4_000_000
    turns: int = 12
    ran_at_s: float | None = None
    has_sched: bool = True
    processor: int = 0
    term: str = "ends"
    """`ends`, `ignores` it, `wakes` up and waits again, `runs` on, `blocks` in the kernel, or ends
    `late`, when it gets a CPU."""
    kill: str = "ends"
    core_percent: float = 0.0
    spaces: tuple[str, ...] = ()
    """The pid namespaces from the host's down to its own; empty: the kernel hides them."""
    numbers: tuple[int, ...] = ()
    """Its pid in each of them; empty: the kernel hides them."""


class FakeHost:
    """A host whose files are below one directory, and whose time passes when a caller sleeps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uptime_s = UPTIME_S
        self.processes: dict[int, Fake] = {}
        self.sent: list[tuple[int, str]] = []
        self.completed = 4711
        self.hosed = 3
        self.heeds_limit = False
        self.clocks_behind_s = list(CLOCKS_BEHIND_S)
        self.interrupted = [0.0] * len(CLOCKS_BEHIND_S)
        """The share of each CPU's time that interrupts have."""
        self.when_slept: list[Callable[[], None]] = []
        self.kill_switch = root / "disabled"
        self.journal = root / "run" / "bmcmedic"
        for folder in ("proc/1", "proc/sys/kernel/random", "proc/self", "sys", "etc", "run"):
            (root / folder).mkdir(parents=True)
        (root / "proc/sys/kernel/random/boot_id").write_text(BOOT_ID + "\n")
        self._own_entry()
        self._write_time()

    # ------------------------------------------------------------------------------- its parts

    @property
    def parameter(self) -> Path:
        return self.root / "sys/module/ipmi_si/parameters/kipmid_max_busy_us"

    def add(self, fake: Fake) -> Fake:
        """Add a process, in place of another with its pid."""
        self.remove(fake.pid)
        self.processes[fake.pid] = fake
        self.write(fake)
        return fake

    def remove(self, pid: int) -> None:
        self.processes.pop(pid, None)
        shutil.rmtree(self.root / "proc" / str(pid), ignore_errors=True)

    def add_interface(self, max_busy_us: str = "", core_percent: float = 98.0) -> Fake:
        """Add `ipmi_si` with one interface, and the thread that polls it."""
        self.parameter.parent.mkdir(parents=True)
        self.parameter.write_text(max_busy_us + "\n")
        (self.root / "sys/class/ipmi/ipmi0/device").mkdir(parents=True)
        self._write_counters()
        thread = Fake(
            200, argv=[], exe=None, comm="kipmi0", parent=2, flags=PF_KTHREAD, wchan="0",
            device=False, core_percent=core_percent,
        )  # fmt: skip
        return self.add(thread)

    def complete(self, count: int) -> None:
        self.completed += count
        self._write_counters()

    def trees(self, *, has_pidfds: bool = True) -> HostTrees:
        root = str(self.root)
        return HostTrees(
            proc=Tree(f"{root}/proc"),
            sys=Tree(f"{root}/sys"),
            etc=Tree(f"{root}/etc"),
            run=Tree(f"{root}/run"),
            sender=Sender(self._send_to_held if has_pidfds else None, self.send),
            kill_switch=str(self.kill_switch),
            journal_directory=str(self.journal),
            monotonic=lambda: self.uptime_s,
            sleep=self.pass_time,
            now=lambda: 1_700_000_000.0 + self.uptime_s,
        )

    # -------------------------------------------------------------------------------- its time

    def pass_time(self, seconds: float) -> None:
        self.uptime_s += seconds
        for cpu, share in enumerate(self.interrupted):
            self.clocks_behind_s[cpu] += seconds * share
        for fake in self.processes.values():
            if fake.core_percent:
                is_throttled = fake.flags and self.heeds_limit
                if is_throttled and self.parameter.read_text() == "100":
                    fake.core_percent = THROTTLED_PERCENT
                fake.run_ns += int(seconds * fake.core_percent * 1e7)
                self.write(fake)
        self._write_time()
        for act in self.when_slept:
            act()

    def send(self, pid: int, number: int) -> None:
        """Do what the kernel does with a signal."""
        fake = self.processes.get(pid)
        if fake is None:
            raise ProcessLookupError(3, "No such process")
        self.sent.append((pid, signal.Signals(number).name[3:]))
        does = fake.term if number == signal.SIGTERM else fake.kill
        if does == "ends":
            self.remove(pid)
        elif does == "wakes":
            fake.turns, fake.run_ns = fake.turns + 1, fake.run_ns + 9_000
            fake.ran_at_s = self.uptime_s
            self.write(fake)
        elif does == "runs":
            fake.state, fake.core_percent = "R", 100.0
            self.write(fake)
        elif does == "late":
            fake.state = "R"
            self.write(fake)
            late_s = self.uptime_s + 2.0
            self.when_slept.append(lambda: self.remove(pid) if self.uptime_s >= late_s else None)
        elif does == "blocks":
            fake.state = "D"
            self.write(fake)

    def _send_to_held(self, descriptor: int, number: int) -> None:
        """Signal the process whose directory is held, as the kernel does, or none."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name.endswith("(deleted)"):
            raise ProcessLookupError(3, "No such process")
        self.send(int(path.name), number)

    # ------------------------------------------------------------------------------- its files

    def write(self, fake: Fake) -> None:
        folder = self.root / "proc" / str(fake.pid)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        fields = [
            fake.state, fake.parent, fake.group or fake.pid, fake.group or fake.pid, fake.terminal,
            -1, fake.flags, 0, 0, 0, 0, fake.run_ns // 10_000_000, 0, 0, 0, 20, 0, 1, 0,
            int(fake.start_s * 100), *[0] * 16, fake.processor,
        ]  # fmt: skip
        (folder / "stat").write_text(f"{fake.pid} ({fake.comm}) {' '.join(map(str, fields))}\n")
        (folder / "schedstat").write_text(f"{fake.run_ns} 1000 {fake.turns}\n")
        ran_at_s = fake.start_s + 0.1 if fake.ran_at_s is None else fake.ran_at_s
        ran_at_s -= CLOCKS_BEHIND_S[fake.processor]
        if fake.has_sched:
            (folder / "sched").write_text(f"se.exec_start    :    {ran_at_s * 1000.0:.6f}\n")
        (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in fake.argv))
        (folder / "cgroup").write_text("0::/system.slice/cron.service\n")
        (folder / "loginuid").write_text("4294967295")
        numbers = "NSpid:\t" + "\t".join(map(str, fake.numbers)) + "\n" if fake.numbers else ""
        switches = f"voluntary_ctxt_switches:\t{fake.turns}\nnonvoluntary_ctxt_switches:\t0\n"
        (folder / "status").write_text(f"Name:\t{fake.comm}\nUid:\t0\t0\t0\t0\n{switches}{numbers}")
        (folder / "ns").mkdir(exist_ok=True)
        _link(folder / "ns" / "pid", f"pid:[{fake.spaces[-1]}]" if fake.spaces else None)
        if fake.wchan is not None:
            (folder / "wchan").write_text(fake.wchan)
        _link(folder / "exe", fake.exe)
        _link(folder / "fd" / "3", "/dev/ipmi0" if fake.device else None)

    def _own_entry(self) -> None:
        own = self.root / "proc" / str(os.getpid())
        own.mkdir()
        (own / "status").write_text(f"Name:\tbmcmedic\nNSpid:\t{os.getpid()}\n")
        (own / "ns").mkdir()
        (own / "ns" / "pid").symlink_to("pid:[host]")
        (self.root / "proc/self").rmdir()
        (self.root / "proc/self").symlink_to(str(os.getpid()))

    def _write_time(self) -> None:
        (self.root / "proc/uptime").write_text(f"{self.uptime_s:.2f} 0.00\n")
        tasks = self.root / "proc" / str(os.getpid()) / "task"
        shutil.rmtree(tasks, ignore_errors=True)
        write_clocks(tasks, self.uptime_s, self.clocks_behind_s)

    def _write_counters(self) -> None:
        device = self.root / "sys/class/ipmi/ipmi0/device"
        (device / "complete_transactions").write_text(f"{self.completed}\n")
        (device / "hosed_count").write_text(f"{self.hosed}\n")


def _link(path: Path, target: str | None) -> None:
    path.unlink(missing_ok=True)
    if target is not None:
        path.symlink_to(target)
