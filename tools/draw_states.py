"""Draws bmcmedic's state machines, as Mermaid diagrams, into the pages under docs/.

    make draw                                       # rewrite what has changed
    .venv/bin/python tools/draw_states.py --check   # change nothing; 1 when a page is out of date

A diagram is made from the table that the code itself uses, and is put between two marks in its
page. The text around it is written by hand. To draw a new state machine, add it to `DIAGRAMS`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from bmcmedic.ipmi import kcs, states

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Diagram:
    """One state machine, its start state, and the page that shows it."""

    name: str
    page: str
    start: Enum
    transitions: Mapping[tuple[Any, Any], Any]
    """The next state for each (state, trigger), all of them enum members."""


DIAGRAMS = (
    Diagram(
        "session", "docs/reference/session-states.md", states.SessionState.IDLE, states.TRANSITIONS
    ),
    Diagram("kcs", "docs/reference/kcs-states.md", kcs.KcsPhase.IDLE, kcs.TRANSITIONS),
)
ANY_STATE = "any_state"
"""Name in the diagram for the origin of arrows that leave every state."""


def mermaid(start: Enum, transitions: Mapping[tuple[Any, Any], Any]) -> str:
    """Return the state diagram: one arrow for each pair of states, in the order of the table."""
    common_triggers = triggers_of_every_state(start, transitions)
    arrows: dict[tuple[str, Enum], dict[Enum, None]] = {}
    for (state, trigger), following in transitions.items():
        origin = ANY_STATE if trigger in common_triggers else identifier(state)
        arrows.setdefault((origin, following), {})[trigger] = None
    lines = ["stateDiagram-v2", f"    [*] --> {identifier(start)}"]
    for (origin, following), triggers in arrows.items():
        label = ", ".join(trigger_label(trigger) for trigger in triggers)
        lines.append(f"    {origin} --> {identifier(following)}: {label}")
    left = {state for state, _ in transitions}
    ends = (state for state in dict.fromkeys(transitions.values()) if state not in left)
    lines += [f"    {identifier(state)} --> [*]" for state in ends]
    return "\n".join(lines) + "\n"


def triggers_of_every_state(start: Enum, transitions: Mapping[tuple[Any, Any], Any]) -> set[Enum]:
    """Return the triggers that lead from every state to the same state."""
    every_state = set(type(start))
    origins: dict[Enum, set[Enum]] = {}
    targets: dict[Enum, set[Enum]] = {}
    for (state, trigger), following in transitions.items():
        origins.setdefault(trigger, set()).add(state)
        targets.setdefault(trigger, set()).add(following)
    return {
        trigger
        for trigger in origins
        if origins[trigger] == every_state and len(targets[trigger]) == 1
    }


def identifier(state: Enum) -> str:
    """Return the name of a state in the diagram."""
    return state.name.lower()


def trigger_label(trigger: Enum) -> str:
    """Return the label of a trigger; the messages of the key exchange are written RAKP."""
    return trigger.name.lower().replace("_", " ").replace("rakp", "RAKP")


def with_diagram(page: str, name: str, diagram: str) -> str:
    """Return `page` with the diagram between its two marks.

    Raises: ValueError when the marks are not there.
    """
    begin, end = f"<!-- diagram: {name} -->\n", "<!-- end of diagram -->\n"
    before, opening, rest = page.partition(begin)
    _, closing, after = rest.partition(end)
    if not opening or not closing:
        raise ValueError(f"the page lacks {begin.strip()!r} with {end.strip()!r} below it")
    return f"{before}{begin}```mermaid\n{diagram}```\n{end}{after}"


def main(arguments: list[str]) -> int:
    """Draw all diagrams, or with `--check` report which pages are out of date."""
    status = 0
    for diagram in DIAGRAMS:
        path = ROOT / diagram.page
        page = path.read_text(encoding="utf-8")
        drawn = with_diagram(page, diagram.name, mermaid(diagram.start, diagram.transitions))
        if drawn == page:
            continue
        if "--check" in arguments:
            sys.stderr.write(f"{diagram.page} is out of date; run `make draw`\n")
            status = 1
        else:
            path.write_text(drawn, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
