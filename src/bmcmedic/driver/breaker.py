"""The breaker: while the BMC does not answer, clients get an answer or an error without waiting.

Pure: `now` comes in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bmcmedic.errors import BmcmedicError, BreakerOpen
from bmcmedic.ipmi.kcs_errors import NothingThere
from bmcmedic.transport.in_band import InterfaceGone

KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When the breaker opens, and how often it then asks whether the BMC is back."""

    failures_max: int = 3
    """Attempts in a row without an answer that open the breaker."""
    silence_s_max: float = 10.0
    """Time spent in exchanges in a row without an answer that opens the breaker, in seconds. The
    exchange in flight counts."""
    probe_s_min: float = 1.0
    """Time from opening to the first probe, in seconds. It doubles after each unanswered probe."""
    probe_s_max: float = 30.0


class Breaker:
    """Counts unanswered exchanges; it is closed while the BMC answers."""

    __slots__ = (
        "failures",
        "limits",
        "missing",
        "next_probe_at",
        "opened_at",
        "openings",
        "reason",
        "waited_s",
        "_wait_s",
    )

    def __init__(self, limits: BreakerLimits) -> None:
        self.limits = limits
        self.failures = 0
        """Attempts without an answer since the last answer."""
        self.waited_s = 0.0
        """Time waited in those attempts, in seconds."""
        self.opened_at: float | None = None
        self.next_probe_at = 0.0
        self.openings = 0
        self.reason = ""
        """The message of the last failure."""
        self.missing = False
        """Whether the last failure was that there is no interface to a BMC at all."""
        self._wait_s = limits.probe_s_min

    @property
    def is_open(self) -> bool:
        """Whether requests are answered without asking the BMC."""
        return self.opened_at is not None

    def succeeded(self) -> None:
        """Close the breaker: the BMC answered."""
        self.failures = 0
        self.waited_s = 0.0
        self.missing = False
        self.opened_at = None
        self._wait_s = self.limits.probe_s_min

    def note_wait(self, now: float, in_flight_s: float) -> None:
        """Open the breaker if the exchange in flight has taken too long.

        `in_flight_s` is 0 without one.
        """
        if self.opened_at is not None or in_flight_s <= 0.0:
            return
        waited_s = self.waited_s + in_flight_s
        if waited_s >= self.limits.silence_s_max:
            self.failed(now, f"no answer for {waited_s:.0f} s", in_flight_s)

    def failed(
        self, now: float, reason: str, waited_s: float = 0.0, *, missing: bool = False
    ) -> bool:
        """Count an unanswered exchange of that length, and return whether it opened the breaker.

        `missing`: there is no interface to a BMC. One such failure is enough.
        """
        self.failures += 1
        self.waited_s += max(0.0, waited_s)
        self.reason = reason
        self.missing = missing
        if self.opened_at is None:
            limits = self.limits
            may_be_chance = self.failures < limits.failures_max
            if may_be_chance and self.waited_s < limits.silence_s_max and not missing:
                return False
            self.opened_at = now
            self.openings += 1
            self.next_probe_at = now + self._wait_s
            return True
        # A pat that fails meanwhile does not delay the probe. Otherwise a BMC that fails only at
        # pats would never be probed.
        if now >= self.next_probe_at:
            self._wait_s = min(2 * self._wait_s, self.limits.probe_s_max)
            self.next_probe_at = now + self._wait_s
        return False

    @property
    def interface_missing(self) -> str | None:
        """Why there is no interface to a BMC, as far as is known; None if there is one."""
        return self.reason if self.missing else None

    def refusal(self, now: float) -> BmcmedicError:
        """Return the error for a request that is not sent because the breaker is open."""
        if self.missing:
            return InterfaceGone(self.reason)
        opened_at = self.opened_at
        since_s = 0.0 if opened_at is None else now - opened_at
        return BreakerOpen(
            f"the BMC has not answered for {since_s:.0f} s and more, so nothing is sent to it but "
            f"the driver's own requests; the last failure: {self.reason}"
        )

    def describe(self, now: float) -> dict[str, Any]:
        """Return the breaker's state as JSON data; durations are in seconds."""
        opened_at = self.opened_at  # read once: another thread may close it meanwhile
        return {
            "open": opened_at is not None,
            "open_for_s": None if opened_at is None else now - opened_at,
            "openings": self.openings,
            "failures_in_a_row": self.failures,
            "reason": self.reason if self.failures else None,
        }


def is_missing(error: BmcmedicError, last_answer_at: float | None) -> bool:
    """Return whether an exchange failed because there is no interface to a BMC at all.

    Where nothing drives the registers but a BMC has answered through them before, the BMC is
    restarting.
    """
    nothing_drives = isinstance(error, NothingThere) and last_answer_at is None
    return nothing_drives or isinstance(error, InterfaceGone)


class AnswerCache(Generic[KeyT]):
    """A cache of the last good answer to each question; the oldest entry is dropped first."""

    __slots__ = ("answers_max", "_answers")

    def __init__(self, answers_max: int) -> None:
        self.answers_max = answers_max
        self._answers: OrderedDict[KeyT, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def put(self, key: KeyT, answer: bytes, now: float) -> None:
        """Store an answer."""
        self._answers[key] = (answer, now)
        self._answers.move_to_end(key)
        if len(self._answers) > self.answers_max:
            self._answers.popitem(last=False)

    def clear(self) -> None:
        """Drop all answers, because a request may have changed what they report."""
        self._answers.clear()

    def get(self, key: KeyT, now: float) -> tuple[bytes, float] | None:
        """Return the cached answer and its age in seconds, or None."""
        cached = self._answers.get(key)
        return None if cached is None else (cached[0], now - cached[1])
