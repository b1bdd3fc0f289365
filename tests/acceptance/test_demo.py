"""The demonstration ends as expected, also in a pipe and on a busy machine."""

from __future__ import annotations

from tests.support.programs import run

DEMO_S_MAX = 300.0
"""Time for the whole demonstration on a busy machine, in seconds."""


def test_the_demo_ends_as_expected() -> None:
    done = run("demo", "--once", timeout_s=DEMO_S_MAX, password="not-the-simulators")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The demonstration ended as expected" in done.stdout
    assert done.stdout.count("\x1b") == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line[:3] == "bmc"}
    assert len(rows) >= 12
    assert "healed" in rows["bmc00003"]
    assert "needs-repair" in rows["bmc00008"]
    sent_and_done = {name: row.split()[-4:-2] for name, row in rows.items()}
    assert sent_and_done["bmc00003"] == ["1", "1"]
    assert sent_and_done["bmc00008"] == ["1", "0"]  # it ignored its reset
