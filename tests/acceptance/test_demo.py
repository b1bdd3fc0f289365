"""The demonstration ends as it should, into a pipe whatever else the machine does."""

from __future__ import annotations

from tests.support.programs import run

DEMO_S_MAX = 300.0


def test_the_demo_tells_its_story_to_a_good_end() -> None:
    done = run("demo", "--once", timeout_s=DEMO_S_MAX, password="not-the-simulators")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The story ended as it should" in done.stdout
    assert done.stdout.count("\x1b") == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line[:3] == "bmc"}
    assert len(rows) >= 12
    assert "healed" in rows["bmc00003"]
    assert "needs-repair" in rows["bmc00008"]
