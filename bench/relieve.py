"""Measure relief: 1,000 stuck clients among 1,000 other processes, from the threshold on.

    sudo make bench-relieve ARGS="[--count 1000] [--others 1000] [--rounds 5] [--hogs 0]"

The benchmark runs in a pid namespace of its own. The stuck clients are copies of this interpreter
named `ipmitool`, orphans that block in select(). It measures three ways, each from the moment when
the youngest client crosses the threshold until the last is gone:

- `agent`: `bmcmedic agent` itself, its own loop and its own priority, beside a driver whose BMC's
  registers hang. `any one` is the longest that a client was there after it crossed itself.
- `watch`: a program that steps once a second and has marked the clients before they cross.
- `by hand`: the command, started at that moment. Its whole run, with the scan of what came of it,
  stands beside it.

Meanwhile `--hogs` busy processes run at normal priority. Each is a session of its own, and so are
the agent and the command, as services and logins are. There is no interface of the kernel, so
kipmid is not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.agent import cpu_s
from bench.support.hanging_driver import SOCKET, hang, hanging_driver, running
from bench.support.pid_namespace import LIMIT_S, crowd, run_apart, until
from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.host.kernel.proc import ProcError, Tree, age_s, uptime_s
from bmcmedic.host.relieve.relieve import HostTrees, Relief
from tests.support.host_clients import HostClients
from tests.support.programs import bmcmedic

COMPARES = "a loop that steps once a second, and the command started by hand"
FIGURE = "from the threshold until the last stuck client is gone, in s"

STEP_S = 1.0
ASKING_S = 0.1
"""Time between two polls of a thousand processes, in seconds: each poll costs CPU time as well."""
WAYS = ("agent", "watch", "by hand")


class Host:
    """A crowd of processes, and how many of the stuck ones are left."""

    def __init__(self, folder: Path, stuck_after_s: float) -> None:
        self.stuck_after_s = stuck_after_s
        self._programs = HostClients(folder)
        self._tree = Tree("/proc")
        self.stuck: list[int] = []

    def start(self, name: str, count: int) -> list[int]:
        """Start processes of that name, each an orphan in a session of its own."""
        before = self._called(name)
        crowd(self._programs, name, count)
        until(lambda: len(self._called(name) - before) >= count)
        return sorted(self._called(name) - before)

    def _called(self, name: str) -> set[int]:
        """Return the processes of that name; one that is ending has no executable any more."""
        executable = self._programs.executable(name)
        pids = self._tree.pids()
        return {pid for pid in pids if _executable_of(pid) == executable}

    def left(self) -> int:
        return sum(1 for pid in self.stuck if self._is_alive(pid))

    def _is_alive(self, pid: int) -> bool:
        try:
            return self._tree.stat(pid).state not in "ZX"
        except ProcError:
            return False

    def youngest_s(self) -> float:
        """Return the age of the youngest stuck client, in seconds."""
        return min(self._ages_s())

    def crossings(self) -> dict[int, float]:
        """Return when each stuck client crosses the threshold."""
        now = time.monotonic() + self.stuck_after_s
        return {pid: now - age_s for pid, age_s in zip(self.stuck, self._ages_s(), strict=True)}

    def _ages_s(self) -> Iterator[float]:
        return (age_s(self._tree.stat(pid), uptime_s(self._tree)) for pid in self.stuck)

    def until_gone(self, crossings: dict[int, float]) -> tuple[float, float]:
        """Wait until all are gone; returns when, and the longest time after a crossing."""
        left, worst_s = list(crossings), 0.0
        give_up_at = max(crossings.values()) + LIMIT_S
        while left:
            if time.monotonic() > give_up_at:
                raise SystemExit(f"{len(left)} are still there")
            time.sleep(ASKING_S)
            now = time.monotonic()
            alive = [pid for pid in left if self._is_alive(pid)]
            gone = set(left).difference(alive)
            worst_s = max([worst_s, *(now - crossings[pid] for pid in gone)])
            left = alive
        return time.monotonic(), worst_s


def _executable_of(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return None


@contextlib.contextmanager
def agent(folder: Path, stuck_after_s: float) -> Iterator[int]:
    """Run an agent that may act, on a host whose BMC has begun to hang; yields its pid."""
    config = folder / "agent.toml"
    config.write_text(
        f"""
[driver]
socket = "{folder / SOCKET}"
[relief]
mode = "act"
stuck_after_s = {stuck_after_s}
[metrics]
listen = "unix:{folder}/metrics.sock"
[process]
runtime_dir = "{folder}"
state_dir = "{folder}/state"
""",
        encoding="utf-8",
    )
    with hanging_driver(folder), running(*bmcmedic("agent", "--config", str(config))) as pid:
        until((folder / "metrics.sock").exists)
        hang(folder)
        with DriverClient(str(folder / SOCKET), LIMIT_S) as client:
            until(lambda: client.status()["driver"]["breaker"]["open"], 3 * LIMIT_S)
        yield pid


def through_the_agent(host: Host, pid: int) -> dict[str, float]:
    """Wait only: the agent finds the clients by itself."""
    crossings = host.crossings()
    first, last = min(crossings.values()), max(crossings.values())
    before_s = cpu_s(pid)
    time.sleep(max(0.0, first - time.monotonic()))
    begun_s = cpu_s(pid)
    gone, worst_s = host.until_gone(crossings)
    return {
        "agent: all gone after s": gone - last,
        "agent: any one gone after s": worst_s,
        "agent: CPU s before": begun_s - before_s,
        "agent: CPU s from then on": cpu_s(pid) - begun_s,
    }


def watched(host: Host) -> dict[str, float]:
    """Step once a second, as a program that runs all the time does."""
    relief = Relief(HostTrees.here(), host.stuck_after_s)
    scans: list[float] = []
    while host.youngest_s() < host.stuck_after_s - STEP_S:
        begun = time.process_time()
        relief.scan()
        scans.append(time.process_time() - begun)
        time.sleep(STEP_S)
    crossed = time.monotonic() + host.stuck_after_s - host.youngest_s()
    begun = time.process_time()
    while host.left():
        if time.monotonic() > crossed + LIMIT_S:
            raise SystemExit(f"{host.left()} are still there")
        next_at = time.monotonic() + STEP_S
        relief.step(may_act=True)
        time.sleep(max(0.0, next_at - time.monotonic()) if host.left() else 0.0)
    gone = time.monotonic()
    return {
        "scan CPU ms": 1e3 * statistics.median(scans),
        "watch: all gone after s": gone - crossed,
        "watch: CPU s": time.process_time() - begun,
    }


def by_hand(host: Host) -> dict[str, float]:
    """Start the command when the youngest client crosses the threshold."""
    until(lambda: host.youngest_s() >= host.stuck_after_s)
    crossed = time.monotonic()
    crossings = dict.fromkeys(host.stuck, crossed)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "bmcmedic", "relieve", "--yes", "--stuck-after"]
    child = subprocess.Popen(
        [*command, f"{host.stuck_after_s:g}"], stdout=subprocess.DEVNULL, start_new_session=True
    )
    gone, _ = host.until_gone(crossings)
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


def measure(
    count: int, others: int, rounds: int, hogs: int, ways: list[str], stuck_after_s: float
) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name).resolve()
        host = Host(folder, stuck_after_s)
        for _ in range(hogs):
            stack.enter_context(running(sys.executable, "-c", "while True: pass"))
        innocent = host.start("python", others)
        print(f"{count} stuck, {others} others, {hogs} hogs: median (worst) of {rounds} rounds")
        for way in ways:
            with contextlib.ExitStack() as beside:
                measured = {"watch": watched, "by hand": by_hand}.get(way)
                if measured is None:
                    pid = beside.enter_context(agent(folder, stuck_after_s))
                    measured = partial(through_the_agent, pid=pid)
                tell(measured, host, count, rounds)
        survivors = set(Tree("/proc").pids()) & set(innocent)
        if len(survivors) != others:
            raise SystemExit(f"{others - len(survivors)} innocent processes are gone")


def tell(way: Callable[[Host], dict[str, float]], host: Host, count: int, rounds: int) -> None:
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        host.stuck = host.start("ipmitool", count)
        for name, figure in way(host).items():
            figures.setdefault(name, []).append(figure)
    for name, all_of_it in figures.items():
        print(f"  {name:28} {statistics.median(all_of_it):8.2f} ({max(all_of_it):.2f})")
    print(f"  {'load':28} {os.getloadavg()[0]:8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--others", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hogs", type=int, default=0)
    parser.add_argument(
        "--stuck-after", type=float, default=20.0, help="18 or more: nobody is ended sooner"
    )
    parser.add_argument("--way", action="append", choices=WAYS, help="default: all")
    options = parser.parse_args()
    ways = options.way or list(WAYS)
    sizes = (options.count, options.others, options.rounds, options.hogs)
    run_apart(lambda: measure(*sizes, ways, options.stuck_after))


if __name__ == "__main__":
    main()
