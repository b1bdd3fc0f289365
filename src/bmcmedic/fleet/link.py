"""The way to one BMC, as the stages see it: sessions, questions without one, and time.

The stages know no socket and no sleep of their own, so that they run against real UDP, against a
simulated BMC in memory, and against a clock that does not wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, TypeVar

from bmcmedic.clock import Clock, SystemClock
from bmcmedic.errors import NameNotResolved
from bmcmedic.fleet.reset_lock import ResetLock
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.console_options import RETRANSMIT_FIRST_S
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.transport.lan_engine import Address
from bmcmedic.transport.lanplus import Credentials, LanPlus, resolve, sessionless_exchange

R = TypeVar("R")

KNOCK_RETRANSMIT_S = 0.8
"""Rarely, because a BMC that takes seconds for an answer also takes them for each repeat."""

_SLOWNESS_FACTOR = 1.5
_RETRANSMIT_S_MAX = 5.0

KNOCK_TIMEOUT_S = 5.0
"""Time for the question that needs no session: who does not answer it is silent."""

SESSION_TIMEOUT_S = 20.0
"""Time for setting a session up with a BMC that answers: one that leaks takes seconds a packet."""

BLIND_SESSION_TIMEOUT_S = 6.0
"""The same with one that did not answer the question before."""

QUESTION_TIMEOUT_S = 12.0
"""Time for one question, retransmissions included."""


class Timekeeper(Clock, Protocol):
    """Time that can be waited for."""

    async def sleep(self, seconds: float) -> None:
        """Come back that much later."""


class SystemTimekeeper(SystemClock):
    """The machine's own time."""

    async def sleep(self, seconds: float) -> None:
        """Come back that much later."""
        await asyncio.sleep(max(0.0, seconds))


class BmcSession(Protocol):
    """One open session; one question at a time. Raises what `LanPlus` raises."""

    async def exchange(self, request: Command[R], deadline: float) -> R:
        """Ask and wait for the answer until `deadline` (monotonic seconds)."""

    async def close(self) -> None:
        """Give the session slot back."""

    def abandon(self) -> None:
        """Drop it without a word to the BMC."""


class BmcLink(Protocol):
    """What opens sessions to one BMC, and asks it what needs none."""

    target: str

    async def claim(self) -> bool:
        """Whether nobody else acts on the BMC, as far as this machine knows; it is ours then."""

    def release(self) -> None:
        """Let others act on the BMC."""

    async def open_session(self, privilege: PrivilegeLevel, deadline: float) -> BmcSession:
        """Set a session up; raises TransportError or BmcRefusal."""

    async def ask_sessionless(self, request: Command[R], deadline: float) -> R:
        """Ask outside of any session, in IPMI 1.5's format."""


class LanLink:
    """RMCP+ over UDP to one BMC; its name is resolved when it is first asked."""

    def __init__(
        self,
        target: str,
        host: str,
        port: int,
        credentials: Credentials,
        cipher_suites: Sequence[int] = (17, 3),
    ) -> None:
        self.target = target
        self._host = host
        self._port = port
        self._credentials = credentials
        self._cipher_suites = tuple(cipher_suites)
        self._address: Address | None = None
        self._retransmit_first_s = RETRANSMIT_FIRST_S
        self._claim = ResetLock()

    async def _resolved(self) -> Address:
        if self._address is None:
            self._address = await resolve(self._host, self._port)
        return self._address

    async def claim(self) -> bool:
        """Whether nobody else on this machine acts on the BMC; it is ours then."""
        try:
            return self._claim.take(await self._resolved())
        except NameNotResolved:
            return True  # nothing can be sent there

    def release(self) -> None:
        """Let others act on the BMC."""
        self._claim.release()

    async def open_session(self, privilege: PrivilegeLevel, deadline: float) -> LanPlus:
        """Set a session up at `privilege`; raises TransportError or BmcRefusal."""
        return await LanPlus.connect(
            await self._resolved(),
            self._credentials,
            deadline=deadline,
            privilege=privilege,
            cipher_suites=self._cipher_suites,
            retransmit_first_s=self._retransmit_first_s,
        )

    async def ask_sessionless(self, request: Command[R], deadline: float) -> R:
        """Ask outside of any session, in IPMI 1.5's format; how long it takes sets the pace."""
        return await sessionless_exchange(
            await self._resolved(),
            request,
            deadline=deadline,
            retransmit_first_s=KNOCK_RETRANSMIT_S,
            answered_after=self._set_pace,
        )

    def _set_pace(self, latency_s: float) -> None:
        self._retransmit_first_s = retransmit_after(latency_s)


def retransmit_after(latency_s: float) -> float:
    """When to repeat what a BMC of this latency has not answered."""
    return min(_RETRANSMIT_S_MAX, max(RETRANSMIT_FIRST_S, latency_s * _SLOWNESS_FACTOR))
