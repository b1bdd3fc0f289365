"""The agent's eye on its host: a cheap look always, a close one when something is odd, and relief.

How often all processes are looked at follows from what that costs here, so that a host with a
hundred thousand of them is not slowed down by being watched. Relief is in time all the same: of
each client that was seen it is known when it may be proven stuck.
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
from bmcmedic.host.relieve.kipmid_throttle import ThrottleSetting
from bmcmedic.host.relieve.priority import RaisedPriority
from bmcmedic.host.relieve.relieve import HostTrees, Relief, ReliefCase, Report, is_gone
from bmcmedic.host.relieve.report import outcome_of
from bmcmedic.host.symptoms import STUCK_CLIENTS
from bmcmedic.host.triage.report import to_json
from bmcmedic.host.triage.triage import INTERVAL_S, Roots, Triage, triage
from bmcmedic.service.log import INFO, WARNING
from bmcmedic.service.runtime import Runtime

ODD_ROUND_S = 5.0
"""Between two rounds while something is odd, at the most."""
CLOSE_S_MIN = 2.0
"""Between two looks at all processes while something is odd, at the least."""
CLOSE_S_MAX = 30.0
CLOSE_S_MAX_LEAST = 5.0
"""But in half the time that makes a client stuck all are seen, or in this."""
COST_SHARE = 200
"""Such a look is made so seldom that it takes half a per cent of a core, within those limits."""
OBSERVING_FACTOR = 2.0
"""Where nothing may be done anyway it is made half as often."""
DUE_WITHIN_S = 1.0
"""Clients that get stuck so soon one after the other are ended together."""
TRIAGE_ODD_S = 60.0
"""Between two whole triages while something is odd and nothing changes."""
TRIAGE_GAP_S = 10.0
"""Between two that are made because something has changed."""
ROWS_MAX = 50
"""Of each list of a triage that goes into a report."""
TOLD_MAX = 20
"""Clients that the log names for one relief."""


class Permitted(Protocol):
    """Whether anything may be changed here."""

    @property
    def acted(self) -> bool:
        """Whether something may be left to be put back."""

    def why_not(self) -> str | None:
        """Why nothing may be changed; None: it may."""

    def note_act(self) -> bool:
        """About to change something; False: it must not be."""

    def note_undone(self) -> None:
        """All is put back."""


@dataclass(frozen=True, slots=True)
class Host:
    """The host as the loop reaches it; tests hand in another."""

    place: HostTrees
    driver: Callable[[], DriverView]
    cpu_s: Callable[[], float]
    """What the calling thread has cost so far."""
    epoch_s: Callable[[], float]
    first: AbstractContextManager[None] = field(default_factory=RaisedPriority)
    """What the loop does within comes before others' work."""


class HostLoop:
    """Looks at one host, round by round."""

    def __init__(
        self,
        host: Host,
        config: Callable[[], AgentConfig],
        permission: Permitted,
        publish: Callable[[HostState], None],
        log: AgentLog,
        runtime: Runtime,
    ) -> None:
        """`config` is asked each round; `publish` gets what was seen, and must not block."""
        self._host = host
        self._config = config
        self._permission = permission
        self._publish = publish
        self._log = log
        self._runtime = runtime
        self._wakeup = runtime.signal()
        self._stopping = False
        self._relief = Relief(host.place, config().relief.stuck_after_s)
        self._quick = Sampler(host.place.proc, host.place.sys)
        self._seen: dict[str, Any] | None = None
        self._seen_symptoms: list[str] = []
        self._seen_at: float | None = None
        self._look_at = -math.inf
        """When all processes are looked at again."""
        self._may_act = False
        """Whether anything could be ended at the last look."""
        self._is_pressing = False
        """Whether somebody may be proven stuck then, and be ended."""
        self._allowance = CpuBudget(runtime.monotonic())
        self._view = ReliefView()
        self._odd: str | None = None
        self._noted = (True, True, 0, self._view.actions)
        """What makes a triage worth while when it has changed."""
        self._is_triage_wanted = False
        self._told = ""
        self.progressed_at = runtime.monotonic()
        """When it was last seen alive."""

    # -------------------------------------------------------------------------------- its thread

    def run(self) -> None:
        """Look until `stop`, and put back what was changed."""
        while not self._stopping:
            self._wait(self.round())
        self.undo("the agent ends")

    def stop(self) -> None:
        """End soon; a relief under way is ended first."""
        self._stopping = True
        self._wakeup.set()

    def wake(self) -> None:
        """Look at once: the configuration has changed."""
        self._wakeup.set()

    def _wait(self, seconds: float) -> None:
        self.progressed_at = self._runtime.monotonic()
        with self._host.first if self._is_pressing else nullcontext():
            if not self._stopping:
                self._wakeup.wait(seconds)
            self.progressed_at = self._runtime.monotonic()
            if self._is_pressing and self.progressed_at >= self._look_at and not self._stopping:
                # Before anything else, while it comes first.
                self._relieve(self._followed())

    # --------------------------------------------------------------------------------- one round

    def round(self) -> float:
        """Look once, act if that is wanted, publish; returns how long to wait."""
        config = self._followed()
        driver = self._host.driver()  # before all else: it costs little, and figures wait for it
        quick = self._quick.look()
        self._odd = self._oddity(quick, driver)
        if self._odd is not None:
            self._relieve(config)
        noted = (self._odd is None, quick.odd is None, self._view.stuck, self._view.actions)
        self._is_triage_wanted |= noted != self._noted
        self._noted = noted
        if self._is_triage_due(config):
            self._triage(config)
        self._publish(self._state(quick, driver))
        return self._pause_s(config)

    def _followed(self) -> AgentConfig:
        """The configuration as it is now; what it and the kill switch say is done."""
        config = self._config()
        if config.relief.stuck_after_s != self._relief.stuck_after_s:
            self._relief = Relief(self._host.place, config.relief.stuck_after_s)
            self._look_at = -math.inf
        why_not = self._permission.why_not()
        if self._permission.acted and (config.relief.mode != "act" or why_not is not None):
            self.undo(why_not or "relief is to observe only")
        return config

    def _oddity(self, quick: SampleDelta, driver: DriverView) -> str | None:
        if quick.odd is not None:
            return quick.odd
        breaker = driver.section("driver").get("breaker") or {}
        if breaker.get("open") and driver.interface_missing is None:
            return "the driver's breaker is open"
        if self._view.stuck or STUCK_CLIENTS in self._seen_symptoms:
            return "clients are stuck"
        if self._permission.acted:
            return "kipmid's limit is to be put back"
        return None

    def _is_triage_due(self, config: AgentConfig) -> bool:
        if self._seen_at is None:
            return True
        ago_s = self._runtime.monotonic() - self._seen_at
        if self._is_triage_wanted and ago_s >= TRIAGE_GAP_S:
            return True
        every_s = TRIAGE_ODD_S if self._odd is not None else config.triage.full_every_s
        return ago_s >= min(every_s, config.triage.full_every_s)

    def _pause_s(self, config: AgentConfig) -> float:
        if self._odd is None:
            return config.triage.period_s
        pause_s = max(0.0, self._look_at - self._runtime.monotonic())
        # In even parts: what moves in a moment tells nothing.
        return pause_s if pause_s <= ODD_ROUND_S else min(ODD_ROUND_S, pause_s / 2)

    def _next_look_at(self, config: AgentConfig, report: Report, cost_s: float) -> float:
        """As seldom as it is dear, but when somebody may be proven stuck, and can be ended."""
        now = self._runtime.monotonic()
        if self._is_pressing:
            self._allowance.spend(cost_s, now)
        self._is_pressing = False
        if not self._may_act:
            pause_s = OBSERVING_FACTOR * max(CLOSE_S_MIN, COST_SHARE * cost_s)
            return now + min(CLOSE_S_MAX, pause_s)
        pause_s = min(CLOSE_S_MAX, max(CLOSE_S_MAX_LEAST, config.relief.stuck_after_s / 2))
        look_at = now + min(pause_s, max(CLOSE_S_MIN, COST_SHARE * cost_s))
        due_at = self._relief.next_due_at(DUE_WITHIN_S)
        if report.unseen and any(is_gone(case) for case in report.stuck):
            due_at = now  # there is room for those that were beyond the limit of one look
        if due_at is None or due_at >= look_at:
            return look_at
        self._is_pressing = True
        # From the look on: what ending took of that time is passed already.
        gap_ends_at = self._relief.scanned_at + self._allowance.gap_s(cost_s, now)
        return min(look_at, max(due_at, gap_ends_at))

    # ------------------------------------------------------------------------------ triage, relief

    def _triage(self, config: AgentConfig) -> None:
        place = self._host.place
        roots = Roots(
            place.proc, Tree(place.proc.root), place.sys, place.sys, place.run, place.etc, True
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
            self._log.event(WARNING, "triage-failed", f"/proc tells nothing: {error}")
            return
        self._seen_at = self._runtime.monotonic()
        self._is_triage_wanted = False
        self._quick.threads = seen.scan.kipmi
        self._seen = _shortened(seen)
        symptoms = seen.diagnosis.symptoms
        if symptoms != self._seen_symptoms:
            self._log.event(
                WARNING if symptoms else INFO,
                "triage",
                seen.diagnosis.words,
                symptoms=",".join(symptoms) or "none",
                stuck=len(seen.stuck),
            )
        self._seen_symptoms = symptoms

    def _wait_out(self, seconds: float) -> None:
        """The time between the looks of one triage; relief does not wait for it."""
        until = self._runtime.monotonic() + seconds
        while not self._stopping:
            now = self.progressed_at = self._runtime.monotonic()
            if now >= until:
                return
            config = self._followed()
            if self._odd is not None and now >= self._look_at:
                self._relieve(config)
                continue
            wanted_at = self._look_at if self._odd is not None else until
            self._wakeup.wait(min(until, wanted_at) - now)

    def _relieve(self, config: AgentConfig) -> None:
        wants, why_not = config.relief.mode == "act", self._permission.why_not()
        if wants and why_not is None and not self._permission.note_act():
            why_not = "that something is changed here cannot be noted: is the disk full?"
        may_act = wants and why_not is None
        is_look = self._runtime.monotonic() >= self._look_at or may_act > self._may_act
        self._may_act = may_act
        cost_before_s = self._host.cpu_s()
        try:
            report = self._look(may_act) if is_look else self._relief.watch(may_act)
        except ProcError as error:
            self._look_at = self._runtime.monotonic() + CLOSE_S_MIN
            self._log.event(WARNING, "relief-failed", f"/proc tells nothing: {error}")
            return
        if is_look:
            cost_s = self._host.cpu_s() - cost_before_s
            self._look_at = self._next_look_at(config, report, cost_s)
        self._view = self._viewed(config, report, why_not if wants else None)
        self._tell(report)
        setting = report.setting
        is_clean = not report.stuck and setting.action in ("none", "put back")
        if may_act and is_clean and not setting.failed:
            self._permission.note_undone()

    def _look(self, may_act: bool) -> Report:
        with self._host.first if may_act else nullcontext():
            return self._relief.step(may_act)

    def undo(self, why: str) -> None:
        """Put back what agents have changed on this host."""
        if not self._permission.acted:
            return
        setting = self._relief.undo(may_act=True)
        if setting.failed:
            self._log.event(WARNING, "undo-failed", f"could not put back: {setting.why}")
            return
        self._permission.note_undone()
        if setting.action == "put back":
            self._count_setting(setting)
            self._log.event(
                INFO,
                "undo",
                f"put back kipmid_max_busy_us ({why})",
                before=setting.before,
                after=setting.after,
            )

    # ----------------------------------------------------------------------------------- telling

    def _viewed(self, config: AgentConfig, report: Report, why_not: str | None) -> ReliefView:
        actions = Counter(self._view.actions)
        actions.update(map(outcome_of, _dealt_with(report)))
        if report.acted and report.setting.action in ("set", "put back"):
            actions[f"kipmid {report.setting.action}"] += 1
        last = self._view.last
        if report.is_to_do:
            last = _last(report)
        left = [case for case in report.stuck if not is_gone(case)]
        throttled = report.setting.action == "keep" or (
            report.acted and report.setting.action == "set"
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
        actions[f"kipmid {setting.action}"] += 1
        self._view = ReliefView(
            mode=self._view.mode,
            why_not=self._view.why_not,
            stuck=self._view.stuck,
            actions=actions,
            last=self._view.last,
        )

    def _tell(self, report: Report) -> None:
        """One line for what was done, and one when what would be done has changed."""
        outcomes = Counter(map(outcome_of, report.stuck))
        setting = report.setting
        ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        parts = [ended] if ended else []
        if setting.action in ("set", "put back") or setting.failed:
            parts.append(f"kipmid_max_busy_us: {setting.action} ({setting.why})")
        told = "; ".join(parts)
        is_done = report.acted and (_dealt_with(report) or setting.action in ("set", "put back"))
        if not told or (told == self._told and not is_done):
            self._told = told
            return
        self._told = told
        named = "; ".join(" ".join(c.judged.client.argv)[:60] for c in report.stuck[:TOLD_MAX])
        verb = "relief" if report.acted else "relief would act (nothing was done)"
        self._log.event(
            WARNING,
            "relief",
            f"{verb}: {told}",
            acted=str(report.acted).lower(),
            stuck=len(report.stuck),
            clients=named,
        )

    def _state(self, quick: SampleDelta, driver: DriverView) -> HostState:
        symptoms = set(self._seen_symptoms) | set(driver.symptoms)
        if self._view.stuck:
            symptoms.add(STUCK_CLIENTS)
        return HostState(
            at=self._host.epoch_s(),
            symptoms=tuple(sorted(symptoms)),
            odd=self._odd,
            triage=self._seen,
            kipmi=tuple(
                KipmiView(each.name, each.cpu_percent, each.cpu_total_s) for each in quick.kipmi
            ),
            driver=driver,
            relief=self._view,
        )


def _dealt_with(report: Report) -> list[ReliefCase]:
    """Clients to which something was done just now."""
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
    """As `bmcmedic triage --json` has it, with lists that fit into a report; counts stay right."""
    document = to_json(seen)
    for key in ("stuck", "spared", "direct_openers", "guests"):
        document[key] = document[key][:ROWS_MAX]
    return document
