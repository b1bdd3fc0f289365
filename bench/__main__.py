"""Lists the benchmarks, or runs one of them.

    make bench                      the list
    make bench-NAME ARGS="…"        one of them; ARGS are its own options (--help shows them)

A benchmark is a module of this folder. Its first lines say what it compares with (`COMPARES`) and
which figure the documents quote (`FIGURE`); both are printed before it runs.
"""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

from bench.support.pid_namespace import is_inside

FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """The benchmarks there are."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def facts(name: str) -> dict[str, str]:
    """What a benchmark measures, what it compares with, and the figure of it that is quoted."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    found = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("COMPARES", "FIGURE")
    }
    return {"measures": (ast.get_docstring(tree) or "").splitlines()[0], **found}


def main(arguments: list[str]) -> int:
    """List them, or print the facts of one and run it."""
    if not arguments:
        for name in names():
            print(f"make bench-{name}\n    {facts(name)['measures']}")
        return 0
    name = arguments[0]
    if name not in names():
        print(
            f"there is no benchmark {name!r}; choose one of {', '.join(names())}", file=sys.stderr
        )
        return 2
    known = facts(name)
    if not is_inside():
        print(f"compares with: {known['COMPARES']}\nfigure quoted: {known['FIGURE']}\n", flush=True)
    sys.argv[:] = [f"make bench-{name}", *arguments[1:]]
    runpy.run_module(f"bench.{name}", run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
