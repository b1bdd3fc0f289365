"""The breaker: when the BMC stops answering, nobody waits for it any more. Pure: `now` comes in."""

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
    """When it opens, and how it asks whether the BMC is back."""

    failures_max: int = 3
    """Attempts in a row without an answer."""
    silence_s_max: float = 10.0
    """Waited in exchanges in a row without an answer, the one in flight included."""
    probe_s_min: float = 1.0
    """From opening to the first question; doubled after each that stays unanswered."""
    probe_s_max: float = 30.0


class Breaker:
    """Closed while the BMC answers."""

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
        """In a row."""
        self.waited_s = 0.0
        """In them."""
        self.opened_at: float | None = None
        self.next_probe_at = 0.0
        self.openings = 0
        self.reason = ""
        """What the last failure said."""
        self.missing = False
        """Whether that was that there is no interface to a BMC at all."""
        self._wait_s = limits.probe_s_min

    @property
    def is_open(self) -> bool:
        """Whether requests are answered without the BMC."""
        return self.opened_at is not None

    def succeeded(self) -> None:
        """The BMC answered."""
        self.failures = 0
        self.waited_s = 0.0
        self.missing = False
        self.opened_at = None
        self._wait_s = self.limits.probe_s_min

    def waits(self, now: float, in_flight_s: float) -> None:
        """An exchange, if any, has been in flight for so long, which may open it."""
        if self.opened_at is not None or in_flight_s <= 0.0:
            return
        waited_s = self.waited_s + in_flight_s
        if waited_s >= self.limits.silence_s_max:
            self.failed(now, f"no answer for {waited_s:.0f} s", in_flight_s)

    def failed(
        self, now: float, reason: str, waited_s: float = 0.0, *, missing: bool = False
    ) -> bool:
        """The BMC did not answer in so long, where it was waited for; True when that opened it.

        `missing`: there is no interface to a BMC, which need not be seen again.
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
        # A pat that fails meanwhile is no reason to put the question off: where the BMC fails at
        # pats alone, it would never be asked.
        if now >= self.next_probe_at:
            self._wait_s = min(2 * self._wait_s, self.limits.probe_s_max)
            self.next_probe_at = now + self._wait_s
        return False

    @property
    def interface_missing(self) -> str | None:
        """Why there is no interface to a BMC, as far as is known; None: there is one."""
        return self.reason if self.missing else None

    def refusal(self, now: float) -> BmcmedicError:
        """What they are told whose requests are not sent."""
        if self.missing:
            return InterfaceGone(self.reason)
        opened_at = self.opened_at
        since_s = 0.0 if opened_at is None else now - opened_at
        return BreakerOpen(
            f"the BMC has not answered for {since_s:.0f} s and more, so nothing is sent to it but "
            f"the driver's own questions; the last failure: {self.reason}"
        )

    def describe(self, now: float) -> dict[str, Any]:
        """How it stands; durations in seconds."""
        opened_at = self.opened_at  # once: another thread may close it meanwhile
        return {
            "open": opened_at is not None,
            "open_for_s": None if opened_at is None else now - opened_at,
            "openings": self.openings,
            "failures_in_a_row": self.failures,
            "reason": self.reason if self.failures else None,
        }


def is_missing(error: BmcmedicError, last_answer_at: float | None) -> bool:
    """Whether an exchange failed because there is no interface to a BMC at all.

    Where nobody drives the registers, but a BMC has answered through them before, it restarts.
    """
    nobody = isinstance(error, NothingThere) and last_answer_at is None
    return nobody or isinstance(error, InterfaceGone)


class AnswerCache(Generic[KeyT]):
    """The last good answer to each question, the oldest forgotten first."""

    __slots__ = ("answers_max", "_answers")

    def __init__(self, answers_max: int) -> None:
        self.answers_max = answers_max
        self._answers: OrderedDict[KeyT, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def put(self, key: KeyT, answer: bytes, now: float) -> None:
        """Keep an answer."""
        self._answers[key] = (answer, now)
        self._answers.move_to_end(key)
        if len(self._answers) > self.answers_max:
            self._answers.popitem(last=False)

    def clear(self) -> None:
        """Something is changed: what was so is not known to be so any more."""
        self._answers.clear()

    def get(self, key: KeyT, now: float) -> tuple[bytes, float] | None:
        """An answer and its age in seconds."""
        kept = self._answers.get(key)
        return None if kept is None else (kept[0], now - kept[1])
