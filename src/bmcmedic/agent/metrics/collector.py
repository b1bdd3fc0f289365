"""The metrics for Prometheus, with ipmi_exporter's names where it has one, else `bmcmedic_`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bmcmedic import __version__
from bmcmedic.agent.metrics.bmc_reader import QUESTIONS, BmcReader
from bmcmedic.agent.metrics.sensor_metrics import COLLECTOR, sensor_metrics
from bmcmedic.agent.state import DriverView, HostState, ReliefView
from bmcmedic.host.relieve.end_client import Outcome
from bmcmedic.host.symptoms import BMC_NOT_ANSWERING, DRIVER_UNAVAILABLE, NO_INTERFACE
from bmcmedic.ipmi.commands.chassis import MiscChassisState
from bmcmedic.ipmi.commands.watchdog import PretimeoutInterrupt, TimeoutAction, TimerUse

_USES = {
    "BIOS FRB2": TimerUse.BIOS_FRB2,
    "BIOS POST": TimerUse.BIOS_POST,
    "OS LOAD": TimerUse.OS_LOAD,
    "SMS/OS": TimerUse.SMS_OS,
    "OEM": TimerUse.OEM,
}
_ACTIONS = {
    "None": TimeoutAction.NONE,
    "Hard Reset": TimeoutAction.HARD_RESET,
    "Power Down": TimeoutAction.POWER_DOWN,
    "Power Cycle": TimeoutAction.POWER_CYCLE,
}
_INTERRUPTS = {
    "None": PretimeoutInterrupt.NONE,
    "SMI": PretimeoutInterrupt.SMI,
    "NMI / Diagnostic Interrupt": PretimeoutInterrupt.NMI,
    "Messaging Interrupt": PretimeoutInterrupt.MESSAGING,
}
"""The values of the watchdog timer, by the labels that ipmi_exporter has."""
_OUT_OF_REACH = {DRIVER_UNAVAILABLE, NO_INTERFACE, BMC_NOT_ANSWERING}
"""Symptoms with which no sensor is served."""
_DRIVER_EVENTS = (
    "answers",
    "failures",
    "fenced_off",
    "interrupted",
    "old_answers",
    "parks",
    "polled",
    "queue_full",
    "too_late",
    "unforeseen_errors",
    "worker_stuck",
)
_RELIEF_OUTCOMES = (*(outcome.value for outcome in Outcome), "kipmid set", "kipmid put back")
"""Counters that are served as 0 until they count: Prometheus misses the first event otherwise."""


@dataclass(frozen=True, slots=True)
class AgentCounters:
    """The agent's counters of its own work."""

    reports: dict[str, int]
    """Number of reports, by outcome: taken, failed."""
    last_report_at: float | None
    orders: dict[str, int]
    """Number of orders, by their final state."""
    acts: bool
    """Whether relief may change the host now."""


class AgentCollector(Collector):
    """Collects all metrics at the moment of a scrape. Nothing here waits or sends a request."""

    def __init__(
        self,
        state: Callable[[], HostState | None],
        first_driver_view: Callable[[], DriverView | None],
        own: Callable[[], AgentCounters],
        bmc: BmcReader,
    ) -> None:
        """`first_driver_view` stands in for the `state`, whose first round takes seconds."""
        self._state = state
        self._first_driver_view = first_driver_view
        self._own = own
        self._bmc = bmc

    def collect(self) -> Iterator[Metric]:
        """Yield every metric that is known."""
        yield from self._of_bmc()
        state, driver = self._current()
        if driver is not None:
            yield from _of_driver(driver)
            yield _symptoms(driver.symptoms if state is None else state.symptoms)
        if state is not None:
            yield from _of_host(state)
        yield _relief_actions(ReliefView() if state is None else state.relief)
        yield from _of_agent(self._own())

    def _current(self) -> tuple[HostState | None, DriverView | None]:
        state = self._state()
        return state, self._first_driver_view() if state is None else state.driver

    # ------------------------------------------------------------- metrics of ipmi_exporter

    def _of_bmc(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "ipmi_up",
            "Whether the BMC answered this collector (1) or not (0).",
            labels=["collector"],
        )
        took_s = 0.0
        for name in QUESTIONS:
            known = self._bmc.known.get(name)
            if known is not None and known.exists:
                up.add_metric([name], float(known.up))
                took_s += known.took_s
        sensors = self._bmc.sensors
        sensors_up, read = sensors.up, sensors.snapshot()
        if not sensors_up:
            read = None
        elif not self._is_bmc_reachable():
            sensors_up, read = False, None
        if sensors_up is False or read is not None:
            up.add_metric([COLLECTOR], float(sensors_up is True))
        if read is not None:
            took_s += read.took_s
        yield up
        yield _gauge(
            "ipmi_scrape_duration_seconds",
            "Time that the BMC's last answers took, in seconds.",
            took_s,
        )
        age = GaugeMetricFamily(
            "bmcmedic_bmc_answer_age_seconds",
            "Age of the answer that this collector's values come from, in seconds.",
            labels=["collector"],
        )
        for name, answer, age_s in self._bmc.answers():
            age.add_metric([name], age_s)
            yield from _ANSWERS[name](answer)
        if read is not None:
            age.add_metric([COLLECTOR], sensors.age_s(read))
            yield from sensor_metrics(read.readings)
        yield age

    def _is_bmc_reachable(self) -> bool:
        """Return whether sensors may be served: a stale temperature is worse than none."""
        _, driver = self._current()
        if driver is None:
            return True
        is_parked = driver.section("driver").get("parked") is not None
        return not is_parked and _OUT_OF_REACH.isdisjoint(driver.symptoms)


def _of_device_id(answer: Any) -> Iterator[Metric]:  # noqa: ANN401 - GetDeviceIdRsp
    info = GaugeMetricFamily(
        "ipmi_bmc_info",
        "Constant 1; the labels identify the BMC.",
        labels=["firmware_revision", "manufacturer_id", "system_firmware_version"],
    )
    info.add_metric([str(answer.firmware), str(answer.manufacturer_id), "N/A"], 1)
    yield info


def _of_chassis(answer: Any) -> Iterator[Metric]:  # noqa: ANN401 - GetChassisStatusRsp
    yield _gauge("ipmi_chassis_power_state", "Power on (1) or off (0).", answer.power_on)
    for what, fault in (
        ("drive", MiscChassisState.DRIVE_FAULT),
        ("cooling", MiscChassisState.COOLING_FAULT),
    ):
        yield _gauge(
            f"ipmi_chassis_{what}_fault_state",
            f"No {what} fault (1), or one (0), as in ipmi_exporter.",
            fault not in answer.misc_state,
        )


def _of_power(answer: Any) -> Iterator[Metric]:  # noqa: ANN401 - GetPowerReadingRsp
    if answer.active:
        yield _gauge(
            "ipmi_dcmi_power_consumption_watts",
            "Power that the server consumes now, in watts.",
            answer.current_w,
        )


def _of_sel(answer: Any) -> Iterator[Metric]:  # noqa: ANN401 - GetSelInfoRsp
    yield _gauge("ipmi_sel_entries_count", "Entries in the system event log.", answer.entries)
    yield _gauge(
        "ipmi_sel_free_space_bytes",
        "Free space of the system event log, in bytes.",
        answer.free_bytes,
    )


def _of_watchdog(answer: Any) -> Iterator[Metric]:  # noqa: ANN401 - GetWatchdogTimerRsp
    name = "ipmi_bmc_watchdog_"
    yield _gauge(f"{name}timer_state", "The timer runs (1) or is stopped (0).", answer.running)
    yield _one_of(f"{name}timer_use_state", "The use of the timer.", "name", _USES, answer.use)
    yield _gauge(
        f"{name}logging_state", "A time-out is logged (1) or not (0).", not answer.dont_log
    )
    yield _one_of(
        f"{name}timeout_action_state",
        "The action at a time-out.",
        "action",
        _ACTIONS,
        answer.action,
    )
    yield _one_of(
        f"{name}pretimeout_interrupt_state",
        "The interrupt before a time-out.",
        "interrupt",
        _INTERRUPTS,
        answer.pretimeout_interrupt,
    )
    yield _gauge(
        f"{name}pretimeout_interval_seconds",
        "Time between that interrupt and the time-out, in seconds.",
        answer.pretimeout_interval_s,
    )
    yield _gauge(
        f"{name}initial_countdown_seconds",
        "Countdown that a pat sets, in seconds.",
        answer.initial_countdown_s,
    )
    yield _gauge(
        f"{name}current_countdown_seconds",
        "Present countdown, in seconds.",
        answer.present_countdown_s,
    )


_ANSWERS: dict[str, Callable[[Any], Iterator[Metric]]] = {
    "bmc": _of_device_id,
    "bmc-watchdog": _of_watchdog,
    "chassis": _of_chassis,
    "dcmi": _of_power,
    "sel": _of_sel,
}


# ------------------------------------------------------------------------------ metrics of bmcmedic


def _of_driver(status: DriverView) -> Iterator[Metric]:
    yield _gauge(
        "bmcmedic_driver_up",
        "The in-band driver answers (1) or not (0).",
        status.status is not None,
    )
    driver, watchdog = status.section("driver"), status.section("watchdog")
    if driver:
        yield from _of_queues(driver)
    if watchdog:
        yield from _of_pats(watchdog)


def _of_queues(driver: dict[str, Any]) -> Iterator[Metric]:
    breaker = driver.get("breaker") or {}
    yield _gauge(
        "bmcmedic_interface_up",
        "There is an interface to a BMC (1) or none (0).",
        driver.get("interface_missing") is None,
    )
    yield _gauge(
        "bmcmedic_breaker_open",
        "The breaker is open (1), because the BMC stopped answering, or closed (0).",
        breaker.get("open"),
    )
    yield _counter(
        "bmcmedic_breaker_openings_total",
        "Number of times that the breaker opened.",
        breaker.get("openings"),
    )
    yield from _maybe(
        "bmcmedic_last_answer_age_seconds",
        "Time since the BMC last answered the driver, in seconds.",
        driver.get("last_answer_age_s"),
    )
    queues = GaugeMetricFamily(
        "bmcmedic_pending_requests", "Requests that wait for the driver's worker.", labels=["queue"]
    )
    queues.add_metric(["client"], driver.get("pending_requests") or 0)
    queues.add_metric(["driver"], driver.get("pending_requests_highpri") or 0)
    yield queues
    yield _counters(
        "bmcmedic_driver_events_total",
        "Events in the driver.",
        "event",
        dict.fromkeys(_DRIVER_EVENTS, 0) | (driver.get("counts") or {}),
    )


def _of_pats(watchdog: dict[str, Any]) -> Iterator[Metric]:
    counts = watchdog.get("counts") or {}
    yield _gauge(
        "bmcmedic_watchdog_in_charge",
        "The driver's watchdog pats the timer (1) or not (0).",
        watchdog.get("in_charge"),
    )
    yield _gauge(
        "bmcmedic_watchdog_settled",
        "The timer is set as configured (1) or not (0).",
        watchdog.get("settled"),
    )
    yield _counter("bmcmedic_pats_total", "Pats that the BMC answered.", counts.get("pats"))
    yield _counter("bmcmedic_pat_failures_total", "Pats that failed.", counts.get("failures"))
    yield _counter(
        "bmcmedic_pats_withheld_total",
        "Pats that were withheld because the host check failed.",
        counts.get("pats_withheld"),
    )
    for key, name, about in (
        (
            "pat_latency_s",
            "bmcmedic_pat_latency_seconds",
            "Time that the last pat took, in seconds.",
        ),
        (
            "pat_latency_max_s",
            "bmcmedic_pat_latency_max_seconds",
            "Longest time that a pat took, in seconds.",
        ),
        (
            "last_pat_age_s",
            "bmcmedic_last_pat_age_seconds",
            "Time since the last pat was answered, in seconds.",
        ),
        ("timeout_s", "bmcmedic_watchdog_timeout_seconds", "The watchdog's time-out, in seconds."),
    ):
        yield from _maybe(name, about, watchdog.get(key))


def _symptoms(found: Iterable[str]) -> Metric:
    symptoms = GaugeMetricFamily(
        "bmcmedic_symptom", "Constant 1 for each present symptom.", labels=["symptom"]
    )
    for symptom in found:
        symptoms.add_metric([symptom], 1)
    return symptoms


def _of_host(state: HostState) -> Iterator[Metric]:
    relief = state.relief
    yield _gauge("bmcmedic_stuck_clients", "IPMI clients that are proven stuck.", relief.stuck)
    ratio = GaugeMetricFamily(
        "bmcmedic_kipmid_cpu_ratio",
        "CPU usage of a kipmid thread, as a share of a core.",
        labels=["thread"],
    )
    total = CounterMetricFamily(
        "bmcmedic_kipmid_cpu_seconds", "CPU time of a kipmid thread, in seconds.", labels=["thread"]
    )
    for thread in state.kipmi:
        if thread.cpu_percent is not None:
            ratio.add_metric([thread.name], thread.cpu_percent / 100.0)
        total.add_metric([thread.name], thread.cpu_total_s)
    yield ratio
    yield total
    yield _gauge(
        "bmcmedic_kipmid_throttled", "The agent throttles kipmid (1) or not (0).", relief.throttled
    )


def _relief_actions(relief: ReliefView) -> Metric:
    return _counters(
        "bmcmedic_relief_actions_total",
        "Actions of relief, by outcome.",
        "outcome",
        dict.fromkeys(_RELIEF_OUTCOMES, 0) | dict(relief.actions),
    )


def _of_agent(own: AgentCounters) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        "bmcmedic_build_info", "Constant 1; the label is the version.", labels=["version"]
    )
    build.add_metric([__version__], 1)
    yield build
    yield _gauge(
        "bmcmedic_relief_acts", "Relief may change the host (1) or only observes (0).", own.acts
    )
    yield _counters(
        "bmcmedic_reports_total", "Reports to the controller, by outcome.", "outcome", own.reports
    )
    yield from _maybe(
        "bmcmedic_last_report_timestamp_seconds",
        "Time at which the controller last accepted a report, in seconds since the epoch.",
        own.last_report_at,
    )
    yield _counters(
        "bmcmedic_orders_total", "Orders of the controller, by final state.", "state", own.orders
    )


def _gauge(name: str, about: str, value: float | None) -> Metric:
    return GaugeMetricFamily(name, about, value=float(value or 0))


def _maybe(name: str, about: str, value: float | None) -> Iterator[Metric]:
    """Yield a metric if its value is known; 0 would be wrong."""
    if value is not None:
        yield GaugeMetricFamily(name, about, value=float(value))


def _counter(name: str, about: str, value: float | None) -> Metric:
    return CounterMetricFamily(name.removesuffix("_total"), about, value=float(value or 0))


def _counters(name: str, about: str, label: str, values: dict[str, Any]) -> Metric:
    family = CounterMetricFamily(name.removesuffix("_total"), about, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], float(value))
    return family


def _one_of(
    name: str, about: str, label: str, known: dict[str, Any], value: object
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=[label])
    for text, each in known.items():
        family.add_metric([text], float(each == value))
    return family


class Metrics:
    """The text that a scrape gets."""

    def __init__(self, collector: AgentCollector, bmc: BmcReader) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        self._bmc = bmc

    def text(self) -> bytes:
        """Return all metrics as known now, and have the BMC asked for newer values."""
        self._bmc.request_refresh()
        return generate_latest(self._registry)
