"""Which clients are stuck and which only seem to be: real processes, and captured ones."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmcmedic.host.client.programs import CLIENTS, program_of, why_excluded
from bmcmedic.host.client.stuck import (
    TOO_LONG,
    Client,
    ClientSample,
    ClientVerdict,
    Finding,
    Now,
    cpus_of,
    judge,
)
from bmcmedic.host.kernel.proc import ProcError, Process, Tree
from bmcmedic.host.kernel.progress import Mark
from bmcmedic.host.triage.process_scan import scan_processes
from tests.support.host_clients import (
    PROGRESS,
    READS,
    SLEEPS,
    HostClients,
    host_clients,
    wait_until_still,
)
from tests.support.polling import eventually
from tests.support.proc_tree import (
    CLOCKS_BEHIND_S,
    UPTIME_S,
    FakeProcess,
    stuck_ipmitool,
    write_proc,
)

LIVE = Tree("/proc")
SELECTS = "[<0>] do_select+0x5e2/0x6f0\n[<0>] __x64_sys_select+0x1/0x2\n"
SWITCHED = "[<0>] __switch_to+0xbc/0x118\n"
"""How a stack begins on arm64 before 5.17, and on powerpc."""
SCHEDULED = "[<0>] 0xc0000000fa\n" + SWITCHED + "[<0>] __schedule+0x1/0x2\n[<0>] schedule+0x1/0x2\n"
ALL_CPUS = range(len(CLOCKS_BEHIND_S))
SOON_S = 0.2
"""The age from which the real processes of these tests count as stuck, in seconds; at most 0.4."""


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[HostClients]:
    with host_clients(tmp_path) as started:
        yield started


def client_of(pid: int, tree: Tree = LIVE) -> Client | None:
    with tree.hold(pid) as process:
        return Client.of(process)


def look_again(client: Client, tree: Tree, now: Now) -> ClientSample | None:
    """None: it is gone, or its pid is another's."""
    try:
        with tree.hold(client.identity.pid) as process:
            seen = ClientSample.at(process, now)
    except ProcError:
        return None
    return seen if seen.stat.identity == client.identity else None


def verdict_on(pid: int, stuck_after_s: float = SOON_S) -> ClientVerdict:
    """Return the verdict on a real process by two samples."""
    client = client_of(pid)
    assert client is not None
    marked_at_s = Now.of(LIVE).uptime_s
    eventually(lambda: Now.of(LIVE).uptime_s > marked_at_s + 0.2)
    return judge(client, look_again(client, LIVE, Now.of(LIVE, cpus_of([client]))), stuck_after_s)


def verdict_once_still(pid: int, stuck_after_s: float = SOON_S) -> ClientVerdict:
    """Return the verdict on a process that has not run between two samples.

    On a loaded machine it may yet be on its way, or be woken by the machine itself (a freezer).
    """
    verdicts: list[ClientVerdict] = []

    def has_not_run() -> bool:
        wait_until_still(pid)
        verdicts.append(verdict_on(pid, stuck_after_s))
        return verdicts[-1].finding is not Finding.PROGRESS

    eventually(has_not_run)
    return verdicts[-1]


# ------------------------------------------------------------------------------- real processes


def test_one_that_blocks_in_select_is_stuck(clients: HostClients) -> None:
    verdict = verdict_once_still(clients.start("mc", "info"))
    assert verdict.is_stuck
    evidence = "; ".join(verdict.evidence)
    assert "state S" in evidence
    assert "poll_schedule_timeout" in evidence or "do_select" in evidence


def test_an_orphan_is_stuck(clients: HostClients) -> None:
    pid = clients.start_orphan("-b", "6", "-t", "0x2c", "raw", "0x4", "0x2d", "0xbe")
    stat = LIVE.stat(pid)
    assert (stat.parent_pid, stat.group, stat.session) == (1, pid, pid)
    assert verdict_once_still(pid).is_stuck


def test_other_clients_and_longer_names_are_stuck_too(clients: HostClients) -> None:
    for name in ("ipmi-sensors", "bmc-info", "ipmitool.real", "ipmitool-1.8.15"):
        assert verdict_once_still(clients.start("x", name=name)).is_stuck, name


def test_a_client_on_a_terminal_is_excluded(clients: HostClients) -> None:
    verdict = verdict_once_still(clients.start_on_terminal("mc", "info"))
    assert verdict.finding is Finding.EXCLUDED
    assert "terminal" in verdict.evidence[0]


def test_a_client_that_makes_progress_is_not_stuck(clients: HostClients) -> None:
    pid = clients.start("sdr", code=PROGRESS)
    eventually(lambda: Now.of(LIVE).uptime_s - LIVE.stat(pid).start_ticks / 100 > SOON_S)
    # It runs each 0.05 s, and on a busy machine as often as it is let.
    eventually(lambda: verdict_on(pid).finding is Finding.PROGRESS)


def test_a_client_that_waits_for_something_else_is_excluded(clients: HostClients) -> None:
    for code in (SLEEPS, READS):
        verdict = verdict_once_still(clients.start("mc", "info", code=code))
        assert verdict.finding is Finding.EXCLUDED
        assert "not for a BMC" in verdict.evidence[0]


def test_a_young_client_is_not_stuck(clients: HostClients) -> None:
    assert verdict_once_still(clients.start("mc", "info"), 3600).finding is Finding.YOUNG


@pytest.mark.parametrize(
    "words",
    [
        ("sol", "activate"),
        ("-I", "lanplus", "-H", "h", "mc", "info"),
        ("mc", "info", "-vIlan"),
        ("shell",),
        ("hpm", "upgrade", "x.img"),
    ],
)
def test_a_client_that_is_meant_to_wait_is_excluded(
    clients: HostClients, words: tuple[str, ...]
) -> None:
    assert verdict_once_still(clients.start(*words)).finding is Finding.EXCLUDED


def test_processes_that_resemble_a_client_are_none(clients: HostClients, tmp_path: Path) -> None:
    script = tmp_path / "ipmitool.sh"
    script.write_text("cat\n")
    for command in (["grep", "ipmitool"], ["sh", str(script)], ["tail", "-f", str(script)]):
        pid = clients.start_other(*command)
        executable = Path(f"/proc/{pid}/exe")
        eventually(lambda executable=executable: "python" not in executable.readlink().name)  # type: ignore[misc]
        assert client_of(pid) is None


def test_one_that_ended_is_gone(clients: HostClients) -> None:
    pid = clients.start("mc", "info")
    client = client_of(pid)
    assert client is not None
    clients.close()
    assert look_again(client, LIVE, Now.of(LIVE)) is None
    assert judge(client, None, 0.0).finding is Finding.GONE


# ----------------------------------------------------------------------------- captured processes


def captured(tmp_path: Path, process: FakeProcess, **changes: object) -> ClientVerdict:
    """Return the verdict on one process, whose second sample has the `changes`."""
    first = Tree(str(write_proc(tmp_path / "proc", [process])))
    later = FakeProcess(**{**vars(process), **changes})
    second = Tree(str(write_proc(tmp_path / "proc.2", [later])))
    client = client_of(process.pid, first)
    assert client is not None
    return judge(client, look_again(client, second, Now.of(second, ALL_CPUS)), 60.0)


def test_the_incidents_specimen_is_stuck(tmp_path: Path) -> None:
    verdict = captured(tmp_path, stuck_ipmitool())
    assert verdict.is_stuck
    assert verdict.evidence == [
        "state S",
        "waits in do_select",
        "has not run for 3599 s",
        "has /dev/ipmi0 open",
    ]


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"state": "D"}, Finding.STUCK),
        ({"state": "R"}, Finding.PROGRESS),
        ({"state": "T"}, Finding.EXCLUDED),
        ({"state": "t"}, Finding.EXCLUDED),
        ({"state": "Z"}, Finding.GONE),
        ({"cpu_ticks": 4}, Finding.PROGRESS),
        ({"run_ns": 31_000_001}, Finding.PROGRESS),
        ({"turns": 13}, Finding.PROGRESS),
        ({"processor": 1}, Finding.PROGRESS),
        ({"age_s": 3601.0}, Finding.GONE),
        ({"pid": 65_114}, Finding.GONE),
        ({"idle_s": 20.0}, Finding.PROGRESS),
        ({"idle_s": None}, Finding.STUCK),
        ({"wchan": "do_poll.constprop.0"}, Finding.STUCK),
        ({"wchan": "ipmi_ioctl"}, Finding.STUCK),
        ({"wchan": "pipe_write"}, Finding.EXCLUDED),
        ({"wchan": "rpc_wait_bit_killable"}, Finding.EXCLUDED),
        ({"wchan": "0"}, Finding.STUCK),
        ({"wchan": None}, Finding.STUCK),
        ({"wchan": "ffffffff812a7c50"}, Finding.STUCK),
        ({"terminal": 34_816}, Finding.EXCLUDED),
    ],
)
def test_the_second_sample_decides(
    tmp_path: Path, changes: dict[str, object], finding: Finding
) -> None:
    assert captured(tmp_path, stuck_ipmitool(), **changes).finding is finding


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"files": {}}, Finding.STUCK),
        ({"files": {"1": "socket:[1]", "2": "socket:[1]"}}, Finding.STUCK),
        ({"files": {"3": "/dev/ipmi0 (deleted)", "4": "socket:[9]"}}, Finding.STUCK),
        ({"files": {"3": "socket:[1]"}}, Finding.EXCLUDED),
        ({"files": {"0": "/dev/pts/3", "3": "/dev/ipmi0"}}, Finding.EXCLUDED),
        ({"files": {"0": "/dev/pts/3 (deleted)", "3": "/dev/ipmi0"}}, Finding.STUCK),
        ({"files": {}, "wchan": None}, Finding.NOT_PROVEN),
        ({"files": None, "wchan": "0"}, Finding.NOT_PROVEN),
        ({"files": {}, "wchan": "0", "stack": SELECTS}, Finding.STUCK),
        ({"wchan": "0", "stack": "[<0>] pipe_read+0x1/0x2\n"}, Finding.EXCLUDED),
        ({"files": {}, "wchan": "0", "stack": "[<0>] 0xffffffff812a7c50\n"}, Finding.NOT_PROVEN),
        ({"files": {}, "wchan": "0", "stack": SWITCHED + SELECTS}, Finding.STUCK),
        ({"wchan": "0", "stack": SWITCHED + "[<0>] pipe_read+0x1/0x2\n"}, Finding.EXCLUDED),
        ({"files": {}, "wchan": "0", "stack": SWITCHED}, Finding.NOT_PROVEN),
        ({"files": None}, Finding.STUCK),
        ({"run_ns": None, "idle_s": None}, Finding.STUCK),
        ({"run_ns": None, "counts_switches": False}, Finding.NOT_PROVEN),
        ({"age_s": 59.0, "idle_s": 58.9}, Finding.YOUNG),
        ({"age_s": 61.0, "idle_s": 59.5}, Finding.STUCK),
        ({"exe": "/usr/bin/ipmitool (deleted)"}, Finding.STUCK),
        ({"argv": ["monitoring", b"\xff\n\xfe"]}, Finding.STUCK),
        ({"argv": []}, Finding.STUCK),
    ],
)
def test_what_it_is_decides(tmp_path: Path, changes: dict[str, object], finding: Finding) -> None:
    process = FakeProcess(**{**vars(stuck_ipmitool()), **changes})
    assert captured(tmp_path, process).finding is finding


@pytest.mark.parametrize("with_stack", [True, False])
@pytest.mark.parametrize(
    ("changes", "wchan", "frames"),
    [
        ({}, "do_select", ("do_select", "core_sys_select")),
        ({"stack": ""}, "do_select", ()),
        ({"wchan": None, "stack": SELECTS}, "do_select", ("do_select", "__x64_sys_select")),
        ({"wchan": None, "stack": ""}, None, ()),
        ({"wchan": None, "stack": "[<0>] 0xffffffff812a7c50\n"}, None, ("0xffffffff812a7c50",)),
        (
            {"stack": SWITCHED + "[<0>] pipe_read+0x1/0x2\n"},
            "do_select",
            ("__switch_to", "pipe_read"),
        ),
        (
            {"wchan": None, "stack": SCHEDULED + "[<0>] schedule_timeout+0x1/0x2\n" + SELECTS},
            "do_select",
            (
                "0xc0000000fa",
                "__switch_to",
                "__schedule",
                "schedule",
                "schedule_timeout",
                "do_select",
                "__x64_sys_select",
            ),
        ),
        (
            {"wchan": None, "stack": SWITCHED + "[<0>] 0xffffffff812a7c50\n" + SELECTS},
            None,
            ("__switch_to", "0xffffffff812a7c50", "do_select", "__x64_sys_select"),
        ),
    ],
)
def test_what_it_waits_in_stands_in_wchan_or_in_the_stack(
    tmp_path: Path,
    changes: dict[str, object],
    wchan: str | None,
    frames: tuple[str, ...],
    *,
    with_stack: bool,
) -> None:
    process = FakeProcess(**{**vars(stuck_ipmitool()), **changes})
    tree = Tree(str(write_proc(tmp_path / "proc", [process])))
    with tree.hold(65_113) as held:
        sample = ClientSample.at(held, Now.of(tree), with_stack=with_stack)
    assert sample.wchan == wchan
    # If the wchan is readable, the stack is read only on request.
    assert sample.stack == (frames if with_stack or process.wchan is None else ())


def stack_of(*functions: str) -> str:
    """Return a kernel stack of these functions, the innermost first."""
    return "".join(f"[<0>] {name}+0x5e/0x6f0 [module]\n" for name in functions)


@pytest.mark.parametrize("wchan", ["its own", None, "0"])
@pytest.mark.parametrize(
    ("functions", "call"),
    [
        (("mutex_lock", "ipmi_open", "chrdev_open"), "ipmi_open"),
        (("__mutex_lock.constprop.0", "ipmi_ioctl", "__x64_sys_ioctl"), "ipmi_ioctl"),
        (("__mutex_lock_slowpath", "mutex_lock", "ipmi_create_user"), "ipmi_create_user"),
        (
            (
                "__wait_for_common",
                "wait_for_completion",
                "__synchronize_srcu.part.0",
                "synchronize_srcu",
                "_ipmi_destroy_user",
                "ipmi_destroy_user",
                "ipmi_release",
            ),
            "_ipmi_destroy_user",
        ),
        (("synchronize_srcu", "ipmi_destroy_user.part.0"), "ipmi_destroy_user.part.0"),
        (("wait_for_completion", "ipmi_release", "__fput", "task_work_run"), "ipmi_release"),
        (("__flush_work", "flush_work", "cancel_work_sync", "ipmi_release"), "ipmi_release"),
    ],
)
def test_a_client_in_the_driver_is_judged_by_the_whole_stack(
    tmp_path: Path, functions: tuple[str, ...], call: str, wchan: str | None
) -> None:
    in_kernel = functions[0] if wchan == "its own" else wchan
    changes = {"state": "D", "wchan": in_kernel, "stack": stack_of(*functions)}
    # An `open` that waits has no device open yet, and a `close` has none left.
    for files in ({"3": "/dev/ipmi0"}, {"3": "socket:[1]"}, {}):
        process = FakeProcess(**{**vars(stuck_ipmitool()), **changes, "files": files})
        verdict = captured(tmp_path / "-".join(["of", *files.values()]).replace("/", "_"), process)
        assert verdict.is_stuck
        assert f"waits in {functions[0]}, called by {call}" in verdict.evidence


@pytest.mark.parametrize(
    ("functions", "finding"),
    [
        (("mutex_lock", "pipe_read", "ipmi_ioctl"), Finding.EXCLUDED),
        (("wait_for_completion", "nfs_release", "__fput"), Finding.EXCLUDED),
        (("folio_wait_bit_common", "filemap_fault", "ipmi_ioctl"), Finding.EXCLUDED),
        (("mutex_lock", "do_user_addr_fault", "ipmi_ioctl"), Finding.EXCLUDED),
        (("wait_for_completion", "acpi_ipmi_space_handler"), Finding.EXCLUDED),
        (("acpi_ipmi_space_handler", "acpi_ev_address_space_dispatch"), Finding.EXCLUDED),
        (("mutex_lock",), Finding.EXCLUDED),
        ((), Finding.NOT_PROVEN),
    ],
)
def test_a_lock_that_no_driver_takes_proves_nothing(
    tmp_path: Path, functions: tuple[str, ...], finding: Finding
) -> None:
    wchan = functions[0] if functions else "synchronize_srcu"
    changes = {"state": "D", "wchan": wchan, "stack": stack_of(*functions)}
    process = FakeProcess(**{**vars(stuck_ipmitool()), **changes})
    assert captured(tmp_path, process).finding is finding


@pytest.mark.parametrize("wchan", ["do_semtimedop", "__do_semtimedop", "sys_semtimedop"])
def test_a_freeipmi_client_that_waits_for_the_semaphore_is_named(
    tmp_path: Path, wchan: str
) -> None:
    changes = {"wchan": wchan, "stack": "", "files": {}}
    waiter = FakeProcess(**{**vars(stuck_ipmitool()), **changes, "exe": "/usr/sbin/ipmi-sensors"})
    verdict = captured(tmp_path / "freeipmi", waiter)
    assert verdict.finding is Finding.HELD_UP
    assert "semaphore" in verdict.evidence[0]
    other = FakeProcess(**{**vars(stuck_ipmitool()), **changes})
    assert captured(tmp_path / "ipmitool", other).finding is Finding.EXCLUDED


def test_a_select_is_no_lock_whatever_its_stack_shows(tmp_path: Path) -> None:
    process = FakeProcess(**{**vars(stuck_ipmitool()), "stack": stack_of("mutex_lock", "ipmi_x")})
    assert "waits in do_select" in captured(tmp_path, process).evidence


def test_a_slow_bmcs_client_that_ran_before_the_interval_is_not_stuck(tmp_path: Path) -> None:
    slow = FakeProcess(**{**vars(stuck_ipmitool(age_s=600.0)), "idle_s": 12.0})
    verdict = captured(tmp_path, slow)
    assert verdict.finding is Finding.PROGRESS
    assert verdict.evidence == ["it ran 12.0 s ago"]


def test_an_unreadable_executable_proves_nothing(tmp_path: Path) -> None:
    process = stuck_ipmitool()
    tree = Tree(str(write_proc(tmp_path / "proc", [process])))
    (tmp_path / "proc/65113/exe").unlink()
    (tmp_path / "proc/65113/exe").write_text("")  # no link: reading it is refused
    client = client_of(65_113, tree)
    assert client is not None
    verdict = judge(client, look_again(client, tree, Now.of(tree)), 60.0)
    assert verdict.finding is Finding.NOT_PROVEN
    assert "its executable" in verdict.evidence[0]


@pytest.mark.parametrize(
    ("changes", "is_client"),
    [
        ({"state": "D"}, True),
        ({"state": "Z"}, False),
        ({"state": "D", "flags": 0x0020_8040}, False),
        ({"state": "D", "comm": "python3"}, False),
    ],
)
def test_a_client_that_the_kernel_does_not_let_end_is_named(
    tmp_path: Path, changes: dict[str, object], *, is_client: bool
) -> None:
    ending: dict[str, object] = {"exe": None, "argv": [], "files": {}, "wchan": "synchronize_srcu"}
    process = FakeProcess(**{**vars(stuck_ipmitool()), **ending, **changes})
    tree = Tree(str(write_proc(tmp_path / "proc", [process])))
    found = scan_processes(tree).clients
    assert [each.program for each in found] == (["ipmitool"] if is_client else [])
    for client in found:
        verdict = judge(client, look_again(client, tree, Now.of(tree)), 60.0)
        assert verdict.finding is Finding.HELD_UP
        assert verdict.finding.word == "not proven"
        assert "it is ending" in verdict.evidence[0]
    assert client_of(65_113, tree) is None  # relief has nothing to end there


def test_a_client_shows_no_secret(tmp_path: Path) -> None:
    process = stuck_ipmitool(65_113, "-P", "s3cret", "mc", "info")
    tree = Tree(str(write_proc(tmp_path / "proc", [process])))
    assert "s3cret" not in repr(client_of(65_113, tree))


@pytest.mark.parametrize("word", ["x" * 5000, "sol", "-Isomething"])
@pytest.mark.parametrize("count", [1366, 20_000])
def test_arguments_that_are_too_long_are_not_judged(tmp_path: Path, word: str, count: int) -> None:
    words = [*["ab"] * count, word]
    record: dict[str, bytes | str] = {}
    tree = Tree(str(write_proc(tmp_path / "proc", [stuck_ipmitool(65_113, *words)])), record)
    client = client_of(65_113, tree)
    assert client is not None
    assert client.argv[:3] == ["ipmitool", "ab", "ab"]
    assert len(" ".join(client.argv)) < 500
    assert len(record["65113/cmdline"]) <= 4096
    verdict = judge(client, look_again(client, tree, Now.of(tree)), 60.0)
    assert verdict == ClientVerdict(Finding.EXCLUDED, [TOO_LONG])


def test_arguments_of_almost_a_page_are_judged(tmp_path: Path) -> None:
    words = ["mc", "x" * 2000, "y" * 2000]
    assert captured(tmp_path, stuck_ipmitool(65_113, *words)).is_stuck


def test_what_is_cut_off_shows_no_secret(tmp_path: Path) -> None:
    head = ["ipmitool", "-P", "s3cret", "x" * 4000]
    url = "http://user:s3cret" + "s3cret" * 1000 + "@h/"
    for pid, words in ((65_113, [*head[1:], url]), (65_114, [url])):
        tree = Tree(str(write_proc(tmp_path / str(pid), [stuck_ipmitool(pid, *words)])))
        client = client_of(pid, tree)
        assert client is not None
        assert "s3cret" not in repr(client)
        assert client.argv[-1].endswith("…")


def test_clients_that_are_gone_leave_little_behind(tmp_path: Path) -> None:
    crowd = [stuck_ipmitool(pid, str(pid), *["ab"] * 20_000) for pid in range(1000, 1060)]
    tree = Tree(str(write_proc(tmp_path / "proc", crowd)))
    tracemalloc.start()
    try:
        for process in crowd:
            assert client_of(process.pid, tree) is not None
        assert tracemalloc.get_traced_memory()[0] < 60 * 20_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("processor", ALL_CPUS)
@pytest.mark.parametrize(("idle_s", "finding"), [(5.0, Finding.PROGRESS), (600.0, Finding.STUCK)])
def test_the_moment_of_a_turn_is_by_the_clock_of_the_cpu_that_had_it(
    tmp_path: Path, processor: int, idle_s: float, finding: Finding
) -> None:
    one = FakeProcess(**{**vars(stuck_ipmitool()), "idle_s": idle_s, "processor": processor})
    root = write_proc(tmp_path / "proc", [one])
    verdict = captured(tmp_path / "again", one)
    assert verdict.finding is finding
    assert f"{idle_s:.0f}" in "; ".join(verdict.evidence)
    # If nothing can run on that CPU, the clock of another CPU proves nothing about it.
    shutil.rmtree(root / f"self/task/{77_000 + processor}")
    tree = Tree(str(root))
    with tree.hold(one.pid) as process:
        assert ClientSample.at(process, Now.of(tree, [processor])).idle_s is None


@pytest.mark.parametrize("file", ["sched", "stat", "schedstat"])
@pytest.mark.parametrize(
    "after",
    [
        {"idle_s": 0.0, "processor": 1, "turns": 13},
        {"processor": 1},  # on its way to a turn there
        {"idle_s": 0.0, "turns": 13},
    ],
)
def test_a_client_that_runs_while_it_is_sampled_is_not_stuck(
    tmp_path: Path, file: str, after: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock of another CPU, the moment of its turn lies hours back."""
    before = FakeProcess(**{**vars(stuck_ipmitool()), "processor": 2})
    root = write_proc(tmp_path / "proc", [before])
    other = write_proc(tmp_path / "other", [FakeProcess(**{**vars(before), **after})])
    tree = Tree(str(root))
    client, now = client_of(before.pid, tree), Now.of(tree, [2])
    assert client is not None
    read = Process.read

    def and_then_it_runs(process: Process, name: str, bytes_max: int = 1 << 16) -> bytes:
        raw = read(process, name, bytes_max)
        if name == file:
            for changed in ("sched", "stat", "schedstat"):
                shutil.copy(other / str(before.pid) / changed, root / str(before.pid) / changed)
        return raw

    monkeypatch.setattr(Process, "read", and_then_it_runs)
    monkeypatch.setattr(Process, "read_or_none", and_then_it_runs)
    with tree.hold(before.pid) as process:
        sample = ClientSample.at(process, now)
        again = ClientSample.at(process, now)
    # The next sample sees what it does after its mark.
    is_seen = file == "sched" or ("turns" in after and file == "stat")
    assert judge(client, sample, 60.0).is_stuck is not is_seen
    assert judge(client, again, 60.0).finding is Finding.PROGRESS


def test_a_sample_has_the_age(tmp_path: Path) -> None:
    tree = Tree(str(write_proc(tmp_path / "proc", [stuck_ipmitool(age_s=90.0)])))
    with tree.hold(65_113) as process:
        sample = ClientSample.at(process, Now(UPTIME_S, {}))
        assert Mark.of(process) == sample.mark
    assert sample.age_s == pytest.approx(90.0)
    assert sample.idle_s is None


# -------------------------------------------------------------------------------------- the list


@pytest.mark.parametrize(
    ("executable", "program"),
    [
        ("/usr/bin/ipmitool", "ipmitool"),
        ("/usr/local/bin/ipmitool (deleted)", "ipmitool"),
        ("/usr/bin/ipmitool.bmcmedic", "ipmitool"),
        ("/opt/ipmitool-1.8.15", "ipmitool"),
        ("/opt/ipmitool_1.8.18", "ipmitool"),
        ("/opt/xcat/bin/ipmitool-xcat", "ipmitool"),
        ("/opt/xcat/bin/ipmitool-xcat-1.8.18 (deleted)", "ipmitool"),
        ("/src/src/.libs/lt-ipmitool", "ipmitool"),
        ("/src/.libs/lt-ipmi-sensors", "ipmi-sensors"),
        ("/usr/local/bin/ipmitool_real", "ipmitool"),
        ("/usr/bin/ipmitool-orig", "ipmitool"),
        ("/usr/bin/ipmitool.distrib", "ipmitool"),
        ("/nix/store/x/bin/.ipmitool-wrapped", "ipmitool"),
        ("/usr/sbin/ipmi-fru_v1.6", "ipmi-fru"),
        ("/usr/bin/ipmitool-exporter", None),
        ("/usr/bin/ipmitool_exporter", None),
        ("/usr/bin/xlt-ipmitool", None),
        ("/usr/libexec/netdata/plugins.d/freeipmi.plugin", None),
        ("/usr/sbin/ipmi-sensors", "ipmi-sensors"),
        ("/usr/sbin/ipmi-sensors-config", "ipmi-sensors-config"),
        ("/usr/bin/vim", None),
        ("/usr/bin/ipmitoolx", None),
        ("/opt/ipmitool/bin/python3", None),
        ("/usr/sbin/bmc-watchdog", None),
        ("/usr/sbin/ipmievd", None),
        ("/usr/sbin/ipmiconsole", None),
        ("", None),
    ],
)
def test_the_executable_decides(executable: str, program: str | None) -> None:
    assert program_of(executable) == program


@pytest.mark.parametrize(
    ("line", "is_left_alone"),
    [
        ("ipmitool mc info", False),
        ("ipmitool -b 6 -t 0x2c raw 0x4 0x2d 0xbe", False),
        ("ipmitool -I open sdr", False),
        ("ipmitool lan print 1", False),
        ("ipmitool -Ilanplus mc info", True),
        ("ipmitool mc info -I lan", True),
        ("ipmitool -H h mc info", True),
        ("ipmitool -vvH h mc info", True),
        ("ipmitool -U -I lanplus", False),
        ("ipmitool -I", False),
        ("ipmitool sol activate", True),
        ("ipmitool fru write 0 file", True),
        ("ipmitool exec file", True),
        ("bmc-info", False),
        ("bmc-info -h h", True),
        ("bmc-info -h localhost", False),
        ("bmc-info --hostname=h", True),
        ("bmc-info --host h", True),
        ("bmc-info -D LAN_2_0", True),
        ("bmc-info --driver-type=LAN_2_0", True),
        ("bmc-info --driver-type OPENIPMI", False),
        ("ipmi-sensors -D OPENIPMI", False),
        ("ipmiutil health", False),
        ("ipmiutil health -N h", True),
        ("ipmiutil getevt", True),
    ],
)
def test_the_arguments_decide_which_client_is_excluded(line: str, *, is_left_alone: bool) -> None:
    argv = line.split()
    assert (why_excluded(argv[0], argv) is not None) is is_left_alone


@pytest.mark.parametrize("program", CLIENTS)
def test_every_client_is_known_by_its_longer_names_too(program: str) -> None:
    for name in (program, f"{program}.real", f"{program}-1.8", f"{program} (deleted)"):
        assert program_of(f"/usr/bin/{name}") == program
        assert program_of(name) == program


def test_nothing_that_waits_for_ever_by_trade_is_on_the_list() -> None:
    assert not {"bmc-watchdog", "ipmievd", "ipmiseld", "ipmiconsole", "ipmi-console"} & set(CLIENTS)
