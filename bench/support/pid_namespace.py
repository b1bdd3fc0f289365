"""A pid namespace and a crowd, for benchmarks that fill a host with processes.

No other process of the machine is read or ended from within it, and nothing stays behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

from tests.support.host_clients import HostClients

LIMIT_S = 60.0
POLL_S = 0.02

_NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
_INSIDE = "BMCMEDIC_BENCH_INSIDE"
_CROWD = """
import os, select, sys
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.setsid()
        select.select([], [], [])
"""


def is_inside() -> bool:
    """Whether this process runs in the namespace that `run_apart` has made."""
    return _INSIDE in os.environ


def run_apart(work: Callable[[], None]) -> None:
    """Run this program once more in a namespace, do the work there, and end this process."""
    if not is_inside():
        os.execvpe(  # noqa: S606 - the same program, apart
            _NAMESPACE[0],
            [*_NAMESPACE, *sys.orig_argv],
            {**os.environ, _INSIDE: "1"},
        )
    raise SystemExit(_be_init(work))


def _be_init(work: Callable[[], None]) -> int:
    """Do the work in a child, and reap the orphans that end."""
    worker = os.fork()
    if worker == 0:
        os._exit(_status_of(work))
    while True:
        pid, status = os.wait()
        if pid == worker:
            return os.waitstatus_to_exitcode(status)


def _status_of(work: Callable[[], None]) -> int:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - printed, and the namespace ends with us
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    sys.stdout.flush()
    return 0


def crowd(programs: HostClients, name: str, count: int) -> None:
    """Start processes of that name, each an orphan in a session of its own, in select()."""
    command = [programs.executable(name), "-S", "-c", _CROWD, str(count), "mc", "info"]
    subprocess.run(command, env=programs.environment, check=True, timeout=LIMIT_S)


def until(holds: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Wait until something is so; end the benchmark if it never is."""
    deadline = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"does not hold after {limit_s:g} s")
        time.sleep(POLL_S)
