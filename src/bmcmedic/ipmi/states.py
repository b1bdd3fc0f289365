"""States of a session as the remote console sees it, and the one table of its transitions."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """Where a session stands, seen from the remote console."""

    IDLE = 0
    OPENING = 1
    AUTHENTICATING = 2
    ACTIVATING = 3
    ACTIVE = 4
    REQUESTING = 5
    CLOSING = 6
    CLOSED = 7
    FAILED = 8


class SessionTrigger(IntEnum):
    """What moves a session from state to state."""

    OPEN = 0
    OPEN_SESSION_RESPONSE = 1
    RAKP_2 = 2
    RAKP_4 = 3
    REQUEST = 4
    RESPONSE = 5
    REQUEST_DEADLINE = 6
    START_ANEW = 7
    CLOSE = 8
    CLOSED = 9
    FAILURE = 10


TRANSITIONS: dict[tuple[State, SessionTrigger], State] = {
    (State.IDLE, SessionTrigger.OPEN): State.OPENING,
    (State.OPENING, SessionTrigger.OPEN_SESSION_RESPONSE): State.AUTHENTICATING,
    (State.OPENING, SessionTrigger.START_ANEW): State.OPENING,
    (State.OPENING, SessionTrigger.FAILURE): State.FAILED,
    (State.AUTHENTICATING, SessionTrigger.RAKP_2): State.ACTIVATING,
    (State.AUTHENTICATING, SessionTrigger.START_ANEW): State.OPENING,
    (State.AUTHENTICATING, SessionTrigger.FAILURE): State.FAILED,
    (State.ACTIVATING, SessionTrigger.RAKP_4): State.ACTIVE,
    (State.ACTIVATING, SessionTrigger.START_ANEW): State.OPENING,
    (State.ACTIVATING, SessionTrigger.FAILURE): State.FAILED,
    (State.ACTIVE, SessionTrigger.REQUEST): State.REQUESTING,
    (State.ACTIVE, SessionTrigger.CLOSE): State.CLOSING,
    (State.REQUESTING, SessionTrigger.RESPONSE): State.ACTIVE,
    (State.REQUESTING, SessionTrigger.REQUEST_DEADLINE): State.ACTIVE,
    (State.REQUESTING, SessionTrigger.START_ANEW): State.OPENING,
    (State.CLOSING, SessionTrigger.CLOSED): State.CLOSED,
}
