"""A simulated BMC's watchdog timer, asked about all the time while something happens."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bmcmedic.lab.sim_process import SimProcess

PERIOD_S = 0.1


@dataclass(frozen=True)
class Seen:
    """The BMC's counters and timer at one moment, from its control endpoint."""

    at: float
    pats: int
    running: bool
    left_s: float
    has_expired: bool


class PatWatch:
    """Asks the BMC about its timer all the time, in a thread of its own."""

    def __init__(self, bmc: SimProcess) -> None:
        self._bmc = bmc
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pat-watch")
        self.seen: list[Seen] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(PERIOD_S):
            told = self._bmc.get()
            timer = told["watchdog"]
            if timer is not None:
                self._see(
                    Seen(
                        time.monotonic(),
                        told["requests"].get("06/22", 0),
                        timer["running"],
                        timer["present_countdown_s"],
                        bool(timer["expiration_flags"]),
                    )
                )

    def _see(self, seen: Seen) -> None:
        self.seen.append(seen)

    @property
    def pats(self) -> int:
        """How many the BMC has had."""
        return self.seen[-1].pats if self.seen else 0

    @property
    def armed(self) -> list[Seen]:
        """What was seen since the first pat."""
        return [each for each in self.seen if each.pats]

    @property
    def has_expired(self) -> bool:
        """Whether the timer ever ran out."""
        return any(each.has_expired for each in self.seen)

    def gap_s_max(self) -> float:
        """The longest time from one pat to the next."""
        longest, last = 0.0, self.armed[0]
        for each in self.armed:
            longest = max(longest, each.at - last.at)
            if each.pats != last.pats:
                last = each
        return longest

    def stopped_s_max(self) -> float:
        """The longest time that the timer was seen to stand, after the first pat."""
        longest, since = 0.0, None
        for each in self.armed:
            since = None if each.running else each.at if since is None else since
            longest = max(longest, 0.0 if since is None else each.at - since)
        return longest
