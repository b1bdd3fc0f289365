"""An in-band interface that does what a test says, exchange by exchange."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from bmcmedic.errors import BmcmedicError
from bmcmedic.transport.in_band import InterfaceClaim, Interrupted, Ipmb

WAIT_S_MAX = 30.0
"""No step of a test takes this long; a deadlock ends here."""


@dataclass
class Attempt:
    """One exchange that has begun and waits for what the test says it comes to."""

    request: bytes
    deadline: float
    claim: InterfaceClaim
    idempotent: bool
    _ended: threading.Event = field(default_factory=threading.Event)
    _result: bytes | BaseException = b""

    def answer(self, completion_code: int = 0, data: bytes = b"") -> None:
        """The BMC answers."""
        head = bytes((self.request[0] | 4, self.request[1], completion_code))
        self._end(head + data)

    def fail(self, error: BaseException) -> None:
        """It ends with an error."""
        self._end(error)

    def interrupt(self, *, recovering: bool, may_have_run: bool = False) -> bool:
        """Look at the claim as a transport does; whether the exchange ended with that."""
        if not self.claim.must_stop(recovering=recovering):
            return False
        self._end(Interrupted("somebody else", may_have_run=may_have_run))
        return True

    def _end(self, result: bytes | BaseException) -> None:
        self._result = result
        self._ended.set()

    def outcome(self) -> bytes:
        """What `attempt` gives, once the test has said it."""
        assert self._ended.wait(WAIT_S_MAX), "the test never ended this exchange"
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result


class ScriptedInterface:
    """Each exchange is handed to the test, or to `by_itself` where that is set."""

    name = "scripted"

    def __init__(self, exchange_s_max: float = 60.0) -> None:
        self.exchange_s_max = exchange_s_max
        self.by_itself: Callable[[Attempt], None] | None = None
        self.requests: list[bytes] = []
        self.is_missing: str | None = None
        self.taken_over = 0
        self.bridged: list[tuple[bytes, Ipmb, Callable[[bytes | BmcmedicError], None]]] = []
        self._begun: list[Attempt] = []
        self._changed = threading.Condition()

    def attempt(
        self, request: bytes, deadline: float, claim: InterfaceClaim, *, idempotent: bool
    ) -> bytes:
        attempt = Attempt(request, deadline, claim, idempotent)
        self.requests.append(request)
        # In one: who sets `by_itself` and then sees none begun has to answer none by hand.
        with self._changed:
            by_itself = self.by_itself
            if by_itself is None:
                self._begun.append(attempt)
                self._changed.notify_all()
        if by_itself is not None:
            by_itself(attempt)
        return attempt.outcome()

    def next_attempt(self) -> Attempt:
        """The exchange that begins next, or has begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self._begun), WAIT_S_MAX), "none began"
            return self._begun.pop(0)

    @property
    def has_begun(self) -> bool:
        """Whether an exchange waits for the test."""
        with self._changed:
            return bool(self._begun)

    def send_bridged(
        self,
        request: bytes,
        target: Ipmb,
        deadline: float,
        claim: InterfaceClaim,
        done: Callable[[bytes | BmcmedicError], None],
    ) -> None:
        del deadline, claim
        with self._changed:
            self.bridged.append((request, target, done))
            self._changed.notify_all()

    def next_bridged(self) -> tuple[bytes, Ipmb, Callable[[bytes | BmcmedicError], None]]:
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self.bridged), WAIT_S_MAX), "none was sent"
            return self.bridged.pop(0)

    @property
    def missing(self) -> str | None:
        return self.is_missing

    def take_over(self) -> None:
        self.taken_over += 1

    def close(self) -> None:
        pass
