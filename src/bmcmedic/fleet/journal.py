"""What a remediation tells while it works: its intents, its steps, its waits.

The order is the point: an intent is recorded before the act, so that whoever finds one without its
step knows that the act may have happened, and observes before anything else.
"""

from __future__ import annotations

from typing import Protocol

from bmcmedic.model.heal import Step


class Journal(Protocol):
    """Keeps or shows what happens; a durable one returns only when it is committed."""

    async def intends(self, name: str, text: str) -> None:
        """A step is about to begin."""

    async def records(self, step: Step) -> None:
        """A step has ended."""

    def waits(self, name: str, left_s: float, text: str) -> None:
        """A step is waiting; told from time to time, for people who watch."""


class SilentJournal:
    """Tells nobody; the steps are in the verdict all the same."""

    async def intends(self, name: str, text: str) -> None:
        """Nothing."""

    async def records(self, step: Step) -> None:
        """Nothing."""

    def waits(self, name: str, left_s: float, text: str) -> None:
        """Nothing."""
