"""Waiting for a condition that another thread, process or task brings about, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

TIMEOUT_S = 90.0
"""Longest wait, in seconds. On a busy machine the start of one process takes several."""
POLL_S = 0.002


def eventually(
    holds: Callable[[], object],
    seen: Callable[[], object] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    poll_s: float = POLL_S,
) -> float:
    """Poll until `holds()` is true, and return how long that took, in seconds.

    Raises: AssertionError after `timeout_s`; `seen()` tells it what there was instead.
    """
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() < begun + timeout_s, _failure(timeout_s, seen)
        time.sleep(poll_s)
    return time.monotonic() - begun


async def eventually_in_loop(
    holds: Callable[[], object], *, timeout_s: float = TIMEOUT_S, poll_s: float = POLL_S
) -> None:
    """Poll until `holds()` is true while the other tasks of the event loop go on.

    Raises: AssertionError after `timeout_s`.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + timeout_s
    while not holds():
        assert loop.time() < give_up_at, _failure(timeout_s, None)
        await asyncio.sleep(poll_s)


def _failure(timeout_s: float, seen: Callable[[], object] | None) -> str:
    said = f"the condition did not hold within {timeout_s:g} s"
    return said if seen is None else f"{said}: {seen()!r}"
