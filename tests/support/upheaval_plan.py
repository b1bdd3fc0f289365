"""What is done to driver and agent in an upheaval, drawn from a seed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SEED_VARIABLE = "BMCMEDIC_UPHEAVAL_SEED"
"""Set, it is the only seed: to repeat what failed."""


@dataclass(frozen=True, slots=True)
class Strike:
    """Signals for some processes, at a moment of the first one's life and so much later.

    The moments: `alive` (at once), `ready` (has told so), `start` (is ended before, so that it
    starts), `undo` (the same for what comes after the agent), `exchange` (a client waits for the
    BMC), `pat` (one is due), `watching` (the watcher has taken over), `acted` (the agent is about
    to change something), `throttled` (it has).
    """

    victims: tuple[str, ...]
    moment: str
    after_s: float
    signals: tuple[str | float, ...] = ("KILL",)
    """One after the other; a number is a pause in seconds."""

    def order(self) -> dict[str, Any]:
        """As the keeper takes it."""
        return asdict(self)


def seeds(defaults: Sequence[int]) -> Sequence[int]:
    """Those to run: these, or the one that is asked for."""
    asked = os.environ.get(SEED_VARIABLE)
    return defaults if asked is None else (int(asked),)


def _delay_s(dice: random.Random, most_s: float) -> float:
    return round(dice.uniform(0.0, most_s), 3)


def starting(dice: random.Random, *victims: str) -> Strike:
    """While it loads, claims its files, or asks its first question."""
    return Strike(victims, "start", _delay_s(dice, 3.0))


def running(dice: random.Random, *victims: str) -> Strike:
    """Some time after it was ready: among pats, looks and questions."""
    return Strike(victims, "ready", _delay_s(dice, 3.0))


def exchanging(dice: random.Random, *victims: str) -> Strike:
    """In the middle of a client's exchange with the BMC."""
    return Strike(victims, "exchange", _delay_s(dice, 0.05))


def patting(dice: random.Random) -> Strike:
    """When the next pat is just due, or under way."""
    return Strike(("driver",), "pat", _delay_s(dice, 0.1))


def unwatched(dice: random.Random) -> Strike:
    """The pretimeout watcher dies, and its driver has to notice."""
    return Strike(("watcher",), "watching", _delay_s(dice, 1.0))


def with_stopped_watcher(dice: random.Random) -> tuple[Strike, ...]:
    """The watcher is stopped for good, and then its driver dies: the next one has to end it."""
    return (
        Strike(("watcher",), "watching", _delay_s(dice, 1.0), ("STOP",)),
        Strike(("driver",), "alive", _delay_s(dice, 1.0)),
    )


def stopped(dice: random.Random, victim: str) -> Strike:
    """Stopped for a moment, and going on as if nothing had been."""
    pause_s = 0.2 + _delay_s(dice, 3.0)
    return Strike((victim,), "ready", _delay_s(dice, 1.0), ("STOP", pause_s, "CONT"))


def killed_while_stopped(dice: random.Random, victim: str) -> Strike:
    """As a service manager ends one that does not move."""
    pause_s = 0.2 + _delay_s(dice, 1.0)
    return Strike((victim,), "exchange", _delay_s(dice, 0.05), ("STOP", pause_s, "KILL"))


def killed_while_ending(dice: random.Random, victim: str) -> Strike:
    """It was asked to end, and is not given the time."""
    pause_s = 0.001 + _delay_s(dice, 0.4)
    return Strike((victim,), "ready", _delay_s(dice, 1.0), ("TERM", pause_s, "KILL"))


def undoing(dice: random.Random) -> Strike:
    """What puts a killed agent's changes back dies, too."""
    return Strike(("undo",), "undo", _delay_s(dice, 1.5))


def acting(dice: random.Random) -> Strike:
    """While the agent relieves the host."""
    return Strike(("agent",), "acted", _delay_s(dice, 1.5))


def having_throttled(dice: random.Random) -> Strike:
    """While the kernel's thread is held back by it."""
    return Strike(("agent",), "throttled", _delay_s(dice, 0.5))


def well_plan(dice: random.Random, count: int) -> list[Strike]:
    """For a host whose BMC answers: each kind of strike before any comes twice."""
    kinds: list[Callable[[], Strike | tuple[Strike, ...]]] = [
        lambda: starting(dice, "driver"),
        lambda: starting(dice, "agent"),
        lambda: running(dice, "driver"),
        lambda: running(dice, "agent"),
        lambda: running(dice, "driver", "agent"),
        lambda: exchanging(dice, "driver", "agent"),
        lambda: exchanging(dice, "driver"),
        lambda: patting(dice),
        lambda: unwatched(dice),
        lambda: with_stopped_watcher(dice),
        lambda: stopped(dice, "driver"),
        lambda: stopped(dice, "agent"),
        lambda: killed_while_stopped(dice, "driver"),
        lambda: killed_while_ending(dice, "driver"),
        lambda: killed_while_ending(dice, "agent"),
        lambda: undoing(dice),
    ]
    drawn: list[Strike] = []
    while len(drawn) < count:
        dice.shuffle(kinds)
        for kind in kinds[: count - len(drawn)]:
            strikes = kind()
            drawn += [strikes] if isinstance(strikes, Strike) else strikes
    return drawn


def hung_plan(dice: random.Random, count: int) -> list[Strike]:
    """For one whose BMC hangs: first when the agent acts for the first time, and when it has."""
    kinds: list[Callable[[], Strike]] = [
        lambda: running(dice, "driver"),
        lambda: running(dice, "agent"),
        lambda: running(dice, "agent", "driver"),
        lambda: starting(dice, "driver"),
        lambda: undoing(dice),
        lambda: killed_while_ending(dice, "agent"),
        lambda: stopped(dice, "driver"),
    ]
    dice.shuffle(kinds)
    return [acting(dice), having_throttled(dice), *(kind() for kind in kinds[: count - 2])]
