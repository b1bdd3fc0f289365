"""Signals in the first moments of a driver or an agent: none is lost, and none kills it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmcmedic.agent.watch.permission import MARK
from tests.support.running import Running

SIGNALLED = """
import importlib.abc, os, sys

class Signals(importlib.abc.MetaPathFinder):
    "Sends itself the signal when a module is about to be loaded."
    def find_spec(self, name, path, target=None):
        if name == MODULE:
            os.kill(os.getpid(), NUMBER)

MODULE, NUMBER = sys.argv[1], int(sys.argv[2])
sys.meta_path.insert(0, Signals())
del sys.argv[1:3]
from bmcmedic.cli import main
main()
"""

CONFIG = {
    "driver": """
[interface]
kind = "dev-ipmi"
device = "{folder}/no-ipmi0"
[process]
runtime_dir = "{folder}"
real_time_priority = 0
lock_memory = false
oom_score_adj = 0
""",
    "agent": """
[driver]
socket = "{folder}/driver.sock"
[metrics]
listen = "unix:{folder}/m.sock"
[process]
runtime_dir = "{folder}"
state_dir = "{folder}/state"
kill_switch = "{folder}/disabled"
""",
}
READY = {"driver": "looking for an interface", "agent": "no controller"}

MOMENTS = [
    ("driver", "bmcmedic.driver.process.main"),
    ("driver", "bmcmedic.driver.process.config"),
    ("driver", "bmcmedic.driver.process.service"),
    ("agent", "bmcmedic.agent.main"),
    ("agent", "bmcmedic.agent.config"),
    ("agent", "bmcmedic.agent.service"),
    ("agent", "bmcmedic.agent.metrics.collector"),
]
"""Programs, and modules that they load: of the agent the last while it is put together."""


@contextlib.contextmanager
def signalled(
    folder: Path, program: str, module: str, number: signal.Signals, *options: str
) -> Iterator[Running]:
    """A program that is sent a signal as soon as it begins to load a module."""
    file = folder / "config.toml"
    file.write_text(CONFIG[program].format(folder=folder))
    words = [sys.executable, "-c", SIGNALLED, module, str(number.value)]
    process = subprocess.Popen(
        [*words, program, "--config", str(file), *options],
        stderr=subprocess.PIPE,
        env=os.environ,
    )
    try:
        yield Running(process, folder)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("program", "module"), MOMENTS)
def test_a_reload_that_is_asked_for_in_the_first_moments_is_made(
    tmp_path: Path, program: str, module: str
) -> None:
    with signalled(tmp_path, program, module, signal.SIGHUP) as running:
        running.wait_for("the configuration was read again")
        assert READY[program] in running.said
        assert running.end() == 0


@pytest.mark.parametrize(("program", "module"), MOMENTS)
def test_an_end_that_is_asked_for_in_the_first_moments_is_an_orderly_one(
    tmp_path: Path, program: str, module: str
) -> None:
    with signalled(tmp_path, program, module, signal.SIGTERM) as running:
        assert running.process.wait(60) == 0
        running.has_said("")
        assert "Traceback" not in running.said
        # Where anything was begun, it was ended, too.
        assert not running.said or ": ending\n" in running.said


def test_what_ends_by_itself_is_ended_by_a_signal_as_any_program_is(tmp_path: Path) -> None:
    (tmp_path / MARK).touch()
    module = "bmcmedic.host.relieve.relieve"
    with signalled(tmp_path, "agent", module, signal.SIGTERM, "--undo") as running:
        assert running.process.wait(60) == -signal.SIGTERM
