"""One run of `driver_misfortune`: the tasks, and what must hold of all that they see."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from bmcmedic.driver.breaker import BreakerLimits
from bmcmedic.driver.driver import Driver
from bmcmedic.driver.requests import DriverLimits, Request, RequestKey
from bmcmedic.driver.watchdog.pretimeout import WAITING_S_MAX
from bmcmedic.errors import BmcmedicError, QueueFull
from bmcmedic.sim.virtual_time.runtime import WorldRuntime
from bmcmedic.sim.virtual_time.world import World
from bmcmedic.transport.in_band import Ipmb
from tests.support.misfortune_interface import (
    EXCHANGE_S_MAX,
    OEM_NETFN,
    PAT,
    PROBE,
    SLACK_S,
    SLICE_S,
    Mischief,
    MisfortuneInterface,
    WorkerKilled,
    changes_something,
)

SAFETY_S = 6.0
RECOVERS_S_MAX = 10.0
"""From the end of misfortune: a probe that is still under way, the longest pause between two, what
waits before the next, and `RECOVERED_S`."""
SEEDS_A_MISSING_INTERFACE = 4
"""Of these one starts with an interface that seems not to be there."""
CPUS = 32
"""More than there are tasks: who shares them is not the question here."""
DELAY_S_MAX = 0.002
"""A thread may lose its CPU wherever it reads the clock or takes a lock."""
CALLS_MAX = 200_000
"""Of the clock, in a run; without this, who goes in a circle is not found out."""
SATELLITE = Ipmb(6, 0x2C)
SWEEP_S = 0.2
QUITS = 0.1
"""Of the clients, who lose their patience earlier than they said."""
RECOVERED_S = 4.0
COUNTED_AT, ANSWER_AT = 3, 6
"""In a response: the number of the answer, and the request that it answers."""
LEFT_OVER = ("pending_requests", "pending_requests_highpri", "client_requests")
READS = 4
"""So few different ones that they are often asked twice at a time."""


class HastyRuntime(WorldRuntime):
    """Threads that are held up for a moment wherever that can happen."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world)
        self._random = random
        self._its_world = world
        self.likely = random.choice((0.0, 0.02, 0.2))
        self.calls_left = CALLS_MAX

    def monotonic(self) -> float:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise RuntimeError("it goes in a circle")
        if self._random.random() < self.likely and self._its_world.is_in_task:
            self._its_world.sleep(self._random.random() * DELAY_S_MAX)
        return super().monotonic()


@dataclass(eq=False)
class Asked:
    """A client's request, and what has become of it."""

    request: Request
    asked_at: float
    told: int = 0
    given_up: bool = False

    def __str__(self) -> str:
        return f"{self.request.data.hex()}, asked at {self.asked_at:.3f} s,"

    @property
    def waits(self) -> bool:
        """Whether it has to be told."""
        return not self.told and not self.given_up


@dataclass
class Own:
    """A request of the driver's own."""

    data: bytes
    begun_at: float
    deadline: float
    ended_at: float | None = None
    answered: bool = False

    def __str__(self) -> str:
        return f"the driver's own {self.data.hex()} of {self.begun_at:.3f} s"


@dataclass
class Run:
    """One seed."""

    seed: int
    trace: bool = False
    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        random = self._random = Random(self.seed)
        self.world = World(cpus=CPUS)
        self.runtime = HastyRuntime(self.world, random)
        self.interface = MisfortuneInterface(self.world, random, self)
        if self.seed % SEEDS_A_MISSING_INTERFACE == 0:
            self.interface.missing = "it is not there yet"
        self.limits = DriverLimits(
            client_requests_max=random.choice((2, 4, 8, 64)),
            cached_answers_max=random.choice((1, 4)),
            worker_slack_s=0.5,
            io_lock_s=0.1,
            busy_pause_s=0.1,
            breaker=BreakerLimits(
                failures_max=random.choice((2, 3)),
                probe_s_min=random.choice((0.2, 1.0)),
                probe_s_max=random.choice((1.0, 4.0)),
                silence_s_max=random.choice((1.0, 10.0)),
            ),
        )
        self.driver = Driver(self.interface, self.runtime, self.limits)
        self.asked: list[Asked] = []
        self.is_over = False
        """Nobody asks for anything any more."""
        self.waiting: dict[Request, Asked] = {}
        self.wanted_until: dict[RequestKey, float] = {}
        """When somebody who asked that was told or gave up last."""
        self.own: list[Own] = []
        self.pats_fail = False
        """In the end all goes well but the pats."""
        self.polling = False
        self.polled_until = -1.0
        """When one that polls last let the interface go."""
        self.worker_lives = False
        self._numbers = iter(range(1, 1 << 24))
        self._patience = random.choice((0.3, 1.5, 4.0))
        if self.trace:
            self.interface.trace = self.say

    def say(self, what: str) -> None:
        if self.trace:
            sys.stdout.write(f"{what}\n")

    # ------------------------------------------------------------------------------- the phases

    def play(self) -> None:
        """Both phases; what must not be is in `faults` then."""
        try:
            self._play()
        except Exception as error:  # noqa: BLE001 - whatever a task raised is what was wrong
            self.fault(f"{error!r}")
        finally:
            self.world.close()
        self.counts.update(self.driver.counts)
        self.counts.update(self.interface.counts)

    def _play(self) -> None:
        random, world = self._random, self.world
        self.interface.mischief = Mischief.drawn(random)
        self._spawn_all()
        stops = random.random() < 0.2
        middle = random.uniform(0, SAFETY_S)
        world.run(middle)
        if stops:
            self._spawn_call(self.driver.stop, "stopper")
        else:
            self.interface.mischief = Mischief.drawn(random)
        world.run(SAFETY_S)
        self.pats_fail = random.random() < 0.1
        self.interface.mischief = Mischief(fails_pats=self.pats_fail)
        world.run(max(SAFETY_S, self.interface.stuck_until) + RECOVERS_S_MAX)
        self._check_recovered()
        self.is_over = True
        world.run(world.now + self._patience + 3 * EXCHANGE_S_MAX + 1)
        self._spawn_call(self.driver.stop, "stopper")
        world.run(world.now + EXCHANGE_S_MAX)
        self._check_end()

    def _spawn_all(self) -> None:
        random = self._random
        self._spawn_call(self._work, "worker", after_s=random.choice((0.0, random.random())))
        for number in range(random.randint(1, 5)):
            self._spawn_call(self._ask, f"client {number}")
        self._spawn_call(self._pat, "pat")
        self._spawn_call(self._sweep, "sweeper")
        if random.random() < 0.3:
            self._spawn_call(self._poll, "poller")
        if random.random() < 0.4:
            self._spawn_call(self._park, "parker")
        if random.random() < 0.1:
            self.driver.dying = random.random() < 0.5

    def _spawn_call(self, call: Callable[[], object], name: str, after_s: float = 0.0) -> None:
        def body() -> None:
            if after_s:
                self.world.sleep(after_s)
            call()

        self.world.spawn(body, name)

    # --------------------------------------------------------------------------------- the tasks

    def _work(self) -> None:
        self.worker_lives = True
        try:
            self.driver.kcs_loop()
        except WorkerKilled:
            self.say(f"{self.world.now:9.4f} the worker is killed")
        self.worker_lives = False

    def _sweep(self) -> None:
        """What the socket's thread does: nobody waits longer than he said."""
        while True:
            due = self.driver.expire()
            left_s = SWEEP_S if due is None else due - self.world.now
            self.world.sleep(max(0.001, min(SWEEP_S, left_s)))

    def _ask(self) -> None:
        random = self._random
        while not self.is_over:
            for _ in range(random.choice((1, 1, 1, 3, 6))):
                self._submit(self._request())
            self.world.sleep(random.choice((0.1, 1.0, 3.0)) * random.random())

    def _request(self) -> Request:
        random = self._random
        number = next(self._numbers)
        if random.random() < 0.7:
            data = bytes((0x10, 0x2D, random.randrange(READS)))
        else:
            data = bytes((OEM_NETFN << 2, 0x01)) + number.to_bytes(3, "big")
        target = SATELLITE if random.random() < 0.2 else None
        patience_s = 0.01 + self._patience * random.random()
        return Request(data, deadline=self.world.now + patience_s, target=target)

    def _submit(self, request: Request) -> None:
        asked = Asked(request, self.world.now)
        request.on_done = lambda _: self._told(asked)
        try:
            self.driver.submit(request)
        except QueueFull:
            self._check_full()
            return
        self.asked.append(asked)
        if asked.waits:
            self.waiting[request] = asked
        if len(self.waiting) > self.limits.client_requests_max:
            self.fault(f"{len(self.waiting)} clients wait")
        if self._random.random() < QUITS:
            self._spawn_call(lambda: self._give_up(asked), "quitter", self._random.random())

    def _give_up(self, asked: Asked) -> None:
        self.driver.abandon(asked.request)
        asked.given_up = True
        self._waits_no_more(asked.request)

    def _told(self, asked: Asked) -> None:
        """An `on_done`: the driver's lock is held."""
        asked.told += 1
        self._waits_no_more(asked.request)
        if asked.told > 1 or asked.given_up:
            self.fault(f"{asked} is told once too often")
        self._check_answer(asked)

    def _waits_no_more(self, request: Request) -> None:
        if self.waiting.pop(request, None) is not None:
            self.wanted_until[request.key] = self.world.now

    def _pat(self) -> None:
        random = self._random
        while not self.is_over:
            self.world.sleep(random.choice((0.1, 1.0, 2.0)) * random.random())
            self._ask_own(PAT, random.choice((0.5, 2 * EXCHANGE_S_MAX + 1.0, 8.0)))

    def _poll(self) -> None:
        """A thread that may not sleep asks, now and then."""
        random = self._random
        while not self.is_over:
            self.world.sleep(random.uniform(0.1, 6.0))
            self.polling = True
            with self.driver.cannot_sleep():
                self._ask_own(b"\x18\x24", random.uniform(0.2, 3.0))
            self.polling = False
            self.polled_until = self.world.now

    def _park(self) -> None:
        """Orders to park, on top of each other, and to go on; all is over when misfortune is."""
        random, world, parking = self._random, self.world, self.driver.parking
        while world.now < SAFETY_S:
            world.sleep(min(random.uniform(0, 2), SAFETY_S - world.now))
            if random.random() < 0.3:
                parking.end()
                continue
            begun_at = world.now
            parking.begin(random.uniform(0.1, 4.0))
            self.counts["parked"] += 1
            world.sleep(max(0.0, min(random.uniform(0, 4.0), SAFETY_S - world.now)))
            self._check_parked(begun_at)
        parking.end()

    def _ask_own(self, head: bytes, patience_s: float) -> bool:
        """A request of the driver's own; whether it was answered."""
        world, interface = self.world, self.interface
        own = Own(head + next(self._numbers).to_bytes(3, "big"), world.now, world.now + patience_s)
        worker_lived = self.worker_lives and not self.driver.stopping
        self.own.append(own)
        signs = [world.now]
        try:
            response = self.driver.driver_request(
                own.data, own.deadline, lambda: signs.append(world.now)
            )
        except BmcmedicError as error:
            self.say(f"{world.now:9.4f} {own.data.hex()} failed: {error!r}")
        else:
            own.answered = True
            if response[ANSWER_AT:] != own.data:
                self.fault(f"{own} got another's answer")
        own.ended_at = self.wanted_until[own.data, None] = world.now
        signs.append(world.now)
        if own.data in interface.stuck_requests:
            return own.answered
        gap_s = max(after - before for before, after in itertools.pairwise(signs))
        if gap_s > WAITING_S_MAX + self.limits.io_lock_s + SLICE_S + SLACK_S:
            self.fault(f"{own} gave no sign of life for {gap_s:.3f} s")
        if own.ended_at > own.deadline + self.limits.io_lock_s + SLICE_S + SLACK_S:
            self.fault(f"{own} came back late")
        alone = not self.polling and self.polled_until < own.begun_at
        if alone and worker_lived and self.worker_lives:
            self._check_turn(own, is_stuck=interface.stuck_until >= own.begun_at)
        return own.answered

    # -------------------------------------------------------------------------------- the checks

    def fault(self, what: str) -> None:
        """Something that must not be."""
        self.faults.append(f"at {self.world.now:.4f} s: {what}")
        self.say(f"{self.world.now:9.4f} FAULT {what}")

    def waiting_for(self, data: bytes, target: Ipmb | None) -> Iterator[Request]:
        """Who asked that and waits."""
        for request in self.waiting:
            if request.key == (data, target):
                yield request
        for own in self.own:
            if own.data == data and own.ended_at is None:
                yield Request(data, deadline=own.deadline)

    def is_wanted(self, data: bytes, target: Ipmb | None) -> bool:
        """Whether somebody waits for it, or did until a moment ago: one may be told any time."""
        since = self.world.now - SLACK_S
        return self.wanted_until.get((data, target), -1.0) >= since or any(
            each.deadline >= since for each in self.waiting_for(data, target)
        )

    def _check_turn(self, own: Own, *, is_stuck: bool) -> None:
        """It waited for one exchange and a pause at most, or until the worker was found stuck."""
        sent_at = next((at for at, data, _ in self.interface.begun if data == own.data), None)
        waited_s = (own.ended_at or 0.0 if sent_at is None else sent_at) - own.begun_at
        limits = self.limits
        pause_s = limits.worker_slack_s + limits.io_lock_s if is_stuck else limits.busy_pause_s
        if waited_s > EXCHANGE_S_MAX + pause_s + SLACK_S:
            self.fault(f"{own} waited for its turn for {waited_s:.3f} s")

    def check_begun(self, data: bytes, task: str) -> None:
        """What is sent to a BMC that has stopped answering, and not at that very moment."""
        is_clients = task == "worker" and data != PROBE and data[:2] != PAT
        opened_at = self.driver.breaker.opened_at
        if is_clients and opened_at is not None and opened_at < self.world.now:
            self.fault(f"{data.hex()} is sent although the breaker is open")

    @property
    def is_parked(self) -> bool:
        """Whether nothing may be sent; the time is that of the world, which no thread outruns."""
        return self.driver.parking.is_on(self.world.now)

    @property
    def is_let_go(self) -> bool:
        """For this park: one that begins as another ends finds the interface let go, and in use."""
        return self.is_parked and self.driver.parking.is_closed

    def _check_parked(self, begun_at: float) -> None:
        """When the exchange under way has ended, it is let go, and nobody waits any more."""
        is_held = self.polling or self.polled_until > begun_at
        for own in self.own[
            -20:
        ]:  # one that was there before is served first, as often as it takes
            is_held |= own.begun_at <= begun_at < (own.ended_at or self.world.now)
        if not self.worker_lives or self.interface.stuck_until > begun_at or is_held:
            return
        is_closed = self.driver.parking.is_closed
        if self.is_parked and not is_closed and self.world.now > begun_at + 2 * EXCHANGE_S_MAX:
            self.fault("the interface is not let go, although it is parked")
        self.world.sleep(SLACK_S)
        if not self.is_parked or not is_closed:
            return
        for asked in self.waiting.values():
            if asked.asked_at < begun_at and asked.request.target is None:
                self.fault(f"{asked} waits although the interface is parked")

    def check_recovering(self, data: bytes, task: str) -> None:
        """A client's exchange goes on recovering the interface."""
        if task != "worker" or data[:2] == PAT:
            return
        since = self.world.now - SLICE_S - SLACK_S
        for own in self.own[-3:]:
            waits = own.ended_at is None and own.data[:2] == PAT and own.begun_at < since
            if waits and self.interface.stuck_until < own.begun_at and self.driver.highpri_waits:
                self.fault(f"{data.hex()} is recovered from while {own} waits")

    def _check_full(self) -> None:
        """Who is turned away is turned away by others who wait, or whose request is in flight."""
        there = len(self.waiting) + self.interface.held + 1  # the worker may just have it
        if there < self.limits.client_requests_max:
            self.fault(f"the queue is full of {there}")

    def _check_answer(self, asked: Asked) -> None:
        request, now = asked.request, self.world.now
        if now > request.deadline + SWEEP_S + SLACK_S:
            self.fault(f"{asked} is told {now - request.deadline:.3f} s after its deadline")
        if (request.response is None) == (request.error is None):
            self.fault(f"{asked} has neither response nor error, or both")
        if request.response is None:
            return
        head, data = request.response[:COUNTED_AT], request.response[ANSWER_AT:]
        made_at = self.interface.made_at[int.from_bytes(request.response[COUNTED_AT:ANSWER_AT])]
        if data != request.data or head[:2] != bytes((data[0] | 4, data[1])):
            self.fault(f"{asked} got another's answer")
        age_s = request.answer_age_s
        if age_s is None:
            if made_at < asked.asked_at - SLACK_S:
                self.fault(f"{asked} got an answer made at {made_at:.3f} s for a fresh one")
        elif abs(now - made_at - age_s) > SLACK_S or head[2] or changes_something(data):
            self.fault(f"{asked} got an old answer with an age of {age_s:.3f} s")

    def _check_recovered(self) -> None:
        """Misfortune has ended long ago."""
        if self.driver.stopping or not self.worker_lives:
            return
        if self.pats_fail:
            self._check_probes()
            return
        if self.driver.breaker.is_open:
            self.fault("the breaker is still open")
        since, until = self.world.now - RECOVERED_S, self.world.now - EXCHANGE_S_MAX
        for asked in self.asked:
            request = asked.request
            patient = request.deadline - asked.asked_at > EXCHANGE_S_MAX and request.target is None
            answered = request.response is not None and request.answer_age_s is None
            concerned = since < asked.asked_at < until and patient and not asked.given_up
            if concerned and not answered:
                self.fault(f"{asked} has no answer although all is well: {request.error!r}")
        for own in self.own:
            if since < own.begun_at < until and not own.answered:
                self.fault(f"{own} has no answer although all is well")

    def _check_probes(self) -> None:
        """The BMC fails at pats alone, and that is found out again and again."""
        since = self.world.now - RECOVERED_S
        probed = any(data == PROBE and at > since for at, data, _ in self.interface.begun)
        opened_at = self.driver.breaker.opened_at
        if opened_at is not None and opened_at < since and not probed:
            self.fault("the breaker is open, and nothing asks whether the BMC is back")

    def _check_end(self) -> None:
        """Everybody has been told, and nothing is left anywhere."""
        for asked in self.asked:
            if asked.waits:
                self.fault(f"{asked} was never told")
        if self.worker_lives:
            self.fault("the worker has not ended")
        self._spawn_call(self._check_last, "checker")
        self.world.run(self.world.now + 2 * EXCHANGE_S_MAX)

    def _check_last(self) -> None:
        status = self.driver.status()
        left = {name: status[name] for name in LEFT_OVER if status[name]}
        if left:
            self.fault(f"left over: {left}")
        self.interface.mischief = Mischief()
        if not self._ask_own(PAT, EXCHANGE_S_MAX):
            self.fault("nobody can poll any more")
