"""What an answer means wherever BMCs are asked: when to ask again, and what a bad one shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.model.probe import WatchdogFacts

if TYPE_CHECKING:
    # A plain sweep asks for no timer, and starts without its chapter.
    from bmcmedic.ipmi.commands.watchdog import GetWatchdogTimerRsp

RETRY_PAUSE_FIRST_S = 0.3
"""Time before a question that was refused for the moment is asked again, in seconds."""
RETRY_PAUSE_FACTOR = 2.0
"""How much longer each further pause is."""

RETRY_S_MAX = 5.0
"""Longest time for which a question is asked again while the BMC refuses it, in seconds."""

_LASTING_RETRY_S_MAX = 1.0
"""The same, in seconds, for codes that many BMCs answer for ever."""

_PASSING_CODES = frozenset(
    {
        CompletionCode.NODE_BUSY,
        CompletionCode.TIMEOUT,
        CompletionCode.RESPONSE_UNAVAILABLE,
        CompletionCode.INITIALIZING,
    }
)
"""A question that is answered with one of these codes is asked again: it may soon be answered."""

_LASTING_CODES = frozenset({CompletionCode.UNSPECIFIED, CompletionCode.NOT_SUPPORTED_IN_STATE})
"""These codes may pass as well; OpenBMC answers 0xFF for ever where a service is missing."""


def retry_limit_s(code: int | None) -> float:
    """Return how long a question is asked again after a completion code, in seconds; 0: not."""
    if code in _PASSING_CODES:
        return RETRY_S_MAX
    return _LASTING_RETRY_S_MAX if code in _LASTING_CODES else 0.0


def watchdog_facts(timer: GetWatchdogTimerRsp) -> WatchdogFacts:
    """Return the documented part of a timer's state."""
    return WatchdogFacts(timer.running, timer.present_countdown_s, timer.action.text)


def salvaged_facts(raw: bytes) -> WatchdogFacts | None:
    """Return what a malformed answer still shows; None where it does not show the settings."""
    from bmcmedic.ipmi.commands.watchdog import salvage_timer

    salvaged = salvage_timer(raw)
    if salvaged is None or not salvaged.settings_known:
        return None
    timer = salvaged.timer
    left_s = timer.present_countdown_s if salvaged.countdown_known else None
    return WatchdogFacts(timer.running, left_s, timer.action.text)
