"""Each look-up beside a sweep is answered, and one that hangs does not delay the others."""

from __future__ import annotations

import select
import threading
import time
from typing import Any

from bmcmedic.errors import NameNotResolved
from bmcmedic.fleet.inventory import Target
from bmcmedic.fleet.sweep.resolver import RESOLVER_THREADS_MAX, OwnerT, Resolved, Resolver

GIVE_UP_S = 60.0


def take(resolver: Resolver[OwnerT], count: int) -> list[Resolved[OwnerT]]:
    taken: list[Resolved[OwnerT]] = []
    give_up_at = time.monotonic() + GIVE_UP_S
    while len(taken) < count:
        assert time.monotonic() < give_up_at
        select.select([resolver.fileno()], [], [], 1.0)
        taken += resolver.take()
    return taken


def test_every_question_is_answered_with_its_owner() -> None:
    def look_up(target: Target) -> tuple[Any, ...]:
        if target.host.endswith("7"):
            raise NameNotResolved(f"no {target.host}")
        return target.host, target.port

    resolver: Resolver[int] = Resolver(look_up)
    try:
        assert resolver.take() == []
        for number in range(500):
            resolver.submit(number, Target(f"h{number}", f"h{number}"))
        answers = {owner: (target, found) for owner, target, found in take(resolver, 500)}
        assert sorted(answers) == list(range(500))
        for number, (target, found) in answers.items():
            assert target.host == f"h{number}"
            if number % 10 == 7:
                assert isinstance(found, NameNotResolved)
            else:
                assert found == (f"h{number}", 623)
        assert resolver.take() == []
    finally:
        resolver.close()


def test_a_look_up_that_hangs_delays_no_other_and_threads_are_bounded() -> None:
    release = threading.Event()

    def look_up(target: Target) -> tuple[Any, ...]:
        if target.host == "hangs":
            release.wait(GIVE_UP_S)
        return (target.host,)

    resolver: Resolver[int | str] = Resolver(look_up)
    before = threading.active_count()
    try:
        for _ in range(3):
            resolver.submit("slow", Target("hangs", "hangs"))
        for number in range(200):
            resolver.submit(number, Target("h", "h"))
        answers = take(resolver, 200)
        assert "slow" not in [owner for owner, _, _ in answers]
        assert threading.active_count() - before <= RESOLVER_THREADS_MAX
        release.set()
        assert [owner for owner, _, _ in take(resolver, 3)] == ["slow"] * 3
    finally:
        release.set()
        resolver.close()
