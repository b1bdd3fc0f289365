"""The program around its commands: help, and output that goes nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import bmcmedic

FULL = Path("/dev/full")
TIMEOUT_S = 30


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
    assert done.returncode == 1
    assert done.stderr == "bmcmedic: cannot write the output: No space left on device\n"


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bmcmedic", "--version"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert done.stdout.startswith("bmcmedic ")
