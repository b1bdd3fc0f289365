"""What holds across the whole tree and no linter checks."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import bmcmedic
import bmcmedic.ipmi.commands
from bench import __main__ as listing
from bmcmedic.ipmi.commands.command import Command

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "bmcmedic"
TESTS = ROOT / "tests"

MODULE_LINES_MAX = 650
"""Longest module, in lines: one argument stays in one file, so this limit is generous."""

TEST_FOLDERS = {
    "acceptance",
    "golden",
    "kernel",
    "pairs",
    "peers",
    "properties",
    "simulation",
    "store",
    "support",
    "unit",
    "vectors",
}

PURE_STAGES = ("diagnose", "guardrails", "identity", "plan")
"""The stages of the fleet that decide: they are handed what they judge, the time included."""
IMPURE_IMPORTS = {"asyncio", "random", "secrets", "socket", "subprocess", "threading", "time"}
IMPURE_CALLS = {
    ("date", "today"),
    ("datetime", "now"),
    ("datetime", "today"),
    ("datetime", "utcnow"),
    ("os", "urandom"),
    ("uuid", "uuid1"),
    ("uuid", "uuid4"),
}

SECRET_FIELDS = {
    "confidentiality_key",
    "integrity_key",
    "k1",
    "k2",
    "kg",
    "password",
    "sik",
}

# Put together from pieces, so that this file passes its own test.
NOT_IN_THE_PROJECT = {
    "a path of somebody's machine": re.compile(
        r"(?<![\w.])/(?:" + "root|work|farm|opt/pypi[a-z-]*" + r")/"
        r"|(?<![\w.])/home/\w+/"
    ),
    "the host name of a registry": re.compile(
        r"\b(?:" + "|".join((r"pypi\." + "org", r"python" + r"hosted\.org")) + r")\b"
    ),
}
TEXT_SUFFIXES = {"", ".cfg", ".json", ".lock", ".md", ".py", ".service", ".toml", ".txt", ".yml"}


def source_files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def project_files() -> Iterator[Path]:
    for path in sorted(ROOT.iterdir()):
        if path.is_file():
            yield path
    for folder in (".ci", "bench", "docs", "requirements", "src", "tests", "tools"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def modules() -> Iterator[ModuleType]:
    yield bmcmedic
    for found in pkgutil.walk_packages(bmcmedic.__path__, "bmcmedic."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def classes_of(module: ModuleType) -> Iterator[type]:
    for _, thing in inspect.getmembers(module, inspect.isclass):
        if thing.__module__ == module.__name__:
            yield thing


def class_doubles(sources: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Names that stand for more than one class, with the files of these classes."""
    places: dict[str, list[str]] = {}
    for name, source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(name)
    return {name: found for name, found in places.items() if len(found) > 1}


def commands() -> list[type[Command[object]]]:
    package = bmcmedic.ipmi.commands
    return [
        thing
        for found in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
        for thing in classes_of(importlib.import_module(found.name))
        if issubclass(thing, Command) and thing is not Command
    ]


def test_no_two_classes_share_a_name() -> None:
    doubles = class_doubles((name_of(path), path.read_text()) for path in source_files())
    assert not doubles, f"say in the name what each is of: {doubles}"


def test_a_planted_double_is_found() -> None:
    sources = [("a.py", "class Answer: pass"), ("b.py", "def f():\n    class Answer: pass\n")]
    assert class_doubles([*sources, ("c.py", "class ProbeAnswer: pass")]) == {
        "Answer": ["a.py", "b.py"]
    }


def impurities(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in IMPURE_IMPORTS)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in IMPURE_IMPORTS:
                yield str(node.module)
            yield from (
                f"{node.module}.{a.name}"
                for a in node.names
                if (node.module, a.name) in IMPURE_CALLS
            )
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            base = node.func.value
            owner = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
            if (owner, node.func.attr) in IMPURE_CALLS:
                yield f"{owner}.{node.func.attr}()"


def sleeps_outside_loops(tree: ast.AST, *, in_loop: bool = False) -> Iterator[int]:
    """Lines that sleep for a time; inside a loop it is a poll, and `sleep(0)` only yields.

    A simulated world has a `sleep` of its own, in its own time.
    """
    for node in ast.iter_child_nodes(tree):
        if (
            not in_loop
            and isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"time.sleep", "asyncio.sleep", "sleep"}
            and not (
                node.args and isinstance(node.args[0], ast.Constant) and not node.args[0].value
            )
        ):
            yield node.lineno
        loop = in_loop or isinstance(node, ast.While | ast.For | ast.AsyncFor)
        yield from sleeps_outside_loops(node, in_loop=loop)


def test_every_folder_is_a_package_that_says_what_belongs_there() -> None:
    silent = [
        name_of(folder)
        for folder in sorted({path.parent for path in source_files()})
        if not (folder / "__init__.py").is_file()
        or not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    ]
    assert not silent, f"no __init__.py with a docstring: {silent}"


def test_no_module_is_longer_than_a_sitting() -> None:
    lines = {name_of(path): path.read_text().count("\n") for path in source_files()}
    assert lines
    long = {name: count for name, count in lines.items() if count > MODULE_LINES_MAX}
    assert not long, f"split by subject: {long}"


@pytest.mark.parametrize("what", NOT_IN_THE_PROJECT)
def test_the_project_knows_no_machine_and_no_registry(what: str) -> None:
    found = [
        f"{name_of(path)}:{number}"
        for path in project_files()
        if path.suffix in TEXT_SUFFIXES
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if NOT_IN_THE_PROJECT[what].search(line)
    ]
    assert not found, f"{what}: {found}"


def test_what_must_not_stand_in_the_project_is_recognised() -> None:
    path, host = NOT_IN_THE_PROJECT.values()
    assert path.search("see " + "/ro" + "ot/notes")
    assert path.search("see " + "/ho" + "me/joe/notes")
    assert not path.search("docs/work/notes")
    assert host.search("https://files.python" + "hosted.org/x")


def test_the_protocol_core_and_the_deciding_stages_read_no_clock_and_draw_no_bytes() -> None:
    pure = [path for path in source_files() if path.is_relative_to(SOURCE / "ipmi")]
    pure += [
        path
        for path in source_files()
        if path.is_relative_to(SOURCE / "fleet")
        and path.relative_to(SOURCE / "fleet").parts[0].removesuffix(".py") in PURE_STAGES
    ]
    assert pure
    found = {
        name_of(path): used
        for path in pure
        if (used := sorted(set(impurities(ast.parse(path.read_text())))))
    }
    assert not found, f"take `now`, or the bytes, as an argument: {found}"


def test_impurities_are_recognised() -> None:
    code = "import time\nfrom random import choice\nimport os\nx = os.urandom(4)\n"
    code += "import datetime\ny = datetime.datetime.now()\nnow = 1.0\n"
    assert sorted(impurities(ast.parse(code))) == [
        "datetime.now()",
        "os.urandom()",
        "random",
        "time",
    ]


def test_every_command_cites_its_section_and_names_its_response() -> None:
    found = commands()
    assert len(found) >= 2
    wrong = [
        command.__qualname__
        for command in found
        if not command.__name__.endswith("Req")
        or not command.response.__name__.endswith("Rsp")
        or command.section not in (vars(command).get("__doc__") or "")
    ]
    assert not wrong, f"named …Req and …Rsp, with the section in the docstring: {wrong}"


def shown_secrets(record: type) -> list[str]:
    if not dataclasses.is_dataclass(record) or not record.__dataclass_params__.repr:  # type: ignore[attr-defined]
        return []
    return [f.name for f in dataclasses.fields(record) if f.name in SECRET_FIELDS and f.repr]


def test_no_record_shows_a_secret() -> None:
    shown = {
        f"{record.__module__}.{record.__qualname__}": names
        for module in modules()
        for record in classes_of(module)
        if (names := shown_secrets(record))
    }
    assert not shown, f"field(repr=False), please: {shown}"


def test_shown_secrets_are_recognised() -> None:
    @dataclasses.dataclass
    class Careless:
        password: bytes
        k1: bytes = dataclasses.field(repr=False)

    assert shown_secrets(Careless) == ["password"]


def test_tests_stand_where_they_belong() -> None:
    strays = [
        name_of(path)
        for path in TESTS.rglob("*.py")
        if path.parent != TESTS and path.relative_to(TESTS).parts[0] not in TEST_FOLDERS
    ]
    strays += [
        name_of(folder)
        for folder in (TESTS / "unit").rglob("*")
        if folder.is_dir()
        and any(folder.glob("test_*.py"))
        and not (SOURCE / folder.relative_to(TESTS / "unit")).is_dir()
    ]
    assert not strays, f"tests/unit mirrors the source; see CONTRIBUTING.md: {strays}"


def test_no_test_sleeps_to_let_time_pass() -> None:
    found = [
        f"{name_of(path)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        for line in sleeps_outside_loops(ast.parse(path.read_text()))
    ]
    assert not found, f"hand in the time, or poll for the condition with a deadline: {found}"


def test_sleeps_are_recognised() -> None:
    code = "world.sleep(1)\ntime.sleep(1)\nwhile x():\n    time.sleep(0.01)\ntime.sleep(0)\n"
    assert list(sleeps_outside_loops(ast.parse(code))) == [2]


def broken_contracts(tree: Path) -> str:
    """What import-linter prints about a copy of the program."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (done.returncode == 0) == ("BROKEN" not in done.stdout), done.stdout + done.stderr
    return "" if done.returncode == 0 else done.stdout


PLANTED_CIRCLES = {
    "between two modules": ("ipmi/constants.py", "import bmcmedic.ipmi.message\n"),
    "in a function": (
        "sim/watchdog_timer.py",
        "def f():\n    from bmcmedic.sim.bmc import SimBmc\n",
    ),
    "for type checking alone": (
        "driver/requests.py",
        "import typing\nif typing.TYPE_CHECKING:\n    from bmcmedic.driver import driver\n",
    ),
    "between two folders": ("host/kernel/proc.py", "import bmcmedic.host.client.stuck\n"),
}


@pytest.fixture(scope="module")
def program_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOURCE, folder / "src" / "bmcmedic", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize("where", PLANTED_CIRCLES)
def test_a_planted_circle_breaks_a_contract(program_copy: Path, where: str) -> None:
    name, planted = PLANTED_CIRCLES[where]
    path = program_copy / "src" / "bmcmedic" / name
    whole = path.read_text()
    path.write_text(whole + planted)
    try:
        assert "circle" in broken_contracts(program_copy)
    finally:
        path.write_text(whole)


def test_every_benchmark_says_what_it_compares_with_and_is_documented() -> None:
    benchmarks = listing.names()
    assert len(benchmarks) >= 8
    page = (ROOT / "docs" / "measurements.md").read_text()
    for name in benchmarks:
        assert set(listing.facts(name)) == {"measures", "COMPARES", "FIGURE"}, name
        assert f"`make bench-{name}`" in page, name


def check_commits(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["tools/check-commits", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
    )


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=A Developer", "-c", "user.email=developer@example.com")
    subprocess.run(["git", *identity, *arguments], check=True, cwd=folder, timeout=60)


def test_a_commit_with_a_long_subject_is_refused_from_the_check_on(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "x" * 100)
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "check-commits", tmp_path / "tools")
    git(tmp_path, "add", "tools")
    git(tmp_path, "commit", "--quiet", "--message", "Add the check" + "\n\n" + "x" * 100)
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "ä" * 72)
    assert check_commits(tmp_path).returncode == 0
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "y" * 73)
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "Go on")
    refused = check_commits(tmp_path)
    assert (refused.returncode, f": 73 characters: {'y' * 73}" in refused.stderr) == (1, True)


def test_the_check_is_a_commit_msg_hook_too(tmp_path: Path) -> None:
    message = tmp_path / "COMMIT_EDITMSG"
    message.write_text("# a comment of git's\n" + "z" * 72 + "\n\nwhy\n")
    assert check_commits(ROOT, str(message)).returncode == 0
    message.write_text("z" * 73 + "\n")
    assert check_commits(ROOT, str(message)).returncode == 1
