"""What the driver shows of a sick BMC, in the agent's log: a line when it comes, one when it goes.

What triage and relief find has lines of its own.
"""

from __future__ import annotations

from bmcmedic.agent.log import AgentLog
from bmcmedic.agent.state import (
    CHECK_FAILING,
    DRIVER_UNAVAILABLE,
    NO_INTERFACE,
    NOT_ANSWERING,
    PATS_FAILING,
    DriverView,
    HostState,
)
from bmcmedic.service.log import INFO, WARNING


class SymptomLog:
    """Remembers what was said, and since when it is so; for one thread."""

    def __init__(self, log: AgentLog) -> None:
        self._log = log
        self._since: dict[str, float] = {}

    def note(self, state: HostState) -> None:
        """Say what is new in it, and what is gone."""
        driver = state.driver
        for symptom in driver.symptoms:
            if symptom not in self._since:
                self._since[symptom] = state.at
                self._log.event(
                    WARNING, "symptom", f"{symptom}: {_known_of(symptom, driver)}", symptom=symptom
                )
        if driver.status is None:
            return  # whether the others are still so is not known
        for symptom in self._since.keys() - set(driver.symptoms):
            lasted_s = max(0.0, state.at - self._since.pop(symptom))
            self._log.event(
                INFO,
                "symptom-gone",
                f"{symptom} is no longer seen, after {lasted_s:.0f} s",
                symptom=symptom,
                lasted_s=round(lasted_s),
            )


def _known_of(symptom: str, driver: DriverView) -> str:
    breaker = driver.section("driver").get("breaker") or {}
    watchdog = driver.section("watchdog")
    open_for_s = breaker.get("open_for_s")
    since = f" (for {open_for_s:.0f} s)" if isinstance(open_for_s, int | float) else ""
    told = {
        DRIVER_UNAVAILABLE: driver.error,
        NO_INTERFACE: driver.interface_missing,
        NOT_ANSWERING: f"{breaker.get('reason') or 'the breaker is open'}{since}",
        PATS_FAILING: watchdog.get("failure"),
        CHECK_FAILING: watchdog.get("check_failure"),
    }
    return str(told.get(symptom) or "the driver says no more of it")
