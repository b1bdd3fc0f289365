"""The plot of a run: how long each pat took, and the BMC's memory, over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bmcmedic.errors import ConfigurationError
from bmcmedic.lab.starvation.scenario import Design, StarvationRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {Design.DIRECT: "#c0392b", Design.QUEUED: "#d68910", Design.PRIORITY: "#1e8449"}
_TITLES = {
    Design.DIRECT: "direct: every caller polls under the I/O lock",
    Design.QUEUED: "queued: one worker, one queue",
    Design.PRIORITY: "priority: the driver's own requests first (what ships)",
}
_AWAY = "#d5d8dc"
_MEMORY = "#2471a3"
_ALARM = "#7b241c"
_SLOW = "#6c3483"
_LEGEND = (
    "seconds        a wedge is a pat, as wide and as high as it is long.   "
    "dark: it waits for its turn   light: its own attempts   x: not answered"
)
_WIDTH_IN, _PANEL_IN, _MEMORY_IN = 11.0, 1.9, 1.6
_DPI = 130
_VISIBLE_S = 1.0
"""A pat that took less, in seconds, is drawn as a tick."""
_HEADROOM = 1.25


def draw(records: Sequence[StarvationRecord], path: Path) -> None:
    """Write the plot as a PNG.

    Raises: ConfigurationError when the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height_in = _PANEL_IN * len(records) + _MEMORY_IN + 0.9
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(records) + 1,
        1,
        sharex=True,
        squeeze=False,
        height_ratios=[_PANEL_IN] * len(records) + [_MEMORY_IN],
    )[:, 0]
    scenario = records[0].scenario
    longest_s = max((latency for record in records for latency in record.latencies_s()), default=0)
    # The axis has a minimum, or a run without trouble would look like one with trouble.
    scale_s = max(longest_s, scenario.watchdog().pretimeout_limit_s / 2) * _HEADROOM
    for axis, record in zip(axes, records, strict=False):
        _draw_pats(axis, record, scale_s)
    _draw_memory(axes[-1], records[0])
    figure.suptitle(
        f"Port 0x80 writes drown a BMC: how long the watchdog's pats take "
        f"(seed {scenario.seed}, {scenario.load} clients)",
        fontsize=12,
        fontweight="bold",
    )
    try:
        figure.savefig(path, dpi=_DPI, format="png")
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None


def _draw_pats(axis: Axes, record: StarvationRecord, scale_s: float) -> None:
    colour = _COLOURS[record.design]
    end = record.end_s
    waits = [wait for wait in record.waits if wait.wait_s(end) >= _VISIBLE_S / 4]
    for pat in record.pats:
        took_s = pat.latency_s(end)
        due_at, done_at = pat.due_at, pat.due_at + took_s
        if took_s < _VISIBLE_S:
            axis.plot([due_at] * 2, [0, scale_s * 0.025], color=colour, lw=1.2)
            continue
        axis.fill([due_at, done_at, done_at], [0, took_s, 0], color=colour, alpha=0.28, lw=0)
        for wait in waits:
            if due_at <= wait.asked_at <= done_at:
                since, until = wait.asked_at, wait.asked_at + wait.wait_s(end)
                heights = [0, since - due_at, until - due_at, 0]
                axis.fill([since, since, until, until], heights, color=colour, alpha=0.85, lw=0)
        if pat.done_at is not None and not pat.answered:
            axis.plot(done_at, took_s, marker="x", color=colour, ms=6, mew=1.8)
    for pretimeout in record.pretimeouts:
        word = "false pretimeout" if pretimeout.is_false else "true pretimeout"
        _mark(axis, pretimeout.at, word, scale_s, 0.93)
    for at in record.host_resets:
        _mark(axis, at, "reset by the BMC's timer", scale_s, 0.76)
    _draw_outages(axis, record)
    axis.set_xlim(0, record.scenario.duration_s)
    axis.set_ylim(0, scale_s)
    axis.set_ylabel("pat took (s)")
    axis.set_title(_TITLES[record.design], loc="left", fontsize=10, color=colour, weight="bold")
    axis.set_title(_summary(record), loc="right", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def _mark(axis: Axes, at: float, word: str, scale_s: float, height: float) -> None:
    """Draw a vertical line, with its label on the side that has room."""
    axis.axvline(at, color=_ALARM, lw=1.6)
    left = at > axis.get_xlim()[1] * 0.75
    axis.annotate(
        word,
        (at, scale_s * height),
        xytext=(-5 if left else 5, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        color=_ALARM,
        fontsize=9,
        weight="bold",
    )


def _summary(record: StarvationRecord) -> str:
    facts = record.to_json()
    latency = facts["pat_latency_s"]
    if latency["max"] is None:
        return "no pat"
    count = facts["false_pretimeouts"]
    return (
        f"{facts['pats']} pats, median {_seconds(latency['median'])}, "
        f"longest {_seconds(latency['max'])}; false pretimeouts: {count}"
    )


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _draw_outages(axis: Axes, record: StarvationRecord) -> None:
    for away_at, back_at in record.bmc_away:
        axis.axvspan(away_at, back_at, color=_AWAY, zorder=0, lw=0)


def _draw_memory(axis: Axes, record: StarvationRecord) -> None:
    times = [sample.at for sample in record.bmc_samples]
    percents = [100 * sample.memory_free for sample in record.bmc_samples]
    axis.fill_between(times, percents, color=_MEMORY, alpha=0.3, lw=0)
    axis.plot(times, percents, color=_MEMORY, lw=1.5)
    slow = axis.twinx()
    slow.plot(times, [sample.answer_s for sample in record.bmc_samples], color=_SLOW, lw=1.8)
    slow.set_ylim(bottom=0)
    slow.set_ylabel("to answer (s)", color=_SLOW)
    slow.spines["top"].set_visible(False)
    _draw_outages(axis, record)
    for away_at, back_at in record.bmc_away:
        middle = (away_at + back_at) / 2
        axis.text(middle, 50, "BMC\nreboots", ha="center", va="center", fontsize=9, color="#566573")
    axis.set_ylim(0, 100)
    axis.set_xlim(0, record.scenario.duration_s)
    axis.set_ylabel("free (%)", color=_MEMORY)
    axis.set_title("the BMC's memory", loc="left", fontsize=10, color=_MEMORY, weight="bold")
    axis.set_title("and how long it takes to answer", loc="right", fontsize=9, color=_SLOW)
    axis.set_xlabel(_LEGEND)
    axis.spines["top"].set_visible(False)
