"""The shipped driver in many seeded incidents: no false pretimeout, and no pat that waits too long.

    python -m tests.support.starvation_seeds --seed 1 --seeds 10000

prints the seeds that it plays, and for one that failed what was wrong and the line to repeat it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator

from bmcmedic.lab.starvation.run import simulate
from bmcmedic.lab.starvation.scenario import (
    PAT_WAIT_S_MAX,
    Design,
    StarvationRecord,
    StarvationScenario,
)

PROCESSES = 2
SEEDS_A_TIME = 25


def fault_of(record: StarvationRecord) -> str | None:
    """What must not be, or None."""
    if record.false_pretimeouts:
        at = next(each.at for each in record.pretimeouts if each.is_false)
        return f"the pretimeout fired on a healthy host at {at:.3f} s"
    if record.longest_starvation_s > PAT_WAIT_S_MAX:
        return (
            f"a pat waited for {record.longest_starvation_s:.3f} s, "
            f"and one exchange and a slice are {PAT_WAIT_S_MAX:.3f} s"
        )
    if not any(pat.answered for pat in record.pats):
        return "no pat was ever answered"
    return None


def play(design: Design, seed: int) -> str | None:
    """One seed; None, or what was wrong and how to see it again."""
    fault = fault_of(simulate(design, StarvationScenario(seed)))
    if fault is None:
        return None
    return f"seed {seed}: {fault}\n  bmcmedic lab starvation --design {design.value} --seed {seed}"


def _play_shipped(seed: int) -> str | None:
    return play(Design.PRIORITY, seed)


def play_all(first_seed: int, seeds: int) -> Iterator[str]:
    """What went wrong, as it is found."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(PROCESSES) as pool:
        every = range(first_seed, first_seed + seeds)
        for fault in pool.imap_unordered(_play_shipped, every, SEEDS_A_TIME):
            if fault is not None:
                yield fault


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=10_000)
    arguments = parser.parse_args()
    sys.stdout.write(f"seeds {arguments.seed} to {arguments.seed + arguments.seeds - 1}\n")
    sys.stdout.flush()
    faults = 0
    for fault in play_all(arguments.seed, arguments.seeds):
        sys.stderr.write(f"{fault}\n")
        faults += 1
    sys.stdout.write(f"{faults} of {arguments.seeds} seeds failed\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
