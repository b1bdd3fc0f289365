"""Measure one `bmcmedic triage` of 1,000 processes, side by side with `ps`, on this host.

    sudo make bench-triage ARGS="[--processes 1000] [--stuck 200] [--rounds 9]"

The benchmark runs in a pid namespace of its own, so all processes are those that it starts: idle
ones, and stuck clients (named `ipmitool`, waiting in select()). CPU time is what the kernel
accounts to the finished process, start-up included. Each figure is the median of the rounds, in
which the programs take turns. A ratio of the same run is worth more than any absolute time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.support.pid_namespace import run_apart

COMPARES = "ps and fuser over the same processes, in turns"
FIGURE = "CPU time of one triage of 1,000 processes, in ms"

ROOT = Path(__file__).resolve().parent.parent
INTERVAL_S = 0.5
LIMIT_S = 120.0
CPU_S_MAX = 0.1
"""Most CPU time for one triage of 1,000 processes, in seconds."""

OK_STATUSES = (0, 1)
# No host sets these for the interpreter: to write no bytecode, so that each start compiles again,
# or to read its script byte by byte.
ENVIRONMENT = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}

READS = """
import os

FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
MARK = {"stat": 1024, "schedstat": 256}
FIRST = {**MARK, "cmdline": 4096}
AGAIN = {**MARK, "wchan": 256, "sched": 1024, "cgroup": 65536, "loginuid": 32}

def sample(name, files, *, links):
    folder = os.open("/proc/" + name, FOLDER)
    for file, size in files.items():
        descriptor = os.open(file, FILE, dir_fd=folder)
        os.read(descriptor, size)
        os.close(descriptor)
    os.fstat(folder)
    if links:
        os.readlink("exe", dir_fd=folder)
        for number in range(os.stat("fd", dir_fd=folder).st_size):
            try:
                os.readlink("fd/%d" % number, dir_fd=folder)
            except OSError:
                pass
    os.close(folder)

names = sorted(name for name in os.listdir("/proc") if name.isdigit())
for name in names:
    sample(name, FIRST, links=True)
for name in names:
    sample(name, AGAIN, links=False)
"""
"""Reads what triage reads of stuck clients for its screen, and no more: the least in Python."""

FORK = """
import os, select, signal, sys
children = []
for _ in range(int(sys.argv[-1])):
    pid = os.fork()
    if pid == 0:
        os.setsid()
        select.select([], [], [])
    children.append(pid)
print("ready", flush=True)
sys.stdin.read()
for pid in children:
    os.kill(pid, signal.SIGKILL)
"""


@contextmanager
def crowd(executable: str, folder: Path, count: int) -> Iterator[None]:
    """Start processes that block in select(), forked from one so that they share their memory.

    Their arguments are a few words, as those of clients are.
    """
    script = folder / "fork.py"
    script.write_text(FORK)
    command = [executable, "-S", str(script), "mc", "info", str(count)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHOME": sys.base_prefix},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield
    finally:
        process.communicate(timeout=LIMIT_S)


def cpu_s(command: list[str], *, script: Path | None = None) -> float:
    """Return the CPU time of one run, its children included."""
    with open(script or os.devnull, "rb") as source:  # noqa: PTH123 - either of two files
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in OK_STATUSES:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def processes() -> int:
    return sum(name.isdigit() for name in os.listdir("/proc"))  # noqa: PTH208 - as triage does


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--processes", type=int, default=1000)
    arguments.add_argument("--stuck", type=int, default=200)
    arguments.add_argument("--rounds", type=int, default=9)
    options = arguments.parse_args()
    run_apart(lambda: prepared(options))


def prepared(options: argparse.Namespace) -> None:
    """Fill the namespace with processes, and measure in it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ipmitool = place / "ipmitool"
        shutil.copy(Path(sys.executable).resolve(), ipmitool)
        pyz = place / "bmcmedic-triage.pyz"
        subprocess.run([sys.executable, ROOT / "tools/build_pyz.py", pyz], check=True)
        idle = max(0, options.processes - options.stuck - processes())
        with crowd(sys.executable, place, idle), crowd(str(ipmitool), place, options.stuck):
            time.sleep(1.0)
            ENVIRONMENT["PYTHONPYCACHEPREFIX"] = folder
            measure(options.rounds, pyz)


def measure(rounds: int, pyz: Path) -> None:
    """Run all programs in turns, and print the medians."""
    bmcmedic = str(Path(sys.executable).with_name("bmcmedic"))
    triage = ["triage", "--interval", str(INTERVAL_S), "--stuck-after", "0.5"]
    commands: dict[str, tuple[list[str], Path | None]] = {
        "bmcmedic triage": ([bmcmedic, *triage], None),
        "bmcmedic triage --json": ([bmcmedic, *triage, "--json"], None),
        "python3 - triage < pyz": ([sys.executable, "-", *triage], pyz),
        "python3 - triage --json < pyz": ([sys.executable, "-", *triage, "--json"], pyz),
        "python3 -c pass": ([sys.executable, "-c", "pass"], None),
        "the reads alone, where all are stuck": ([sys.executable, "-c", READS], None),
        "ps -eo pid,args,wchan,etimes,cputime": (
            ["ps", "-eo", "pid,args,wchan,etimes,cputime"],
            None,
        ),
        "fuser /dev/null (open files of all)": (["fuser", "/dev/null"], None),
    }
    commands = {n: (c, s) for n, (c, s) in commands.items() if shutil.which(c[0])}
    found: dict[str, list[float]] = {name: [] for name in commands}
    print(f"{processes()} processes, {rounds} rounds, CPU ms: median (least - most)")
    for command, script in commands.values():
        cpu_s(command, script=script)
    for _ in range(rounds):
        for name, (command, script) in commands.items():
            found[name].append(1000 * cpu_s(command, script=script))
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"{name:40} {middle:7.1f} ({min(values):.1f} - {max(values):.1f})")
    held = statistics.median(found["bmcmedic triage"]) <= 1000 * CPU_S_MAX
    print(f"one triage in {1000 * CPU_S_MAX:.0f} ms: {'held' if held else 'NOT held'}")


if __name__ == "__main__":
    main()
