"""The strikes against driver and agent in an upheaval, drawn from a seed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SEED_VARIABLE = "BMCMEDIC_UPHEAVAL_SEED"
"""Environment variable with the only seed to run, to repeat a failure."""


@dataclass(frozen=True, slots=True)
class Strike:
    """Signals for some processes, some time after a moment in the life of the first one.

    The moments: `alive` (it runs), `ready` (it has reported READY), `start` (it was killed and
    starts again), `undo` (the agent was killed and its undo runs), `exchange` (a client waits for
    the BMC), `pat` (a pat is due), `watching` (the watcher has taken over), `acted` (the agent is
    about to change the host), `throttled` (it has throttled kipmid).
    """

    victims: tuple[str, ...]
    moment: str
    after_s: float
    signals: tuple[str | float, ...] = ("KILL",)
    """The signals, sent one after the other; a number is a pause in seconds."""

    def order(self) -> dict[str, Any]:
        """Return the strike as an order for the keeper."""
        return asdict(self)


def seeds(defaults: Sequence[int]) -> Sequence[int]:
    """Return the seeds to run: the defaults, or the one in the environment."""
    asked = os.environ.get(SEED_VARIABLE)
    return defaults if asked is None else (int(asked),)


def _delay_s(dice: random.Random, most_s: float) -> float:
    return round(dice.uniform(0.0, most_s), 3)


def starting(dice: random.Random, *victims: str) -> Strike:
    """Strike during the start: it loads, claims its files, or sends its first request."""
    return Strike(victims, "start", _delay_s(dice, 3.0))


def running(dice: random.Random, *victims: str) -> Strike:
    """Strike some time after it was ready, among pats, samples and requests."""
    return Strike(victims, "ready", _delay_s(dice, 3.0))


def exchanging(dice: random.Random, *victims: str) -> Strike:
    """Strike in the middle of a client's exchange with the BMC."""
    return Strike(victims, "exchange", _delay_s(dice, 0.05))


def patting(dice: random.Random) -> Strike:
    """Strike the driver when the next pat is just due, or under way."""
    return Strike(("driver",), "pat", _delay_s(dice, 0.1))


def unwatched(dice: random.Random) -> Strike:
    """Kill the pretimeout watcher; its driver has to notice."""
    return Strike(("watcher",), "watching", _delay_s(dice, 1.0))


def with_stopped_watcher(dice: random.Random) -> tuple[Strike, ...]:
    """Stop the watcher for good, then kill its driver: the next driver has to end the watcher."""
    return (
        Strike(("watcher",), "watching", _delay_s(dice, 1.0), ("STOP",)),
        Strike(("driver",), "alive", _delay_s(dice, 1.0)),
    )


def stopped(dice: random.Random, victim: str) -> Strike:
    """Stop a process for a moment (SIGSTOP), then let it go on."""
    pause_s = 0.2 + _delay_s(dice, 3.0)
    return Strike((victim,), "ready", _delay_s(dice, 1.0), ("STOP", pause_s, "CONT"))


def killed_while_stopped(dice: random.Random, victim: str) -> Strike:
    """Kill a stopped process, as a service manager does."""
    pause_s = 0.2 + _delay_s(dice, 1.0)
    return Strike((victim,), "exchange", _delay_s(dice, 0.05), ("STOP", pause_s, "KILL"))


def killed_while_ending(dice: random.Random, victim: str) -> Strike:
    """Kill a process shortly after it was asked to end."""
    pause_s = 0.001 + _delay_s(dice, 0.4)
    return Strike((victim,), "ready", _delay_s(dice, 1.0), ("TERM", pause_s, "KILL"))


def undoing(dice: random.Random) -> Strike:
    """Kill the process that undoes a killed agent's changes, too."""
    return Strike(("undo",), "undo", _delay_s(dice, 1.5))


def acting(dice: random.Random) -> Strike:
    """Strike while the agent relieves the host."""
    return Strike(("agent",), "acted", _delay_s(dice, 1.5))


def having_throttled(dice: random.Random) -> Strike:
    """Strike while the agent throttles the kernel's thread."""
    return Strike(("agent",), "throttled", _delay_s(dice, 0.5))


def well_plan(dice: random.Random, count: int) -> list[Strike]:
    """Return strikes for a host whose BMC answers; no kind repeats before all have come."""
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
    """Return strikes for a host whose BMC hangs; the first two hit the agent's first actions."""
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
