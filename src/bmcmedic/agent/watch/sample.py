"""The cheap look: a few numbers that the kernel keeps, which tell whether more is worth looking at.

It reads some ten small files and no process but the kernel's polling threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from bmcmedic.host.kernel import interface, kipmid
from bmcmedic.host.kernel.interface import InterfaceActivity, InterfaceCounters
from bmcmedic.host.kernel.kipmid import Kipmi, KipmiMark
from bmcmedic.host.kernel.proc import Stat, Tree
from bmcmedic.host.triage.diagnosis import KIPMI_AT_REST_PERCENT


@dataclass(frozen=True, slots=True)
class SampleDelta:
    """What moved since the look before."""

    kipmi: list[Kipmi]
    interfaces: list[InterfaceActivity]

    @property
    def odd(self) -> str | None:
        """What is worth a closer look; None: nothing.

        Queued messages that wait while none completes, transactions that the kernel gave up, and a
        polling thread at work: the kernel waits for the BMC. Whether it waits in vain is not told
        by this.
        """
        for each in self.interfaces:
            if each.hosed_delta:
                return f"{each.name}: the kernel gave up {each.hosed_delta} transactions"
            if each.queued and each.was_queued and not each.completed_delta:
                return f"{each.name}: {each.queued} messages wait, and none completed"
        for thread in self.kipmi:
            if (thread.cpu_percent or 0.0) >= KIPMI_AT_REST_PERCENT:
                return f"{thread.name} is at {thread.cpu_percent:g} % of a core"
        return None


class Sampler:
    """One look after the other."""

    def __init__(self, proc: Tree, sys: Tree | None) -> None:
        """`threads` are found by whoever looks at all processes."""
        self._proc = proc
        self._sys = sys
        self.threads: list[Stat] = []
        self._kipmi: list[KipmiMark] = []
        self._counters: list[InterfaceCounters] | None = None

    def look(self) -> SampleDelta:
        """Look once more; the first tells little, as nothing is known before it."""
        marks = kipmid.mark(self._proc, self.threads)
        counters = interface.read(self._sys, self._proc)
        seen = SampleDelta(
            kipmid.compare(self._kipmi, marks),
            interface.compare(self._counters or counters, counters),
        )
        self._kipmi, self._counters = marks, counters
        return seen
