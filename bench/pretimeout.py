"""Measures how late the pretimeout watcher fires beside busy processes, and its memory.

`make bench-pretimeout ARGS="[--busy 100] [--firings 10]"`; as root, for SCHED_RR and locked memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bmcmedic.driver.watchdog.pretimeout import PretimeoutCallout
from bmcmedic.driver.watchdog.pretimeout_process import (
    PretimeoutWatcher,
    StampsFile,
    WatcherSettings,
)
from bmcmedic.driver.watchdog.pretimeout_watcher import CHECK_PERIOD_S

COMPARES = "the limit that the watcher is set to"
FIGURE = "how late the pretimeout watcher fires, in s; its memory in MiB"

LIMIT_S = 1.0
PRIORITY = 11
FIRE_S_MAX = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=100, help="busy processes beside it")
    parser.add_argument("--firings", type=int, default=10)
    given = parser.parse_args()
    # The one who measures must not be late itself.
    os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    busy = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"])
        for _ in range(given.busy)
    ]
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), given.firings)
    finally:
        for process in busy:
            process.kill()
        for process in busy:
            process.wait()


def measure(folder: Path, firings: int) -> None:
    log = folder / "log"
    log.touch()
    file = StampsFile(folder)
    callout = PretimeoutCallout(file.stamps, time.monotonic, LIMIT_S, pid=os.getpid())
    watcher = PretimeoutWatcher(
        file,
        callout.generation,
        WatcherSettings(kernel_log=log, real_time_priority=PRIORITY),
        print,
    )
    watcher.start()
    late = []
    for number in range(1, firings + 1):
        callout.arm()
        until = time.monotonic() + FIRE_S_MAX
        while file.stamps.watcher.read().extra < number:
            if time.monotonic() > until:
                sys.exit("it did not fire")
            time.sleep(0.02)
        # It says so right after it has fired.
        late.append(file.stamps.watcher.last.at - callout.stamp.due_at)
    print(f"{firings} firings, late by (looked at every {CHECK_PERIOD_S:g} s):")
    print(f"  median {statistics.median(late):.3f} s, longest {max(late):.3f} s")
    memory(watcher)
    callout.end()
    watcher.wait_until_gone(FIRE_S_MAX)
    file.close()


def memory(watcher: PretimeoutWatcher) -> None:
    assert watcher.pid is not None
    wanted = ("Rss", "Pss", "Private_Dirty", "Locked")
    for line in Path(f"/proc/{watcher.pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.replace(":", "").split()
        if name in wanted:
            print(f"  {name} {int(size) / 1024:.1f} MiB")


if __name__ == "__main__":
    main()
