"""What keeps the driver running at a load of 190: priority, locked memory, collector, GIL.

Each measure is taken where it is allowed. Otherwise a warning names the missing right, and the
driver runs without it.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

CAP_IPC_LOCK = 14
CAP_SYS_NICE = 23
CAP_SYS_RESOURCE = 24

MCL_CURRENT = 1
MCL_FUTURE = 2
MCL_ONFAULT = 4

M_TRIM_THRESHOLD = -1
M_ARENA_MAX = -8

SWITCH_INTERVAL_S = 0.0005
"""Longest time that a computing thread keeps the interpreter from another, in seconds.

With the default of 5 ms, a socket thread that parses would delay a pat by that much. A shorter time
costs more switches and gains nothing, because the scheduler's own delays are larger."""
STACK_BYTES = 512 * 1024
"""Stack size of each thread, in bytes; touched pages stay locked."""


def capabilities(status: Path = Path("/proc/self/status")) -> int:
    """Return the process's effective capabilities as a bit mask; 0 where they cannot be read."""
    try:
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        pass
    return 0


def has_capability(number: int) -> bool:
    """Return whether this process has the capability."""
    return bool(capabilities() >> number & 1)


def prepare(*, lock_memory: bool, oom_score_adj: int) -> Iterator[str]:
    """Prepare the process before its threads start.

    Yield a warning for each measure that failed.
    """
    threading.stack_size(STACK_BYTES)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _keep_freed_memory()
    if lock_memory:
        yield from _lock_memory()
    yield from _set_oom_score_adj(oom_score_adj)


def settle_collector() -> None:
    """Exempt everything that exists after start-up from garbage collection.

    The collector stays on, because exceptions make cycles. A full collection holds the interpreter;
    afterwards it scans only newer objects, and takes some 10 us instead of 3 ms.
    """
    gc.collect()
    gc.freeze()


def schedule_this_thread(priority: int, *, inherited: bool = False) -> str | None:
    """Give the calling thread SCHED_RR with that priority (0: none); return a warning if it fails.

    Every thread needs it: without it, a thread could hold the interpreter while 100 busy processes
    keep it off the processor. `inherited`: the threads it starts have the priority from their first
    moment. Otherwise its children, including processes, start as ordinary ones.
    """
    if priority == 0:
        return None
    try:
        policy = os.SCHED_RR if inherited else os.SCHED_RR | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    except OSError as error:
        return f"no real-time priority: {_scheduler_reason(error, priority)}"
    return None


def _scheduler_reason(error: OSError, priority: int) -> str:
    if error.errno != errno.EPERM:
        return f"{error.strerror}"
    if has_capability(CAP_SYS_NICE):
        return (
            "the control group of this process has no real-time run time (cpu.rt_runtime_us is 0)"
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_RTPRIO)
    return (
        f"it needs CAP_SYS_NICE, or LimitRTPRIO={priority} (it is {limit}); with many busy"
        " processes beside it, pats will be late"
    )


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _keep_freed_memory() -> None:
    """Keep freed memory in the process, so that using it again causes no page fault."""
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:  # other C libraries do not have it
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)


def _lock_memory() -> Iterator[str]:
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if not has_capability(CAP_IPC_LOCK) and limit != resource.RLIM_INFINITY:
        # Locked under a limit, the process would run out of memory later, at an arbitrary moment.
        yield (
            f"memory is not locked: it needs CAP_IPC_LOCK, or LimitMEMLOCK=infinity (it is"
            f" {limit // 1024} KiB); a host that swaps can delay pats"
        )
        return
    libc = _libc()
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0:
        return
    code = ctypes.get_errno()
    why = (
        "this kernel cannot lock pages as they are used (Linux 4.4 and later can)"
        if code == errno.EINVAL
        else os.strerror(code)
    )
    yield f"memory is not locked: {why}; a host that swaps can delay pats"


def _set_oom_score_adj(
    oom_score_adj: int, file: Path = Path("/proc/self/oom_score_adj")
) -> Iterator[str]:
    """Tell the kernel how early to kill this process when memory is short."""
    try:
        if int(file.read_text(encoding="ascii")) != oom_score_adj:
            file.write_text(str(oom_score_adj), encoding="ascii")
    except (OSError, ValueError) as error:
        right = "" if has_capability(CAP_SYS_RESOURCE) else "; lowering it needs CAP_SYS_RESOURCE"
        why = error.strerror if isinstance(error, OSError) else error
        yield f"oom_score_adj stays as it is: {why}{right}"
