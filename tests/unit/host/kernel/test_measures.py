"""What is measured between two samples: `kipmi` threads, the interface's counters, guests."""

from __future__ import annotations

from pathlib import Path

import pytest

from bmcmedic.host.kernel import interface, kipmid
from bmcmedic.host.kernel.interface import InterfaceCounters
from bmcmedic.host.kernel.proc import Tree
from bmcmedic.host.triage import guests
from tests.support.proc_tree import UPTIME_S, FakeProcess, kipmi, write_proc, write_sys


def tree(folder: Path, *processes: FakeProcess, uptime_s: float = UPTIME_S) -> Tree:
    return Tree(str(write_proc(folder, list(processes), uptime_s)))


def share(tmp_path: Path, again: FakeProcess, *, without_schedstat: bool = False) -> float | None:
    """The shares of a thread that has 100 s of CPU time first, and then what `again` has."""
    before = kipmi(100.0)
    if without_schedstat:
        before.run_ns = again.run_ns = None
    first = tree(tmp_path / "1", before)
    second = tree(tmp_path / "2", again, uptime_s=UPTIME_S + 2.0)
    marks = kipmid.mark(first, [first.stat(512)])
    (compared,) = kipmid.compare(marks, kipmid.mark(second, [first.stat(512)]))
    return compared.cpu_percent


def aged(thread: FakeProcess, by_s: float = 2.0) -> FakeProcess:
    thread.age_s += by_s
    return thread


@pytest.mark.parametrize(("cpu_s", "percent"), [(100.0, 0.0), (100.24, 12.0), (102.0, 100.0)])
@pytest.mark.parametrize("without_schedstat", [False, True])
def test_the_share_of_a_core(
    tmp_path: Path, cpu_s: float, percent: float, *, without_schedstat: bool
) -> None:
    again = aged(kipmi(cpu_s))
    assert share(tmp_path, again, without_schedstat=without_schedstat) == percent


def test_a_thread_has_no_more_than_its_core(tmp_path: Path) -> None:
    assert share(tmp_path, aged(kipmi(102.4))) == 100.0


def test_a_thread_that_was_made_anew_is_not_compared(tmp_path: Path) -> None:
    first = tree(tmp_path / "1", kipmi(100.0))
    second = tree(tmp_path / "2", kipmi(1.0), uptime_s=UPTIME_S + 2.0)
    threads = [first.stat(512)]
    assert kipmid.compare(kipmid.mark(first, threads), kipmid.mark(second, threads)) == []


def test_one_sample_has_no_share(tmp_path: Path) -> None:
    first = tree(tmp_path / "1", kipmi(7.0))
    (only,) = kipmid.compare(kipmid.mark(first, [first.stat(512)]), None)
    assert (only.cpu_percent, only.cpu_total_s) == (None, 7.0)


@pytest.mark.parametrize(
    ("written", "shown"), [("", None), ("\n", None), ("100\n", "100"), ("0,500\n", "0,500")]
)
def test_the_throttle_is_reported_as_it_is_set(
    tmp_path: Path, written: str, shown: str | None
) -> None:
    folder = tmp_path / "module/ipmi_si/parameters"
    folder.mkdir(parents=True)
    (folder / "kipmid_max_busy_us").write_text(written)
    assert kipmid.max_busy_us(Tree(str(tmp_path))) == shown
    assert kipmid.max_busy_us(Tree(str(tmp_path / "nowhere"))) is None


def test_counters_that_a_kernel_has_not_are_unknown(tmp_path: Path) -> None:
    sys = Tree(str(write_sys(tmp_path / "sys", complete_transactions=5)))
    (only,) = interface.read(sys, tree(tmp_path / "proc"))
    assert only == InterfaceCounters("ipmi0", completed=5)


@pytest.mark.parametrize(
    ("first", "again", "moved"),
    [(5, 5, 0), (5, 9, 4), (None, 5, None), (5, None, None), (9, 2, None)],
)
def test_what_moved(first: int | None, again: int | None, moved: int | None) -> None:
    (compared,) = interface.compare(
        [InterfaceCounters("ipmi0", first)], [InterfaceCounters("ipmi0", again)]
    )
    assert compared.completed_delta == moved


@pytest.mark.parametrize(
    ("counts", "completed", "hosed"),
    [
        ({}, None, None),
        ({"received_messages": 7}, 7, None),
        ({"received_messages": 7, "hosed": 0, "send_errors": 2, "receive_errors": 1}, 7, 3),
        ({"complete_transactions": 9, "received_messages": 7, "hosed_count": 1}, 9, 1),
    ],
)
@pytest.mark.parametrize("is_old", [False, True])
def test_an_ssif_interfaces_messages_are_counted(
    tmp_path: Path,
    counts: dict[str, int],
    completed: int | None,
    hosed: int | None,
    *,
    is_old: bool,
) -> None:
    sys = Tree(str(write_sys(tmp_path / "sys", **({} if is_old else counts))))
    if is_old:
        (tmp_path / "proc/ipmi/0").mkdir(parents=True)
        lines = "".join(f"{key}:   {value}\n" for key, value in counts.items())
        (tmp_path / "proc/ipmi/0/si_stats").write_text(lines)
    (only,) = interface.read(sys, Tree(str(tmp_path / "proc")))
    assert (only.completed, only.hosed, only.queued) == (completed, hosed, None)


def test_an_interface_that_came_meanwhile_has_moved_nothing_that_is_known() -> None:
    first, again = interface.compare(
        [InterfaceCounters("ipmi0", 1)],
        [InterfaceCounters("ipmi0", 2), InterfaceCounters("ipmi1", 7)],
    )
    assert (first.completed_delta, again.completed_delta) == (1, None)
    assert interface.compare([InterfaceCounters("ipmi0", 1)], []) == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("qemu -name guest=web7,debug-threads=on", "web7"),
        ("qemu -name debug-threads=on,guest=web7", "web7"),
        ("qemu -name web7", "web7"),
        ("qemu -m 1 -uuid 1-2", "1-2"),
        ("qemu -name", None),
        ("qemu", None),
    ],
)
def test_a_guests_name(line: str, name: str | None) -> None:
    assert guests.guest_name(line.split()) == name


def guest(*threads: tuple[int, str, int, int]) -> FakeProcess:
    return FakeProcess(
        900,
        "qemu-system-x86",
        ["qemu", "-name", "web7"],
        exe="/usr/bin/qemu-system-x86_64",
        threads={thread: (name, run, delay) for thread, name, run, delay in threads},
    )


def between(tmp_path: Path, first: FakeProcess, again: FakeProcess) -> guests.KvmGuest:
    one = tree(tmp_path / "1", first)
    two = tree(tmp_path / "2", aged(again), uptime_s=UPTIME_S + 2.0)
    stats = [one.stat(900)]
    (compared,) = guests.compare(guests.mark(one, stats), guests.mark(two, stats))
    return compared


def test_a_guest_waits_for_a_cpu(tmp_path: Path) -> None:
    seen = between(
        tmp_path,
        guest((900, "qemu", 0, 0), (901, "CPU 0/KVM", 0, 0), (902, "CPU 1/KVM", 0, 0)),
        guest((900, "qemu", 9, 9), (901, "CPU 0/KVM", 10**9, 10**9), (902, "CPU 1/KVM", 0, 0)),
    )
    assert seen == guests.KvmGuest("web7", 900, 2, 50.0, 25.0)


def test_without_named_threads_all_count(tmp_path: Path) -> None:
    seen = between(
        tmp_path, guest((900, "qemu", 0, 0)), guest((900, "qemu", 10**9, 0), (903, "x", 5, 5))
    )
    assert seen == guests.KvmGuest("web7", 900, None, 50.0, 0.0)


def test_a_guest_that_is_gone_or_replaced_is_unknown(tmp_path: Path) -> None:
    one = tree(tmp_path / "1", guest((901, "CPU 0/KVM", 0, 0)))
    marks = guests.mark(one, [one.stat(900)])
    (alone,) = guests.compare(marks, [])
    assert (alone.cpu_percent, alone.run_delay_percent) == (None, None)
    other = tree(tmp_path / "2", FakeProcess(900, "sleep"), uptime_s=UPTIME_S + 2.0)
    assert guests.mark(other, [one.stat(900)]) == []
