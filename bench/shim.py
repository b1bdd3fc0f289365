"""Measure what the shim costs compared with ipmitool itself, and what 64 at once cost the BMC.

`make bench-shim ARGS=[RUNS]`: the real ipmitool asks a simulated BMC through driver and proxy, by
itself and through the shim, in turns. The figures are the CPU times of the started processes.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bmcmedic.agent.loopback.server import LoopbackSettings
from bmcmedic.agent.shim import start
from bmcmedic.agent.shim.install import script
from tests.support.polling import eventually
from tests.support.sim_host import RunningProxy, SimHost, running_proxy, sim_host

COMPARES = "ipmitool itself, without the shim, in turns"
FIGURE = "CPU time that the shim adds to one `mc info`, in ms"

RUNS = 40
CROWD = 64
WORDS = ("mc", "info")
PLAIN = "ipmitool"
SHIM = "the shim, in ipmitool's place"


def cpu_ms(words: Sequence[str], environment: dict[str, str]) -> float:
    """Return the CPU time of one run, in user and kernel mode, in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def shown(name: str, figures: Sequence[float]) -> None:
    ordered = sorted(figures)
    middle = statistics.median(ordered)
    worst = ordered[int(0.95 * (len(ordered) - 1))]
    print(f"{name:<34} {middle:7.1f} ms {worst:7.1f} ms   ({len(ordered)} runs)")


def side_by_side(ways: dict[str, list[str]], environment: dict[str, str], runs: int) -> None:
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(runs + 1):
        for name, words in ways.items():
            spent = cpu_ms([*words, *WORDS], environment)
            if number:
                figures[name].append(spent)
    print(f"{'CPU of one `mc info`':<34} {'median':>10} {'95 %':>10}")
    for name, spent_ms in figures.items():
        shown(name, spent_ms)
    plain = statistics.median(figures[PLAIN])
    for name in list(ways)[1:]:
        print(f"{name} adds {statistics.median(figures[name]) - plain:.1f} ms")


def crowd(host: SimHost, words: list[str], environment: dict[str, str], name: str) -> None:
    before, began = host.requests(), time.monotonic()
    processes = [
        subprocess.Popen(
            [*words, *WORDS], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(CROWD)
    ]
    failed = sum(process.wait() != 0 for process in processes)
    took_s = time.monotonic() - began
    asked = host.requests() - before
    print(f"{CROWD} at once, {name}: {asked} requests, {took_s:.2f} s, {failed} failed")


def main(runs: int) -> None:
    real = shutil.which("ipmitool")
    if real is None:
        raise SystemExit("ipmitool is not installed")
    with tempfile.TemporaryDirectory() as name, sim_host(Path(name)) as host:
        # No run is shared here, or the figures would be those of sharing.
        nothing_shared = LoopbackSettings(port=0, shim={"share_s": "-1000"})
        with running_proxy(host.socket_path, Path(name) / "1", nothing_shared) as proxy:
            side_by_side(*ways_of(proxy, Path(name), real), runs)
        with running_proxy(host.socket_path, Path(name) / "2") as proxy:
            ways, environment = ways_of(proxy, Path(name), real)
            for way in (PLAIN, SHIM):
                crowd(host, ways[way], environment, way)


def ways_of(
    proxy: RunningProxy, directory: Path, real: str
) -> tuple[dict[str, list[str]], dict[str, str]]:
    eventually(lambda: proxy.state() == "well")
    installed = directory / "ipmitool"
    installed.write_text(script(sys.executable, start.__file__, real), encoding="utf-8")
    installed.chmod(0o755)
    way = ["-I", "lanplus", "-H", "127.0.0.1", "-p", str(proxy.port), "-U", "bmcmedic", "-C", "17"]
    ways = {
        PLAIN: [real, *way, "-f", proxy.password_file],
        SHIM: [str(installed)],
        "bmcmedic ipmitool": [str(Path(sys.executable).with_name("bmcmedic")), "ipmitool"],
    }
    return ways, {**os.environ, "BMCMEDIC_RUNTIME_DIR": str(proxy.runtime_dir)}


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS)
