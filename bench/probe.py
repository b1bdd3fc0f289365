"""Measures `bmcmedic probe` beside FreeIPMI's `ipmipower`, over the same simulated rack.

    make bench-probe ARGS="[--count 5000] [--rounds 5]"

The rack runs on the last processor, and the measured program alone on the first. The CPU time is
what the kernel accounts to the finished process, start-up included. The two programs take turns,
and each figure is the median of the rounds. Compare ratios of one run rather than absolute times.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMPARES = "FreeIPMI's ipmipower over the same rack, in turns"
FIGURE = "CPU time a host, in ms, as a ratio to ipmipower's"

BMCMEDIC = [sys.executable, "-m", "bmcmedic"]
FIRST_CPU = 0
LAST_CPU = (os.cpu_count() or 1) - 1
PORT = 6237
DEAD_FRACTION = 0.1
"""The fraction of dead BMCs in the rack of `some_dead`."""
LOSS = 0.2
"""The probability that a datagram is lost, in each direction, in `much_loss`."""
SMALL_COUNT = 1000
"""How many BMCs the racks of `some_dead` and `much_loss` have."""
WARM_ROUNDS = 20
"""How many further rounds `kept_sessions` measures."""
ENVIRONMENT = {**os.environ, "BMCMEDIC_USER": "admin", "BMCMEDIC_PASSWORD": "secret"}


@dataclass(frozen=True)
class Run:
    """The accounts and the output of one finished program."""

    cpu_s: float
    wall_s: float
    rss_mib: float
    lines: list[tuple[float, str]]
    """Each line of the output, with the seconds since the start."""


@contextmanager
def rack(base_address: str, count: int, faults: dict[str, str]) -> Iterator[list[str]]:
    """Run a simulated rack, and yield the addresses of its BMCs."""
    command = [*BMCMEDIC, "sim", "rack", "--count", str(count), "--base-address", base_address]
    command += ["--port", str(PORT), "--seed", "1"]
    for name, fault in faults.items():
        command += ["--fault", f"{name}={fault}"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: pin(LAST_CPU),  # noqa: PLW1509 - one thread
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "ready":
                break
        else:
            raise SystemExit("the rack did not start")
        yield [address(base_address, number) for number in range(count)]
    finally:
        process.terminate()
        process.wait(timeout=20)


def address(base: str, offset: int) -> str:
    """Return the address that is `offset` after `base`."""
    octets = [int(octet) for octet in base.split(".")]
    number = int.from_bytes(bytes(octets), "big") + offset
    return ".".join(str(octet) for octet in number.to_bytes(4, "big"))


def pin(cpu: int) -> None:
    """Keep the calling process on one processor, and allow it many sockets."""
    os.sched_setaffinity(0, {cpu})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(command: list[str]) -> Run:
    """Run a program on the first processor and read its accounts."""
    started_at = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: pin(FIRST_CPU),  # noqa: PLW1509 - one thread
    )
    assert process.stdout is not None
    lines = [(time.monotonic() - started_at, line) for line in process.stdout]
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return Run(
        usage.ru_utime + usage.ru_stime,
        time.monotonic() - started_at,
        usage.ru_maxrss / 1024,
        lines,
    )


def ours(targets: list[str], *options: str) -> Run:
    """Run `bmcmedic probe` of all targets."""
    nodes = ",".join(f"{target}:{PORT}" for target in targets)
    return run([*BMCMEDIC, "probe", *options, nodes])


def ipmipower(targets: list[str], suite: int) -> Run:
    """Run `ipmipower -s` of all targets, with the secret from a file."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write("username admin\npassword secret\n")
        config.flush()
        Path(config.name).chmod(0o600)
        nodes = ",".join(f"{target}:{PORT}" for target in targets)
        options = ["--config-file", config.name, "-D", "LAN_2_0", "-I", str(suite), "-s"]
        return run(["ipmipower", *options, "-h", nodes])


def answered(result: Run) -> int:
    """Count the targets whose power state a run of either program reports."""
    return sum(": power on" in line or line.strip().endswith(": on") for _, line in result.lines)


def median_cpu_ms(runs: list[Run], count: int) -> float:
    """Return the median CPU time for each host, in milliseconds."""
    return statistics.median(each.cpu_s for each in runs) / count * 1000


def full_sessions(count: int, rounds: int) -> None:
    """Measure the power status of every BMC, with a full session each."""
    print(f"\nFull sessions, {count} BMCs, cold start, CPU time per host (median of {rounds}):")
    with rack("127.21.0.1", count, {}) as targets:
        for suite in (17, 3):
            mine, theirs, ratios = [], [], []
            for _ in range(rounds):
                mine.append(ours(targets, "--cipher-suite", str(suite)))
                theirs.append(ipmipower(targets, suite))
                ratios.append(theirs[-1].cpu_s / mine[-1].cpu_s)
            print(f"  suite {suite:2}  bmcmedic  {describe(mine, count)}")
            print(f"            ipmipower {describe(theirs, count)}")
            print(
                f"            ipmipower / bmcmedic: median {statistics.median(ratios):.2f}, "
                f"min {min(ratios):.2f}, max {max(ratios):.2f}"
            )
        kept_sessions(targets, rounds)


def describe(runs: list[Run], count: int) -> str:
    """Return one line about the runs of one program."""
    return (
        f"{median_cpu_ms(runs, count):.3f} ms (min {min(r.cpu_s for r in runs) / count * 1000:.3f})"
        f", {statistics.median(r.wall_s for r in runs):.2f} s wall,"
        f" {max(r.rss_mib for r in runs):.0f} MiB, {min(map(answered, runs))} answered"
    )


def kept_sessions(targets: list[str], rounds: int) -> None:
    """Measure one round trip over a kept session: what further rounds add to the first."""
    costs = []
    for _ in range(rounds):
        once = ours(targets, "--session", "warm", "--count", "1")
        more = ours(
            targets, "--session", "warm", "--count", str(1 + WARM_ROUNDS), "--period", "0.5"
        )
        costs.append((more.cpu_s - once.cpu_s) / (WARM_ROUNDS * len(targets)) * 1e6)
    print(
        f"\nKept sessions, {len(targets)} BMCs, {WARM_ROUNDS} further rounds, CPU time per probe:\n"
        f"  bmcmedic  median {statistics.median(costs):.1f} us, min {min(costs):.1f} us"
    )


def some_dead(rounds: int) -> None:
    """Measure when live and dead BMCs are reported, with a tenth of the BMCs dead."""
    print(f"\n{SMALL_COUNT} BMCs, {DEAD_FRACTION:.0%} dead (worst of {rounds}):")
    step = round(1 / DEAD_FRACTION)
    faults = {f"bmc{number:05}": "dead" for number in range(1, SMALL_COUNT + 1, step)}
    with rack("127.22.0.1", SMALL_COUNT, faults) as targets:
        dead = {f"{targets[number]}:{PORT}" for number in range(0, SMALL_COUNT, step)}
        live_s, dead_s, results = 0.0, 0.0, set()
        for _ in range(rounds):
            found = ours(targets, "--json")
            named = [(at, json.loads(line)) for at, line in found.lines]
            live_s = max(live_s, *(at for at, each in named if each["target"] not in dead))
            dead_s = max(dead_s, *(at for at, each in named if each["target"] in dead))
            well = sum(each["error"] is None for _, each in named)
            results.add((len(named), len({each["target"] for _, each in named}), well))
        print(f"  bmcmedic  live by {live_s:.2f} s, dead by {dead_s:.2f} s after the start;")
        print(f"            (results, targets, well) in every round: {sorted(results)}")
        theirs = ipmipower(targets, 17)
        print(f"  ipmipower all by {theirs.wall_s:.2f} s, {answered(theirs)} answered")


def much_loss(rounds: int) -> None:
    """Measure how many BMCs answer when a fifth of the datagrams is lost, in each direction."""
    print(f"\n{SMALL_COUNT} BMCs, {LOSS:.0%} loss in each direction:")
    faults = {f"bmc{number:05}": f"lan-loss:{LOSS}" for number in range(1, SMALL_COUNT + 1)}
    with rack("127.23.0.1", SMALL_COUNT, faults) as targets:
        runs = [ours(targets, "--timeout", "6") for _ in range(rounds)]
        total = SMALL_COUNT * rounds
        share = sum(map(answered, runs)) / total
        print(
            f"  bmcmedic  {share:.2%} of {total} answered within 6 s, "
            f"{median_cpu_ms(runs, SMALL_COUNT):.3f} ms CPU time per host, all by "
            f"{max(each.lines[-1][0] for each in runs):.2f} s"
        )
        theirs = ipmipower(targets, 17)
        print(
            f"  ipmipower {answered(theirs) / SMALL_COUNT:.2%} answered by {theirs.wall_s:.2f} s, "
            f"{theirs.cpu_s / SMALL_COUNT * 1000:.3f} ms CPU time per host"
        )


def main() -> None:
    """Run all four measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.2f}, Python {sys.version[:7]}")
    full_sessions(arguments.count, arguments.rounds)
    some_dead(arguments.rounds)
    much_loss(arguments.rounds)


if __name__ == "__main__":
    main()
