"""What `reset` and `heal` refuse before they send anything, how they ask, and how they end."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from bmcmedic import __version__
from bmcmedic.cli.remediation import EXIT_STATUS
from bmcmedic.fleet.remediation.case import HEAL_VERDICTS, RESET_VERDICTS
from tests.support.programs import bmcmedic, run, simulator

TARGET = "127.0.0.1:9"
DEADLINE_S = 60.0


def test_every_verdict_has_its_exit_status() -> None:
    assert set(HEAL_VERDICTS.values()) | set(RESET_VERDICTS.values()) == set(EXIT_STATUS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("reset", TARGET), "exactly one of --cold and --warm"),
        (("reset", TARGET, "--cold", "--warm"), "exactly one of --cold and --warm"),
        (("reset", "bmc[1-2]", "--cold"), "2 targets"),
        (("reset", "bmc 1", "--cold"), "cannot read target"),
        (("heal", "bmc[1-0]"), "bmc[1-0]"),
        (("heal", TARGET, "--quiet-time", "0"), "--quiet-time"),
        (("heal", TARGET, "--quiet-time", "nan"), "--quiet-time"),
        (("heal", TARGET, "--quiet-time", "60", "--return-time", "50"), "--return-time"),
        (("heal", TARGET, "--triage-command", ""), "--triage-command"),
        (("heal", TARGET, "--symptoms", "/no/such/file"), "No such file"),
        (("heal", TARGET, "--symptoms", "-"), "--symptoms -: empty"),
        (("heal", TARGET, "--cipher-suite", "99"), "99"),
        (("heal", TARGET, "--password-file", "/no/such/file"), "/no/such/file"),
    ],
)
def test_usage_errors_are_one_clear_line(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_symptoms_that_are_not_json_are_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "symptoms"
    file.write_text("ssh: connect to host node7: no route")
    done = run("heal", TARGET, "--symptoms", str(file))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "not JSON" in done.stderr


def test_a_name_without_an_address_is_refused() -> None:
    done = run("heal", "no-such-host.invalid", "--in-band-hung", "--yes")
    assert done.returncode == 3
    assert "not resolved" in done.stdout


def test_a_closed_port_is_for_repair() -> None:
    done = run("heal", TARGET, "--in-band-hung", "--yes")
    assert done.returncode == 1
    assert "needs-repair" in done.stdout


def test_the_json_has_the_run_its_operator_and_the_bmc() -> None:
    with simulator("--fault", "boot:1") as sim:
        began = time.time()
        words = ("--json", "--operator", "ada", "--reference", "OPS-17")
        healthy = json.loads(run("heal", sim.target, *words).stdout)
        refused = json.loads(run("heal", sim.target, "--in-band-hung", "--json").stdout)
        probed = json.loads(run("probe", "--detail", sim.target, "--json").stdout)
    assert (healthy["operator"], healthy["reference"]) == ("ada", "OPS-17")
    assert began - 1 <= healthy["began_at"] <= healthy["ended_at"] <= time.time() + 1
    assert healthy["version"] == __version__
    assert uuid.UUID(healthy["run_id"]) != uuid.UUID(refused["run_id"])
    assert (healthy["diagnosis"], healthy["rule"]) == ("healthy", None)
    assert (refused["diagnosis"], refused["rule"]) == ("in-band-hung", "not-confirmed")
    assert refused["operator"]
    assert refused["reference"] is None
    for key in ("firmware", "manufacturer_id"):
        assert healthy[key] == probed[key] is not None
    assert isinstance(healthy["product_id"], int)


@pytest.mark.parametrize("option", ["--operator", "--reference"])
@pytest.mark.parametrize("value", ["", " ", "a\nb", "x" * 201])
def test_a_note_that_no_record_can_hold_is_a_usage_error(option: str, value: str) -> None:
    done = run("heal", TARGET, option, value)
    assert done.returncode == 2
    assert f"{option} is 1 to 200 printable characters" in done.stderr


class Terminal:
    """A run of `bmcmedic` on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            bmcmedic(*arguments),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ
            | {"BMCMEDIC_USER": "admin", "BMCMEDIC_PASSWORD": "secret", "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(slave)
        self.output = ""

    def expect(self, text: str) -> None:
        until = time.monotonic() + DEADLINE_S
        while text not in self.output:
            assert time.monotonic() < until, self.output
            if select.select([self._master], [], [], 1.0)[0]:
                self.output += os.read(self._master, 65536).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        until = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < until, self.output
            self._drain(0.2)
        self._drain(0.0)
        os.close(self._master)
        return self.process.returncode

    def _drain(self, wait_s: float) -> None:
        while select.select([self._master], [], [], wait_s)[0]:
            try:
                self.output += os.read(self._master, 65536).decode(errors="replace")
            except OSError:  # the other side is closed
                return


def test_on_a_terminal_it_asks_and_takes_no_for_an_answer() -> None:
    with simulator("--fault", "hang") as sim:
        terminal = Terminal("heal", sim.target, "--in-band-hung")
        terminal.expect("[y/N]")
        terminal.type("n\n")
        assert terminal.end() == 3
        assert "the operator said no" in terminal.output
        assert sim.changes == 0


def test_on_a_terminal_a_yes_is_enough() -> None:
    with simulator("--fault", "boot:1") as sim:
        terminal = Terminal(
            "reset", sim.target, "--cold", "--quiet-time", "1.5", "--steady-time", "1"
        )
        terminal.expect("[y/N]")
        terminal.type("y\n")
        assert terminal.end() == 0
        assert sim.get()["cold_resets"] == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_reports_what_was_sent(number: signal.Signals, status: int) -> None:
    with simulator("--fault", "boot:1", "--watchdog-armed", "60") as sim:
        terminal = Terminal("reset", sim.target, "--cold", "--yes")
        terminal.expect("accepted")
        terminal.process.send_signal(number)
        assert terminal.end() == status
        message = terminal.output.replace("\r\n", "\n")
        assert "One cold reset was sent" in message
        assert "WATCHDOG" in message
        assert "Traceback" not in message
        assert sim.requests("06/02") == 1


def test_an_interrupt_at_the_question_sends_nothing() -> None:
    with simulator("--fault", "hang") as sim:
        terminal = Terminal("heal", sim.target, "--in-band-hung")
        terminal.expect("[y/N]")
        terminal.type("\x03")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
        assert "No reset was sent." in terminal.output
        assert sim.changes == 0
