"""Host names to addresses beside a sweep: look-ups block, so threads do them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from bmcmedic.errors import NameNotResolved
from bmcmedic.fleet.inventory import Target, resolve

RESOLVER_THREADS_MAX = 32

Resolved = tuple[Any, Target, tuple[Any, ...] | NameNotResolved]
"""Whose name it was, which, and its socket address or why there is none."""


class Resolver:
    """A few daemon threads that look names up; `fileno()` is readable when `take()` has more.

    Daemon threads, because a look-up cannot be ended: one that hangs must not hold the program.
    """

    def __init__(self, look_up: Callable[[Target], tuple[Any, ...]] = resolve) -> None:
        self._look_up = look_up
        self._questions: SimpleQueue[tuple[Any, Target]] = SimpleQueue()
        self._answers: SimpleQueue[Resolved] = SimpleQueue()
        self._lock = threading.Lock()
        self._ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._threads = 0
        self._outstanding = 0

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._ready

    def close(self) -> None:
        """Give the descriptor back; what still hangs in a look-up ends unheard."""
        with self._lock:
            if self._ready >= 0:
                os.close(self._ready)
            self._ready = -1

    def submit(self, owner: object, target: Target) -> None:
        """Look a name up; the answer comes out of `take` with `owner`."""
        self._outstanding += 1
        if self._threads < min(self._outstanding, RESOLVER_THREADS_MAX):
            self._threads += 1
            threading.Thread(target=self._work, name="resolver", daemon=True).start()
        self._questions.put((owner, target))

    def take(self) -> list[Resolved]:
        """What has been answered since the last call."""
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
                found: tuple[Any, ...] | NameNotResolved = self._look_up(target)
            except NameNotResolved as error:
                found = error
            self._answers.put((owner, target, found))
            with self._lock:
                if self._ready >= 0:
                    os.eventfd_write(self._ready, 1)
