"""What keeps the driver running on a host with a load of 190: priority, memory, collector, GIL.

Each of these is done where it is allowed; otherwise it is said which right is missing, and the
driver goes on without.
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
"""A thread that computes lets go of the interpreter this soon after another asks for it.

The default of 5 ms would be the pat's lateness behind a socket thread that parses; shorter than
this costs more switches and gains nothing beside the scheduler's own delays.
"""
STACK_BYTES = 512 * 1024
"""Of each thread; the pages that it touched stay locked."""


def capabilities(status: Path = Path("/proc/self/status")) -> int:
    """The process's effective capabilities, a bit each; 0 where they cannot be read."""
    try:
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        pass
    return 0


def has_capability(number: int) -> bool:
    """Whether this process has it."""
    return bool(capabilities() >> number & 1)


def prepare(*, lock_memory: bool, oom_score_adj: int) -> Iterator[str]:
    """Prepare the process before its threads start; yields what could not be had, as warnings."""
    threading.stack_size(STACK_BYTES)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _keep_freed_memory()
    if lock_memory:
        yield from _lock_memory()
    yield from _be_killed_late(oom_score_adj)


def settle_collector() -> None:
    """Once all is set up: what is there now is garbage never, and is not looked at again.

    The collector stays on, since exceptions make cycles; but a whole collection, which holds the
    interpreter, then looks at what came since, and takes some 10 us instead of 3 ms.
    """
    gc.collect()
    gc.freeze()


def schedule_this_thread(priority: int, *, inherited: bool = False) -> str | None:
    """Give the calling thread SCHED_RR with that priority, 0 for none; a warning where it cannot.

    Every thread has to: none may hold the interpreter while 100 busy processes keep it from the
    processor. `inherited`: so that the threads which it starts never are without; else its
    children, processes included, start as ordinary ones.
    """
    if priority == 0:
        return None
    try:
        policy = os.SCHED_RR if inherited else os.SCHED_RR | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    except OSError as error:
        return f"no real-time priority: {_scheduler_says(error, priority)}"
    return None


def _scheduler_says(error: OSError, priority: int) -> str:
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
    """Freed memory stays the process's own, so that using it again faults no page in."""
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:  # other C libraries have no such thing
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)


def _lock_memory() -> Iterator[str]:
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if not has_capability(CAP_IPC_LOCK) and limit != resource.RLIM_INFINITY:
        # Locked under a limit, the process would run out of memory later, in the middle of things.
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


def _be_killed_late(
    oom_score_adj: int, file: Path = Path("/proc/self/oom_score_adj")
) -> Iterator[str]:
    """Tell the kernel how soon to kill this process for its memory."""
    try:
        if int(file.read_text(encoding="ascii")) != oom_score_adj:
            file.write_text(str(oom_score_adj), encoding="ascii")
    except (OSError, ValueError) as error:
        right = "" if has_capability(CAP_SYS_RESOURCE) else "; lowering it needs CAP_SYS_RESOURCE"
        why = error.strerror if isinstance(error, OSError) else error
        yield f"oom_score_adj stays as it is: {why}{right}"
