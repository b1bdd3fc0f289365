"""The thread that reports to the controller, and hands its orders on."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from bmcmedic.agent.config import AgentConfig, ControllerConfig
from bmcmedic.agent.controller.https_link import NotTaken, Reply
from bmcmedic.agent.controller.orders import Acknowledgement
from bmcmedic.agent.controller.report import About, History, Pace, document
from bmcmedic.agent.controller.symptom_log import SymptomLog
from bmcmedic.agent.log import AgentLog
from bmcmedic.agent.state import HostState
from bmcmedic.service.log import INFO, WARNING
from bmcmedic.service.runtime import Runtime


class ReportLink(Protocol):
    """The way to one controller."""

    config: ControllerConfig

    def post(self, report: dict[str, Any]) -> Reply:
        """Post one report; raises NotTaken."""

    def close(self) -> None:
        """Hang up."""


class OrderIntake(Protocol):
    """Where orders go, and what became of them."""

    def take(self, raw_orders: list[Any]) -> None:
        """What a reply brought."""

    def acknowledgements(self) -> list[Acknowledgement]:
        """What the next report says of orders."""

    def delivered(self, told: list[Acknowledgement]) -> None:
        """A report with these has arrived."""


class Reporter:
    """Posts the newest state, at its pace."""

    def __init__(
        self,
        config: Callable[[], AgentConfig],
        about: Callable[[], About],
        desk: OrderIntake,
        link: Callable[[ControllerConfig], ReportLink],
        log: AgentLog,
        runtime: Runtime,
        epoch_s: Callable[[], float],
    ) -> None:
        self._config = config
        self._about = about
        self._desk = desk
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
        self._pace = Pace(runtime.monotonic(), random.Random())
        self._sequence = 0
        self._missed = 0
        self.counts: Counter[str] = Counter(taken=0, failed=0)
        self.last_taken_at: float | None = None
        """Epoch seconds."""

    def publish(self, state: HostState) -> None:
        """Take a new state, from one thread. It takes the place of the one before."""
        with self._lock:
            self._state = state
            is_news = self._history.note(state)
        self._symptoms.note(state)
        if is_news:
            self.news()

    def news(self) -> None:
        """Report as soon as possible."""
        self._pace.news()
        self._wakeup.set()

    def run(self) -> None:
        """Report until `stop`."""
        while not self._stopping:
            self._wakeup.wait(self.step())
        if self._link is not None:
            self._link.close()

    def stop(self) -> None:
        """End; a report under way ends by its own time-out."""
        self._stopping = True
        self._wakeup.set()

    def step(self) -> float | None:
        """Report if that is due; returns how long to wait for the next, None: until it is told."""
        config = self._config().controller
        if config.url is None or self._state is None:
            return None if config.url is None else config.period_s
        wait_s = self._pace.due_in_s(self._runtime.monotonic())
        if wait_s > 0:
            return wait_s
        self._report(config)
        return self._pace.due_in_s(self._runtime.monotonic())

    def _report(self, config: ControllerConfig) -> None:
        if self._link is None or self._link.config != config:
            if self._link is not None:
                self._link.close()
            self._link = self._make_link(config)
        with self._lock:
            assert self._state is not None
            self._sequence += 1
            told = self._desk.acknowledgements()
            report = document(
                self._about(),
                self._state,
                sequence=self._sequence,
                sent_at=self._epoch_s(),
                missed=self._missed,
                history=self._history,
                orders=told,
            )
        try:
            reply = self._link.post(report)
        except NotTaken as error:
            self._failed(config, error)
            return
        self._pace.succeeded(self._runtime.monotonic(), config.period_s)
        if self._missed or not self.counts["taken"]:
            self._log.event(INFO, "report", "the controller takes reports", missed=self._missed)
        self._missed = 0
        self.counts["taken"] += 1
        self.last_taken_at = self._epoch_s()
        with self._lock:
            self._history.delivered(report["changes"])
        self._desk.delivered(told)
        if reply.orders:
            self._desk.take(reply.orders)
        # What came up while the report was under way.
        if self._history.changes or any(
            each.state.is_final for each in self._desk.acknowledgements()
        ):
            self.news()

    def _failed(self, config: ControllerConfig, error: NotTaken) -> None:
        if self._pace.failures == 0:
            self._log.event(WARNING, "report", f"a report was not taken: {error}")
        self._missed += 1
        self.counts["failed"] += 1
        self._pace.failed(
            self._runtime.monotonic(), config.period_s, config.back_off_s_max, error.retry_after_s
        )
