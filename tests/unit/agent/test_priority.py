"""Who comes first on the host, and for how long."""

from __future__ import annotations

import os

from bmcmedic.agent.priority import NICE, ahead_of_others


def test_who_comes_first_is_as_nice_afterwards_as_before() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with ahead_of_others():
        assert os.getpriority(os.PRIO_PROCESS, 0) in (NICE, before)  # only root may
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
