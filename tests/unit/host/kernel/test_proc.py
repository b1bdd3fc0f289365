from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.host.kernel.proc import (
    Gone,
    Process,
    Recorded,
    Tree,
    Unreadable,
    parse_stat,
    shown,
    uptime_s,
)
from tests.support.proc_tree import KTHREADD, FakeProcess, kipmi, write_proc


def test_it_reads_itself() -> None:
    tree = Tree("/proc")
    assert os.getpid() in tree.pids()
    with tree.hold(os.getpid()) as process:
        stat = process.stat()
        assert process.link("exe") == str(Path("/proc/self/exe").readlink())
        assert process.argv()
    assert (stat.pid, stat.parent_pid, stat.group) == (os.getpid(), os.getppid(), os.getpgrp())
    assert stat.state == "R"
    assert not stat.is_kernel_thread
    assert tree.stat(os.getpid()).identity == stat.identity
    assert uptime_s(tree) * 100 >= stat.start_ticks


@pytest.mark.parametrize("name", ["a) S 1 2 (b", "two words", "new\nline", "))((", ""])
def test_a_name_can_hold_anything(tmp_path: Path, name: str) -> None:
    tree = Tree(str(write_proc(tmp_path / "proc", [FakeProcess(7, name, parent_pid=3)])))
    stat = tree.stat(7)
    assert (stat.comm, stat.state, stat.parent_pid) == (name, "S", 3)


def test_what_is_not_utf_8_can_be_written_anywhere() -> None:
    assert shown(b"a\xff\xfe") == "a\\xff\\xfe"
    shown(bytes(range(256))).encode("utf-8")


def test_a_kernel_thread_is_known_by_its_flag_and_not_by_its_name(tmp_path: Path) -> None:
    impostor = FakeProcess(9, "kipmi0", exe="/bin/sleep")
    tree = Tree(str(write_proc(tmp_path / "proc", [KTHREADD, kipmi(), impostor])))
    assert tree.stat(512).is_kernel_thread
    assert not tree.stat(9).is_kernel_thread


def ended() -> tuple[Process, int]:
    """A process that was held while it ran, and has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    held = Tree("/proc").hold(child.pid)
    assert held.stat().pid == child.pid
    child.kill()
    child.communicate()
    return held, child.pid


def test_a_held_process_that_ended_is_gone_whoever_has_its_pid() -> None:
    held, pid = ended()
    with held:
        for read in (held.stat, held.argv, held.status):
            with pytest.raises(Gone):
                read()
        with pytest.raises(Gone):
            held.link("exe")
        with pytest.raises(Gone):
            held.names("fd")
        assert held.read_or_none("wchan") is None
        assert held.login_uid() is None
    with pytest.raises(Gone):
        Tree("/proc").stat(pid)


@pytest.mark.parametrize("has_gap", [False, True])
def test_what_a_process_has_open_is_all_there(*, has_gap: bool) -> None:
    # With a gap the count is as before, but the last number is beyond the count.
    code = "import os; os.close(2); os.dup2(0, 7); " if has_gap else ""
    command = [sys.executable, "-S", "-c", code + "print('ready', flush=True); input()"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        folder = Path(f"/proc/{child.pid}/fd")
        with Tree("/proc").hold(child.pid) as process:
            files = process.open_files()
        assert files == {each.name: str(each.readlink()) for each in folder.iterdir()}
        assert ("7" in files) is has_gap
    finally:
        child.communicate(input="\n")
    assert child.returncode == 0


def test_what_a_captured_process_has_open_is_all_there(tmp_path: Path) -> None:
    files = {str(number): f"pipe:[{number}]" for number in (0, 1, 2, 5)}
    root = write_proc(tmp_path / "proc", [FakeProcess(7, "x", files=files), FakeProcess(8, "y")])
    with Tree(str(root)).hold(7) as process:
        assert process.open_files() == files
    with Tree(str(root)).hold(8) as process:
        assert process.open_files() == {}
        (root / "8/fd").rmdir()
        with pytest.raises(Gone):
            process.open_files()
        (root / "8/fd").write_text("no folder")
        with pytest.raises(Gone):
            process.open_files()


def test_a_zombie_can_be_read() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with Tree("/proc").hold(child.pid) as process:
            assert process.stat().state == "Z"
            assert process.argv() == []
    finally:
        child.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user")
def test_its_user_is_the_owner_of_its_directory_and_stands_in_its_status() -> None:
    code = "import os; os.setresuid(0, 4242, 0); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        record: Recorded = {}
        for tree in (Tree("/proc"), Tree("/proc", record)):
            with tree.hold(child.pid) as process:
                assert process.uid() == 4242
        assert set(record) == {f"{child.pid}/status"}
        child.communicate(b"\n", timeout=60)


def test_closing_twice_does_nothing() -> None:
    process = Tree("/proc").hold(os.getpid())
    process.close()
    process.close()
    with pytest.raises(Unreadable):
        process.stat()


def test_no_tree_has_no_processes(tmp_path: Path) -> None:
    assert Tree(str(tmp_path / "nowhere")).pids() == []
    (tmp_path / "x12").mkdir()
    (tmp_path / "²").mkdir()
    (tmp_path / "12").mkdir()
    assert Tree(str(tmp_path)).pids() == [12]


def test_nothing_in_a_captured_tree_leads_out_of_it_or_blocks(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("1 2\n")
    root = tmp_path / "proc"
    (root / "7").mkdir(parents=True)
    (root / "7/stat").symlink_to(tmp_path / "secret")
    (root / "8").symlink_to(tmp_path)
    os.mkfifo(root / "uptime")
    tree = Tree(str(root))
    with pytest.raises(Unreadable):
        tree.stat(7)
    with pytest.raises((Gone, Unreadable)):
        tree.hold(8)
    with pytest.raises(Unreadable, match="uptime"):
        uptime_s(tree)


def test_open_files_of_a_captured_process_do_not_lead_out_of_it(tmp_path: Path) -> None:
    root = write_proc(tmp_path / "proc", [FakeProcess(7, "x", files=None)])
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", "print('ready', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        (root / "7/fd").symlink_to(f"/proc/{child.pid}/fd")
        with Tree(str(root)).hold(7) as process, pytest.raises((Gone, Unreadable)):
            process.open_files()
    finally:
        child.communicate(input="\n")


@pytest.mark.parametrize("text", ["", "x", "nan 1", "-5 1", "inf 1", "1e400 1"])
def test_an_uptime_that_no_kernel_wrote_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "uptime").write_text(text)
    with pytest.raises(Unreadable):
        uptime_s(Tree(str(tmp_path)))


def test_a_stat_of_another_process_is_refused() -> None:
    with pytest.raises(Unreadable, match="of another process"):
        parse_stat(8, FakeProcess(7, "x").stat(1e6))


def test_numbers_of_no_size_are_refused() -> None:
    raw = FakeProcess(7, "x", cpu_ticks=10**300).stat(1e6)
    with pytest.raises(Unreadable):
        parse_stat(7, raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_stat_or_unreadable(raw: bytes) -> None:
    try:
        stat = parse_stat(7, raw)
    except Unreadable as error:
        assert "7/stat" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert stat.pid == 7


@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_a_damaged_stat_is_a_stat_or_unreadable(place: int, noise: bytes) -> None:
    raw = FakeProcess(7, "ipmitool").stat(1e6)
    damaged = raw[: place % len(raw)] + noise + raw[place % len(raw) + 1 :]
    try:
        stat = parse_stat(7, damaged)
    except Unreadable as error:
        assert "7/stat" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert stat.pid == 7
