"""The agent runs behind the host's own work, except while it relieves the host."""

from __future__ import annotations

import contextlib
import os

NICE = 5
"""All that it does, but for relief."""


def stay_behind() -> None:
    """The calling thread, and those that it starts, are as nice as this at the least."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
