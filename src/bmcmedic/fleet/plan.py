"""Plans the remedy for a diagnosis, in the words that an operator reads before a yes: pure."""

from __future__ import annotations

from dataclasses import dataclass

from bmcmedic.model.heal import BmcDiagnosis, DiagnosisKind, Reach, Remedy, RemedyPlan
from bmcmedic.model.probe import WatchdogFacts

_POLL_PERIOD_S_MAX = 5.0
"""Longest time between two polls, in seconds."""
_POLL_PERIOD_S_MIN = 0.5
"""Shortest time between two polls, in seconds."""
_POLLS_PER_QUIET_TIME = 9
"""How many poll periods fit into the quiet time."""

IDLE_SESSION_S_MAX = 50.0
"""Longest idle time, in seconds, after which a session's silence still proves something.

A BMC ends a session that is idle for 60 +- 3 s.
"""


@dataclass(frozen=True, slots=True)
class ResetTimes:
    """How long each part of a remediation may take, in seconds."""

    quiet_s: float = 45.0
    """Time after the reset in which the BMC is not asked, because it boots."""
    return_s: float = 300.0
    """Time from the reset until the BMC must answer."""
    steady_s: float = 30.0
    """Time for which the BMC must keep answering."""

    @property
    def poll_s(self) -> float:
        """Return the time between two polls: 5 s, or less if the quiet time is below 45 s."""
        wanted = self.quiet_s / _POLLS_PER_QUIET_TIME
        return min(_POLL_PERIOD_S_MAX, max(_POLL_PERIOD_S_MIN, wanted))

    @property
    def total_s(self) -> float:
        """Return the longest time that reset and proof can take."""
        return max(self.quiet_s, self.return_s) + self.steady_s


_REASONS: dict[DiagnosisKind, tuple[Remedy, str]] = {
    DiagnosisKind.HEALTHY: (Remedy.NOTHING, "nothing is wrong that a restart could cure"),
    DiagnosisKind.IN_BAND_HUNG: (
        Remedy.COLD_RESET,
        "the BMC hangs towards its host and still answers over LAN",
    ),
    DiagnosisKind.IN_BAND_SLOW: (
        Remedy.COLD_RESET,
        (
            "the BMC answers its host ever more slowly and still answers over LAN; the cause, such"
            " as a flood of port 0x80 writes, must be stopped too, or the fault comes back"
        ),
    ),
    DiagnosisKind.LAN_SICK: (
        Remedy.COLD_RESET,
        "the BMC opens a session but does not answer what it should",
    ),
    DiagnosisKind.LAN_SILENT: (
        Remedy.REPAIR,
        (
            "no reset can reach the BMC over LAN: check the address, and that no firewall on the"
            " path drops UDP; if it may be restarting just now, try again in 5 minutes; else it"
            " needs on-site work, or a power reseat"
        ),
    ),
    DiagnosisKind.NO_SESSION: (
        Remedy.REPAIR,
        "no reset can be sent without a session; free its session slots, or repair it on site",
    ),
    DiagnosisKind.CREDENTIALS_REFUSED: (
        Remedy.REFUSE,
        "nothing can be done with these credentials; check user, password, K_g and privilege",
    ),
    DiagnosisKind.NO_WAY: (
        Remedy.REFUSE,
        "the BMC cannot be reached from here; check the name, the address and the network",
    ),
    DiagnosisKind.UNCLEAR: (
        Remedy.REFUSE,
        (
            "the host's symptoms do not point to its BMC; if you know that it hangs, give"
            " --in-band-hung"
        ),
    ),
    DiagnosisKind.ORDERED: (Remedy.COLD_RESET, "ordered by the operator"),
}

_PORT_CLOSED = (
    "nothing listens at this port: check the port, and that IPMI over LAN is enabled there; if both"
    " are right, the BMC is restarting (try again in 5 minutes) or its LAN service has ended, and"
    " no reset can reach it this way"
)


def plan(
    diagnosis: BmcDiagnosis,
    times: ResetTimes,
    *,
    remedy: Remedy | None = None,
    watchdog: WatchdogFacts | None = None,
    host_is_asked: bool = False,
    reach: Reach | None = None,
) -> RemedyPlan:
    """Plan what to do about a diagnosis; `remedy` is what an operator ordered instead.

    `reach` is how far the session over LAN got. It tells a closed port from a silent BMC, which
    have the same diagnosis.
    """
    by_diagnosis, reason = _REASONS[diagnosis.kind]
    if diagnosis.kind is DiagnosisKind.LAN_SILENT and reach is Reach.PORT_CLOSED:
        reason = _PORT_CLOSED
    chosen = by_diagnosis
    if remedy is not None and by_diagnosis in (Remedy.COLD_RESET, Remedy.NOTHING):
        chosen = remedy
        reason = _REASONS[DiagnosisKind.ORDERED][1]
    if chosen not in (Remedy.COLD_RESET, Remedy.WARM_RESET):
        return RemedyPlan(chosen, reason)
    return RemedyPlan(chosen, reason, _steps(chosen, times, watchdog, host_is_asked))


def _steps(
    remedy: Remedy, times: ResetTimes, watchdog: WatchdogFacts | None, host_is_asked: bool
) -> tuple[str, ...]:
    word = "cold" if remedy is Remedy.COLD_RESET else "warm"
    runs = watchdog is not None and watchdog.running
    if watchdog is None:
        hold = "read the BMC's watchdog timer again, and stop it if it runs"
    elif runs:
        hold = (
            f"stop the BMC's watchdog timer over LAN ({_left_text(watchdog)} until"
            f" {watchdog.action}), because nothing can pat it meanwhile"
        )
    else:
        hold = "leave the BMC's watchdog timer as it is: it does not run"
    host = (
        "ask the host whether its boot id is the same and kipmi at rest"
        if host_is_asked
        else "look for signs over LAN that the host restarted"
    )
    return (
        hold,
        "read the host's power state",
        f"send one {word} reset to the BMC; it is repeated only after the answer busy",
        f"leave the BMC alone for {times.quiet_s:g} s",
        f"wait until it answers, at most {times.return_s:g} s from the reset",
        "check that it really restarted, its self-test, and the host's power",
        host,
        f"check that it keeps answering for {times.steady_s:g} s",
        "put the watchdog timer's settings back" if runs else "give the verdict",
    )


def _left_text(watchdog: WatchdogFacts) -> str:
    left_s = watchdog.present_countdown_s
    return "unknown time" if left_s is None else f"{left_s:g} s left"
