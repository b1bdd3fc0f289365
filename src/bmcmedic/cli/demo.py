"""`bmcmedic demo`: a rack with sick BMCs in it, found and healed before your eyes.

Everything but the BMCs and their hosts is real: `bmcmedic probe` and `bmcmedic heal` run as any
operator would run them, over UDP on the loopback interface.
"""

from __future__ import annotations

import asyncio
import json
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
BASE_ADDRESS = "127.0.86.1"
BOOT = "boot:2"
WATCHDOG_S = 60
HEAL_TIMES = ("--quiet-time", "3", "--return-time", "40", "--steady-time", "5")

HUNG, LEAKING, IGNORING, DEAD = "bmc00003", "bmc00006", "bmc00008", "bmc00011"

FLOOD = "port80-flood:80000"
"""At first, until the memory is nearly gone; nobody wants to watch it fall for minutes."""
FLOOD_ON = "port80-flood:3000"
"""From then on, and after the reset too: a reset cures the leak, not the flood."""
LEAK_FREE_FRACTION = 0.16
LEAK_TIMEOUT_S = 45.0
SYMPTOM_TIMEOUT_S = 45.0
HEAL_TIMEOUT_S = 100.0
POLL_S = 0.5

EXIT_WENT_WRONG = 1
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Part:
    """One sick BMC: what ails it, and how its story must end."""

    ails: str
    verdict: str
    cold_resets: int


PARTS: dict[str, Part] = {
    HUNG: Part(f"hung in-band, watchdog at {WATCHDOG_S} s", "healed", 1),
    LEAKING: Part("leaks under port 0x80 flood", "healed", 1),
    IGNORING: Part("hung in-band, ignores resets", "needs-repair", 0),
    DEAD: Part("dead", "needs-repair", 0),
}


def register(app: typer.Typer) -> None:
    """Add `demo` to the program."""
    app.command("demo")(demo)


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End after the story; else the rack stays to play with.")
    ] = False,
) -> None:
    """Show a rack of simulated BMCs, four of them sick, being found, healed or sent to repair.

    Exit status: 0 every story ended as it should; 1 one did not.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        status = asyncio.run(Story(console).tell(stay=not once))
    except DemoFailed as error:
        console.print(Text(f"bmcmedic demo: {error}", style="bold red"))
        status = EXIT_WENT_WRONG
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    raise typer.Exit(status)


@dataclass
class Story:
    """The demonstration, told while it happens."""

    console: Console
    started_s: float = field(default_factory=time.monotonic)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    probed: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def tell(self, *, stay: bool) -> int:
        """Set the stage, tell the story, and judge its end."""
        self._head(f"A rack of {COUNT} simulated BMCs, each with a host, on {BASE_ADDRESS} and up")
        options = [f"--fault={name}={BOOT}" for name in _names()]
        options.append(f"--watchdog-armed={HUNG}={WATCHDOG_S}")
        async with running_rack(COUNT, BASE_ADDRESS, options) as rack:
            await self._fall_sick(rack)
            await self._probe(rack)
            sick = await self._look_at_hosts(rack)
            await self._heal_all(rack, sick)
            went_well = await self._close(rack)
            if stay:
                await self._stay(rack)
        return 0 if went_well else EXIT_WENT_WRONG

    # ------------------------------------------------------------------ the acts

    async def _fall_sick(self, rack: DemoRack) -> None:
        for name, part in PARTS.items():
            self._say(name, f"from now on: {part.ails}", "yellow")
        await rack.set_faults(HUNG, "hang:timer", BOOT)
        await rack.set_faults(LEAKING, FLOOD, BOOT)
        await rack.set_faults(IGNORING, "hang", "reset-ignored", BOOT)
        await rack.set_faults(DEAD, "dead", BOOT)

    async def _probe(self, rack: DemoRack) -> None:
        self._head("What the management network sees: bmcmedic probe --detail TARGET…")
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
            self._say(name, *_probe_text(self.probed[name]))

    async def _look_at_hosts(self, rack: DemoRack) -> list[str]:
        """Who is sick: silent on the network, or with symptoms on its host."""
        self._head("What the hosts see: bmcmedic triage, on each of them")
        await self._await_leak(rack)
        sick = [name for name in _names() if not self.probed.get(name, {}).get("reachable")]
        for name in _names():
            seen = await rack.get(f"/bmcs/{name}/triage")
            if seen and seen["symptoms"]:
                self._say(name, _triage_text(seen), "yellow")
                if name not in sick:
                    sick.append(name)
        healthy = COUNT - len(sick)
        self._say("rack", f"{healthy} are well and left alone; sick: {', '.join(sorted(sick))}")
        return sorted(sick)

    async def _await_leak(self, rack: DemoRack) -> None:
        """Until the leak has got far enough to hurt; then the flood goes on more slowly."""
        until_s = time.monotonic() + LEAK_TIMEOUT_S
        while True:
            state = await rack.get(f"/bmcs/{LEAKING}")
            free = state["memory_free_fraction"]
            if free <= LEAK_FREE_FRACTION:
                break
            if time.monotonic() > until_s:
                raise DemoFailed(f"{LEAKING} still has {free:.0%} of its memory free")
            await asyncio.sleep(POLL_S)
        await rack.set_faults(LEAKING, FLOOD_ON, BOOT)
        self._say(LEAKING, f"has {free:.0%} of its memory left, and answers ever more slowly")
        until_s = time.monotonic() + SYMPTOM_TIMEOUT_S
        while time.monotonic() < until_s:
            seen = await rack.get(f"/bmcs/{LEAKING}/triage")
            if seen and seen["symptoms"]:
                return
            await asyncio.sleep(POLL_S)
        raise DemoFailed(f"the host of {LEAKING} shows no symptom")

    async def _heal_all(self, rack: DemoRack, sick: Iterable[str]) -> None:
        self._head("bmcmedic heal TARGET --triage-command '…' --yes, for each that is sick")
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
                    process.stdout.read(), self._retell(name, process.stderr)
                )
                await process.wait()
        except TimeoutError:
            self._say(name, f"heal did not end within {HEAL_TIMEOUT_S:g} s", "bold red")
            return
        finally:
            await stop(process)
        if output.strip():
            self.verdicts[name] = json.loads(output)

    async def _retell(self, name: str, progress: asyncio.StreamReader) -> None:
        """Repeat a heal's own steps under its BMC's name; its plan is left out."""
        while line := (await progress.readline()).decode().rstrip():
            words = line.split(maxsplit=3)
            if len(words) < 4 or words[0].count(":") != 2 or words[3].startswith("…"):
                continue
            _, _, step, text = words
            if step == "-" or step in _NOT_RETOLD:  # "-": the end, which repeats the verdict
                continue
            outcome, colon, detail = text.partition(":")
            style = _STYLES.get(outcome, "")
            body = Text.assemble((outcome, style), colon, detail)
            print_hanging(self.console, self._at(name, f"{step:<17}"), body)

    async def _stay(self, rack: DemoRack) -> None:
        self._head("The rack stays until Ctrl-C")
        first = next(iter(rack.targets.values()))
        self.console.print(
            "  export BMCMEDIC_USER=admin BMCMEDIC_PASSWORD=secret\n"
            f"  bmcmedic probe --detail {first}\n"
            f"  curl http://{rack.control}/bmcs"
        )
        await asyncio.Event().wait()

    # ------------------------------------------------------------------ how it ended

    async def _close(self, rack: DemoRack) -> bool:
        """The closing table: what each BMC says happened to it, against what should have."""
        self._head("How it ended; resets and the hosts' power as the BMCs themselves counted them")
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for column in ("BMC", "ailed", "verdict", "resets", "host", "as it should"):
            table.add_column(column, overflow="fold")
        went_well = True
        for name in _names():
            state = await rack.get(f"/bmcs/{name}")
            verdict = self.verdicts.get(name, {}).get("verdict", "-")
            wrong = _wrong(name, verdict, state)
            went_well &= not wrong
            touched = state["host_power_changes"] + state["host_boots"]
            table.add_row(
                name,
                PARTS[name].ails if name in PARTS else "nothing",
                verdict,
                str(state["cold_resets"]),
                "untouched" if not touched else f"changed {touched}x",
                Text("yes", style="green") if not wrong else Text(wrong, style="bold red"),
            )
        self.console.print(table)
        took = time.monotonic() - self.started_s
        end = "as it should" if went_well else "NOT as it should"
        style = "bold green" if went_well else "bold red"
        self.console.print(Text(f"The story ended {end}, after {took:.0f} s.", style=style))
        return went_well

    def _head(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text, style="bold"))

    def _say(self, name: str, text: str, style: str = "") -> None:
        print_hanging(self.console, self._at(name), Text(text, style=style))

    def _at(self, name: str, step: str = "") -> Text:
        head = Text(f"{time.monotonic() - self.started_s:6.1f} s  ", style="dim")
        head.append(f"{name:<9} ", style="bold")
        return head.append(step)


_NOT_RETOLD = ("read-symptoms", "acting-session", "confirm", "quiet-time")
"""Steps of a heal that the story leaves out: four are told at once, and each is long enough."""

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
    """What is not as it should be; empty when all is."""
    part = PARTS.get(name, Part("nothing", "-", 0))
    if verdict != part.verdict:
        return f"verdict should be {part.verdict}"
    if state["cold_resets"] != part.cold_resets:
        return f"cold resets should be {part.cold_resets}"
    if state["host_power_changes"] or state["host_boots"] or state["host_power"] != "on":
        return "the host was touched"
    if name == HUNG and not (state["watchdog"] or {}).get("running"):
        return "the watchdog should run again"
    if state["own_watchdog_reboots"]:
        return "the BMC restarted by itself"
    return ""
