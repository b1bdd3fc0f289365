from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

import pytest

from bmcmedic.errors import ConfigurationError
from bmcmedic.fleet.host_evidence.triage_command import TriageCommand, TriageFailed

REPORT = json.dumps(
    {"host_id": {"hostname": "node7"}, "captured_at": 1.0, "symptoms": ["kipmi-busy"]}
)


DEADLINE_S = 60.0


def python(code: str, timeout_s: float = DEADLINE_S) -> TriageCommand:
    return TriageCommand((sys.executable, "-c", code), timeout_s)


@pytest.mark.parametrize("status", [0, 1])
def test_a_report_is_read_whether_it_has_symptoms_or_not(status: int) -> None:
    report = asyncio.run(python(f"import sys; print({REPORT!r}); sys.exit({status})").run())
    assert report.hostname == "node7"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; print('no route', file=sys.stderr); sys.exit(255)", "status 255: no route"),
        ("print('hello')", "not JSON"),
        ("print('[]')", "expected an object"),
        ("", "empty"),
        ("import os; os.kill(os.getpid(), 9)", "killed by 9"),
    ],
)
def test_a_command_without_a_report_says_why(code: str, message: str) -> None:
    with pytest.raises(TriageFailed, match=message):
        asyncio.run(python(code).run())


def test_a_missing_program_is_named() -> None:
    with pytest.raises(TriageFailed, match="'/no/such/program'"):
        asyncio.run(TriageCommand(("/no/such/program",)).run())


@pytest.mark.parametrize("leader", ["wait", "exec sleep 600"])
def test_at_the_deadline_the_whole_group_is_ended(tmp_path: Path, leader: str) -> None:
    pid_file = tmp_path / "pid"
    command = ("/bin/sh", "-c", f"sleep 600 & echo $! > {pid_file}; {leader}")
    for timeout_s in (0.5, 5.0, DEADLINE_S):  # a busy machine may not have begun it in time
        with pytest.raises(TriageFailed, match=f"within {timeout_s:g} s"):
            asyncio.run(TriageCommand(command, timeout_s).run())
        if pid_file.exists() and pid_file.read_text().endswith("\n"):
            break
    grandchild = Path(f"/proc/{int(pid_file.read_text())}/cmdline")
    until = time.monotonic() + DEADLINE_S
    with contextlib.suppress(OSError):  # it is gone
        while grandchild.read_bytes():  # empty: a zombie that waits for its new parent
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.mark.parametrize("code", ["print('x' * 3_000_000)", "while True: print('x' * 65536)"])
def test_endless_output_is_refused(code: str) -> None:
    with pytest.raises(TriageFailed, match="more than"):
        asyncio.run(python(code).run())


def test_endless_stderr_is_cut_at_the_deadline() -> None:
    code = "import sys\nwhile True: sys.stderr.write('x' * 65536)"
    with pytest.raises(TriageFailed, match="within 1 s"):
        asyncio.run(python(code, timeout_s=1.0).run())


def test_at_the_deadline_a_process_that_holds_the_pipes_is_not_waited_for() -> None:
    code = "import subprocess\nsubprocess.Popen(['sleep', '5'], start_new_session=True)"
    with pytest.raises(TriageFailed, match="within 1 s"):
        asyncio.run(python(code, timeout_s=1.0).run())


def test_the_command_never_sees_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMCMEDIC_PASSWORD", "hunter2")
    monkeypatch.setenv("BMCMEDIC_KG", "hunter2")
    code = f"import os; assert 'hunter2' not in os.environ.values(); print({REPORT!r})"
    assert asyncio.run(python(code).run()).hostname == "node7"


def test_a_command_is_split_as_in_a_shell_but_without_one() -> None:
    command = TriageCommand.parse("ssh host 'bmcmedic triage' --json; rm -rf /")
    assert command.argv == ("ssh", "host", "bmcmedic triage", "--json;", "rm", "-rf", "/")


@pytest.mark.parametrize("text", ["", "   ", "ssh 'host"])
def test_an_unreadable_command_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--triage-command"):
        TriageCommand.parse(text)
