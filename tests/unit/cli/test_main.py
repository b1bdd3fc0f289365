"""The program around its commands: help, and output that cannot be written."""

from __future__ import annotations

import os
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


def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("BMCMEDIC_")}
    return subprocess.run(
        bmcmedic(*words),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=env | more,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["probe"], "bmcmedic probe: Missing argument 'TARGET...'; see `bmcmedic probe --help`\n"),
        (["probe", "--no", "h"], "bmcmedic probe: No such option: --no"),
        (["sim", "bmc", "--no"], "bmcmedic sim bmc: No such option: --no"),
        (["nosuch"], "bmcmedic: No such command 'nosuch'; see `bmcmedic --help`\n"),
        (["help", "nosuch"], "bmcmedic: No such command 'nosuch'"),
        (["reset", "h"], "bmcmedic reset: give exactly one of --cold and --warm\n"),
        (["triage", "--no"], "bmcmedic triage: unrecognized arguments: --no; see `bmcmedic triage"),
        (["relieve", "--no"], "bmcmedic relieve: unrecognized arguments: --no"),
        (["driver", "--no"], "bmcmedic driver: unrecognized arguments: --no"),
        (["agent", "--no"], "bmcmedic agent: unrecognized arguments: --no"),
        (["shim", "fix"], "bmcmedic shim: argument action: invalid choice: 'fix'"),
    ],
    ids=" ".join,
)
def test_a_usage_error_is_one_line_that_begins_with_the_command(
    words: list[str], message: str
) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(message)


@pytest.mark.parametrize("words", [["-P", "s3cret"], ["-Ps3cret"], ["--password=s3cret"]])
@pytest.mark.parametrize("command", ["probe", "heal", "reset"])
def test_a_password_on_the_command_line_is_answered_with_what_to_use(
    command: str, words: list[str]
) -> None:
    done = run(command, "h", *words)
    assert done.returncode == 2
    assert "give --password-file FILE, or set BMCMEDIC_PASSWORD" in done.stderr
    assert "s3cret" not in done.stderr


@pytest.mark.parametrize("command", ["", "probe", "triage", "driver", "sim", "sim bmc"])
def test_help_is_a_command(command: str) -> None:
    words = command.split()
    done = run("help", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run(*words, "--help").stdout


@pytest.mark.parametrize("command", ["probe", "heal"])
def test_an_empty_user_or_password_is_a_usage_error(command: str, tmp_path: Path) -> None:
    empty = tmp_path / "password"
    empty.write_text("\n")
    password = {"BMCMEDIC_PASSWORD": "secret"}
    for words, more, said in (
        (["--user", ""], password, "the user name is empty"),
        (["--user", " "], password, "the user name is empty"),
        ([], password | {"BMCMEDIC_USER": ""}, "no user"),
        (["--user", "u"], {"BMCMEDIC_PASSWORD": ""}, "the password is empty"),
        (["--user", "u", "--password-file", str(empty)], {}, "the password is empty"),
        (["--user", "u", "--kg-file", str(empty)], password, "is empty"),
    ):
        done = run(command, "127.0.0.1:9", *words, **more)
        assert done.returncode == 2, words
        assert said in done.stderr


def test_a_password_that_every_user_can_read_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret")
    words = (
        "probe",
        "127.0.0.1:9",
        "--user",
        "u",
        "--timeout",
        "0.2",
        "--password-file",
        str(file),
    )
    for mode, is_warned in ((0o644, True), (0o640, False), (0o600, False)):
        file.chmod(mode)
        done = run(*words)
        assert done.returncode == 1
        assert (f"warning: every user of this machine can read {file}" in done.stderr) is is_warned


@pytest.mark.parametrize("command", ["driver", "agent"])
def test_no_setting_refers_to_a_page_that_is_not_installed(command: str) -> None:
    assert "docs/" not in run(command, "--help").stdout
    assert "docs/" not in run(command, "--print-config").stdout
    assert "docs/" not in run("agent", "--print-units").stdout
