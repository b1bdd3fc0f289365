"""Showing a remediation while it works: live on a terminal, plain lines into a pipe."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime

from rich.console import Console
from rich.status import Status
from rich.text import Text

from bmcmedic.model.heal import BmcDiagnosis, HealVerdict, RemedyPlan, Step

_GOOD = frozenset({"healthy", "healed", "healed-lan-only", "back"})
_BAD_OUTCOMES = frozenset(
    {"refused", "failed", "changed", "not-back", "disproven", "not proven", "lost", "denied"}
)
_ANSWER_BYTES_MAX = 1024
_BODY_COLUMNS_MIN = 30

NO_TERMINAL = (
    "nothing that changes state is sent without a yes: stdin is no terminal to ask on;"
    " give --yes to go ahead"
)


class Progress:
    """A `Journal` for people; with `--json` it speaks on stderr, and stdout is the verdict's."""

    def __init__(self, target: str, *, as_json: bool, assume_yes: bool) -> None:
        self._console = Console(stderr=as_json, highlight=False, soft_wrap=True)
        self._target = target
        self._assume_yes = assume_yes
        self._status: Status | None = None

    async def intends(self, name: str, text: str) -> None:
        """Say what is about to happen."""
        if self._console.is_terminal:
            self._live(f"{name}: {text}")
        else:
            self._line(name, f"… {text}")

    async def records(self, step: Step) -> None:
        """Say what became of it."""
        self.quiet()
        if step.name == "verdict" and self._console.is_terminal:
            return  # it is told below, in full
        style = "red" if step.outcome in _BAD_OUTCOMES else "green"
        detail = "" if step.detail in ("", step.outcome) else f": {step.detail}"
        self._line(step.name, step.outcome, style, detail)

    def waits(self, name: str, left_s: float, text: str) -> None:
        """Count down, where somebody can see it."""
        if self._console.is_terminal:
            self._live(f"{name}: {text}, {max(0.0, left_s):.0f} s")

    def quiet(self) -> None:
        """Take the live line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _live(self, text: str) -> None:
        shown = Text(f"{self._target} {text}")
        if self._status is None:
            self._status = self._console.status(shown)
            self._status.start()
        else:
            self._status.update(shown)

    def _line(self, name: str, text: str, style: str = "", detail: str = "") -> None:
        at = datetime.now().astimezone().strftime("%H:%M:%S")
        # Into a pipe each line says whose it is; on a terminal there is only one.
        whose = "" if self._console.is_terminal else f"{self._target} "
        head = Text(f"{at} {whose}", style="dim")
        head.append(f"{name:<17}", style="bold")
        print_hanging(self._console, head, Text.assemble((text, style), detail))

    async def confirm(self, diagnosis: BmcDiagnosis, plan: RemedyPlan) -> str | None:
        """Show diagnosis and plan, and ask where there is somebody to ask (a `Confirm`)."""
        self.quiet()
        out = self._console
        title = Text(f"Diagnosis of {self._target}: {diagnosis.kind}", style="bold")
        print_hanging(out, Text(), title)
        for line in diagnosis.evidence:
            print_hanging(out, Text("  because "), Text(line))
        for line in diagnosis.rules_out:
            print_hanging(out, Text("  and     "), Text(line))
        print_hanging(out, Text("Plan: "), Text(f"{plan.remedy}: {plan.reason}", style="bold"))
        for number, line in enumerate(plan.steps, 1):
            print_hanging(out, Text(f"  {number}. "), Text(line))
        if self._assume_yes:
            return None
        if not sys.stdin.isatty():
            return NO_TERMINAL
        out.print(Text(f"Go ahead with {self._target}? [y/N] "), end="")
        answer = await _read_line()
        return None if answer.strip().lower() in ("y", "yes") else "the operator said no"

    def verdict(self, verdict: HealVerdict) -> None:
        """The end of the story."""
        self.quiet()
        good = verdict.verdict in _GOOD
        head = Text(
            f"{self._target}: {verdict.verdict}", style="bold green" if good else "bold red"
        )
        head.append(f" - {verdict.reason}", style="not bold")
        print_hanging(self._console, Text(), head)
        if verdict.verdict != "healthy":
            known = {True: "yes", False: "NO", None: "not proven"}[verdict.host_untouched]
            power = f"{verdict.power_before or 'unknown'} -> {verdict.power_after or 'unknown'}"
            sent = f"  resets sent: {verdict.resets_sent}"
            if verdict.resets_sent:
                sent += f"; host left alone: {known}; power {power}"
            print_hanging(self._console, Text(), Text(sent))
            for line in verdict.evidence:
                if not good or line.lower().startswith("watchdog"):
                    print_hanging(self._console, Text("  - "), Text(line))


def print_hanging(console: Console, head: Text, body: Text) -> None:
    """Print a line; on a terminal, what does not fit goes on below the body's beginning."""
    if not console.is_terminal:
        console.print(Text.assemble(head, body))
        return
    indent = head.cell_len
    width = max(_BODY_COLUMNS_MIN, console.width - indent)
    for number, part in enumerate(body.wrap(console, width)):
        part.rstrip()
        console.print(Text.assemble(head if not number else " " * indent, part))


async def _read_line() -> str:
    """One line from the terminal, without a thread that would outlive Ctrl-C."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[str] = loop.create_future()
    descriptor = sys.stdin.fileno()

    def read() -> None:
        if not ready.done():
            ready.set_result(sys.stdin.readline(_ANSWER_BYTES_MAX))

    loop.add_reader(descriptor, read)
    try:
        return await ready
    finally:
        loop.remove_reader(descriptor)
