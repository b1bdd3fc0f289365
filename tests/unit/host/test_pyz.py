"""The one-file program, as it runs on hosts where nothing of ours is installed."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.proc_tree import KTHREADD, kipmi, stuck_ipmitool, write_capture
from tests.support.programs import bmcmedic
from tools import build_pyz

TIMEOUT_S = 60
INTERPRETERS = ("python", "pypy3", "python3.7")
"""Debian 12's pypy3 speaks Python 3.9; Debian 11's, which is only unpacked, Python 3.7."""
OLD_PYTHON = Path(__file__).parents[3] / "build/python3.7/python3"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyz") / "bmcmedic-triage.pyz"
    build = [sys.executable, build_pyz.__file__, str(path)]
    subprocess.run(build, check=True, timeout=TIMEOUT_S)
    return path


@pytest.fixture
def sick(tmp_path: Path) -> str:
    processes = [KTHREADD, kipmi(), stuck_ipmitool()]
    return str(write_capture(tmp_path / "sick", processes, processes))


def run(
    command: list[str], *, script: Path | None = None, folder: Path = Path("/")
) -> subprocess.CompletedProcess[str]:
    """Run it as a stranger would: no site-packages, nothing of ours in the environment."""
    return subprocess.run(
        command,
        input=script.read_text() if script is not None else "",
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin"},
    )


def interpreter(name: str) -> str:
    if name == "python3.7":
        if not OLD_PYTHON.exists():
            pytest.skip("Python 3.7 is not unpacked: run `make setup`")
        return str(OLD_PYTHON)
    found = sys.executable if name == "python" else shutil.which(name)
    assert found, f"{name} is missing: run `make setup`"
    return found


@pytest.mark.parametrize("name", INTERPRETERS)
def test_it_runs_from_standard_input(program: Path, sick: str, name: str) -> None:
    command = [interpreter(name), "-", "triage", "--json", "--proc-root", sick]
    done = run(command, script=program)
    assert (done.returncode, done.stderr) == (1, "")
    assert [row["pid"] for row in json.loads(done.stdout)["stuck"]] == [65_113]
    here = run(bmcmedic("triage", "--json", "--proc-root", sick))
    assert json.loads(done.stdout) == json.loads(here.stdout)


@pytest.mark.parametrize("name", INTERPRETERS)
def test_it_examines_this_host(program: Path, name: str) -> None:
    done = run([interpreter(name), str(program), "triage", "--interval", "0.1"])
    assert done.returncode in (0, 1)
    assert done.stderr == ""
    assert "two samples" in done.stdout


@pytest.mark.parametrize("name", INTERPRETERS)
def test_a_capture_of_it_gives_the_same_report(program: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "capture.tar.gz"
    triage = [interpreter(name), str(program), "triage", "--json", "--interval", "0.1"]
    done = run([*triage, "--capture", str(file)])
    assert done.returncode in (0, 1)
    with tarfile.open(file) as tar:
        tar.extraction_filter = staticmethod(lambda member, _path: member)  # our own
        tar.extractall(tmp_path / "capture")  # noqa: S202
    again = run([*triage, "--proc-root", str(tmp_path / "capture")])
    seen, replayed = json.loads(done.stdout), json.loads(again.stdout)
    for key in ("host_id", "kernel", "cpus", "direct_openers", "stuck_count"):
        assert replayed[key] == seen[key], key


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can make a pid namespace")
@pytest.mark.parametrize("name", INTERPRETERS)
def test_it_relieves_where_no_other_process_is(program: Path, tmp_path: Path, name: str) -> None:
    client = tmp_path / "ipmitool"
    shutil.copy("/usr/bin/python3", client)
    blocks = "import select; select.select([], [], [])"
    steps = f"""
    "$0" -S -c "{blocks}" mc info &
    while :; do
        said=$("$1" "$2" relieve --yes --stuck-after 5 --json)
        case $said in *'"TERM"'*) echo "$said"; exit 0 ;; esac
    done
    """
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    words = [str(client), interpreter(name), str(program)]
    done = run([*namespace, "/bin/sh", "-c", steps, *words])
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = json.loads(done.stdout)["clients"]
    assert (row["outcome"], row["signals"]) == ("ended", ["TERM"])


def test_it_is_a_program(program: Path, sick: str) -> None:
    assert run([str(program), "triage", "--proc-root", sick]).returncode == 1
    helped = run([str(program), "--help"])
    assert helped.returncode == 0
    assert "triage" in helped.stdout
    lost = run([str(program)])
    assert lost.returncode == 2
    assert "usage: " in lost.stderr


def test_it_needs_nothing_of_ours_and_prefers_its_own(program: Path, tmp_path: Path) -> None:
    other = tmp_path / "bmcmedic"
    other.mkdir()
    (other / "__init__.py").write_text("raise RuntimeError('the wrong one')\n")
    done = run([interpreter("python"), "-I", "-", "--help"], script=program, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = run([interpreter("python"), "-", "--help"], script=program, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_in_it_shows_its_line(program: Path) -> None:
    code = (
        f"import sys, importlib.util as u, importlib.machinery as m, traceback\n"
        f"loader = m.SourceFileLoader('one', {str(program)!r})\n"
        "spec = u.spec_from_loader('one', loader)\n"
        "one = u.module_from_spec(spec); loader.exec_module(one)\n"
        "sys.meta_path.insert(0, one.Modules(one.MODULES))\n"
        "from bmcmedic.host.kernel.proc import parse_stat\n"
        "try: parse_stat(1, None)\n"
        "except AttributeError: traceback.print_exc()\n"
    )
    done = run([interpreter("python"), "-I", "-c", code])
    assert "bmcmedic-triage.pyz/bmcmedic.host.kernel.proc" in done.stderr
    assert 'raw.find(b"(")' in done.stderr


def test_its_sources_can_be_read(program: Path, tmp_path: Path) -> None:
    assert run([str(program), "--sources", str(tmp_path)]).returncode == 0
    unpacked = (tmp_path / "bmcmedic/host/kernel/proc.py").read_text()
    assert unpacked == build_pyz.sources()["bmcmedic.host.kernel.proc"]
    assert (tmp_path / "bmcmedic/host/__init__.py").exists()


def test_the_installed_program_and_the_file_itself_print_the_same_bytes(program: Path) -> None:
    built = program.read_text()
    printed = run([*bmcmedic("triage", "--print-pyz")])
    assert (printed.returncode, printed.stderr) == (0, "")
    assert printed.stdout == built
    again = run([interpreter("python"), "-I", str(program), "triage", "--print-pyz"])
    assert (again.stdout, again.stderr) == (built, "")


def test_the_same_sources_give_the_same_bytes() -> None:
    assert build_pyz.script() == build_pyz.script()


def test_an_interpreter_that_is_too_old_can_read_the_header() -> None:
    script = build_pyz.script()
    script.encode("ascii")
    ast.parse(script, feature_version=(3, 4))
    assert "needs Python 3.6 or later" in script


@pytest.mark.parametrize("name", sorted(build_pyz.sources()))
def test_python_3_6_can_parse_it(name: str) -> None:
    ast.parse(build_pyz.sources()[name], feature_version=(3, 6))
