"""Measures relief: 1,000 stuck clients among 1,000 other processes, from the threshold on.

    sudo .venv/bin/python bench/relieve.py [--count 1000] [--others 1000] [--rounds 3]

All of it happens in a pid namespace of its own, so that nothing else on the machine is looked at or
ended, and nothing stays behind. The stuck are copies of this interpreter called `ipmitool`, orphans
that block in select(). `watch` is what a program does that steps once a second and has marked them
before they cross the threshold; `by hand` is the command, started at that moment. Both are measured
from when the youngest of them crosses it until the last is gone; the command's whole run, with its
look at what came of it, stands beside it. There is no BMC in this: kipmid is not measured.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bmcmedic.host.proc import ProcError, Tree, age_s, uptime_s
from bmcmedic.host.relieve import Place, Relief
from tests.support.host_clients import HostClients

STUCK_AFTER_S = 8.0
STEP_S = 1.0
LIMIT_S = 60.0
POLL_S = 0.01
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
INSIDE = "BMCMEDIC_BENCH_INSIDE"

CROWD = """
import os, select, sys
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.setsid()
        select.select([], [], [])
"""


class Host:
    """A crowd of processes, and how many of the stuck are left."""

    def __init__(self, folder: Path) -> None:
        self._programs = HostClients(folder)
        self._tree = Tree("/proc")
        self.stuck: list[int] = []

    def start(self, name: str, count: int) -> list[int]:
        """Start processes that are called so, each an orphan in a session of its own."""
        before = set(self._tree.pids())
        command = [self._programs.executable(name), "-S", "-c", CROWD, str(count), "mc", "info"]
        subprocess.run(command, env=self._programs.environment, check=True, timeout=LIMIT_S)
        until(lambda: len(self._tree.pids()) >= len(before) + count)
        return [pid for pid in self._tree.pids() if pid not in before]

    def left(self) -> int:
        return sum(1 for pid in self.stuck if self._is_alive(pid))

    def _is_alive(self, pid: int) -> bool:
        try:
            return self._tree.stat(pid).state not in "ZX"
        except ProcError:
            return False

    def youngest_s(self) -> float:
        """How old the youngest of the stuck is."""
        return min(age_s(self._tree.stat(pid), uptime_s(self._tree)) for pid in self.stuck)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"does not hold after {LIMIT_S:g} s")
        time.sleep(POLL_S)


def watched(host: Host) -> dict[str, float]:
    """Step once a second, as a program does that runs all the time."""
    relief = Relief(Place.here(), STUCK_AFTER_S)
    looks: list[float] = []
    while host.youngest_s() < STUCK_AFTER_S - STEP_S:
        begun = time.process_time()
        relief.look()
        looks.append(time.process_time() - begun)
        time.sleep(STEP_S)
    crossed = time.monotonic() + STUCK_AFTER_S - host.youngest_s()
    begun = time.process_time()
    while host.left():
        if time.monotonic() > crossed + LIMIT_S:
            raise SystemExit(f"{host.left()} are still there")
        next_at = time.monotonic() + STEP_S
        relief.step(may_act=True)
        time.sleep(max(0.0, next_at - time.monotonic()) if host.left() else 0.0)
    gone = time.monotonic()
    return {
        "look CPU ms": 1e3 * statistics.median(looks),
        "watch: all gone after s": gone - crossed,
        "watch: CPU s": time.process_time() - begun,
    }


def by_hand(host: Host) -> dict[str, float]:
    """The command, started when the youngest crosses the threshold."""
    until(lambda: host.youngest_s() >= STUCK_AFTER_S)
    crossed = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "bmcmedic", "relieve", "--yes", "--stuck-after"]
    child = subprocess.Popen([*command, f"{STUCK_AFTER_S:g}"], stdout=subprocess.DEVNULL)
    # Asking about a thousand processes costs CPU as well: seldom, and only once they are going.
    while host.left():
        if time.monotonic() > crossed + LIMIT_S:
            raise SystemExit(f"{host.left()} are still there")
        time.sleep(0.1)
    gone = time.monotonic()
    status = child.wait(LIMIT_S)
    ended = time.monotonic()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status != 0:
        raise SystemExit(f"relieve ended with {status}")
    return {
        "by hand: all gone after s": gone - crossed,
        "by hand: whole run s": ended - crossed,
        "by hand: CPU s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def measure(count: int, others: int, rounds: int) -> None:
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder).resolve())
        innocent = host.start("python", others)
        for _ in range(rounds):
            for way in (watched, by_hand):
                host.stuck = host.start("ipmitool", count)
                for name, figure in way(host).items():
                    figures.setdefault(name, []).append(figure)
        survivors = set(Tree("/proc").pids()) & set(innocent)
        if len(survivors) != others:
            raise SystemExit(f"{others - len(survivors)} innocent processes are gone")
    print(f"{count} stuck, {others} others, median (worst) of {rounds} rounds")
    for name, all_of_it in figures.items():
        print(f"  {name:28} {statistics.median(all_of_it):8.2f} ({max(all_of_it):.2f})")


def be_init(work: Callable[[], None]) -> int:
    """Do the work in a child, and reap whatever ends as an orphan."""
    worker = os.fork()
    if worker == 0:
        work()
        sys.stdout.flush()
        os._exit(0)
    while True:
        pid, status = os.wait()
        if pid == worker:
            return os.waitstatus_to_exitcode(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--others", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if INSIDE not in os.environ:
        os.execvpe(  # noqa: S606 - the same program, apart
            NAMESPACE[0],
            [*NAMESPACE, sys.executable, *sys.argv],
            {**os.environ, INSIDE: "1"},
        )

    def work() -> None:
        try:
            measure(options.count, options.others, options.rounds)
        except SystemExit as error:
            print(error, file=sys.stderr)
            os._exit(1)

    raise SystemExit(be_init(work))


if __name__ == "__main__":
    main()
