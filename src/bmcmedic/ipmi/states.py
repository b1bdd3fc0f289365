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


class Trigger(IntEnum):
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


TRANSITIONS: dict[tuple[State, Trigger], State] = {
    (State.IDLE, Trigger.OPEN): State.OPENING,
    (State.OPENING, Trigger.OPEN_SESSION_RESPONSE): State.AUTHENTICATING,
    (State.OPENING, Trigger.START_ANEW): State.OPENING,
    (State.OPENING, Trigger.FAILURE): State.FAILED,
    (State.AUTHENTICATING, Trigger.RAKP_2): State.ACTIVATING,
    (State.AUTHENTICATING, Trigger.START_ANEW): State.OPENING,
    (State.AUTHENTICATING, Trigger.FAILURE): State.FAILED,
    (State.ACTIVATING, Trigger.RAKP_4): State.ACTIVE,
    (State.ACTIVATING, Trigger.START_ANEW): State.OPENING,
    (State.ACTIVATING, Trigger.FAILURE): State.FAILED,
    (State.ACTIVE, Trigger.REQUEST): State.REQUESTING,
    (State.ACTIVE, Trigger.CLOSE): State.CLOSING,
    (State.REQUESTING, Trigger.RESPONSE): State.ACTIVE,
    (State.REQUESTING, Trigger.REQUEST_DEADLINE): State.ACTIVE,
    (State.REQUESTING, Trigger.START_ANEW): State.OPENING,
    (State.CLOSING, Trigger.CLOSED): State.CLOSED,
}
