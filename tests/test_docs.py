"""The documentation and the program say the same; what is new in one is missed in the other."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main

import bmcmedic.cli
from bmcmedic.agent import config as agent_config
from bmcmedic.agent.config import OrderKind
from bmcmedic.agent.controller.orders import Acknowledgement, OrderState
from bmcmedic.agent.controller.report import About, History, document
from bmcmedic.agent.state import HostState, ReliefView
from bmcmedic.cli.remediation import EXIT_STATUS
from bmcmedic.driver.process import config as driver_config
from bmcmedic.fleet.remediation.case import HEAL_VERDICTS, RESET_VERDICTS
from bmcmedic.host import symptoms
from bmcmedic.host.triage import diagnosis, guests
from bmcmedic.host.triage.report import to_json
from bmcmedic.host.triage.triage import Roots, triage
from bmcmedic.lab.starvation.scenario import Design, StarvationRecord, StarvationScenario
from bmcmedic.model.heal import DiagnosisKind, HealVerdict, IdentityCheck, Step, VerdictName
from bmcmedic.model.probe import ProbeResult, WatchdogFacts
from bmcmedic.sim.faults import Fault, FaultSet, KcsWedge
from bmcmedic.sim.rack import BmcSpec
from tests.support import prose
from tests.support.proc_tree import KTHREADD, kipmi, stuck_ipmitool, write_capture
from tests.support.programs import bmcmedic as program
from tests.support.sim import running_rack
from tools import draw_states

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
HELP_TIMEOUT_S = 90

WHERE_COMMANDS_STAND = {
    "probe": ["docs/reference/probe.md"],
    "reset": ["docs/reference/heal.md"],
    "heal": ["docs/reference/heal.md"],
    "sim": ["docs/reference/simulator.md"],
    "lab": ["docs/reference/lab.md"],
    "demo": ["docs/reference/simulator.md"],
    "triage": ["docs/reference/triage.md"],
    "relieve": ["docs/reference/relieve.md"],
    "driver": ["docs/reference/driver.md"],
    "ipmitool": ["docs/reference/shim.md"],
    "shim": ["docs/reference/shim.md"],
    "agent": ["docs/reference/agent.md"],
}
SHARED_OPTIONS_PAGE = "docs/reference/probe.md"
"""What `reset` and `heal` share with `probe` is explained there, and they point to it."""

OPTIONS_OF_OTHERS = {
    "--config-file",  # FreeIPMI
    "--no-build-isolation",  # pip
    "--no-deps",  # pip
    "--password",  # FreeIPMI
    "--require-hashes",  # pip
    "--rounds",  # bench/probe.py
    "--strict",  # mypy
    "--unix-socket",  # curl
}
"""Options on the pages that are not bmcmedic's own."""


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# ---------------------------------------------------------------------------- the command line


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by the words it is called with, groups left out."""
    app = typer.Typer()
    app.callback()(lambda: None)
    for name in bmcmedic.cli.COMMANDS:
        importlib.import_module(f"bmcmedic.cli.{name}").register(app)

    def walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - click's
        inner = getattr(command, "commands", None)
        if inner is None:
            yield words, command
            return
        for name, each in inner.items():
            yield from walk(f"{words} {name}".strip(), each)

    yield from walk("", typer.main.get_command(app))


COMMANDS = dict(commands())
PROGRAMS = {
    name: importlib.import_module(program.module).parser()
    for name, program in bmcmedic.cli.PROGRAMS.items()
}
"""The commands that run without typer, and their argparse parsers."""


def options(words: str) -> set[str]:
    """The options of a command, long and short, help left out."""
    if words in PROGRAMS:
        actions: list[argparse.Action] = PROGRAMS[words]._actions
        return {
            option
            for action in actions
            for option in action.option_strings
            if action.dest != "help"
        }
    return {
        option
        for parameter in COMMANDS[words].params
        for option in parameter.opts
        if option.startswith("-") and option != "--help"
    }


def stands_in(option: str, page: str) -> bool:
    """Whether an option stands in the text of a page, as code."""
    return re.search(rf"`[^`\n]*(?<![\w-]){re.escape(option)}(?![\w-])[^`\n]*`", page) is not None


def test_the_pages_of_all_commands_are_known() -> None:
    first_words = {words.split()[0] for words in COMMANDS}
    assert first_words | set(PROGRAMS) == set(WHERE_COMMANDS_STAND)


@pytest.mark.parametrize("words", [*sorted(COMMANDS), *PROGRAMS])
def test_every_command_and_option_is_documented(words: str) -> None:
    first = words.split(maxsplit=1)[0]
    page = "".join(text(name) for name in WHERE_COMMANDS_STAND[first])
    assert f"bmcmedic {words}" in page + text("README.md")
    missing = {option for option in options(words) if not stands_in(option, page)}
    if first in ("reset", "heal") and Path(SHARED_OPTIONS_PAGE).name in page:
        shared = options("probe")
        missing = {
            option
            for option in missing
            if option not in shared or not stands_in(option, text(SHARED_OPTIONS_PAGE))
        }
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_shows_an_option_that_there_is_not(page: Path) -> None:
    known = {option for words in (*COMMANDS, *PROGRAMS) for option in options(words)}
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text(encoding="utf-8")))
    assert shown - known - OPTIONS_OF_OTHERS - {"--help", "--version"} == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_shown_would_be_understood(page: Path) -> None:
    for line in re.findall(r"(?<![\w/.-])bmcmedic (?!(?:sim|lab)\b)([a-z]+(?: .*)?)", code(page)):
        check_command_line(line.split(), page)
    for line in re.findall(r"(?<![\w/.-])bmcmedic ((?:sim|lab) [a-z]+(?: .*)?)", code(page)):
        group, command, *rest = line.split()
        check_command_line([f"{group} {command}", *rest], page)


def check_command_line(words: list[str], page: Path) -> None:
    command, *rest = words
    assert command in COMMANDS or command in PROGRAMS, f"{page.name} shows `bmcmedic {command}`"
    ended = [index for index, word in enumerate(rest) if word in ("|", "&", "#", "<", "'bmcmedic")]
    used = {word.rstrip("'").partition("=")[0] for word in rest[: min(ended, default=None)]}
    unknown = {word for word in used if word.startswith("--")} - options(command) - {"--help"}
    if "--triage-command" in used:
        unknown -= {"--json"}
    assert unknown == set(), f"{page.name} shows `bmcmedic {command}` with {unknown}"


def code(page: Path) -> str:
    """The fenced and the indented blocks of a page, continued lines joined."""
    lines = []
    is_fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            lines.append(line)
    return "\n".join(lines).replace("\\\n", " ")


@pytest.mark.parametrize("words", ["", "sim", "lab", *sorted(COMMANDS), *PROGRAMS])
def test_help_is_help(words: str) -> None:
    done = subprocess.run(
        program(*words.split(), "--help"),
        capture_output=True,
        text=True,
        timeout=HELP_TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: " in done.stdout.lower()
    assert "Traceback" not in done.stdout


# ------------------------------------------------------------------------------- what it prints


def keys(value: object) -> set[str]:
    """All keys of a JSON document, however deep."""
    if isinstance(value, dict):
        return set(value) | {key for each in value.values() for key in keys(each)}
    if isinstance(value, list):
        return {key for each in value for key in keys(each)}
    return set()


def undocumented(words: set[str], page: str) -> set[str]:
    """Those that do not stand on the page inside of code."""
    shown = " ".join(re.findall(r"`([^`\n]+)`", page))
    return {
        word for word in words if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", shown)
    }


def test_what_is_missing_from_a_page_is_recognised() -> None:
    page = "Give `--user NAME`; `latency_s` is in seconds, but --kg-file and error are bare words."
    assert undocumented({"latency_s", "latency", "error"}, page) == {"latency", "error"}
    assert stands_in("--user", page)
    assert not stands_in("--use", page)
    assert not stands_in("--kg-file", page)


def test_the_keys_of_probe_are_documented() -> None:
    watchdog = WatchdogFacts(running=True, present_countdown_s=1.0, action="none")
    result = ProbeResult("bmc1", reachable=True, watchdog=watchdog)
    assert undocumented(keys(result.to_json()), text("docs/reference/probe.md")) == set()


def test_the_keys_of_the_lab_are_documented() -> None:
    told = StarvationRecord(Design.DIRECT, StarvationScenario(1)).to_json()
    assert undocumented(keys(told), text("docs/reference/lab.md")) == set()


def test_the_keys_of_heal_and_reset_are_documented() -> None:
    verdict = HealVerdict("bmc1", VerdictName.HEALED, "", (Step("probe", "session", 0.0),))
    assert undocumented(keys(verdict.to_json()), text("docs/reference/heal.md")) == set()


def test_the_keys_of_the_control_door_and_of_triage_are_documented() -> None:
    sick = BmcSpec("bmc1", ("127.0.0.1", 0), FaultSet.parse(["hang"]), watchdog_armed_s=60)
    with running_rack([sick]) as rack:
        described = {**rack.status(), "requests": {}}
        _, triage = rack.get("/bmcs/bmc1/triage")
        _, listed = rack.get("/bmcs")
    assert described["watchdog"]
    assert triage["stuck"]
    shown = keys(described) | keys(triage) | keys(listed) | set(triage["symptoms"])
    assert undocumented(shown, text("docs/reference/simulator.md")) == set()


def test_the_keys_of_a_hosts_triage_are_documented(tmp_path: Path) -> None:
    sick = [KTHREADD, kipmi(), stuck_ipmitool(), stuck_ipmitool(7, "sol", "activate")]
    capture = write_capture(tmp_path / "capture", sick, sick, counters=({}, {}))
    document = to_json(triage(Roots.captured(str(capture))))
    assert document["stuck"]
    assert document["spared"]
    guest = set(guests.KvmGuest._fields)
    kinds = {kind.value for kind in diagnosis.HostDiagnosisKind} | set(symptoms.TRIAGE_SYMPTOMS)
    assert undocumented(keys(document) | guest | kinds, text("docs/reference/triage.md")) == set()


def test_the_agents_report_orders_settings_and_figures_are_documented() -> None:
    page = text("docs/reference/agent.md")
    about = About({}, 0.0, "observe", None, ())
    acknowledgement = Acknowledgement("o1", "resume", OrderState.DONE)
    relief = ReliefView(last={"at": 0, "acted": False, "outcomes": {}, "pids": []})
    report = document(
        about,
        HostState(0.0, relief=relief),
        sequence=1,
        sent_at=0.0,
        missed=0,
        history=History(),
        orders=[acknowledgement],
    )
    words = {each.value for each in (*OrderKind, *OrderState)}
    words.update(symptoms.DRIVER_SYMPTOMS)
    assert undocumented(keys(report) | words, page) == set()
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    for each in agent_config.SETTINGS:
        assert rows[each.name].endswith("| SIGHUP |") == each.reload, each.name
    page = text("docs/reference/metrics.md")
    source = text("src/bmcmedic/agent/metrics/collector.py")
    figures = set(re.findall(r'"(bmcmedic_[a-z_]+)"', source))
    assert len(figures) > 20
    sensors = set(
        re.findall(r'"(ipmi_[a-z_]+)"', text("src/bmcmedic/agent/metrics/sensor_metrics.py"))
    )
    assert len(sensors) > 10
    assert {name for name in figures | sensors if name not in page} == set()


def test_the_drivers_settings_and_their_options_are_documented() -> None:
    page = text("docs/reference/driver.md")
    for each in driver_config.SETTINGS:
        row = next((row for row in page.splitlines() if row.startswith(f"| `{each.name}` |")), "")
        assert each.option is not None
        assert stands_in(each.option, row), each.name
    on_sighup = next(row for row in page.splitlines() if row.startswith("| takes effect |"))
    assert set(re.findall(r"`(\w+)`", on_sighup)) == {
        each.key for each in driver_config.SETTINGS if each.reload
    }


def test_every_metric_of_a_scrape_is_documented() -> None:
    page = text("docs/reference/metrics.md")
    source = text("src/bmcmedic/agent/metrics/collector.py")
    names = set(re.findall(r'"(ipmi_[a-z_]+)"', source))
    prefix = "ipmi_bmc_watchdog_"
    names |= {prefix + rest for rest in re.findall(r'f"\{name\}([a-z_]+)"', source)}
    assert len(names) > 15
    assert {name for name in names if not re.search(rf"`{name}[`{{]", page)} == {prefix}


def test_every_fault_is_documented() -> None:
    models = {fault.name for fault in get_args(Fault)}
    page = text("docs/reference/simulator.md")
    assert len(models) == 16
    assert undocumented(models, page) == set()
    for wedge in KcsWedge:
        assert f":{wedge.value}`" in page


def test_every_command_stands_in_the_table_of_exit_statuses() -> None:
    page = text("docs/reference/exit-statuses.md")
    words = {*COMMANDS, *(set(PROGRAMS) - {"shim"}), "shim install", "shim remove", "shim status"}
    rows = {row.split("|")[1] for row in page.splitlines() if row.startswith("| `")}
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == words


def test_the_index_of_json_objects_has_their_keys(tmp_path: Path) -> None:
    rows = text("docs/reference/json.md").splitlines()

    def row(command: str) -> set[str]:
        found = next(row for row in rows if row.startswith(f"| `{command} --json`"))
        return set(re.findall(r"`([^`]+)`", found.split("|")[2]))

    sick = [KTHREADD, kipmi(), stuck_ipmitool()]
    capture = write_capture(tmp_path / "capture", sick, sick, counters=({}, {}))
    assert row("triage") == set(to_json(triage(Roots.captured(str(capture)))))
    assert row("probe") == set(ProbeResult("bmc1", reachable=True).to_json())
    assert row("heal") == set(HealVerdict("bmc1", VerdictName.HEALED, "", ()).to_json())
    record = StarvationRecord(Design.DIRECT, StarvationScenario(1))
    assert row("lab starvation") == set(record.to_json())


def test_every_error_of_probe_is_one_that_the_program_reports() -> None:
    texts = {
        node.value
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    said = "\n".join(texts)
    section = text("docs/reference/probe.md").partition("\n## Errors\n")[2]
    shown = re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
    assert len(shown) > 10
    for errors in shown:
        for part in re.split(r"`(?:, `)?|…|: |(?<=no answer to) ", errors):
            assert part.strip(" ()") in said, part


def test_every_verdict_stands_with_its_exit_status() -> None:
    page = text("docs/reference/heal.md")
    assert set(EXIT_STATUS) == set(HEAL_VERDICTS.values()) | set(RESET_VERDICTS.values())
    for verdict, status in EXIT_STATUS.items():
        assert re.search(rf"^\| `{verdict}` \| {status} \|", page, re.MULTILINE), verdict


def test_every_step_diagnosis_and_rule_is_documented() -> None:
    page = text("docs/reference/heal.md")
    steps = set(first_words(ROOT / "src/bmcmedic/fleet/remediation", {"step", "guard"}))
    rules = set(first_words(ROOT / "src/bmcmedic/fleet", {"GuardrailRefused"}))
    assert len(steps) > 10
    assert len(rules) > 5
    kinds = {kind.value for kind in DiagnosisKind if kind is not DiagnosisKind.ORDERED}
    identities = {kind.value for kind in IdentityCheck if kind is not IdentityCheck.MISMATCH}
    assert undocumented(steps | rules | kinds | identities, page) == set()


def first_words(folder: Path, functions: set[str]) -> Iterator[str]:
    """The text that each call of these functions begins with."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            first = node.args[0]
            if called in functions and isinstance(first, ast.Constant):
                assert isinstance(first.value, str)
                yield first.value


# -------------------------------------------------------------------------------------- the pages


def links(page: Path) -> Iterator[tuple[str, str]]:
    """The links of a page into the project: file and anchor."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            yield file, anchor


def anchors(page: Path) -> set[str]:
    """What its headings can be called by."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for file, anchor in links(page):
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name} links to {file}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {file}#{anchor}"


def test_every_page_can_be_found() -> None:
    linked = {(page.parent / file).resolve() for page in PAGES for file, _ in links(page) if file}
    assert {page for page in DOCS.rglob("*.md") if page.resolve() not in linked} == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_named_is_there(page: Path) -> None:
    named = re.findall(
        r"`((?:src|tests|tools|docs|bench|requirements)/[\w./-]+)`",
        page.read_text(encoding="utf-8"),
    )
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_named_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    targets |= {"bench-NAME", *(f"bench-{path.stem}" for path in ROOT.glob("bench/*.py"))}
    named = re.findall(
        r"(?:`|^ {4})make ([a-z][\w-]*)", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(named) <= targets


@pytest.mark.parametrize("diagram", draw_states.DIAGRAMS, ids=lambda diagram: diagram.name)
def test_the_diagrams_are_those_of_the_tables(diagram: draw_states.Diagram) -> None:
    page = text(diagram.page)
    drawn = draw_states.mermaid(diagram.start, diagram.transitions)
    assert draw_states.with_diagram(page, diagram.name, drawn) == page, "run `make draw`"
    shown = set(re.findall(r"\w+", drawn))
    assert {draw_states.identifier(state) for state in type(diagram.start)} <= shown


def test_a_page_without_its_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="lacks '<!-- diagram: kcs -->'"):
        draw_states.with_diagram("# KCS\n", "kcs", "stateDiagram-v2\n")


# -------------------------------------------------------------------------------------- the prose

ENGLISH = [page for page in PAGES if not page.name.endswith(".zh-CN.md")]
WORDS_IN_THEIR_PLACE: dict[str, set[str]] = {}
"""Refused words that a page needs all the same, as `refused` reports them."""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_line_is_too_wide(page: Path) -> None:
    assert prose.wide_lines(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", ENGLISH, ids=name_of)
def test_no_sentence_is_too_long(page: Path) -> None:
    sentences = prose.sentences(page.read_text(encoding="utf-8"))
    assert [each for each in sentences if prose.word_count(each) > prose.WORDS_MAX] == []


@pytest.mark.parametrize("page", ENGLISH, ids=name_of)
def test_every_word_is_one_of_the_field(page: Path) -> None:
    found = prose.refused(page.read_text(encoding="utf-8"))
    assert found == WORDS_IN_THEIR_PLACE.get(name_of(page), set())


def test_the_index_links_to_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / file).resolve() for file, _ in links(index) if file}
    assert {name_of(page) for page in DOCS.rglob("*.md") if page != index} == {
        name_of(page) for page in linked if page.suffix == ".md" and page.is_relative_to(DOCS)
    }


@pytest.mark.parametrize("folder", ["src", "bench", "tools", "tests"])
def test_every_page_named_in_the_code_is_there(folder: str) -> None:
    named = {
        name
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".service", ".toml")
        for name in re.findall(r"\bdocs/[\w./-]+\.md\b", path.read_text(encoding="utf-8"))
    }
    assert {name for name in named if not (ROOT / name).exists()} == set()


def planted(words: int) -> str:
    return " ".join(["word"] * (words - 1)) + " end."


@pytest.mark.parametrize(
    "shape",
    [
        "{}",
        "Short. {} Short.",
        "- {}\n- short",
        "1. short\n2. {}",
        "| cell | {} |",
        "See [{}](x.md)",
    ],
)
def test_a_sentence_that_is_too_long_is_found_wherever_it_stands(shape: str) -> None:
    counts = [prose.word_count(each) for each in prose.sentences(shape.format(planted(41)))]
    assert sum(count > prose.WORDS_MAX for count in counts) == 1
    counts = [prose.word_count(each) for each in prose.sentences(shape.format(planted(35)))]
    assert sum(count > prose.WORDS_MAX for count in counts) == 0


def test_a_long_sentence_over_several_lines_is_found() -> None:
    half = " ".join(["word"] * 25)
    assert max(map(prose.word_count, prose.sentences(f"{half}\n{half}.\n"))) == 50
    assert max(map(prose.word_count, prose.sentences(f"- {half}\n  {half}.\n"))) == 50


@pytest.mark.parametrize(
    "page",
    [
        f"```\n{planted(41)}\n```",
        f"    {planted(41)}",
        f"# {planted(41)}",
        f"<!-- {planted(41)} -->",
        f"{planted(30)} {planted(30).capitalize()}",
        "It costs 3.5 ms, e.g. on two cores. " + planted(30).capitalize(),
        "`" + "code " * 50 + "` is one word.",
    ],
)
def test_what_is_no_long_sentence_is_none(page: str) -> None:
    assert all(prose.word_count(each) <= prose.WORDS_MAX for each in prose.sentences(page))


def test_a_line_that_is_too_wide_is_found_unless_it_is_table_or_code() -> None:
    wide = "x" * 101
    assert prose.wide_lines(f"{wide}\n\n- {wide}\n") == [wide, f"- {wide}"]
    assert prose.wide_lines("主" * 51) == ["主" * 51]
    assert prose.wide_lines(f"| {wide} |\n\n    {wide}\n\n```\n{wide}\n```\n{'x' * 100}\n") == []


def test_a_refused_word_is_found_outside_of_code_alone() -> None:
    assert prose.refused("The control door is open.") == {
        "'door': write endpoint, proxy or front end"
    }
    assert len(prose.refused("## The doors\n\n| it was told |\n\nEach look costs 1 ms.")) == 3
    assert (
        prose.refused("`/run/bmcmedic/door/`, [it](door.md)\n\n    [doors]\n\nIt looks.") == set()
    )
