"""`bmcmedic demo`: a rack with sick BMCs, which are found and healed while you watch.

Only the BMCs and their hosts are simulated. `bmcmedic probe` and `bmcmedic heal` run as an operator
runs them, over UDP on the loopback interface.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bmcmedic.cli import EXIT_INTERRUPTED
from bmcmedic.cli.demo_rack import (
    DemoFailed,
    DemoRack,
    environment,
    program,
    running_rack,
    stop,
)
from bmcmedic.cli.progress import print_hanging

COUNT = 12
"""How many BMCs the rack has."""
BASE_ADDRESS = "127.0.86.1"
BOOT = "boot:2"
WATCHDOG_S = 60
"""The countdown of the one armed watchdog timer, in seconds."""
HEAL_TIMES = ("--quiet-time", "3", "--return-time", "40", "--steady-time", "5")

HUNG, LEAKING, IGNORING, DEAD = "bmc00003", "bmc00006", "bmc00008", "bmc00011"

FLOOD = "port80-flood:80000"
"""The flood until the memory is nearly used up; a slower one would take minutes."""
SLOW_FLOOD = "port80-flood:3000"
"""The flood from then on, also after the reset: a reset cures the leak, not the flood."""
LEAK_FREE_FRACTION = 0.16
"""The fraction of free memory at which the flood slows down."""
LEAK_TIMEOUT_S = 45.0
"""Time for the memory to fall to that fraction, in seconds."""
SYMPTOM_TIMEOUT_S = 45.0
"""Time for the leaking BMC's host to show a symptom, in seconds."""
HEAL_TIMEOUT_S = 100.0
"""Time for one `bmcmedic heal`, in seconds."""
POLL_S = 0.5
"""Time between two questions to the control endpoint, in seconds."""

EXIT_WENT_WRONG = 1


@dataclass(frozen=True, slots=True)
class SickBmc:
    """One sick BMC: its fault, and how its healing must end."""

    fault: str
    verdict: str
    cold_resets: int


SICK_BMCS: dict[str, SickBmc] = {
    HUNG: SickBmc(f"hung in-band, watchdog at {WATCHDOG_S} s", "healed", 1),
    LEAKING: SickBmc("leaks under port 0x80 flood", "healed", 1),
    IGNORING: SickBmc("hung in-band, ignores resets", "needs-repair", 0),
    DEAD: SickBmc("dead", "needs-repair", 0),
}


def register(app: typer.Typer) -> None:
    """Add `demo` to the program."""
    app.command("demo")(demo)


def demo(
    once: Annotated[
        bool,
        typer.Option("--once", help="End after it; else the rack keeps running."),
    ] = False,
) -> None:
    """Show how four sick BMCs in a simulated rack are found, and healed or sent to repair.

    Exit status: 0 every BMC ended as expected; 1 one did not.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        status = asyncio.run(Demonstration(console).run(stay=not once))
    except DemoFailed as error:
        console.print(Text(f"bmcmedic demo: {error}", style="bold red"))
        status = EXIT_WENT_WRONG
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    raise typer.Exit(status)


@dataclass
class Demonstration:
    """The demonstration, printed while it runs."""

    console: Console
    started_s: float = field(default_factory=time.monotonic)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    probed: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def run(self, *, stay: bool) -> int:
        """Start the rack, make BMCs sick, heal them, and return the exit status."""
        self._headline(
            f"A rack of {COUNT} simulated BMCs, each with a host, from {BASE_ADDRESS} up"
        )
        options = [f"--fault={name}={BOOT}" for name in _names()]
        options.append(f"--watchdog-armed={HUNG}={WATCHDOG_S}")
        async with running_rack(COUNT, BASE_ADDRESS, options) as rack:
            await self._fall_sick(rack)
            await self._probe(rack)
            sick = await self._triage_hosts(rack)
            await self._heal_all(rack, sick)
            went_well = await self._judge(rack)
            if stay:
                await self._keep_running(rack)
        return 0 if went_well else EXIT_WENT_WRONG

    # ------------------------------------------------------------------ fall sick, probe, heal

    async def _fall_sick(self, rack: DemoRack) -> None:
        for name, sick in SICK_BMCS.items():
            self._print(name, f"from now on: {sick.fault}", "yellow")
        await rack.set_faults(HUNG, "hang:timer", BOOT)
        await rack.set_faults(LEAKING, FLOOD, BOOT)
        await rack.set_faults(IGNORING, "hang", "reset-ignored", BOOT)
        await rack.set_faults(DEAD, "dead", BOOT)

    async def _probe(self, rack: DemoRack) -> None:
        self._headline("What the management network sees: bmcmedic probe --detail TARGET…")
        names = {target: name for name, target in rack.targets.items()}
        arguments = program("probe", "--detail", "--json", *rack.targets.values())
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=environment(),
        )
        try:
            output, _ = await process.communicate()
        finally:
            await stop(process)
        for line in output.splitlines():
            result = json.loads(line)
            name = names[result["target"]]
            self.probed[name] = result
        for name in sorted(self.probed):
            self._print(name, *_probe_text(self.probed[name]))

    async def _triage_hosts(self, rack: DemoRack) -> list[str]:
        """Return the sick BMCs: silent on the network, or with symptoms on the host."""
        self._headline("What the hosts see: bmcmedic triage on each of them")
        await self._await_leak(rack)
        sick = [name for name in _names() if not self.probed.get(name, {}).get("reachable")]
        for name in _names():
            seen = await rack.get(f"/bmcs/{name}/triage")
            if seen and seen["symptoms"]:
                self._print(name, _triage_text(seen), "yellow")
                if name not in sick:
                    sick.append(name)
        healthy = COUNT - len(sick)
        self._print(
            "rack", f"{healthy} are well, nothing is done to them; sick: {', '.join(sorted(sick))}"
        )
        return sorted(sick)

    async def _await_leak(self, rack: DemoRack) -> None:
        """Wait until little memory is left, slow the flood down, and wait for a symptom."""
        until_s = time.monotonic() + LEAK_TIMEOUT_S
        while True:
            state = await rack.get(f"/bmcs/{LEAKING}")
            free = state["memory_free_fraction"]
            if free <= LEAK_FREE_FRACTION:
                break
            if time.monotonic() > until_s:
                raise DemoFailed(f"{LEAKING} still has {free:.0%} of its memory free")
            await asyncio.sleep(POLL_S)
        await rack.set_faults(LEAKING, SLOW_FLOOD, BOOT)
        self._print(LEAKING, f"has {free:.0%} of its memory left, and answers ever more slowly")
        until_s = time.monotonic() + SYMPTOM_TIMEOUT_S
        while time.monotonic() < until_s:
            seen = await rack.get(f"/bmcs/{LEAKING}/triage")
            if seen and seen["symptoms"]:
                return
            await asyncio.sleep(POLL_S)
        raise DemoFailed(f"the host of {LEAKING} shows no symptom")

    async def _heal_all(self, rack: DemoRack, sick: Iterable[str]) -> None:
        self._headline("bmcmedic heal TARGET --triage-command '…' --yes, for each sick BMC")
        async with asyncio.TaskGroup() as heals:
            for name in sick:
                heals.create_task(self._heal(rack, name))

    async def _heal(self, rack: DemoRack, name: str) -> None:
        triage = shlex.join(rack.triage_command(name))
        process = await asyncio.create_subprocess_exec(
            *program("heal", rack.targets[name], "--json", "--yes", *HEAL_TIMES),
            *("--triage-command", triage),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(HEAL_TIMEOUT_S):
                output, _ = await asyncio.gather(
                    process.stdout.read(), self._repeat_steps(name, process.stderr)
                )
                await process.wait()
        except TimeoutError:
            self._print(name, f"heal did not end within {HEAL_TIMEOUT_S:g} s", "bold red")
            return
        finally:
            await stop(process)
        if output.strip():
            self.verdicts[name] = json.loads(output)

    async def _repeat_steps(self, name: str, progress: asyncio.StreamReader) -> None:
        """Print the steps of one `heal` under its BMC's name, without its plan."""
        while line := (await progress.readline()).decode().rstrip():
            found = _STEP_LINE.fullmatch(line)
            if found is None or found["step"] in _LEFT_OUT:
                continue
            style = _STYLES.get(found["outcome"], "")
            body = Text.assemble((found["outcome"], style), found["detail"] or "")
            print_hanging(self.console, self._at(name, f"{found['step']:<17}"), body)

    async def _keep_running(self, rack: DemoRack) -> None:
        self._headline("The rack keeps running until Ctrl-C")
        first = next(iter(rack.targets.values()))
        self.console.print(
            "  export BMCMEDIC_USER=admin BMCMEDIC_PASSWORD=secret\n"
            f"  bmcmedic probe --detail {first}\n"
            f"  curl http://{rack.control}/bmcs"
        )
        await asyncio.Event().wait()

    # ------------------------------------------------------------------ the result

    async def _judge(self, rack: DemoRack) -> bool:
        """Print what each BMC counted, and return whether all of it is as expected."""
        self._headline(
            "The result: resets that heal sent, and those that the BMCs themselves counted as done"
        )
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for column in ("BMC", "fault", "verdict", "sent", "done", "host", "as expected"):
            table.add_column(column, overflow="fold", no_wrap=column == "verdict")
        went_well = True
        for name in _names():
            state = await rack.get(f"/bmcs/{name}")
            verdict = self.verdicts.get(name, {}).get("verdict", "-")
            wrong = _wrong(name, verdict, state)
            went_well &= not wrong
            touched = state["host_power_changes"] + state["host_boots"]
            table.add_row(
                name,
                SICK_BMCS[name].fault if name in SICK_BMCS else "none",
                verdict,
                str(self.verdicts.get(name, {}).get("resets_sent", 0)),
                str(state["cold_resets"]),
                "untouched" if not touched else f"changed {touched}x",
                Text("yes", style="green") if not wrong else Text(wrong, style="bold red"),
            )
        self.console.print(table)
        took_s = time.monotonic() - self.started_s
        end = "as expected" if went_well else "NOT as expected"
        style = "bold green" if went_well else "bold red"
        self.console.print(
            Text(f"The demonstration ended {end}, after {took_s:.0f} s.", style=style)
        )
        return went_well

    def _headline(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text, style="bold"))

    def _print(self, name: str, text: str, style: str = "") -> None:
        print_hanging(self.console, self._at(name), Text(text, style=style))

    def _at(self, name: str, step: str = "") -> Text:
        head = Text(f"{time.monotonic() - self.started_s:6.1f} s  ", style="dim")
        head.append(f"{name:<9} ", style="bold")
        return head.append(step)


_STEP_LINE = re.compile(
    r"\d\d:\d\d:\d\d \S+ (?P<step>\S+) +(?P<outcome>[^:…\s][^:]*)(?P<detail>:.*)?"
)
"""A line of `heal` about a step that has ended; a line with … announces a step."""

_LEFT_OUT = ("read-symptoms", "acting-session", "confirm", "quiet-time")
"""The steps of `heal` that are not printed: four runs print at once, and each prints enough."""

_STYLES = {
    "accepted": "cyan",
    "held": "cyan",
    "healed": "bold green",
    "needs-repair": "bold red",
    "refused": "bold red",
    "disproven": "red",
    "silent": "red",
}


def _names() -> list[str]:
    return [f"bmc{number:05d}" for number in range(1, COUNT + 1)]


def _probe_text(result: dict[str, Any]) -> tuple[str, str]:
    if not result["reachable"]:
        return result["error"] or "silent", "red"
    parts = [f"power {result['power']}", f"self-test {result['self_test']}"]
    watchdog = result["watchdog"]
    if watchdog and watchdog["running"]:
        parts.append(
            f"watchdog runs: {watchdog['present_countdown_s']:.0f} s until {watchdog['action']}"
        )
    return "answers: " + ", ".join(parts), ""


def _triage_text(seen: dict[str, Any]) -> str:
    kipmi = ", ".join(f"{t['name']} at {t['cpu_percent']:g} %" for t in seen["kipmi"])
    stuck = f"{len(seen['stuck'])} IPMI clients stuck"
    return f"host: {', '.join(seen['symptoms'])} ({kipmi}, {stuck})"


def _wrong(name: str, verdict: str, state: dict[str, Any]) -> str:
    """Return what is not as expected; empty if all is."""
    expected = SICK_BMCS.get(name, SickBmc("none", "-", 0))
    if verdict != expected.verdict:
        return f"verdict should be {expected.verdict}"
    if state["cold_resets"] != expected.cold_resets:
        return f"cold resets should be {expected.cold_resets}"
    if state["host_power_changes"] or state["host_boots"] or state["host_power"] != "on":
        return "the host was touched"
    if name == HUNG and not (state["watchdog"] or {}).get("running"):
        return "the watchdog should run again"
    if state["own_watchdog_reboots"]:
        return "the BMC restarted by itself"
    return ""
