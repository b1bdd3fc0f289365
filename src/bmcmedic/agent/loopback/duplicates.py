"""The duplicate filter: find requests that a session sends again, so that none runs twice.

A tool that misses an answer sends the same message again, in a new packet. rqSeq has 6 bits, so an
equal message is a new request once its session has moved on; tools repeat only the last few. The
module is pure: `now` is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bmcmedic.ipmi.managed_system import IncomingRequest
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage

BEHIND_MAX: Final = 8
"""How many requests of its session may follow a message before an equal one counts as new.

Tools have one request in flight, or a few, and rqSeq wraps around after 64.
"""
AGE_S_MAX: Final = 30.0
"""Age of an answer above which an equal message counts as new, in seconds."""
READ_AGE_S_MAX: Final = 0.25
"""The same for a read, in seconds.

A tool that repeats a read wants a fresh answer, unless the first answer crossed with the repeat.
Such a repeat comes at once, and as the next message of its session.
"""


class Work(Enum):
    """State of a request that has no answer yet."""

    NEW = "new"
    UNDER_WAY = "under-way"


@dataclass(frozen=True, slots=True)
class SentAnswer:
    """The answer that a request was given."""

    completion_code: int
    data: bytes
    second_part: ResponseMessage | None = None
    """The answer of the controller behind the BMC, if the request was bridged."""


class _KnownRequest:
    __slots__ = ("answer", "at", "is_read", "number")

    def __init__(self, number: int, at: float) -> None:
        self.number = number
        self.at = at
        self.answer: SentAnswer | None = None
        self.is_read = False


class _OneSession:
    __slots__ = ("count", "known")

    def __init__(self) -> None:
        self.count = 0
        self.known: OrderedDict[RequestMessage, _KnownRequest] = OrderedDict()


class DuplicateFilter:
    """The last requests of each session. The session that was idle longest is forgotten first."""

    def __init__(self, sessions_max: int) -> None:
        self._sessions_max = sessions_max
        self._sessions: OrderedDict[int, _OneSession] = OrderedDict()

    def take(self, incoming: IncomingRequest, now: float) -> Work | SentAnswer:
        """Return NEW (carry the request out), UNDER_WAY (drop it), or the answer to send again."""
        key = incoming.session_id or 0
        session = self._sessions.setdefault(key, _OneSession())
        self._sessions.move_to_end(key)
        if len(self._sessions) > self._sessions_max:
            self._sessions.popitem(last=False)
        message = incoming.message
        known = session.known.get(message)
        if known is not None:
            if known.answer is None:
                return Work.UNDER_WAY
            if _is_duplicate(known, session.count, now):
                return known.answer
        session.count += 1
        session.known[message] = _KnownRequest(session.count, now)
        session.known.move_to_end(message)
        self._forget_old(session)
        return Work.NEW

    def answered(
        self, incoming: IncomingRequest, answer: SentAnswer, now: float, *, is_read: bool = False
    ) -> None:
        """Remember the answer to a request."""
        known = self._known(incoming)
        if known is not None and known.answer is None:
            known.answer, known.at, known.is_read = answer, now, is_read

    def forget(self, incoming: IncomingRequest) -> None:
        """Forget a request that was not carried out."""
        if self._known(incoming) is not None:
            del self._sessions[incoming.session_id or 0].known[incoming.message]

    def _known(self, incoming: IncomingRequest) -> _KnownRequest | None:
        session = self._sessions.get(incoming.session_id or 0)
        return None if session is None else session.known.get(incoming.message)

    @staticmethod
    def _forget_old(session: _OneSession) -> None:
        for message, known in list(session.known.items()):
            if session.count - known.number < BEHIND_MAX:
                return
            if known.answer is not None:
                del session.known[message]


def _is_duplicate(known: _KnownRequest, count: int, now: float) -> bool:
    behind, age_s = count - known.number, now - known.at
    if known.is_read:
        return behind == 0 and age_s < READ_AGE_S_MAX
    return behind < BEHIND_MAX and age_s < AGE_S_MAX
