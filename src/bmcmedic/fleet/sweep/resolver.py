"""Resolves host names beside a sweep. A look-up blocks, so threads do it.

It neither caches a name nor asks for it once only: that two names of one address are one BMC is
known to `prober`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from bmcmedic.errors import NameNotResolved
from bmcmedic.fleet.inventory import Target, resolve
from bmcmedic.transport.lan_engine import Address

RESOLVER_THREADS_MAX = 32
"""Most threads that look names up at the same time."""

OwnerT = TypeVar("OwnerT")

Resolved = tuple[OwnerT, Target, Address | NameNotResolved]
"""The owner of a look-up, its target, and the target's socket address or why there is none."""


class Resolver(Generic[OwnerT]):
    """A few threads that look names up; `fileno()` is readable when `take()` has results.

    They are daemon threads, because a look-up cannot be cancelled: one that hangs must not keep
    the program from ending.
    """

    def __init__(self, look_up: Callable[[Target], Address] = resolve) -> None:
        self._look_up = look_up
        self._questions: SimpleQueue[tuple[OwnerT, Target]] = SimpleQueue()
        self._answers: SimpleQueue[Resolved[OwnerT]] = SimpleQueue()
        self._lock = threading.Lock()
        self._ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._threads = 0
        self._outstanding = 0

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._ready

    def close(self) -> None:
        """Close the descriptor; the results of look-ups that still hang are discarded."""
        with self._lock:
            if self._ready >= 0:
                os.close(self._ready)
            self._ready = -1

    def submit(self, owner: OwnerT, target: Target) -> None:
        """Look a name up; `take` returns the result together with `owner`."""
        self._outstanding += 1
        if self._threads < min(self._outstanding, RESOLVER_THREADS_MAX):
            self._threads += 1
            threading.Thread(target=self._work, name="resolver", daemon=True).start()
        self._questions.put((owner, target))

    def take(self) -> list[Resolved[OwnerT]]:
        """Return the results that came since the last call."""
        try:
            os.eventfd_read(self._ready)
        except BlockingIOError:
            return []
        answers = []
        while not self._answers.empty():
            answers.append(self._answers.get())
            self._outstanding -= 1
        return answers

    def _work(self) -> None:
        while True:
            owner, target = self._questions.get()
            try:
                found: Address | NameNotResolved = self._look_up(target)
            except NameNotResolved as error:
                found = error
            self._answers.put((owner, target, found))
            with self._lock:
                if self._ready >= 0:
                    os.eventfd_write(self._ready, 1)
