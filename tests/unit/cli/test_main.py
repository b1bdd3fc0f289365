"""The program around its commands: help, and output that cannot be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import bmcmedic

FULL = Path("/dev/full")
TIMEOUT_S = 90


@pytest.mark.parametrize("command", ["probe", "reset", "heal"])
def test_the_help_shows_a_target_in_brackets(command: str) -> None:
    done = subprocess.run(
        bmcmedic(command, "--help"), capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    assert "[ipv6]:port" in done.stdout


@pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's own")
def test_a_full_disk_is_one_line() -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [*bmcmedic("sim", "bmc", "--lan", "127.0.0.1:0")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "bmcmedic: cannot write the output: No space left on device\n"


@pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's own")
@pytest.mark.parametrize(
    "words",
    [
        ["-m", "bmcmedic", "triage", "--interval", "0.1"],
        ["-m", "bmcmedic.host", "triage", "--interval", "0.1"],
        ["-m", "bmcmedic.host", "triage", "--interval", "0.1", "--json"],
        ["-m", "bmcmedic", "relieve", "--dry-run"],
        ["-m", "bmcmedic", "probe", "--help"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("output", [">/dev/full", ">&-"])
def test_a_result_that_cannot_be_written_is_an_error(words: list[str], output: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$@" {output}', "sh", sys.executable, *words],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    message = {
        ">/dev/full": "bmcmedic: cannot write the output: No space left on device\n",
        ">&-": "bmcmedic: nothing was done: standard output is closed\n",
    }
    assert (done.returncode, done.stderr) == (2, message[output])


def test_a_reader_that_stops_early_makes_no_symptom() -> None:
    with subprocess.Popen(
        bmcmedic("triage", "--interval", "0.5"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT_S) == 2


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bmcmedic", "--version"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert done.stdout.startswith("bmcmedic ")
