"""An interface to which all happens that `transport.in_band` allows, and some that it does not.

It also looks: who touches it while another has it, who does after its claim was lost, and what is
sent that must not be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from bmcmedic.driver.requests import Request
from bmcmedic.errors import BmcmedicError, NoAnswer, QueueFull, Refused
from bmcmedic.ipmi.kcs import KcsPhase
from bmcmedic.ipmi.kcs_errors import KcsEvidence, KcsFault, KcsTimeout, KcsViolation
from bmcmedic.sim.virtual_time.world import World
from bmcmedic.transport.in_band import (
    InterfaceBusy,
    InterfaceClaim,
    InterfaceGone,
    Interrupted,
    Ipmb,
)

EXCHANGE_S_MAX = 1.0
SLICE_S = 0.1
"""Between two accesses of an exchange that waits."""
SLACK_S = 0.05
"""What the runtime's own delays add up to, generously."""

CLOSE_FAILS = 0.1
PROBE = b"\x18\x01"
PAT = b"\x18\x22"
OEM_NETFN = 0x2E
READ_HEAD = 0x10
ATTEMPTS_A_WAY = 3
"""Through the worker, and polled."""
_COMPLETION_CODE_TIMEOUT = 0xC3
_NO_SUCH_COMMAND = 0xC1


def changes_something(request: bytes) -> bool:
    """Whether a request must not be sent twice; each such one here has a number of its own."""
    return request[0] >> 2 == OEM_NETFN


class WorkerKilled(BaseException):
    """Ends the worker's thread, as no error that the driver may catch does."""


@dataclass(frozen=True, slots=True)
class Mischief:
    """How likely each way of going wrong is, of 1."""

    silent: float = 0.0
    fails_at_once: float = 0.0
    gone: float = 0.0
    busy: float = 0.0
    unforeseen: float = 0.0
    sticks: float = 0.0
    odd_code: float = 0.0
    slow: float = 0.0
    kills: float = 0.0
    fails_pats: bool = False

    @classmethod
    def drawn(cls, random: Random) -> Mischief:
        """For one run, or for a part of it."""
        bad = random.choice((0.1, 0.5, 1.0))
        names = ("silent", "fails_at_once", "gone", "busy", "unforeseen", "sticks", "odd_code")
        most = (0.5, 0.5, 0.1, 0.2, 0.1, 0.06, 0.2)
        values: dict[str, Any] = {
            name: random.uniform(0, limit) * bad * (random.random() < 0.6)
            for name, limit in zip(names, most, strict=True)
        }
        return cls(**values, slow=random.choice((0.0, 0.3, 0.9)), kills=0.002 * bad)


class Callers(Protocol):
    """Who knows what was asked, and by whom."""

    def waiting_for(self, data: bytes, target: Ipmb | None) -> Iterable[Request]:
        """Who asked that and has neither been told nor given up."""

    def is_wanted(self, data: bytes, target: Ipmb | None) -> bool:
        """Whether it may be sent."""

    def check_begun(self, data: bytes, task: str) -> None:
        """An exchange begins."""

    @property
    def is_parked(self) -> bool:
        """Whether nothing may be sent."""

    @property
    def is_let_go(self) -> bool:
        """Whether the worker has let the interface go for the park that is."""

    def check_recovering(self, data: bytes, task: str) -> None:
        """An exchange has failed and goes on."""

    def fault(self, what: str) -> None:
        """Something that must not be."""


class Exchange:
    """One attempt that is under way."""

    __slots__ = ("claim", "is_idempotent", "may_have_run", "request", "takeovers", "task")

    def __init__(
        self,
        request: bytes,
        claim: InterfaceClaim,
        takeovers: int,
        task: str,
        *,
        is_idempotent: bool,
    ) -> None:
        self.request = request
        self.claim = claim
        self.takeovers = takeovers
        self.task = task
        self.is_idempotent = is_idempotent
        self.may_have_run = False


class MisfortuneInterface:
    """An `InBand` in virtual time."""

    name = "misfortune"
    exchange_s_max = EXCHANGE_S_MAX

    def __init__(self, world: World, random: Random, callers: Callers) -> None:
        self.mischief = Mischief()
        self.counts: Counter[str] = Counter()
        self.made_at: dict[int, float] = {}
        """When the answer with that number was made."""
        self.begun: list[tuple[float, bytes, str]] = []
        """When an attempt first touched the interface, with what, and whose it was."""
        self.stuck_until = -1.0
        self.is_closed = False
        """Let go, and not touched since."""
        self.stuck_requests: set[bytes] = set()
        self._bridged = 0
        """Requests that a controller behind the BMC still has."""
        self.trace: Callable[[str], None] | None = None
        self._world = world
        self._random = random
        self._callers = callers
        self._takeovers = 0
        self._under_way: list[Exchange] = []
        self._may_have_run: set[bytes] = set()
        self._failed: Counter[bytes] = Counter()

    # ------------------------------------------------------------------------- what InBand has

    def attempt(
        self, request: bytes, deadline: float, claim: InterfaceClaim, *, idempotent: bool
    ) -> bytes:
        exchange = self._exchange(request, claim, is_idempotent=idempotent)
        self._under_way.append(exchange)
        try:
            self._begin(exchange, None)
            return self._happen(exchange, min(deadline, self._world.now + EXCHANGE_S_MAX))
        finally:
            self._under_way.remove(exchange)
            self._note(exchange)
            self._say(f"ends {request.hex()}")

    def send_bridged(
        self,
        request: bytes,
        target: Ipmb,
        deadline: float,
        claim: InterfaceClaim,
        done: Callable[[bytes | BmcmedicError], None],
    ) -> None:
        exchange = self._exchange(request, claim, is_idempotent=False)
        waiting = list(self._callers.waiting_for(request, target))
        latest = max((each.deadline for each in waiting), default=deadline)
        if deadline < latest - SLACK_S:
            self._callers.fault(
                f"a bridged request is waited for until {deadline:.3f} s, and somebody who asked "
                f"it waits until {latest:.3f} s"
            )
        self._under_way.append(exchange)
        try:
            self._begin(exchange, target)
            self._happen_bridged(exchange, deadline, done)
        finally:
            self._under_way.remove(exchange)
            self._note(exchange)

    missing: str | None = None

    def take_over(self) -> None:
        self._takeovers += 1
        self._say("is taken over")

    def close(self) -> None:
        for other in self._under_way:
            if other.takeovers == self._takeovers:
                self._callers.fault(f"it is let go while {other.task} has it")
        if not self._callers.is_parked:
            self.counts["let_go_late"] += 1
        self.is_closed = True
        self._say("is let go")
        if self._random.random() < CLOSE_FAILS:
            raise ValueError("nobody thought of this")

    @property
    def held(self) -> int:
        """Requests that are in flight or behind the BMC."""
        return self._bridged + len(self._under_way)

    # ------------------------------------------------------------------------------ what happens

    def _happen(self, exchange: Exchange, until: float) -> bytes:
        random, mischief = self._random, self.mischief
        dice = random.random()
        if mischief.fails_pats and exchange.request[:2] == PAT:
            self._go_wrong(exchange, "fails_at_once", until)
        for name, likely in (
            ("silent", mischief.silent),
            ("fails_at_once", mischief.fails_at_once),
            ("gone", mischief.gone),
            ("busy", mischief.busy),
            ("unforeseen", mischief.unforeseen),
            ("sticks", mischief.sticks),
            ("kills", mischief.kills if exchange.task == "worker" else 0.0),
        ):
            if dice < likely:
                self.counts[name] += 1
                self._go_wrong(exchange, name, until)
                break
            dice -= likely
        takes_s = random.uniform(0.1, 0.9) if random.random() < mischief.slow else 0.002
        self._spend(exchange, min(until, self._world.now + takes_s), recovering=False)
        if self._world.now >= until:
            raise NoAnswer("too slow")
        exchange.may_have_run = True
        code = 0
        if random.random() < mischief.odd_code:
            code = random.choice((_NO_SUCH_COMMAND, _COMPLETION_CODE_TIMEOUT))
        return self.answer(exchange.request, code)

    def _go_wrong(self, exchange: Exchange, name: str, until: float) -> None:
        """End the exchange with an error, or come back when it was only held up."""
        random = self._random
        exchange.may_have_run = random.random() < 0.5
        if name in ("silent", "fails_at_once", "gone", "unforeseen"):
            self._failed[exchange.request] += 1
            attempts = self._failed[exchange.request]
            is_one = exchange.request[0] != READ_HEAD and exchange.request != PROBE
            if is_one and attempts > ATTEMPTS_A_WAY * 2:
                self._callers.fault(f"{exchange.request.hex()} is tried for the {attempts}th time")
        match name:
            case "silent":
                silent_until = min(until, self._world.now + 0.5 * EXCHANGE_S_MAX)
                self._spend(exchange, silent_until, recovering=False)
                self._spend(exchange, until, recovering=True)
                raise random.choice((NoAnswer("silence"), self._kcs(exchange, KcsTimeout)))
            case "fails_at_once":
                raise self._kcs(exchange, random.choice((KcsTimeout, KcsViolation)))
            case "gone":
                exchange.may_have_run = True
                raise InterfaceGone("it went")
            case "busy":
                exchange.may_have_run = False
                raise InterfaceBusy("something else has it")
            case "unforeseen":
                exchange.may_have_run = True
                raise ValueError("nobody thought of this")
            case "kills":
                exchange.may_have_run = True
                raise WorkerKilled
            case _:
                stuck_s = random.uniform(1.0, 8.0)
                self.stuck_until = max(self.stuck_until, self._world.now + stuck_s)
                self.stuck_requests.add(exchange.request)
                self._say("sticks")
                self._world.sleep(stuck_s)
                self._touch(exchange, recovering=random.random() < 0.5)

    def _happen_bridged(
        self, exchange: Exchange, deadline: float, done: Callable[[bytes | BmcmedicError], None]
    ) -> None:
        random = self._random
        if deadline <= self._world.now:
            raise NoAnswer("the deadline passed before the request was sent")
        if random.random() < self.mischief.fails_at_once:
            raise random.choice((QueueFull("8 wait"), Refused("no IPMB"), InterfaceBusy("not now")))
        self._happen(exchange, self._world.now + EXCHANGE_S_MAX)
        answer_s = random.uniform(0, 3) * random.random()
        fails = random.random() < self.mischief.silent
        self._bridged += 1

        def answers() -> None:
            self._world.sleep(min(answer_s, deadline - self._world.now))
            if fails or self._world.now >= deadline:
                done(NoAnswer("nothing from behind the BMC"))
            else:
                done(self.answer(exchange.request, 0))
            self._bridged -= 1

        self._world.spawn(answers, "bridged")

    def answer(self, request: bytes, code: int) -> bytes:
        """What the request gets: a number of its own, and the request once more."""
        number = len(self.made_at)
        self.made_at[number] = self._world.now
        head = bytes((request[0] | 4, request[1], code))
        return head + number.to_bytes(3, "big") + request

    # ------------------------------------------------------------------------------------- looks

    def _exchange(self, request: bytes, claim: InterfaceClaim, *, is_idempotent: bool) -> Exchange:
        task = self._world.current.name
        return Exchange(request, claim, self._takeovers, task, is_idempotent=is_idempotent)

    def _begin(self, exchange: Exchange, target: Ipmb | None) -> None:
        self._touch(exchange, recovering=False)
        request, now = exchange.request, self._world.now
        self.begun.append((now, request, exchange.task))
        self._say(f"sends {request.hex()} for {exchange.task}")
        if exchange.is_idempotent and changes_something(request):
            self._callers.fault(f"{request.hex()} is taken for one that may be sent twice")
        if request in self._may_have_run:
            self._callers.fault(f"{request.hex()} may have run, and is sent again")
        self._callers.check_begun(request, exchange.task)
        if request == PROBE:
            return
        if not self._callers.is_wanted(request, target):
            self._callers.fault(f"{request.hex()} is sent, and nobody waits for it any more")

    def _note(self, exchange: Exchange) -> None:
        if exchange.may_have_run and changes_something(exchange.request):
            self._may_have_run.add(exchange.request)

    def _touch(self, exchange: Exchange, *, recovering: bool) -> None:
        """An access to a register."""
        if exchange.claim.must_stop(recovering=recovering):
            self.counts["interrupted"] += 1
            if exchange.task != "worker":
                self._callers.fault(f"{exchange.task} polls, and is interrupted")
            self._say(f"stops {exchange.request.hex()}")
            raise Interrupted("a better claim", may_have_run=exchange.may_have_run)
        if self.is_closed and self._callers.is_let_go:
            self._callers.fault(f"{exchange.task} touches what was let go")
        self.is_closed = False
        if recovering:
            self._callers.check_recovering(exchange.request, exchange.task)
        if exchange.takeovers != self._takeovers:
            self._callers.fault(f"{exchange.task} touches what was taken from it")
        for other in self._under_way:
            if other is not exchange and other.takeovers == self._takeovers:
                self._callers.fault(f"{exchange.task} and {other.task} have it at the same time")

    def _spend(self, exchange: Exchange, until: float, *, recovering: bool) -> None:
        """Wait as an exchange does."""
        while (left_s := until - self._world.now) > 0:
            self._world.sleep(min(left_s, SLICE_S))
            self._touch(exchange, recovering=recovering)

    def _kcs(
        self, exchange: Exchange, kind: type[KcsTimeout | KcsViolation]
    ) -> KcsTimeout | KcsViolation:
        evidence = KcsEvidence(
            KcsFault.IBF_STUCK, KcsPhase.IDLE, 0xFF, 1, None, may_have_run=exchange.may_have_run
        )
        return KcsViolation(evidence, b"") if kind is KcsViolation else KcsTimeout(evidence)

    def _say(self, what: str) -> None:
        if self.trace is not None:
            self.trace(f"{self._world.now:9.4f} the interface {what}")
