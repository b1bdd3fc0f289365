"""`relieve` as a command: what it prints, its exit status, and what it does not touch."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.host.relieve.end_client import Outcome
from bmcmedic.host.relieve.main import main
from tests.support.relief_host import Fake, FakeHost

DOCS = Path(__file__).parents[4] / "docs" / "reference" / "relieve.md"
OUTCOMES = {"would end", *(outcome.value for outcome in Outcome)}


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)


def as_json(host: FakeHost, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    status = main(["--json", *words], host.trees())
    return status, json.loads(capsys.readouterr().out)


def as_text(host: FakeHost, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(words, host.trees())
    return status, capsys.readouterr().out


def test_a_host_with_hidden_processes_is_never_reported_as_relieved(
    host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    status, document = as_json(host, capsys, "--yes")
    assert (status, document["blind"]) == (0, [])
    (host.root / "proc/1").rmdir()
    status, document = as_json(host, capsys, "--yes")
    assert (status, document["blind"]) == (1, [host.trees().proc.hidden()])
    assert main(["--yes"], host.trees()) == 1
    assert "not seen: the processes of others" in capsys.readouterr().err


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_it_prints_exactly_what_it_would_do(
    host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add(Fake(1001, group=1000))
    host.add(Fake(1000, exe="/bin/sh", comm="sh", argv=["sh"], group=1000))
    host.add(Fake(1002, terminal=34816))
    host.add_interface()
    status, printed = as_text(host, capsys)
    assert status == 1
    assert host.sent == []
    assert printed.splitlines() == [
        "would end pid 1001: ipmitool mc info",
        (
            "    2 h 30 min old; state S, waits in do_select, has not run for 9000 s,"
            " has /dev/ipmi0 open; root, cron.service; not touched: 1 more of its process group"
        ),
        "spared: pid 1002: ipmitool mc info: left alone: on somebody's terminal",
        (
            f"would set {host.parameter}: from nothing written yet to 100"
            " (kipmi0 at 98 %, and no transaction completed)"
        ),
        "kipmi0 (pid 200): 98 % of a core",
        "1 stuck; nothing was done (--yes does it)",
    ]


def test_without_a_terminal_and_without_yes_it_refuses(
    host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add(Fake(1001))
    status = main(["--json"], host.trees())
    printed = capsys.readouterr()
    assert status == 3
    assert host.sent == []
    assert json.loads(printed.out)["mode"] == "refused"
    assert "--yes" in printed.err


def test_a_refusal_is_printed_once(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.add(Fake(1001))
    assert main([], host.trees()) == 3
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("stdin is no terminal") == 1
    assert printed.out.endswith("1 stuck; nothing was done\n")
    assert printed.err.endswith(
        "nothing was done: stdin is no terminal: give --yes, or --dry-run\n"
    )


def test_without_anything_to_do_there_is_nothing_to_refuse(
    host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    status, printed = as_text(host, capsys)
    assert (status, printed) == (0, "0 stuck\n")


def test_it_reports_before_and_after(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    for pid in range(1001, 1031):
        host.add(Fake(pid))
    host.add_interface()
    host.heeds_limit = True
    status, document = as_json(host, capsys, "--yes")
    assert status == 0
    assert (document["mode"], document["stuck_before"], document["stuck_after"]) == (
        "relieve",
        30,
        0,
    )
    assert document["outcomes"] == {"ended": 30}
    assert (document["left"], document["left_count"], document["unseen"]) == ([], 0, 0)
    (kipmi,) = document["kipmi"]
    assert kipmi["name"] == "kipmi0"
    assert kipmi["cpu_percent_before"] == 98.0
    assert kipmi["cpu_percent_after"] == 2.5
    assert document["kipmid_max_busy_us"]["action"] == "set"
    first = document["clients"][0]
    assert (first["pid"], first["argv"]) == (1001, ["ipmitool", "mc", "info"])
    assert (first["state"], first["wchan"], first["unit"]) == ("S", "do_select", "cron.service")
    assert (first["outcome"], first["signals"], first["through"]) == ("ended", ["TERM"], "pidfd")
    assert first["group"] == {"number": 1001, "members": 1, "stuck": 1}


def test_what_cannot_be_relieved_is_reported(
    host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add(Fake(1001, term="blocks", kill="blocks"))
    host.add(Fake(1002))
    status, document = as_json(host, capsys, "--yes")
    assert status == 1
    assert document["left"] == [1001]
    assert document["outcomes"] == {"uninterruptible": 1, "ended": 1}


def test_the_kill_switch_is_named(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.add(Fake(1001))
    host.kill_switch.touch()
    status = main(["--yes"], host.trees())
    printed = capsys.readouterr()
    assert status == 3
    assert host.sent == []
    assert printed.out.endswith("1 stuck; nothing was done\n")
    assert str(host.kill_switch) in printed.err


def test_secrets_and_control_characters_are_not_shown(
    host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add(Fake(1001, argv=["ipmitool", "-P", "hunter2", "mc", "in\nfo\x1b[2J"]))
    _, printed = as_text(host, capsys, "--dry-run")
    _, document = as_json(host, capsys, "--dry-run")
    assert "hunter2" not in printed + json.dumps(document)
    assert "\x1b" not in printed
    assert len([line for line in printed.splitlines() if "1001" in line]) == 1


def test_more_than_a_screen_is_counted(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    for pid in range(1001, 1101):
        host.add(Fake(pid))
    _, printed = as_text(host, capsys, "--yes")
    lines = printed.splitlines()
    assert len(lines) < 50
    assert "ended: 80 more" in lines
    assert lines[-1] == "100 stuck before, 0 after"


def test_undo_puts_back(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.add(Fake(1001))
    host.add_interface("500")
    main(["--yes"], host.trees())
    capsys.readouterr()
    status, printed = as_text(host, capsys, "--undo", "--dry-run")
    assert (status, host.parameter.read_text()) == (0, "100")
    assert printed == f"would put back {host.parameter}: from 100 to 500 (asked for)\n"
    status, document = as_json(host, capsys, "--undo")
    assert (status, host.parameter.read_text()) == (0, "500")
    assert document["mode"] == "undo"
    assert document["kipmid_max_busy_us"]["action"] == "put back"
    status, printed = as_text(host, capsys, "--undo")
    assert (status, printed) == (0, "kipmid_max_busy_us: nothing was changed here\n")


def test_an_unreadable_proc_is_reported(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    (host.root / "proc/uptime").unlink()
    assert main(["--yes"], host.trees()) == 1
    assert "uptime" in capsys.readouterr().err


def keys_of(value: object) -> set[str]:
    if isinstance(value, dict):
        named = set() if set(value) <= OUTCOMES else set(value)
        return named.union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def test_every_key_and_outcome_is_documented(
    host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add(Fake(1001))
    host.add(Fake(1002, terminal=34816))
    host.add_interface()
    _, document = as_json(host, capsys, "--yes")
    _, undone = as_json(host, capsys, "--undo")
    words = set(re.findall(r"`([^`\n]+)`", DOCS.read_text(encoding="utf-8")))
    assert keys_of(document) | keys_of(undone) | OUTCOMES <= words


@pytest.mark.parametrize(
    "words",
    [
        ["--stuck-after", "0"],
        ["--stuck-after", "-60"],
        ["--stuck-after", "nan"],
        ["--stuck-after", "inf"],
        ["--stuck-after", "soon"],
        ["--yes", "--dry-run"],
        ["--force"],
        ["1001"],
    ],
)
def test_wrong_usage_is_2(host: FakeHost, words: list[str]) -> None:
    host.add(Fake(1001))
    with pytest.raises(SystemExit) as ended:
        main(words, host.trees())
    assert ended.value.code == 2
    assert host.sent == []
