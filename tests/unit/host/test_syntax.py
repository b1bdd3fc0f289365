"""`host` runs where nothing of ours is installed, on interpreters as old as Python 3.6."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bmcmedic.host

HOST = Path(bmcmedic.host.__file__).parent
MODULES = sorted(HOST.rglob("*.py"))
VERMIN = str(Path(sys.executable).with_name("vermin"))
TIMEOUT_S = 60


def test_python_3_6_has_all_that_it_uses() -> None:
    command = [VERMIN, "--target=3.6-", "--no-tips", "-vv", str(HOST)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_3_6_has_not_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("if (n := 1): print(f'{n=}')\n")
    command = [VERMIN, "--target=3.6-", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode != 0


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(HOST)))
def test_it_imports_the_standard_library_and_itself(module: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(f"{node.module}")
    foreign = {
        name
        for name in imported
        if not name.startswith("bmcmedic.host")
        and name.partition(".")[0] not in sys.stdlib_module_names
    }
    assert foreign == set()
