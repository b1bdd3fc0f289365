"""`bmcmedic lab kernel`: the first incident on a real Linux kernel in QEMU."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer

from bmcmedic.cli.preconditions import need_module, need_writable
from bmcmedic.errors import BmcmedicError, ConfigurationError
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.kernel.run import SCENARIOS, run
from bmcmedic.lab.kernel.scenario import ScenarioName, ScenarioRecord
from bmcmedic.lab.kernel.timeline import Timeline, TimelineEvent, kipmi_percent, percent, seconds

KERNEL_FOLDER = Path("build/kernel")
_HEAD_EVERY = 25
"""Number of samples printed under one header."""


class ScenarioChoice(StrEnum):
    """The scenarios that can be chosen."""

    PILE_UP = "pile-up"
    GUARDED = "guarded"
    FLOOD = "flood"
    UNARMED = "unarmed"


def kernel(
    scenario: Annotated[
        ScenarioChoice, typer.Option("--scenario", help="The scenario to run.")
    ] = ScenarioChoice.PILE_UP,
    kernel_folder: Annotated[
        Path,
        typer.Option(
            "--kernel", metavar="DIR", help="A kernel that tools/setup-kernel has unpacked."
        ),
    ] = KERNEL_FOLDER,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the run, as a PNG."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="One JSON object at the end; the timeline goes to stderr."),
    ] = False,
) -> None:
    """Reproduce the incident on a real Linux kernel in QEMU, and watch it from inside.

    Exit status: 0 the scenario ended as it should; 1 it did not; 2 usage, or something is missing.
    """
    if plot is not None:
        need_module("matplotlib", "--plot")
        need_writable(plot)
    name = ScenarioName(scenario.value)
    unpacked = Kernel.find(kernel_folder)
    out = sys.stderr if as_json else sys.stdout
    print(f"{name.value}: {SCENARIOS[name].description}", file=out, flush=True)
    try:
        record = run(name, unpacked, TimelinePrinter(out))
    except ConfigurationError:
        raise
    except BmcmedicError as error:
        print(f"bmcmedic: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print_verdict(record, out)
    if as_json:
        print(json.dumps(record.to_json()))
    if plot is not None:
        from bmcmedic.lab.kernel.plot import draw

        draw(record, plot)
    if not record.ok:
        raise typer.Exit(1)


class TimelinePrinter:
    """Prints events and samples, a line each, while they happen."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lines = 0

    def event(self, event: TimelineEvent, timeline: Timeline) -> None:
        """Print an event of the scenario."""
        at_s = event.at - timeline.began_at
        print(f"{at_s:7.1f} s  {event.text}", file=self._out, flush=True)

    def sample(self, timeline: Timeline) -> None:
        """Print the last sample of the guest."""
        if self._lines % _HEAD_EVERY == 0:
            print(
                "              kipmi0  clients  stuck  the watchdog's pat",
                file=self._out,
                flush=True,
            )
        self._lines += 1
        sample = timeline.samples[-1]
        share = kipmi_percent(timeline.samples[-2:])
        if sample.pats:
            took = ", ".join(
                seconds(pat.latency_s)
                + ("" if pat.completion_code == 0 else f" (0x{pat.completion_code:02x})")
                for pat in sample.pats
            )
        elif sample.waiting_s is not None:
            took = f"waits for {sample.waiting_s:.1f} s"
        else:
            took = ""
        print(
            f"{sample.at - timeline.began_at:7.1f} s  "
            f"{'-' if share is None else percent(share):>9}  {sample.clients:7}  "
            f"{sample.stuck:5}  {took}".rstrip(),
            file=self._out,
            flush=True,
        )


def print_verdict(record: ScenarioRecord, out: TextIO) -> None:
    """Print the checks of a run, and whether it ended as it should."""
    print(file=out)
    for check in record.verdict.checks:
        print(f"  {'ok ' if check.ok else 'NOT'}  {check.expectation}: {check.found}", file=out)
    ended = "as it should" if record.ok else "NOT as it should"
    print(f"{record.scenario.value} ended {ended} (Linux {record.kernel})", file=out, flush=True)
