"""The agent runs behind the host's own work, except while it relieves the host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

NICE = -10
"""As the command takes it: on a host with a load of 190 all others wait for it to be done."""


@contextlib.contextmanager
def ahead_of_others() -> Iterator[None]:
    """The calling thread comes first meanwhile, where that is allowed (`LimitNICE=`)."""
    before: int | None = None
    with contextlib.suppress(OSError):
        # On Linux each thread has a niceness of its own, and 0 is the one that asks.
        before = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, min(NICE, before))
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, before)
