"""The plot of a run of `lab kernel`: kipmi0, the clients and the pats over time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bmcmedic.errors import ConfigurationError
from bmcmedic.lab.kernel.scenario import ScenarioRecord
from bmcmedic.lab.kernel.timeline import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = {
    "pile-up": "A BMC hangs on a host without bmcmedic",
    "guarded": "A BMC hangs on a host with bmcmedic",
    "flood": "A flood of port 0x80 writes takes a BMC down",
    "unarmed": "bmcmedic is installed with its defaults",
}
_KIPMI, _CLIENTS, _STUCK, _PATS, _BMC = "#b03a2e", "#aeb6bf", "#6c3483", "#1e8449", "#2471a3"
_REFUSED = "#c0392b"
_DARK = "#566573"
_AWAY = "#eef0f1"
_WIDTH_IN, _PANEL_IN, _TEXT_IN = 11.0, 1.85, 0.23
_DPI = 130
_PAT_VISIBLE_S = 0.25
"""A pat that took less, in seconds, is drawn as a tick."""
_HEADROOM = 1.2
_PERCENT_MIN = 25.0
"""Least height of the axis of shares, in per cent, or an idle host would look busy."""
_CLIENTS_MIN = 10
_PAT_S_MIN = 2.0
_FULL = 99.0
_MEMORY_MATTERS = 0.5


def draw(record: ScenarioRecord, path: Path) -> None:
    """Write the plot as a PNG.

    Raises: ConfigurationError when the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    has_memory = any(
        sample.memory_free_fraction < _MEMORY_MATTERS for sample in record.timeline.bmc_samples
    )
    has_pats = bool(record.timeline.pats())
    panels = 2 + has_pats + has_memory
    lines = len(record.timeline.events)
    figure = Figure(
        figsize=(_WIDTH_IN, _PANEL_IN * panels + _TEXT_IN * lines + 0.9), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    _draw_kipmi(axes[0], record)
    _draw_clients(axes[1], record)
    if has_pats:
        _draw_pats(axes[2], record)
    if has_memory:
        _draw_memory(axes[-1], record)
    for axis in axes:
        _draw_events(axis, record)
        axis.spines[["top", "right"]].set_visible(False)
    _number_events(axes[0], record)
    axes[-1].set_xlabel("seconds of the host's own clock; grey: the BMC hangs or boots")
    _caption(figure, axes[0], record)
    try:
        figure.savefig(path, dpi=_DPI, format="png")
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None


def _caption(figure: Figure, axis: Axes, record: ScenarioRecord) -> None:
    verdict = "as it should" if record.ok else "NOT as it should"
    figure.suptitle(
        _TITLES[record.scenario.value],
        fontsize=13,
        fontweight="bold",
    )
    axis.set_title(
        f"{record.scenario.value}, Linux {record.kernel} in QEMU: it ended {verdict}",
        loc="right",
        fontsize=9,
        color=_DARK if record.ok else _REFUSED,
    )
    began_at = record.timeline.began_at
    event_list = "\n".join(
        f"{number}  {event.at - began_at:5.1f} s   {event.text}"
        for number, event in enumerate(record.timeline.events, 1)
    )
    figure.supxlabel(event_list, x=0.06, ha="left", fontsize=8.5, color=_DARK)


def _draw_kipmi(axis: Axes, record: ScenarioRecord) -> None:
    times, shares = [], []
    for before, sample in _pairs(record):
        if before.kipmi_s is not None and sample.kipmi_s is not None:
            share = 100 * (sample.kipmi_s - before.kipmi_s) / (sample.at - before.at)
            times += [before.at - record.timeline.began_at, sample.at - record.timeline.began_at]
            shares += [share, share]
    axis.fill_between(times, shares, color=_KIPMI, alpha=0.35, lw=0)
    axis.plot(times, shares, color=_KIPMI, lw=1.4)
    axis.set_ylim(0, max([_PERCENT_MIN, *(share * _HEADROOM for share in shares)]))
    axis.set_ylabel("% of a core")
    axis.set_title("kipmi0", loc="left", fontsize=10, color=_KIPMI, weight="bold")


def _draw_clients(axis: Axes, record: ScenarioRecord) -> None:
    samples = record.timeline.samples
    times = [sample.at - record.timeline.began_at for sample in samples]
    clients = [sample.clients for sample in samples]
    stuck = [sample.stuck for sample in samples]
    axis.fill_between(times, clients, color=_CLIENTS, alpha=0.5, lw=0, step="post")
    axis.fill_between(times, stuck, color=_STUCK, alpha=0.6, lw=0, step="post")
    axis.set_ylim(0, max(_CLIENTS_MIN, *clients) * _HEADROOM)
    axis.set_ylabel("processes")
    axis.set_title("ipmitool, stuck", loc="left", fontsize=10, color=_STUCK, weight="bold")
    axis.set_title(
        f"grey: all of them   most at once: {max(clients)}, stuck {max(stuck)}",
        loc="right",
        fontsize=9,
        color=_DARK,
    )


def _draw_pats(axis: Axes, record: ScenarioRecord) -> None:
    began_at = record.timeline.began_at
    pats = record.timeline.pats()
    waits = record.timeline.unanswered()
    longest_s = max([0.0, *(pat.latency_s for pat in pats), *(waited for _, waited in waits)])
    scale_s = max(longest_s, _PAT_S_MIN) * _HEADROOM
    for pat in pats:
        since, until = pat.due_at - began_at, pat.due_at + pat.latency_s - began_at
        colour = _PATS if pat.completion_code == 0 else _REFUSED
        if pat.latency_s < _PAT_VISIBLE_S:
            axis.plot([since] * 2, [0, scale_s * 0.06], color=colour, lw=1.6)
        else:
            axis.fill([since, until, until], [0, pat.latency_s, 0], color=colour, alpha=0.5, lw=0)
    for since, waited_s in waits:
        axis.fill(
            [since - began_at, since + waited_s - began_at, since + waited_s - began_at],
            [0, waited_s, 0],
            color=_CLIENTS,
            alpha=0.45,
            lw=0,
        )
    axis.set_ylim(0, scale_s)
    axis.set_ylabel("a pat took (s)")
    axis.set_title("the watchdog's pats", loc="left", fontsize=10, color=_PATS, weight="bold")
    axis.set_title(
        "a wedge: as wide and high as it was long   tick: quick   red: refused   grey: unanswered",
        loc="right",
        fontsize=9,
        color=_DARK,
    )


def _draw_memory(axis: Axes, record: ScenarioRecord) -> None:
    samples = record.timeline.bmc_samples
    times = [sample.at - record.timeline.began_at for sample in samples]
    percents = [100 * sample.memory_free_fraction for sample in samples]
    axis.fill_between(times, percents, color=_BMC, alpha=0.25, lw=0)
    axis.plot(times, percents, color=_BMC, lw=1.4)
    axis.set_ylim(0, 100)
    axis.set_ylabel("free (%)")
    axis.set_title("the BMC's memory", loc="left", fontsize=10, color=_BMC, weight="bold")


def _draw_events(axis: Axes, record: ScenarioRecord) -> None:
    began_at = record.timeline.began_at
    for before, sample in itertools.pairwise(record.timeline.bmc_samples):
        if before.state != "up":
            axis.axvspan(before.at - began_at, sample.at - began_at, color=_AWAY, zorder=0, lw=0)
    for event in record.timeline.events:
        axis.axvline(event.at - began_at, color=_DARK, lw=0.8, ls=":", zorder=1)
    axis.set_xlim(0, max(record.timeline.now - began_at, 1.0))


def _number_events(axis: Axes, record: ScenarioRecord) -> None:
    """Write the events' numbers above the first panel; numbers that would overlap share a label."""
    began_at = record.timeline.began_at
    room_s = max(record.timeline.now - began_at, 1.0) / 45
    places: list[tuple[float, list[int]]] = []
    for number, event in enumerate(record.timeline.events, 1):
        at = event.at - began_at
        if places and at - places[-1][0] < room_s:
            places[-1][1].append(number)
        else:
            places.append((at, [number]))
    top = axis.get_ylim()[1]
    for at, numbers in places:
        label = ",".join(map(str, numbers))
        axis.annotate(
            label,
            (at, top),
            xytext=(2, -2),
            textcoords="offset points",
            va="top",
            fontsize=9,
            color=_DARK,
            weight="bold",
        )


def _pairs(record: ScenarioRecord) -> Iterator[tuple[Sample, Sample]]:
    samples = record.timeline.samples
    return ((a, b) for a, b in itertools.pairwise(samples) if b.at > a.at)
