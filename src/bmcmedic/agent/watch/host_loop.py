"""The loop that watches the host: cheap samples, scans of all processes on an anomaly, and relief.

The cost of a scan determines how often one is made, so watching never slows down a host with a
hundred thousand processes. Relief is in time all the same, because the loop knows when each client
that it has seen can be proven stuck.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from bmcmedic.agent.config import AgentConfig
from bmcmedic.agent.log import AgentLog
from bmcmedic.agent.state import DriverView, HostState, KipmiView, ReliefView
from bmcmedic.agent.watch.cpu_budget import CpuBudget
from bmcmedic.agent.watch.sample import SampleDelta, Sampler
from bmcmedic.host.kernel.proc import ProcError, Tree
from bmcmedic.host.relieve.kipmid_throttle import ThrottleAction, ThrottleSetting
from bmcmedic.host.relieve.priority import RaisedPriority
from bmcmedic.host.relieve.relieve import HostTrees, Relief, ReliefCase, Report, is_gone
from bmcmedic.host.relieve.report import outcome_of
from bmcmedic.host.symptoms import STUCK_CLIENTS
from bmcmedic.host.triage.report import to_json
from bmcmedic.host.triage.triage import INTERVAL_S, Roots, Triage, triage
from bmcmedic.service.log import INFO, WARNING
from bmcmedic.service.runtime import Runtime

ANOMALY_ROUND_S = 5.0
"""Longest time between two rounds during an anomaly, in seconds."""
SCAN_GAP_S_MIN = 2.0
"""Shortest time between two scans of all processes during an anomaly, in seconds."""
SCAN_GAP_S_MAX = 30.0
"""Longest time between two such scans, in seconds."""
SCAN_GAP_S_MAX_LEAST = 5.0
"""Lower bound of that longest time, in seconds.

The longest time is half of `stuck_after_s`, but at least this.
"""
COST_SHARE = 200
"""Within those limits, scans take one part in this many of a core: half a per cent."""
OBSERVING_FACTOR = 2.0
"""Factor on the time between scans if relief may not act."""
DUE_WITHIN_S = 1.0
"""Clients that get stuck within this time of each other are ended together, in seconds."""
TRIAGE_ANOMALY_S = 60.0
"""Time between two complete triages during an anomaly without changes, in seconds."""
TRIAGE_GAP_S = 10.0
"""Shortest time between two triages that are made because of a change, in seconds."""
ROWS_MAX = 50
"""Rows of each list of a triage that a report contains."""
LOGGED_CLIENTS_MAX = 20
"""Clients that the log names for one pass of relief."""


class Permitted(Protocol):
    """The permission to change the host."""

    @property
    def acted(self) -> bool:
        """Whether something may have to be put back."""

    def why_not(self) -> str | None:
        """Return why nothing may be changed, or None if it may."""

    def note_act(self) -> bool:
        """Record that something is about to be changed; False if it must not be."""

    def note_undone(self) -> None:
        """Record that everything is put back."""


@dataclass(frozen=True, slots=True)
class Host:
    """The loop's access to the host; tests pass a different one."""

    trees: HostTrees
    driver: Callable[[], DriverView]
    cpu_s: Callable[[], float]
    """Returns the CPU time of the calling thread so far, in seconds."""
    epoch_s: Callable[[], float]
    first: AbstractContextManager[None] = field(default_factory=RaisedPriority)
    """Context in which the loop has a higher priority than the host's own work."""


class HostLoop:
    """Watches one host, round by round."""

    def __init__(
        self,
        host: Host,
        config: Callable[[], AgentConfig],
        permission: Permitted,
        publish: Callable[[HostState], None],
        log: AgentLog,
        runtime: Runtime,
    ) -> None:
        """`config` is called each round; `publish` gets each new state, and must not block."""
        self._host = host
        self._config = config
        self._permission = permission
        self._publish = publish
        self._log = log
        self._runtime = runtime
        self._wakeup = runtime.signal()
        self._stopping = False
        self._relief = Relief(host.trees, config().relief.stuck_after_s)
        self._sampler = Sampler(host.trees.proc, host.trees.sys)
        self._last_triage: dict[str, Any] | None = None
        self._triage_symptoms: list[str] = []
        self._triaged_at: float | None = None
        self._scan_at = -math.inf
        """When all processes are scanned again, as a monotonic time in seconds."""
        self._may_act = False
        """Whether relief was allowed to end clients at the last scan."""
        self._is_pressing = False
        """Whether a client can be proven stuck, and be ended, at the next scan."""
        self._cpu_budget = CpuBudget(runtime.monotonic())
        self._view = ReliefView()
        self._anomaly: str | None = None
        self._noted = (True, True, 0, self._view.actions)
        """Facts of the last round; a change of one of them calls for a triage."""
        self._is_triage_wanted = False
        self._last_message = ""
        self.progressed_at = runtime.monotonic()
        """When the loop last made progress, as a monotonic time in seconds."""

    # -------------------------------------------------------------------------------- its thread

    def run(self) -> None:
        """Watch until `stop`, then put back what was changed."""
        while not self._stopping:
            self._wait(self.round())
        self.undo("the agent ends")

    def stop(self) -> None:
        """Ask the loop to end; a pass of relief that is under way ends first."""
        self._stopping = True
        self._wakeup.set()

    def wake(self) -> None:
        """Begin a round at once: the configuration has changed."""
        self._wakeup.set()

    def _wait(self, seconds: float) -> None:
        self.progressed_at = self._runtime.monotonic()
        with self._host.first if self._is_pressing else nullcontext():
            if not self._stopping:
                self._wakeup.wait(seconds)
            self.progressed_at = self._runtime.monotonic()
            if self._is_pressing and self.progressed_at >= self._scan_at and not self._stopping:
                # Scan first, while this thread still has the higher priority.
                self._relieve(self._apply_config())

    # --------------------------------------------------------------------------------- one round

    def round(self) -> float:
        """Sample, relieve on an anomaly, publish; return how long to wait, in seconds."""
        config = self._apply_config()
        driver = self._host.driver()  # first: it is cheap, and the metrics wait for it
        sample = self._sampler.take()
        self._anomaly = self._find_anomaly(sample, driver)
        if self._anomaly is not None:
            self._relieve(config)
        noted = (
            self._anomaly is None,
            sample.anomaly is None,
            self._view.stuck,
            self._view.actions,
        )
        self._is_triage_wanted |= noted != self._noted
        self._noted = noted
        if self._is_triage_due(config):
            self._triage(config)
        self._publish(self._state(sample, driver))
        return self._pause_s(config)

    def _apply_config(self) -> AgentConfig:
        """Return the current configuration, after obeying it and the kill switch."""
        config = self._config()
        if config.relief.stuck_after_s != self._relief.stuck_after_s:
            self._relief = Relief(self._host.trees, config.relief.stuck_after_s)
            self._scan_at = -math.inf
        why_not = self._permission.why_not()
        if self._permission.acted and (config.relief.mode != "act" or why_not is not None):
            self.undo(why_not or "relief only observes")
        return config

    def _find_anomaly(self, sample: SampleDelta, driver: DriverView) -> str | None:
        if sample.anomaly is not None:
            return sample.anomaly
        breaker = driver.section("driver").get("breaker") or {}
        if breaker.get("open") and driver.interface_missing is None:
            return "the driver's breaker is open"
        if self._view.stuck or STUCK_CLIENTS in self._triage_symptoms:
            return "clients are stuck"
        if self._permission.acted:
            return "kipmid's limit must be put back"
        return None

    def _is_triage_due(self, config: AgentConfig) -> bool:
        if self._triaged_at is None:
            return True
        since_s = self._runtime.monotonic() - self._triaged_at
        if self._is_triage_wanted and since_s >= TRIAGE_GAP_S:
            return True
        every_s = TRIAGE_ANOMALY_S if self._anomaly is not None else config.triage.full_every_s
        return since_s >= min(every_s, config.triage.full_every_s)

    def _pause_s(self, config: AgentConfig) -> float:
        if self._anomaly is None:
            return config.triage.period_s
        pause_s = max(0.0, self._scan_at - self._runtime.monotonic())
        # Rounds of even length: a change within a moment would prove nothing.
        return pause_s if pause_s <= ANOMALY_ROUND_S else min(ANOMALY_ROUND_S, pause_s / 2)

    def _next_scan_at(self, config: AgentConfig, report: Report, cost_s: float) -> float:
        """Return when to scan again: by cost, or earlier if a client can be ended then."""
        now = self._runtime.monotonic()
        if self._is_pressing:
            self._cpu_budget.spend(cost_s, now)
        self._is_pressing = False
        if not self._may_act:
            pause_s = OBSERVING_FACTOR * max(SCAN_GAP_S_MIN, COST_SHARE * cost_s)
            return now + min(SCAN_GAP_S_MAX, pause_s)
        pause_s = min(SCAN_GAP_S_MAX, max(SCAN_GAP_S_MAX_LEAST, config.relief.stuck_after_s / 2))
        scan_at = now + min(pause_s, max(SCAN_GAP_S_MIN, COST_SHARE * cost_s))
        due_at = self._relief.next_due_at(DUE_WITHIN_S)
        if report.unseen and any(is_gone(case) for case in report.stuck):
            due_at = now  # the scan had no room for further clients
        if due_at is None or due_at >= scan_at:
            return scan_at
        self._is_pressing = True
        # The gap counts from the scan, so the time that ending took is part of it.
        gap_ends_at = self._relief.scanned_at + self._cpu_budget.gap_s(cost_s, now)
        return min(scan_at, max(due_at, gap_ends_at))

    # ------------------------------------------------------------------------------ triage, relief

    def _triage(self, config: AgentConfig) -> None:
        trees = self._host.trees
        roots = Roots(
            trees.proc, Tree(trees.proc.root), trees.sys, trees.sys, trees.run, trees.etc, True
        )
        try:
            seen = triage(
                roots,
                interval_s=INTERVAL_S,
                stuck_after_s=config.relief.stuck_after_s,
                sleep=self._wait_out,
                epoch_s=self._host.epoch_s,
            )
        except ProcError as error:
            self._log.event(WARNING, "triage-failed", f"/proc cannot be read: {error}")
            return
        self._triaged_at = self._runtime.monotonic()
        self._is_triage_wanted = False
        self._sampler.threads = seen.scan.kipmi
        self._last_triage = _shortened(seen)
        symptoms = seen.diagnosis.symptoms
        if symptoms != self._triage_symptoms:
            self._log.event(
                WARNING if symptoms else INFO,
                "triage",
                seen.diagnosis.words,
                symptoms=",".join(symptoms) or "none",
                stuck=len(seen.stuck),
            )
        self._triage_symptoms = symptoms

    def _wait_out(self, seconds: float) -> None:
        """Wait between the two samples of a triage; relief goes on meanwhile."""
        until = self._runtime.monotonic() + seconds
        while not self._stopping:
            now = self.progressed_at = self._runtime.monotonic()
            if now >= until:
                return
            config = self._apply_config()
            if self._anomaly is not None and now >= self._scan_at:
                self._relieve(config)
                continue
            wanted_at = self._scan_at if self._anomaly is not None else until
            self._wakeup.wait(min(until, wanted_at) - now)

    def _relieve(self, config: AgentConfig) -> None:
        wants, why_not = config.relief.mode == "act", self._permission.why_not()
        if wants and why_not is None and not self._permission.note_act():
            why_not = "a change of the host cannot be recorded: is the disk full?"
        may_act = wants and why_not is None
        is_scan = self._runtime.monotonic() >= self._scan_at or may_act > self._may_act
        self._may_act = may_act
        cost_before_s = self._host.cpu_s()
        try:
            report = self._scan(may_act) if is_scan else self._relief.watch(may_act)
        except ProcError as error:
            self._scan_at = self._runtime.monotonic() + SCAN_GAP_S_MIN
            self._log.event(WARNING, "relief-failed", f"/proc cannot be read: {error}")
            return
        if is_scan:
            cost_s = self._host.cpu_s() - cost_before_s
            self._scan_at = self._next_scan_at(config, report, cost_s)
        self._view = self._view_of(config, report, why_not if wants else None)
        self._log_report(report)
        setting = report.setting
        is_clean = not report.stuck and setting.action in (
            ThrottleAction.NONE,
            ThrottleAction.PUT_BACK,
        )
        if may_act and is_clean and not setting.failed:
            self._permission.note_undone()

    def _scan(self, may_act: bool) -> Report:
        with self._host.first if may_act else nullcontext():
            return self._relief.step(may_act)

    def undo(self, why: str) -> None:
        """Put back what an agent has changed on this host."""
        if not self._permission.acted:
            return
        setting = self._relief.undo(may_act=True)
        if setting.failed:
            self._log.event(WARNING, "undo-failed", f"could not put back: {setting.why}")
            return
        self._permission.note_undone()
        if setting.action is ThrottleAction.PUT_BACK:
            self._count_setting(setting)
            self._log.event(
                INFO,
                "undo",
                f"put back kipmid_max_busy_us ({why})",
                before=setting.before,
                after=setting.after,
            )

    # ---------------------------------------------------------------------- state and log

    def _view_of(self, config: AgentConfig, report: Report, why_not: str | None) -> ReliefView:
        actions = Counter(self._view.actions)
        actions.update(map(outcome_of, _newly_ended(report)))
        if report.acted and report.setting.action.is_change:
            actions[f"kipmid {report.setting.action.value}"] += 1
        last = self._view.last
        if report.is_to_do:
            last = _last(report)
        left = [case for case in report.stuck if not is_gone(case)]
        throttled = report.setting.action is ThrottleAction.KEEP or (
            report.acted and report.setting.action is ThrottleAction.SET
        )
        return ReliefView(
            mode=config.relief.mode,
            why_not=why_not or report.disabled,
            stuck=len(left),
            throttled=throttled,
            actions=actions,
            last=last,
        )

    def _count_setting(self, setting: ThrottleSetting) -> None:
        actions = Counter(self._view.actions)
        actions[f"kipmid {setting.action.value}"] += 1
        self._view = ReliefView(
            mode=self._view.mode,
            why_not=self._view.why_not,
            stuck=self._view.stuck,
            actions=actions,
            last=self._view.last,
        )

    def _log_report(self, report: Report) -> None:
        """Log a line for each action, and a line if what relief would do has changed."""
        outcomes = Counter(map(outcome_of, report.stuck))
        setting = report.setting
        ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        parts = [ended] if ended else []
        if setting.action.is_change or setting.failed:
            parts.append(f"kipmid_max_busy_us: {setting.action.value} ({setting.why})")
        message = "; ".join(parts)
        is_done = report.acted and (_newly_ended(report) or setting.action.is_change)
        if not message or (message == self._last_message and not is_done):
            self._last_message = message
            return
        self._last_message = message
        named = "; ".join(
            " ".join(c.judged.client.argv)[:60] for c in report.stuck[:LOGGED_CLIENTS_MAX]
        )
        verb = "relief" if report.acted else "relief would act (nothing was done)"
        self._log.event(
            WARNING,
            "relief",
            f"{verb}: {message}",
            acted=str(report.acted).lower(),
            stuck=len(report.stuck),
            clients=named,
        )

    def _state(self, sample: SampleDelta, driver: DriverView) -> HostState:
        symptoms = set(self._triage_symptoms) | set(driver.symptoms)
        if self._view.stuck:
            symptoms.add(STUCK_CLIENTS)
        return HostState(
            at=self._host.epoch_s(),
            symptoms=tuple(sorted(symptoms)),
            anomaly=self._anomaly,
            triage=self._last_triage,
            kipmi=tuple(
                KipmiView(each.name, each.cpu_percent, each.cpu_total_s) for each in sample.kipmi
            ),
            driver=driver,
            relief=self._view,
        )


def _newly_ended(report: Report) -> list[ReliefCase]:
    """Return the clients that this pass has dealt with."""
    return [case for case in report.stuck if case.ending is not None and not case.is_earlier]


def _last(report: Report) -> dict[str, Any]:
    return {
        "at": round(report.at, 3),
        "acted": report.acted,
        "outcomes": dict(Counter(map(outcome_of, report.stuck))),
        "pids": [case.judged.client.identity.pid for case in report.stuck[:ROWS_MAX]],
        "kipmid_max_busy_us": dict(report.setting._asdict()),
    }


def _shortened(seen: Triage) -> dict[str, Any]:
    """Return a triage as `bmcmedic triage --json` prints it, with lists cut but counts right."""
    document = to_json(seen)
    for key in ("stuck", "spared", "direct_openers", "guests"):
        document[key] = document[key][:ROWS_MAX]
    return document
