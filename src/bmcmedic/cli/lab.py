"""`bmcmedic lab`: the two incidents that bmcmedic cures, reproduced."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from bmcmedic.cli.lab_kernel import kernel
from bmcmedic.cli.preconditions import need_module, need_writable
from bmcmedic.lab.starvation.scenario import (
    DURATION_S,
    LOAD_DEFAULT,
    REAL_DURATION_S,
    Design,
    StarvationRecord,
    StarvationScenario,
)

_lab = typer.Typer(
    no_args_is_help=True,
    help="Reproduce the two incidents that bmcmedic cures.",
    pretty_exceptions_enable=False,
)


class DesignChoice(StrEnum):
    """The designs that can be chosen, or all of them."""

    DIRECT = "direct"
    QUEUED = "queued"
    PRIORITY = "priority"
    ALL = "all"


@_lab.command("starvation")
def starvation(
    design: Annotated[
        DesignChoice, typer.Option("--design", help="How the driver shares the interface.")
    ] = DesignChoice.ALL,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="The same seed repeats the same run.")
    ] = 1,
    load: Annotated[
        int, typer.Option("--load", metavar="N", help="Number of clients that ask the BMC.")
    ] = LOAD_DEFAULT,
    duration: Annotated[
        float | None,
        typer.Option(
            "--duration",
            metavar="S",
            help=f"Length of the run: {DURATION_S:g} s, or {REAL_DURATION_S:g} s with --real.",
        ),
    ] = None,
    stop_driver_at: Annotated[
        float | None,
        typer.Option(
            "--stop-driver-at", metavar="S", help="Stop all of the driver's threads (SIGSTOP)."
        ),
    ] = None,
    hang_check_at: Annotated[
        float | None,
        typer.Option("--hang-check-at", metavar="S", help="The check command hangs from then on."),
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Real threads and real time, and a shorter run.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw pats and the BMC's memory, as a PNG."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a design and line.")
    ] = False,
) -> None:
    """Let port 0x80 writes drown a BMC, and see whether the watchdog's pats starve.

    The scenario is the same for each design: direct, where every caller polls under one lock;
    queued, one worker with one queue; priority, the driver that ships. Time is virtual, and the
    seed repeats a run.

    Exit status: 0; 2 usage.
    """
    if not real:
        need_module("greenlet", "virtual time")
    if plot is not None:
        need_module("matplotlib", "--plot")
        need_writable(plot)
    if duration is None:
        duration = REAL_DURATION_S if real else DURATION_S
    scenario = StarvationScenario(
        seed,
        load=load,
        duration_s=duration,
        stop_driver_at=stop_driver_at,
        hang_check_at=hang_check_at,
        is_real=real,
    )
    designs = list(Design) if design is DesignChoice.ALL else [Design(design.value)]
    records = _run(designs, scenario, samples_bmc=plot is not None)
    if as_json:
        for record in records:
            print(json.dumps(record.to_json()))
    else:
        _print_records(records)
    if plot is not None:
        from bmcmedic.lab.starvation.plot import draw

        draw(records, plot)


def register(app: typer.Typer) -> None:
    """Add `lab` to the program."""
    _lab.command("kernel")(kernel)
    app.add_typer(_lab, name="lab")


def _run(
    designs: list[Design], scenario: StarvationScenario, *, samples_bmc: bool
) -> list[StarvationRecord]:
    with _progress() as progress:
        if scenario.is_real:
            from bmcmedic.lab.starvation.real import run_real

            return run_real(designs, scenario, progress("real time"))
        from bmcmedic.lab.starvation.run import simulate

        return [
            simulate(each, scenario, samples_bmc=samples_bmc, progress=progress(each.value))
            for each in designs
        ]


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], Callable[[float], None] | None]]:
    """Yield a function that makes a progress bar; without a terminal it returns None."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description:>9}"), BarColumn())
    with Progress(*columns, console=console, transient=True) as bars:

        def bar(name: str) -> Callable[[float], None]:
            task = bars.add_task(name, total=1.0)
            return lambda share: bars.update(task, completed=share)

        yield bar


def _print_records(records: list[StarvationRecord]) -> None:
    scenario = records[0].scenario
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"seed {scenario.seed}, {scenario.load} clients, {scenario.duration_s:g} s of "
        f"{'real' if scenario.is_real else 'virtual'} time; a pat is due every "
        f"{scenario.watchdog().pat_period_s:g} s,\nand without one for "
        f"{scenario.watchdog().pretimeout_limit_s:g} s the software pretimeout takes the host down"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("design")
    for title in ("pats", "median", "99 %", "longest", "waited for its turn", "false pretimeouts"):
        table.add_column(title, justify="right")
    for record in records:
        facts = record.to_json()
        latency = facts["pat_latency_s"]
        table.add_row(
            facts["design"],
            str(facts["pats"]),
            *(_seconds(latency[name]) for name in ("median", "p99", "max")),
            _seconds(facts["longest_starvation_s"]),
            str(facts["false_pretimeouts"]),
            style="red" if record.false_pretimeouts else "green",
        )
    console.print(table)
    for record in records:
        for line in _events(record):
            console.print(f"{record.design.value}: {line}")


def _events(record: StarvationRecord) -> Iterator[str]:
    for pretimeout in record.pretimeouts:
        if pretimeout.is_false:
            yield f"at {pretimeout.at:.1f} s the pretimeout fired, but the host was healthy"
        elif record.trouble_at is not None:
            yield (
                f"at {pretimeout.at:.1f} s the pretimeout fired as it should, "
                f"{pretimeout.at - record.trouble_at:.1f} s after the host got into trouble"
            )
    for at in record.host_resets:
        yield f"at {at:.1f} s the BMC's own timer ran out and reset the host"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s"
