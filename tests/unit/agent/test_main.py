"""The agent has a lower priority than the host's own work."""

from __future__ import annotations

import os

from bmcmedic.agent.main import NICE, lower_priority


def test_it_lowers_its_priority_and_never_raises_it() -> None:
    def nice_after(begun: int) -> int:
        child = os.fork()
        if child == 0:
            os.setpriority(os.PRIO_PROCESS, 0, begun)
            lower_priority()
            os._exit(os.getpriority(os.PRIO_PROCESS, 0))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert nice_after(before) == max(before, NICE)
    assert nice_after(NICE + 7) == NICE + 7
