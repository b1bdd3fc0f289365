"""The driver in a world where all goes wrong, from a seed; then all is well, and it recovers.

    python -m tests.support.driver_misfortune --seed 1 --seeds 100000

A run has a safety phase, in which nothing that must not be may happen, whatever goes wrong, and a
liveness phase: misfortune ends, and what waits has to settle, the breaker has to close, and new
requests are answered. Of a seed that failed it prints what was wrong and the line to repeat it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter
from dataclasses import dataclass, field

from tests.support.misfortune_run import Run

PROCESSES = 2
SEEDS_A_TIME = 50
FAULTS_SHOWN_MAX = 5


@dataclass
class Totals:
    """What happened in many runs."""

    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def play(seed: int, *, trace: bool = False) -> tuple[str | None, Counter[str]]:
    """One seed: None, or what was wrong first and how to see it again; and what happened."""
    run = Run(seed, trace)
    run.play()
    if not run.faults:
        return None, run.counts
    again = f"python -m tests.support.driver_misfortune --seed {seed} --trace"
    return f"seed {seed}: {run.faults[0]}\n  {again}", run.counts


def play_all(first_seed: int, seeds: int) -> Totals:
    """Many of them, on all processors that there are."""
    totals = Totals()
    context = multiprocessing.get_context("spawn")
    with context.Pool(PROCESSES) as pool:
        every = range(first_seed, first_seed + seeds)
        for fault, counts in pool.imap_unordered(play, every, SEEDS_A_TIME):
            totals.counts.update(counts)
            if fault is not None:
                totals.faults.append(fault)
    return totals


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--trace", action="store_true", help="say all that happens; for one seed")
    given = parser.parse_args()
    seeds = given.seeds or (1 if given.trace else 10_000)
    sys.stdout.write(f"seeds {given.seed} to {given.seed + seeds - 1}\n")
    sys.stdout.flush()
    if given.trace:
        fault, _ = play(given.seed, trace=True)
        faults = [] if fault is None else [fault]
    else:
        totals = play_all(given.seed, seeds)
        faults = totals.faults
        sys.stdout.write(f"{dict(sorted(totals.counts.items()))}\n")
    sys.stdout.write(f"{len(faults)} of {seeds} seeds failed\n")
    for fault in faults[:FAULTS_SHOWN_MAX]:
        sys.stdout.write(f"{fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
