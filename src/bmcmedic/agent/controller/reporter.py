"""The thread that posts reports to the controller, and passes the orders in its replies on."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from bmcmedic.agent.config import AgentConfig, ControllerConfig
from bmcmedic.agent.controller.https_link import Reply, ReportNotAccepted
from bmcmedic.agent.controller.orders import Acknowledgement
from bmcmedic.agent.controller.report import About, History, document
from bmcmedic.agent.controller.report_schedule import ReportSchedule
from bmcmedic.agent.controller.symptom_log import SymptomLog
from bmcmedic.agent.log import AgentLog
from bmcmedic.agent.state import HostState
from bmcmedic.service.log import INFO, WARNING
from bmcmedic.service.runtime import Runtime


class ReportLink(Protocol):
    """The connection to one controller."""

    config: ControllerConfig

    def post(self, report: dict[str, Any]) -> Reply:
        """Post one report. Raises: ReportNotAccepted."""

    def close(self) -> None:
        """Close the connection."""


class OrderIntake(Protocol):
    """The order queue, as the reporter needs it."""

    def take(self, raw_orders: list[Any]) -> None:
        """Take the orders of a reply."""

    def acknowledgements(self) -> list[Acknowledgement]:
        """Return the acknowledgements for the next report."""

    def delivered(self, reported: list[Acknowledgement]) -> None:
        """Note that a report delivered these acknowledgements."""


class Reporter:
    """Posts the newest state of the host, by the report schedule."""

    def __init__(
        self,
        config: Callable[[], AgentConfig],
        about: Callable[[], About],
        orders: OrderIntake,
        link: Callable[[ControllerConfig], ReportLink],
        log: AgentLog,
        runtime: Runtime,
        epoch_s: Callable[[], float],
    ) -> None:
        self._config = config
        self._about = about
        self._orders = orders
        self._make_link = link
        self._link: ReportLink | None = None
        self._log = log
        self._runtime = runtime
        self._epoch_s = epoch_s
        self._wakeup = runtime.signal()
        self._stopping = False
        self._lock = threading.Lock()
        self._state: HostState | None = None
        self._history = History()
        self._symptoms = SymptomLog(log)
        self._schedule = ReportSchedule(runtime.monotonic(), random.Random())
        self._sequence = 0
        self._missed = 0
        self.counts: Counter[str] = Counter(taken=0, failed=0)
        self.last_accepted_at: float | None = None
        """Time of the last report that was accepted, in seconds since the epoch."""

    def publish(self, state: HostState) -> None:
        """Take a new state, which replaces the one before; one thread may call this."""
        with self._lock:
            self._state = state
            has_changed = self._history.note(state)
        self._symptoms.note(state)
        if has_changed:
            self.report_soon()

    def report_soon(self) -> None:
        """Post the next report as soon as the schedule allows."""
        self._schedule.expedite()
        self._wakeup.set()

    def run(self) -> None:
        """Post reports until `stop`."""
        while not self._stopping:
            self._wakeup.wait(self.step())
        if self._link is not None:
            self._link.close()

    def stop(self) -> None:
        """Ask the thread to end; a report under way ends by its own time-out."""
        self._stopping = True
        self._wakeup.set()

    def step(self) -> float | None:
        """Post a report if one is due, and return the wait for the next, in seconds.

        None means that the thread waits until it is woken.
        """
        config = self._config().controller
        if config.url is None or self._state is None:
            return None if config.url is None else config.period_s
        wait_s = self._schedule.due_in_s(self._runtime.monotonic())
        if wait_s > 0:
            return wait_s
        self._report(config)
        return self._schedule.due_in_s(self._runtime.monotonic())

    def _report(self, config: ControllerConfig) -> None:
        if self._link is None or self._link.config != config:
            if self._link is not None:
                self._link.close()
            self._link = self._make_link(config)
        with self._lock:
            assert self._state is not None
            self._sequence += 1
            acknowledged = self._orders.acknowledgements()
            report = document(
                self._about(),
                self._state,
                sequence=self._sequence,
                sent_at=self._epoch_s(),
                missed=self._missed,
                history=self._history,
                orders=acknowledged,
            )
        try:
            reply = self._link.post(report)
        except ReportNotAccepted as error:
            self._failed(config, error)
            return
        self._schedule.succeeded(self._runtime.monotonic(), config.period_s)
        if self._missed or not self.counts["taken"]:
            self._log.event(INFO, "report", "the controller accepts reports", missed=self._missed)
        self._missed = 0
        self.counts["taken"] += 1
        self.last_accepted_at = self._epoch_s()
        with self._lock:
            self._history.delivered(report["changes"])
        self._orders.delivered(acknowledged)
        if reply.orders:
            self._orders.take(reply.orders)
        # Report at once what changed while the report was under way.
        if self._history.changes or any(
            each.state.is_final for each in self._orders.acknowledgements()
        ):
            self.report_soon()

    def _failed(self, config: ControllerConfig, error: ReportNotAccepted) -> None:
        if self._schedule.failures == 0:
            self._log.event(WARNING, "report", f"a report was not accepted: {error}")
        self._missed += 1
        self.counts["failed"] += 1
        self._schedule.failed(
            self._runtime.monotonic(), config.period_s, config.back_off_s_max, error.retry_after_s
        )
