from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from bmcmedic.cli import lab, lab_kernel
from bmcmedic.errors import ConfigurationError
from tests.support.programs import bmcmedic

TIMEOUT_S = 120
REAL_RUNS_MAX = 3


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        bmcmedic("lab", "starvation", *arguments),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_json_is_one_object_a_design_and_line() -> None:
    done = run("--design", "all", "--seed", "1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["design"] for each in objects] == ["direct", "queued", "priority"]
    assert {each["seed"] for each in objects} == {1}
    assert objects[0]["false_pretimeouts"] >= 1
    assert objects[2]["false_pretimeouts"] == 0


def test_the_output_for_people_describes_what_happened(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    done = run("--design", "direct", "--plot", str(plot))
    assert (done.returncode, done.stderr) == (0, "")
    assert "the pretimeout fired, but the host was healthy" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    done = run("--design", "priority", "--duration", "100", "--stop-driver-at", "18")
    assert "the pretimeout fired as it should, " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--load", "1000"), "the load is 0 to 256 clients, not 1000"),
        (("--duration", "0"), "a run lasts"),
        (("--hang-check-at", "900"), "at 900 s nothing can be hung"),
        (("--design", "none"), "--design"),
        (("--plot", "/no/such/folder/plot.png"), "there is no directory /no/such/folder"),
        (("--plot", "/"), "cannot write /: it is a directory"),
    ],
)
def test_an_impossible_run_is_an_error_with_status_2(
    arguments: tuple[str, ...], message: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""  # no design was run
    assert "Traceback" not in done.stderr


def test_without_the_extra_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> None:
        assert name == "greenlet"

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[lab\]'"):
        lab.starvation(design=lab.DesignChoice.PRIORITY)


def test_the_real_kernel_is_not_run_for_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot write"):
        lab_kernel.kernel(kernel_folder=tmp_path, plot=tmp_path / "none" / "plot.png")


def test_in_real_time_the_shipped_driver_spares_the_host() -> None:
    result = {"pats": 0, "false_pretimeouts": 0}
    # On a busy machine a thread may stand still for seconds, and then a pat is late.
    for _ in range(REAL_RUNS_MAX):
        done = run("--real", "--design", "priority", "--duration", "8", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        result = json.loads(done.stdout)
        if result["pats"] > 3 and result["false_pretimeouts"] == 0:
            break
    assert result["pats"] > 3
    assert result["false_pretimeouts"] == 0
