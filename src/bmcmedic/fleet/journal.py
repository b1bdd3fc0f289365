"""What a remediation reports while it works: its intents, its steps, its waits.

The order matters: an intent is recorded before the act. An intent without its step therefore means
that the act may have happened, and that the BMC must be observed before anything else is done.
"""

from __future__ import annotations

from typing import Protocol

from bmcmedic.model.heal import Step


class Journal(Protocol):
    """Stores or shows what happens; a durable journal returns only after it has committed."""

    async def record_intent(self, name: str, text: str) -> None:
        """Record that a step is about to begin."""

    async def record_step(self, step: Step) -> None:
        """Record that a step has ended."""

    def show_wait(self, name: str, left_s: float, text: str) -> None:
        """Show that a step is waiting; called from time to time, for people who watch."""


class SilentJournal:
    """A journal that discards everything; the verdict still has the steps."""

    async def record_intent(self, name: str, text: str) -> None:
        """Discard it."""

    async def record_step(self, step: Step) -> None:
        """Discard it."""

    def show_wait(self, name: str, left_s: float, text: str) -> None:
        """Discard it."""
