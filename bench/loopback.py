"""Measure how long a pat waits while 50 clients ask over socket, RMCP+ and shim at once.

    sudo make bench-loopback ARGS="[--seconds 30] [--clients 50]"

The driver runs with its watchdog, over the registers of a simulated BMC, and the agent with its
loopback proxy. Clients ask as fast as they are answered, each something else, so that no answer
is shared. They ask at the driver's socket, over RMCP+ sessions that stay open, and by the real
ipmitool through the shim. The BMC takes 5 ms, 0.2 s or 1 s for an answer, or loses one of thirty,
from which the interface has to recover. In turns, the same runs with a driver that serves in the
order of arrival.

A pat waits from the moment its thread wants it until the exchange that carries it begins. The
figure is the longest such wait minus the longest exchange. The driver's process does the work of
the BMC as well, so exchanges take longer here than on a host.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.support.loopback_roles import ASK_S, FIFO, PAT, SICKNESSES, Sickness
from bmcmedic.agent import proxy_files

COMPARES = "the same driver that serves in the order of arrival, in turns"
FIGURE = "the longest wait of a pat less the longest exchange seen, in ms"

INTERFACES = ("socket", "RMCP+", "shim")
SERVED = "served"
DESIGNS = (SERVED, FIFO)
SOCKETS_SHARE, SESSIONS_SHARE = 0.4, 0.4
"""Shares of the clients; the rest are shims, each run of which is two more processes."""
SETTLE_S = 3.0
SETTLE_ANSWERS = 10
START_S = 60.0
END_S = 30.0
POLL_S = 0.05


@dataclass(frozen=True)
class Run:
    waits_s: list[float]
    """The wait of each pat until its own exchange began, or it was given up."""
    beyond_s: list[float]
    """The part of each wait after the end of the exchange that was under way."""
    patted_s: list[float]
    """The time of each pat until it was answered."""
    overtaken_by: list[str]
    """The requests that went before the pat that waited longest beyond its exchange."""
    machine_late_s: float
    """How late a bare thread was at the same moment, on any processor."""
    machine_late_s_max: float
    lost: int
    longest_exchange_s: float
    answered: dict[str, int]
    failed: dict[str, int]

    @property
    def difference_s(self) -> float:
        return max(self.waits_s) - self.longest_exchange_s


def judged(driver: dict[str, Any], clients: dict[str, Any], begin: float, end: float) -> Run:
    exchanges = [each for each in driver["exchanges"] if each[1] > begin and each[0] < end]
    own = [each for each in driver["exchanges"] if each[2].startswith(PAT.hex())]
    waits, beyond, patted, lost = [], [], [], 0
    overtaken_by: list[str] = []
    moment = (begin, begin)
    late = [each for record in clients.values() for each in record["late"]]
    for _due_at, begun_at, done_at, good in driver["pats"]:
        if not begin <= begun_at < end:
            continue
        lost += not good
        patted.append(done_at - begun_at)
        carried = [each for each in own if begun_at <= each[0] < done_at]
        began = carried[0][0] if carried else done_at
        waits.append(began - begun_at)
        under_way = [each[1] for each in exchanges if each[0] < begun_at < each[1]]
        beyond.append(began - max([begun_at, *under_way]))
        if beyond[-1] == max(beyond):
            overtaken_by = [each[2] for each in exchanges if begun_at <= each[0] < began]
            moment = (began - beyond[-1], began)
    answered = {
        name: sum(begin <= at < end for at in record["at"])
        for name, record in clients.items()
        if name in INTERFACES
    }
    return Run(
        waits,
        beyond,
        patted,
        overtaken_by,
        latest(late, *moment),
        latest(late, begin, end),
        lost,
        max(each[1] - each[0] for each in exchanges),
        answered,
        {name: record["failed"] for name, record in clients.items()},
    )


def latest(late: list[tuple[float, float]], begin: float, end: float) -> float:
    """The longest time that a bare thread was not run between two moments."""
    return max([0.0, *(min(at, end) - max(due, begin) for due, at in late)])


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Start this program again, in another role."""
    words = [sys.executable, "-m", "bench.support.loopback_roles", *map(str, arguments)]
    with running(*words) as process:
        yield process


@contextlib.contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()  # which ends the clients
        process.terminate()  # driver and agent end in order
        try:
            process.wait(END_S)
        finally:
            process.kill()
            process.wait()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + START_S
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"does not hold after {START_S:g} s")
        time.sleep(POLL_S)


def agent_config(folder: str) -> str:
    file = Path(folder, "agent.toml")
    file.write_text(
        f'[driver]\nsocket = "{folder}/driver.sock"\n[doors]\nloopback = true\nport = 0\n'
        f"request_s = {ASK_S:g}\nshim_deadline_s = {2 * ASK_S:g}\n"
        f'[metrics]\nlisten = "off"\n[process]\nruntime_dir = "{folder}"\n'
        f'state_dir = "{folder}/state"\nlog_level = "error"\n',
        encoding="utf-8",
    )
    return str(file)


def measured(design: str, sickness: Sickness, seconds: float, count: int) -> Run:
    sockets, sessions = int(SOCKETS_SHARE * count), int(SESSIONS_SHARE * count)
    shims = count - sockets - sessions
    with (
        tempfile.TemporaryDirectory(prefix="bmcmedic-bench-") as name,
        contextlib.ExitStack() as on,
    ):
        folder = str(Path(name).resolve())
        number = SICKNESSES.index(sickness)
        driver = on.enter_context(started("driver", folder, design, number))
        until(Path(folder, "driver.sock").exists)
        agent = (sys.executable, "-m", "bmcmedic", "agent", "--config", agent_config(folder))
        on.enter_context(running(*agent))
        until(lambda: proxy_files.read_state(folder)[0] == proxy_files.WELL)
        clients = {
            "socket": started("sockets", folder, 0, sockets),
            "RMCP+": started("sessions", folder, sockets, sessions),
            "shim": started("shims", folder, sockets + sessions, shims),
        }
        for processor in os.sched_getaffinity(0):
            clients[f"bare {processor}"] = started("bare", folder, processor, 0)
        asking = {kind: on.enter_context(each) for kind, each in clients.items()}
        time.sleep(SETTLE_S + SETTLE_ANSWERS * sickness.answer_s)
        begin = time.monotonic()
        time.sleep(seconds * sickness.times)
        end = time.monotonic()
        record = {kind: json.loads(each.communicate()[0]) for kind, each in asking.items()}
        driver.terminate()
        written = json.loads(driver.communicate(timeout=START_S)[0])
        return judged(written, record, begin, end)


def shown(design: str, run: Run) -> None:
    figures = (
        run.longest_exchange_s,
        max(run.waits_s),
        run.difference_s,
        max(run.beyond_s),
        statistics.median(run.patted_s),
        max(run.patted_s),
    )
    print(f"  {design:<8}{len(run.waits_s):6}{run.lost:6}", end="")
    print("".join(f"{1000 * figure:12.1f}" for figure in figures), end="")
    counts = [f"{kind} {number} ({run.failed[kind]})" for kind, number in run.answered.items()]
    print("   " + ", ".join(counts), flush=True)
    if design == SERVED:
        overtaken_by = ", ".join(run.overtaken_by) or "nothing"
        moment_ms, longest_ms = 1000 * run.machine_late_s, 1000 * run.machine_late_s_max
        print(f"  {overtaken_by} went before the pat that waited longest beyond one; ", end="")
        print(
            f"a bare SCHED_RR thread was {moment_ms:.1f} ms late then, {longest_ms:.1f} ms at most"
        )


def measure(sicknesses: Sequence[Sickness], seconds: float, clients: int) -> None:
    for sickness in sicknesses:
        before_s = stolen_s()
        print(f"the BMC {sickness.name}; a pat each {sickness.pat_period_s:g} s; times in ms")
        print(f"  {'':<8}{'pats':>6}{'lost':>6}{'longest':>12}{'longest':>12}", end="")
        print(f"{'wait less':>12}{'beyond the':>12}{'patted':>12}{'patted':>12}   answers (failed)")
        print(f"  {'':<20}{'exchange':>12}{'wait':>12}{'exchange':>12}", end="")
        print(f"{'one it met':>12}{'median':>12}{'longest':>12}")
        runs = {}
        for design in DESIGNS:
            runs[design] = measured(design, sickness, seconds, clients)
            shown(design, runs[design])
        served, fifo = (runs[design] for design in DESIGNS)
        waits = max(fifo.waits_s) / max(served.waits_s)
        medians = statistics.median(fifo.patted_s) / statistics.median(served.patted_s)
        print(f"  in order of arrival: the longest wait {waits:.0f} times, ", end="")
        print(f"the median pat {medians:.1f} times; ", end="")
        print(f"stolen from us: {1000 * (stolen_s() - before_s):.0f} ms", flush=True)


def stolen_s() -> float:
    """Return the time that the hypervisor has taken from all processors together, in seconds."""
    ticks = int(Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[8])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--only", type=int, help="of the BMC's four ways, counted from 0")
    given = parser.parse_args()
    chosen = SICKNESSES if given.only is None else SICKNESSES[given.only :][:1]
    measure(chosen, given.seconds, given.clients)


if __name__ == "__main__":
    main()
