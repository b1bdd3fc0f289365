"""The driver's symptoms in the agent's log: a line when one appears, and a line when it is gone.

Triage and relief log their own findings.
"""

from __future__ import annotations

from bmcmedic.agent.log import AgentLog
from bmcmedic.agent.state import DriverView, HostState
from bmcmedic.host.symptoms import (
    BMC_NOT_ANSWERING,
    DRIVER_UNAVAILABLE,
    HOST_CHECK_FAILING,
    NO_INTERFACE,
    PATS_FAILING,
)
from bmcmedic.service.log import INFO, WARNING


class SymptomLog:
    """Logs changes of the symptoms, for one thread; it remembers since when each has lasted."""

    def __init__(self, log: AgentLog) -> None:
        self._log = log
        self._since: dict[str, float] = {}

    def note(self, state: HostState) -> None:
        """Log the symptoms that are new, and those that are gone."""
        driver = state.driver
        for symptom in driver.symptoms:
            if symptom not in self._since:
                self._since[symptom] = state.at
                self._log.event(
                    WARNING,
                    "symptom",
                    f"{symptom}: {_details_of(symptom, driver)}",
                    symptom=symptom,
                )
        if driver.status is None:
            return  # without a status it is unknown whether the other symptoms last
        for symptom in self._since.keys() - set(driver.symptoms):
            lasted_s = max(0.0, state.at - self._since.pop(symptom))
            self._log.event(
                INFO,
                "symptom-gone",
                f"{symptom} is gone after {lasted_s:.0f} s",
                symptom=symptom,
                lasted_s=round(lasted_s),
            )


def _details_of(symptom: str, driver: DriverView) -> str:
    breaker = driver.section("driver").get("breaker") or {}
    watchdog = driver.section("watchdog")
    open_for_s = breaker.get("open_for_s")
    since = f" (for {open_for_s:.0f} s)" if isinstance(open_for_s, int | float) else ""
    details = {
        DRIVER_UNAVAILABLE: driver.error,
        NO_INTERFACE: driver.interface_missing,
        BMC_NOT_ANSWERING: f"{breaker.get('reason') or 'the breaker is open'}{since}",
        PATS_FAILING: watchdog.get("failure"),
        HOST_CHECK_FAILING: watchdog.get("check_failure"),
    }
    return str(details.get(symptom) or "the driver gives no details")
