"""The link to one BMC, as the stages use it: sessions, questions outside of one, and time.

The stages have no sockets and do not sleep by themselves. So they run against real UDP, against a
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

SESSIONLESS_RETRANSMIT_S = 0.8
"""Seconds until a question outside of a session is repeated.

This is long, because a BMC that needs seconds for an answer needs them for each repeat as well.
"""

_SLOWNESS_FACTOR = 1.5
"""How many times its own latency a BMC gets before a question is repeated."""
_RETRANSMIT_S_MAX = 5.0
"""Longest time until a question is repeated, in seconds."""

SESSIONLESS_TIMEOUT_S = 5.0
"""Time for the question that needs no session, in seconds; after it the BMC counts as silent."""

SESSION_TIMEOUT_S = 20.0
"""Time to set up a session with a BMC that answers, in seconds.

A BMC that leaks memory takes seconds for each packet.
"""

BLIND_SESSION_TIMEOUT_S = 6.0
"""Time to set up a session with a BMC that left the question before unanswered, in seconds."""

QUESTION_TIMEOUT_S = 12.0
"""Time for one question, retransmissions included, in seconds."""


class Timekeeper(Clock, Protocol):
    """A clock that can also wait."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""


class SystemTimekeeper(SystemClock):
    """The machine's own clock."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        await asyncio.sleep(max(0.0, seconds))


class BmcSession(Protocol):
    """One open session, for one question at a time; it raises the errors of `LanPlus`."""

    async def exchange(self, request: Command[R], deadline: float) -> R:
        """Send a request and return the answer; `deadline` is in monotonic seconds."""

    async def close(self) -> None:
        """End the session, so that the BMC has its slot back."""

    def abandon(self) -> None:
        """Drop the session without telling the BMC."""


class BmcLink(Protocol):
    """Opens sessions to one BMC, asks it outside of a session, and locks it for a reset."""

    target: str

    async def take_reset_lock(self) -> bool:
        """Take the right to act on the BMC; False while another run on this machine has it."""

    def release_reset_lock(self) -> None:
        """Let other runs act on the BMC."""

    async def open_session(self, privilege: PrivilegeLevel, deadline: float) -> BmcSession:
        """Set up a session; raises TransportError or BmcRefusal."""

    async def ask_sessionless(self, request: Command[R], deadline: float) -> R:
        """Ask outside of a session, in the packet format of IPMI 1.5."""


class LanLink:
    """RMCP+ over UDP to one BMC; the first question resolves its name."""

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
        self._reset_lock = ResetLock()

    async def _resolved(self) -> Address:
        if self._address is None:
            self._address = await resolve(self._host, self._port)
        return self._address

    async def take_reset_lock(self) -> bool:
        """Take the right to act on the BMC; False while another run on this machine has it."""
        try:
            return self._reset_lock.take(await self._resolved())
        except NameNotResolved:
            return True  # nothing can be sent to it

    def release_reset_lock(self) -> None:
        """Let other runs act on the BMC."""
        self._reset_lock.release()

    async def open_session(self, privilege: PrivilegeLevel, deadline: float) -> LanPlus:
        """Set up a session at `privilege`; raises TransportError or BmcRefusal."""
        return await LanPlus.connect(
            await self._resolved(),
            self._credentials,
            deadline=deadline,
            privilege=privilege,
            cipher_suites=self._cipher_suites,
            retransmit_first_s=self._retransmit_first_s,
        )

    async def ask_sessionless(self, request: Command[R], deadline: float) -> R:
        """Ask outside of a session, in the packet format of IPMI 1.5.

        The latency of the answer decides when later questions are repeated.
        """
        return await sessionless_exchange(
            await self._resolved(),
            request,
            deadline=deadline,
            retransmit_first_s=SESSIONLESS_RETRANSMIT_S,
            answered_after=self._note_latency,
        )

    def _note_latency(self, latency_s: float) -> None:
        self._retransmit_first_s = retransmit_after(latency_s)


def retransmit_after(latency_s: float) -> float:
    """Return when to repeat a question to a BMC of this latency, in seconds."""
    return min(_RETRANSMIT_S_MAX, max(RETRANSMIT_FIRST_S, latency_s * _SLOWNESS_FACTOR))
