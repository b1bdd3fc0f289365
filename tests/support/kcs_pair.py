"""Both sides of KCS in memory, in virtual time, with everything in between that can go wrong.

    python -m tests.support.kcs_pair --seed 1 --exchanges 1000000

plays that many exchanges, prints the seed that failed, if one does, and the line to repeat it.
Each run is a hundred exchanges: nearly all disturbed (safety), and at the end, with nothing
disturbed any more, two that must be answered (liveness).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from bmcmedic.errors import BmcmedicError, LocalProtocolError
from bmcmedic.ipmi.kcs import STATUS_IBF, STATUS_OBF, ErrorCode
from bmcmedic.ipmi.kcs_bmc import BmcKcs, KcsEvent
from bmcmedic.ipmi.kcs_errors import KcsAborted, KcsTimeout, KcsViolation
from bmcmedic.ipmi.kcs_host import HostKcs, KcsAction, KcsLimits

LIMITS = KcsLimits(recoveries_max=4, poll_s_min=1e-4, poll_s_max=0.5)
"""Linux's times, but fewer looks and recoveries: virtual time costs nothing, they do."""

ACCESS_S = 1e-6
ACCESSES_MAX = 20_000
"""An exchange that takes more goes in a circle."""
RUN_EXCHANGES = 100
NEVER = float("inf")

# Looked up once: half of the time of a run goes into this loop.
_READ_STATUS, _READ_DATA, _WRITE_DATA = (
    KcsAction.READ_STATUS,
    KcsAction.READ_DATA,
    KcsAction.WRITE_DATA,
)
_WRITE_COMMAND, _DONE, _FAILED = KcsAction.WRITE_COMMAND, KcsAction.DONE, KcsAction.FAILED


def answer_to(request: bytes) -> bytes:
    """What the BMC answers: the request's own token comes back."""
    return bytes((request[0] | 4, request[1], 0)) + request[2:]


@dataclass(slots=True)
class Outcome:
    """How an exchange ended."""

    response: bytes | None
    error: BmcmedicError | None
    took_s: float
    accesses: int
    damaged: bool
    """Whether a byte or a state may have been read that the BMC did not put there."""
    cut: bool
    """Whether the BMC restarted: seen too late, that looks like the end of the response."""


@dataclass(slots=True)
class Pair:
    """A host and a BMC, wired together; the attributes are what can be bent."""

    bmc: BmcKcs = field(default_factory=BmcKcs)
    host: HostKcs = field(default_factory=lambda: HostKcs(LIMITS))
    now: float = 0.0
    respond: Callable[[bytes], bytes | None] = answer_to
    execute_s: float = 0.0
    """How long the firmware works on a request."""
    firmware_back_at: float = 0.0
    """Until then nobody serves the BMC's side."""
    bits_until: float = 0.0
    bits_set: int = 0
    bits_clear: int = 0
    """Until `bits_until`, the status register reads with these set and those clear."""
    garbage: bytes = b""
    """What the next looks at the status register give instead."""
    disturb_in: int = 0
    """After so many accesses `disturb` is called; 0 is never."""
    disturb: Callable[[Pair], None] = lambda _: None
    damaged: bool = False
    cut: bool = False
    executed: Counter[bytes] = field(default_factory=Counter)
    pending: list[tuple[float, int, bytes]] = field(default_factory=list)
    """Responses that the firmware will give: when, to which request, what."""

    def exchange(
        self, request: bytes, *, idempotent: bool = True, deadline: float = NEVER
    ) -> Outcome:
        """Play one exchange to its end."""
        self.damaged = self.cut = False
        began = self.now
        action = self.host.start(request, began, idempotent=idempotent, deadline=deadline)
        return self.finish(action, began)

    def finish(self, action: KcsAction, began: float) -> Outcome:
        """Play on from what the host needs now."""
        host, bmc = self.host, self.bmc
        step = host.step
        accesses = 0
        while action is not _DONE and action is not _FAILED:
            accesses += 1
            assert accesses <= ACCESSES_MAX, "an exchange without an end"
            self.now += ACCESS_S
            if self.disturb_in:
                self.disturb_in -= 1
                if not self.disturb_in:
                    self.disturb(self)
                    if host.next_action is _FAILED:
                        break
            if action is _READ_STATUS:
                action = step(self.now, self.read_status())
            elif action is _WRITE_DATA:
                bmc.write_data(host.byte)
                action = step(self.now)
            elif action is _READ_DATA:
                action = step(self.now, bmc.read_data())
            elif action is _WRITE_COMMAND:
                bmc.write_command(host.byte)
                action = step(self.now)
            else:
                self.now = max(self.now, host.not_before)
                action = step(self.now)
        done = action is _DONE
        return Outcome(
            response=host.response() if done else None,
            error=None if done else host.error(),
            took_s=self.now - began,
            accesses=accesses,
            damaged=self.damaged,
            cut=self.cut,
        )

    def read_status(self) -> int:
        """What the host sees; the firmware had time to work until now."""
        if self.now >= self.firmware_back_at and (self.bmc.status & STATUS_IBF or self.pending):
            self.work()
        if self.garbage:
            status = self.garbage[0]
            self.garbage = self.garbage[1:]
            return status
        if self.now < self.bits_until:
            return self.bmc.status & ~self.bits_clear | self.bits_set
        return self.bmc.status

    def work(self) -> None:
        """What the firmware does when it has the time."""
        if self.bmc.service() is KcsEvent.REQUEST:
            request = self.bmc.request
            self.executed[request] += 1
            response = self.respond(request)
            if response is not None:
                due = self.now + self.execute_s
                self.pending.append((due, self.bmc.request_number, response))
                self.pending.sort()
        while self.pending and self.pending[0][0] <= self.now:
            _, number, response = self.pending.pop(0)
            self.bmc.respond(number, response)

    def calm(self) -> None:
        """Take every disturbance away; what it has done to the BMC stays."""
        self.respond = answer_to
        self.execute_s = self.firmware_back_at = self.bits_until = 0.0
        self.garbage = b""
        self.disturb_in = 0


# --------------------------------------------------------------------------------- disturbances


class Trouble:
    """Draws what goes wrong, and does it."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.count: Counter[str] = Counter()
        self.kinds = (
            self.bits_stuck, self.bits_stuck, self.restart, self.firmware_away, self.error_state,
            self.garbage_status, self.byte_lost, self.byte_from_nowhere, self.stranger_writes,
            self.host_aborts, self.odd_answer,
        )  # fmt: skip

    def __call__(self, pair: Pair) -> None:
        """One more disturbance, and perhaps another soon."""
        kind = self.random.choice(self.kinds)
        self.count[kind.__name__] += 1
        kind(pair)
        pair.disturb_in = self.random.choice((0, 0, 1, 3, 10, 30, 300))

    def duration_s(self) -> float:
        """From an access to longer than an exchange may take."""
        return float(10 ** self.random.uniform(-6, 2))

    def bits_stuck(self, pair: Pair) -> None:
        bits = (
            (STATUS_IBF, 0),
            (STATUS_OBF, 0),
            (0, STATUS_OBF),
            (0xC0, 0),
            (0xFF, 0),
            (0, STATUS_IBF),
        )
        pair.bits_set, pair.bits_clear = self.random.choice(bits)
        pair.bits_until = pair.now + self.duration_s()
        # These let the host read a byte, or write one, before the BMC is ready for it.
        pair.damaged |= bool(pair.bits_set & STATUS_OBF or pair.bits_clear & STATUS_IBF)

    def restart(self, pair: Pair) -> None:
        pair.bmc.restart()
        pair.cut = True
        pair.bits_set, pair.bits_clear = self.random.choice(((0xFF, 0), (0, 0xFF), (0, 0)))
        pair.bits_until = pair.firmware_back_at = pair.now + self.duration_s()

    def firmware_away(self, pair: Pair) -> None:
        pair.firmware_back_at = pair.now + self.duration_s()

    def error_state(self, pair: Pair) -> None:
        pair.bmc.fail(self.random.choice(list(ErrorCode)))

    def garbage_status(self, pair: Pair) -> None:
        pair.garbage = self.random.randbytes(self.random.randint(1, 20))
        pair.damaged = True

    def byte_lost(self, pair: Pair) -> None:
        pair.bmc.status &= ~STATUS_OBF

    def byte_from_nowhere(self, pair: Pair) -> None:
        pair.bmc.status |= STATUS_OBF
        pair.damaged = True

    def stranger_writes(self, pair: Pair) -> None:
        """Another program uses the same ports."""
        write = self.random.choice((pair.bmc.write_data, pair.bmc.write_command))
        write(self.random.choice((0x00, 0x60, 0x61, 0x62, 0x68, self.random.randrange(256))))
        pair.damaged = True

    def host_aborts(self, pair: Pair) -> None:
        pair.host.abort()

    def odd_answer(self, pair: Pair) -> None:
        odd = self.random.choice(
            (
                lambda _: None,
                lambda _: None,
                lambda request: answer_to(request)[:2],
                lambda request: answer_to(request)[: self.random.randint(1, 2)],
                lambda request: answer_to(request).ljust(self.random.randint(271, 300), b"!"),
                lambda _: self.random.randbytes(self.random.randint(1, 9)),
            )
        )
        pair.respond = odd
        pair.damaged = True


class Run:
    """A hundred exchanges from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        bmc = BmcKcs(
            sends_dummy_byte=random.random() < 0.7,
            holds_ibf=random.random() < 0.3,
        )
        self.trouble = Trouble(random)
        self.pair = Pair(bmc=bmc, disturb=self.trouble)
        self.outcomes: Counter[str] = Counter()
        self.given: dict[bytes, bytes] = {}
        """Every answer, and the request it belongs to."""

    def play(self, exchanges: int = RUN_EXCHANGES) -> None:
        """Safety, then liveness."""
        for _ in range(exchanges - 2):
            self.disturbed()
        self.pair.calm()
        # What the disturbances left behind may cost the first one its time, and no more.
        self.checked(idempotent=True)
        outcome = self.checked(idempotent=True)
        assert outcome.response is not None, f"no answer from a calm BMC: {outcome.error}"

    def disturbed(self) -> None:
        random, pair = self.random, self.pair
        pair.disturb_in = random.choice((0, 1, 5, 10, 20, 30, 40))
        pair.respond = answer_to
        pair.execute_s = random.choice((0.0, 0.0, 0.01, self.trouble.duration_s()))
        limit_s = random.choice((LIMITS.exchange_s, LIMITS.exchange_s, 1.0, 0.001))
        self.checked(idempotent=random.random() < 0.5, limit_s=limit_s)

    def checked(self, *, idempotent: bool, limit_s: float = LIMITS.exchange_s) -> Outcome:
        """One exchange, and whether it kept what the machine promises."""
        random, pair = self.random, self.pair
        request = b"\x18\x01" + random.randbytes(random.choice((3, 3, 3, 4, 20)))
        right = answer_to(request)
        self.given[right] = request
        began = pair.now
        still = pair.bits_until > began or bool(pair.garbage)
        outcome = pair.exchange(request, idempotent=idempotent, deadline=began + limit_s)
        # Between two looks at the clock lie a read and a write; sums of floats are not exact.
        assert outcome.took_s <= limit_s + 4 * ACCESS_S + 1e-9 * pair.now
        if outcome.response is None:
            assert isinstance(outcome.error, KcsTimeout | KcsViolation | KcsAborted)
            self.outcomes[outcome.error.evidence.fault.name] += 1
            # A stranger may happen to write the very byte that was missing.
            if not outcome.error.evidence.may_have_run and not outcome.damaged:
                assert pair.executed[request] == 0, "it ran, and was said not to have"
        else:
            self.outcomes["ANSWERED"] += 1
            assert self.given.get(outcome.response, request) == request, "another's answer"
            if not outcome.damaged and not still:
                assert outcome.response == right or (
                    # The last byte may have been read just after the registers were cleared.
                    outcome.cut and right.startswith(outcome.response[:-1])
                ), "a wrong answer"
        if not idempotent:
            assert pair.executed[request] <= 1, "sent again though it may have run"
        return outcome


def play(seed: int, exchanges: int) -> Counter[str]:
    """So many exchanges in runs of a hundred; what they came to."""
    outcomes: Counter[str] = Counter()
    for number in range(seed, seed + max(1, exchanges // RUN_EXCHANGES)):
        run = Run(number)
        try:
            run.play()
        except (AssertionError, LocalProtocolError):
            sys.stderr.write(
                f"seed {number} fails; python -m tests.support.kcs_pair --seed {number}"
                f" --exchanges {RUN_EXCHANGES}\n"
            )
            raise
        outcomes.update(run.outcomes)
        outcomes.update({f"trouble: {name}": n for name, n in run.trouble.count.items()})
    return outcomes


def main() -> None:
    """Play what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--exchanges", type=int, default=100_000)
    arguments = parser.parse_args()
    sys.stdout.write(f"seed {arguments.seed}\n")
    for name, count in sorted(play(arguments.seed, arguments.exchanges).items()):
        sys.stdout.write(f"{count:9} {name}\n")


if __name__ == "__main__":
    main()
