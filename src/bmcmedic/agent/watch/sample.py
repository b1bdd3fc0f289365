"""The sample: a few counters of the kernel that show whether a scan of all processes is worthwhile.

A sample reads about ten small files, and of all processes only the kernel's `kipmi` threads.
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
    """The changes since the sample before."""

    kipmi: list[Kipmi]
    interfaces: list[InterfaceActivity]

    @property
    def anomaly(self) -> str | None:
        """Why a closer scan is worthwhile, or None.

        There are three reasons: queued messages while none completes, transactions that the kernel
        gave up, and a busy polling thread. Each shows that the kernel waits for the BMC. None of
        them proves that it waits in vain.
        """
        for each in self.interfaces:
            if each.hosed_delta:
                return f"{each.name}: the kernel gave up {each.hosed_delta} transactions"
            if each.queued and each.was_queued and not each.completed_delta:
                # A kernel that does not count answers cannot show that there were none.
                none = ", and none completed" if each.completed_delta is not None else ""
                return f"{each.name}: {each.queued} messages wait{none}"
        for thread in self.kipmi:
            if (thread.cpu_percent or 0.0) >= KIPMI_AT_REST_PERCENT:
                return f"{thread.name} is at {thread.cpu_percent:g} % of a core"
        return None


class Sampler:
    """Takes one sample after the other."""

    def __init__(self, proc: Tree, sys: Tree | None) -> None:
        """The caller sets `threads` to the `kipmi` threads that a scan has found."""
        self._proc = proc
        self._sys = sys
        self.threads: list[Stat] = []
        self._kipmi: list[KipmiMark] = []
        self._counters: list[InterfaceCounters] | None = None

    def take(self) -> SampleDelta:
        """Take a sample; the first shows few changes, because there is none before it."""
        marks = kipmid.mark(self._proc, self.threads)
        counters = interface.read(self._sys, self._proc)
        delta = SampleDelta(
            kipmid.compare(self._kipmi, marks),
            interface.compare(self._counters or counters, counters),
        )
        self._kipmi, self._counters = marks, counters
        return delta
