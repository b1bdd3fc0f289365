"""Which requests in the door's sessions have come before, so that none is carried out twice.

A tool that misses an answer sends the same message again, in a packet of its own. rqSeq has 6
bits, so the same message is another request once its session has gone on; who repeats repeats the
last few. Pure: `now` comes in.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bmcmedic.ipmi.managed_system import IncomingRequest
from bmcmedic.ipmi.message import RequestMessage, ResponseMessage

BEHIND_MAX: Final = 8
"""A message that is that many requests of its session ago is no repeat any more. Tools have one
request in flight, or a few, and rqSeq comes round after 64."""
AGE_S_MAX: Final = 30.0
READ_AGE_S_MAX: Final = 0.25
"""Who asks a read again wants news, but for one whose answer crossed with the repeat: that comes at
once, and as the next of its session."""


class Work(Enum):
    """Where a request stands that has no answer yet."""

    NEW = "new"
    UNDER_WAY = "under-way"


@dataclass(frozen=True, slots=True)
class SentAnswer:
    """What a request was answered with."""

    completion_code: int
    data: bytes
    second_part: ResponseMessage | None = None
    """Of a bridged request: what the controller behind the BMC said."""


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
    """What each session asked last; the session that was idle longest is forgotten first."""

    def __init__(self, sessions_max: int) -> None:
        self._sessions_max = sessions_max
        self._sessions: OrderedDict[int, _OneSession] = OrderedDict()

    def take(self, incoming: IncomingRequest, now: float) -> Work | SentAnswer:
        """A request has come: NEW: carry it out; UNDER_WAY: drop it; an Answer: give it."""
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
            if _is_repeat(known, session.count, now):
                return known.answer
        session.count += 1
        session.known[message] = _KnownRequest(session.count, now)
        session.known.move_to_end(message)
        self._forget_old(session)
        return Work.NEW

    def answered(
        self, incoming: IncomingRequest, answer: SentAnswer, now: float, *, is_read: bool = False
    ) -> None:
        """Remember what came of it."""
        known = self._known(incoming)
        if known is not None and known.answer is None:
            known.answer, known.at, known.is_read = answer, now, is_read

    def forget(self, incoming: IncomingRequest) -> None:
        """It was not carried out."""
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


def _is_repeat(known: _KnownRequest, count: int, now: float) -> bool:
    behind, age_s = count - known.number, now - known.at
    if known.is_read:
        return behind == 0 and age_s < READ_AGE_S_MAX
    return behind < BEHIND_MAX and age_s < AGE_S_MAX
