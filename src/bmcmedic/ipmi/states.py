"""The states of a session as the remote console sees it, and the table of its transitions."""

from __future__ import annotations

from enum import IntEnum


class SessionState(IntEnum):
    """The state of a session, seen from the remote console."""

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
    """The events that move a session from one state to another."""

    OPEN = 0
    OPEN_SESSION_RESPONSE = 1
    RAKP_2 = 2
    RAKP_4 = 3
    REQUEST = 4
    RESPONSE = 5
    REQUEST_DEADLINE = 6
    RESTART_SET_UP = 7
    CLOSE = 8
    CLOSED = 9
    FAILURE = 10


TRANSITIONS: dict[tuple[SessionState, SessionTrigger], SessionState] = {
    (SessionState.IDLE, SessionTrigger.OPEN): SessionState.OPENING,
    (SessionState.OPENING, SessionTrigger.OPEN_SESSION_RESPONSE): SessionState.AUTHENTICATING,
    (SessionState.OPENING, SessionTrigger.RESTART_SET_UP): SessionState.OPENING,
    (SessionState.OPENING, SessionTrigger.FAILURE): SessionState.FAILED,
    (SessionState.AUTHENTICATING, SessionTrigger.RAKP_2): SessionState.ACTIVATING,
    (SessionState.AUTHENTICATING, SessionTrigger.RESTART_SET_UP): SessionState.OPENING,
    (SessionState.AUTHENTICATING, SessionTrigger.FAILURE): SessionState.FAILED,
    (SessionState.ACTIVATING, SessionTrigger.RAKP_4): SessionState.ACTIVE,
    (SessionState.ACTIVATING, SessionTrigger.RESTART_SET_UP): SessionState.OPENING,
    (SessionState.ACTIVATING, SessionTrigger.FAILURE): SessionState.FAILED,
    (SessionState.ACTIVE, SessionTrigger.REQUEST): SessionState.REQUESTING,
    (SessionState.ACTIVE, SessionTrigger.CLOSE): SessionState.CLOSING,
    (SessionState.REQUESTING, SessionTrigger.RESPONSE): SessionState.ACTIVE,
    (SessionState.REQUESTING, SessionTrigger.REQUEST_DEADLINE): SessionState.ACTIVE,
    (SessionState.REQUESTING, SessionTrigger.RESTART_SET_UP): SessionState.OPENING,
    (SessionState.CLOSING, SessionTrigger.CLOSED): SessionState.CLOSED,
}
