"""Shows a remediation while it works: live on a terminal, as plain lines in a pipe."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime

from rich.console import Console
from rich.status import Status
from rich.text import Text

from bmcmedic.model.heal import BmcDiagnosis, HealVerdict, RemedyPlan, Step, VerdictName

_HEALTHY = frozenset({VerdictName.HEALTHY, VerdictName.HEALTHY_LAN_ONLY})
"""The verdicts of a BMC that needed nothing."""
_GOOD = _HEALTHY | {VerdictName.HEALED, VerdictName.HEALED_LAN_ONLY, VerdictName.BACK}
"""The verdicts that are shown in green, without their evidence."""
_BAD_OUTCOMES = frozenset(
    {"refused", "failed", "changed", "not-back", "disproven", "not proven", "lost", "denied"}
)
"""The outcomes of steps that are shown in red."""
_ANSWER_CHARACTERS_MAX = 1024
"""How much of the operator's answer is read, in characters."""
_BODY_COLUMNS_MIN = 30
"""Narrowest column for the text of a line on a terminal, in characters."""

NO_TERMINAL = (
    "nothing that changes state is sent without a yes, and stdin is not a terminal to ask on;"
    " give --yes to go ahead"
)


class Progress:
    """A `Journal` for people; with `--json` it prints to stderr, and only the verdict to stdout."""

    def __init__(self, target: str, *, as_json: bool, assume_yes: bool) -> None:
        self._console = Console(stderr=as_json, highlight=False, soft_wrap=True)
        self._target = target
        self._assume_yes = assume_yes
        self._status: Status | None = None

    async def record_intent(self, name: str, text: str) -> None:
        """Show what is about to happen."""
        if self._console.is_terminal:
            self._live(f"{name}: {text}")
        else:
            self._line(name, f"… {text}")

    async def record_step(self, step: Step) -> None:
        """Show the outcome of a step."""
        self.clear()
        if step.name == "verdict" and self._console.is_terminal:
            return  # `verdict` shows it in full
        style = "red" if step.outcome in _BAD_OUTCOMES else "green"
        detail = "" if step.detail in ("", step.outcome) else f": {step.detail}"
        self._line(step.name, step.outcome, style, detail)

    def show_wait(self, name: str, left_s: float, text: str) -> None:
        """Show a countdown on a terminal."""
        if self._console.is_terminal:
            self._live(f"{name}: {text}, {max(0.0, left_s):.0f} s")

    def clear(self) -> None:
        """Remove the live line."""
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
        # In a pipe each line names its target; on a terminal there is only one.
        target = "" if self._console.is_terminal else f"{self._target} "
        head = Text(f"{at} {target}", style="dim")
        head.append(f"{name:<17}", style="bold")
        print_hanging(self._console, head, Text.assemble((text, style), detail))

    async def confirm(self, diagnosis: BmcDiagnosis, plan: RemedyPlan) -> str | None:
        """Show diagnosis and plan, and ask for permission on a terminal (a `Confirm`)."""
        self.clear()
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
        """Show the verdict and its evidence."""
        self.clear()
        good = verdict.verdict in _GOOD
        head = Text(
            f"{self._target}: {verdict.verdict}", style="bold green" if good else "bold red"
        )
        head.append(f" - {verdict.reason}", style="not bold")
        print_hanging(self._console, Text(), head)
        if verdict.verdict not in _HEALTHY:
            untouched = {True: "yes", False: "NO", None: "not proven"}[verdict.host_untouched]
            power = f"{verdict.power_before or 'unknown'} -> {verdict.power_after or 'unknown'}"
            sent = f"  resets sent: {verdict.resets_sent}"
            if verdict.resets_sent:
                sent += f"; host untouched: {untouched}; power {power}"
            print_hanging(self._console, Text(), Text(sent))
            note = (verdict.watchdog_note,) if verdict.watchdog_note else ()
            for line in note if good else verdict.evidence:
                print_hanging(self._console, Text("  - "), Text(line))


def print_hanging(console: Console, head: Text, body: Text) -> None:
    """Print a line; on a terminal, a long body is wrapped below its own beginning."""
    if not console.is_terminal:
        console.print(Text.assemble(head, body))
        return
    indent = head.cell_len
    width = max(_BODY_COLUMNS_MIN, console.width - indent)
    for number, part in enumerate(body.wrap(console, width)):
        part.rstrip()
        console.print(Text.assemble(head if not number else " " * indent, part))


async def _read_line() -> str:
    """Read one line from the terminal, without a thread that would outlive Ctrl-C."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[str] = loop.create_future()
    descriptor = sys.stdin.fileno()

    def read() -> None:
        if not ready.done():
            ready.set_result(sys.stdin.readline(_ANSWER_CHARACTERS_MAX))

    loop.add_reader(descriptor, read)
    try:
        return await ready
    finally:
        loop.remove_reader(descriptor)
