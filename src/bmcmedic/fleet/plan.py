"""From a diagnosis to what will be done, in the words an operator reads before saying yes: pure."""

from __future__ import annotations

from dataclasses import dataclass

from bmcmedic.model.heal import BmcDiagnosis, DiagnosisKind, Reach, Remedy, RemedyPlan
from bmcmedic.model.probe import WatchdogFacts

_POLL_PERIOD_S_MAX = 5.0
_POLL_PERIOD_S_MIN = 0.5
_POLLS_A_QUIET_TIME = 9

IDLE_SESSION_S_MAX = 50.0
"""A BMC drops a session that is idle for 60 +- 3 s; silence after this long proves nothing."""


@dataclass(frozen=True, slots=True)
class ResetTimes:
    """How long each part may take, in seconds."""

    quiet_s: float = 45.0
    """After the reset, before anything is asked: a BMC that boots is left alone."""
    return_s: float = 300.0
    """From the sending of the reset until it must answer."""
    steady_s: float = 30.0
    """How long it must go on answering."""

    @property
    def poll_s(self) -> float:
        """Between two polls: 5 s, less only where the quiet time is below the usual 45 s."""
        wanted = self.quiet_s / _POLLS_A_QUIET_TIME
        return min(_POLL_PERIOD_S_MAX, max(_POLL_PERIOD_S_MIN, wanted))

    @property
    def total_s(self) -> float:
        """The longest that reset and proof can take."""
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
            "the BMC answers its host ever more slowly and still answers over LAN; whatever wears"
            " it down, such as a flood of port 0x80 writes, must be stopped too, or it comes back"
        ),
    ),
    DiagnosisKind.LAN_SICK: (
        Remedy.COLD_RESET,
        "the BMC lets a session in but does not answer everything",
    ),
    DiagnosisKind.LAN_SILENT: (
        Remedy.REPAIR,
        (
            "no reset can reach the BMC over LAN: check the address, and that nothing on the way"
            " drops UDP; if it may be restarting just now, look again in 5 minutes; else it needs"
            " hands, or a power reseat"
        ),
    ),
    DiagnosisKind.NO_SESSION: (
        Remedy.REPAIR,
        "no reset can be sent without a session; free its session slots, or give it hands",
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
            "what the host saw does not point to its BMC; if you know that it hangs, say so with"
            " --in-band-hung"
        ),
    ),
    DiagnosisKind.ORDERED: (Remedy.COLD_RESET, "ordered by the operator"),
}

_PORT_CLOSED = (
    "nothing listens at this port: check the port, and that IPMI over LAN is enabled there; if both"
    " are right, the BMC is restarting (look again in 5 minutes) or its LAN service has ended, and"
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
    """What to do about a diagnosis; `remedy` is what an operator ordered instead.

    `reach` is how far the way to the BMC went, where that is more than the diagnosis says.
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
        hold = "read the BMC's watchdog timer once more, and stop it if it runs"
    elif runs:
        hold = (
            f"stop the BMC's watchdog timer over LAN ({watchdog.present_countdown_s:g} s left until"
            f" {watchdog.action}), because nobody can pat it meanwhile"
        )
    else:
        hold = "leave the BMC's watchdog timer alone: it does not run"
    host = (
        "ask the host: same boot id, kipmi at rest"
        if host_is_asked
        else "look for signs over LAN that the host restarted"
    )
    return (
        hold,
        "note the host's power state",
        f"send one {word} reset to the BMC; it is never repeated",
        f"leave the BMC alone for {times.quiet_s:g} s",
        f"wait until it answers, at most {times.return_s:g} s from the reset",
        "check that it really restarted, its self-test, and the host's power",
        host,
        f"see it steady for {times.steady_s:g} s",
        "put the watchdog timer's settings back" if runs else "give the verdict",
    )
