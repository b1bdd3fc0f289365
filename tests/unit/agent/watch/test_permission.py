"""One agent a host, a kill switch, and a crash loop that fails open."""

from __future__ import annotations

from pathlib import Path

import pytest

from bmcmedic.agent.config import AgentProcessConfig
from bmcmedic.agent.watch.permission import STARTS, Permission, has_acted
from bmcmedic.errors import ConfigurationError


class Clock:
    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


def config(folder: Path) -> AgentProcessConfig:
    return AgentProcessConfig(
        kill_switch=str(folder / "disabled"),
        runtime_dir=str(folder / "run"),
        starts_max=3,
        starts_window_s=100,
    )


def start(folder: Path, clock: Clock) -> Permission:
    return Permission(config(folder), clock)


def test_a_second_agent_is_refused(tmp_path: Path) -> None:
    first = start(tmp_path, Clock())
    with pytest.raises(ConfigurationError, match="another agent is running"):
        start(tmp_path, Clock())
    first.close(in_order=True)
    start(tmp_path, Clock()).close(in_order=True)


def test_a_runtime_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ConfigurationError, match=r"set process\.runtime_dir"):
        start(tmp_path, Clock())


def test_the_kill_switch_is_checked_each_time(tmp_path: Path) -> None:
    permission = start(tmp_path, Clock())
    assert permission.why_not() is None
    (tmp_path / "disabled").touch()
    assert permission.why_not() == f"{tmp_path}/disabled exists"
    (tmp_path / "disabled").unlink()
    assert permission.why_not() is None
    permission.close(in_order=True)


def test_a_crash_loop_observes_only_and_for_a_while(tmp_path: Path) -> None:
    clock = Clock()
    for _ in range(2):
        crashed = start(tmp_path, clock)
        assert crashed.why_not() is None
        crashed.close(in_order=False)
        clock.now += 10
    third = start(tmp_path, clock)
    assert "was started 3 times in 20 s without an orderly end" in str(third.why_not())
    clock.now += 99
    assert third.failed_open is not None
    clock.now += 1
    assert third.why_not() is None
    third.close(in_order=True)


def test_starts_with_orderly_ends_or_long_ago_are_no_crash_loop(tmp_path: Path) -> None:
    clock = Clock()
    for in_order in (False, True, False, True, False):
        permission = start(tmp_path, clock)
        assert permission.why_not() is None
        permission.close(in_order=in_order)
    for _ in range(5):
        clock.now += 60
        permission = start(tmp_path, clock)
        assert permission.why_not() is None
        permission.close(in_order=False)


def test_times_of_another_boot_do_not_count(tmp_path: Path) -> None:
    clock = Clock()
    for _ in range(2):
        start(tmp_path, clock).close(in_order=False)
    clock.now = 3.0  # the clock starts anew with the boot
    permission = start(tmp_path, clock)
    assert permission.why_not() is None
    permission.close(in_order=True)


@pytest.mark.parametrize("content", ["", "[]", '{"starts": {}}', '{"starts": ["x", true]}', "{"])
def test_a_broken_file_of_starts_is_written_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STARTS).write_text(content)
    permission = start(tmp_path, Clock())
    assert permission.why_not() is None
    assert "5000" in (tmp_path / "run" / STARTS).read_text()
    permission.close(in_order=True)


def test_a_start_that_cannot_be_counted_fails_open(tmp_path: Path) -> None:
    (tmp_path / "run" / f"{STARTS}.new").mkdir(parents=True)  # as good as a full disk
    permission = start(tmp_path, Clock())
    assert "starts cannot be counted" in str(permission.why_not())
    permission.close(in_order=True)


def test_the_mark_outlives_a_crash(tmp_path: Path) -> None:
    first = start(tmp_path, Clock())
    assert not has_acted(str(tmp_path / "run"))
    assert first.note_act()
    first.close(in_order=False)
    assert has_acted(str(tmp_path / "run"))
    second = start(tmp_path, Clock())
    assert second.acted
    second.note_undone()
    second.close(in_order=True)
    assert not has_acted(str(tmp_path / "run"))
