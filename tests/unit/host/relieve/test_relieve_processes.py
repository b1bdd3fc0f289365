"""Relief among real processes: exactly the stuck ones end, whatever the kernel and Python offer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bmcmedic.host.kernel.proc import Gone, Tree
from bmcmedic.host.kernel.signals import NotSent, Sender, why_pids_mean_nothing
from bmcmedic.host.relieve.end_client import Outcome
from bmcmedic.host.relieve.relieve import HostTrees, Relief, Report
from tests.support.host_clients import (
    IGNORES_SIGTERM,
    PROGRESS,
    SLEEPS,
    STUCK,
    HostClients,
    host_clients,
)
from tests.support.polling import eventually

STUCK_AFTER_S = 60.0
LEAP_S = 3_600.0
CATCHES_SIGTERM = f"import signal; signal.signal(15, lambda *_: None); {STUCK}"
RUNS_AFTER_SIGTERM = (
    "import signal, time\n"
    "def work(*_):\n"
    "    while True: sum(range(1000))\n"
    f"signal.signal(15, work); {STUCK}"
)


class OnlyThese(Tree):
    """The real /proc, but for all processes that the test has not started, and at a later time."""

    def __init__(self, leap_s: float = LEAP_S) -> None:
        super().__init__("/proc")
        self.these: set[int] = set()
        self.leap_s = leap_s

    def pids(self, folder: str = "") -> list[int]:
        return [pid for pid in super().pids(folder) if folder or pid in self.these]

    def read(self, path: str, bytes_max: int = 64 << 10) -> bytes:
        raw = super().read(path, bytes_max)
        if path == "uptime":
            return b"%.2f 0.0" % (float(raw.split()[0]) + self.leap_s)
        if path.startswith("self/task/") and path.endswith("/sched"):
            lines = raw.decode().splitlines()
            for number, line in enumerate(lines):
                if line.startswith("se.exec_start"):
                    later_ms = float(line.partition(":")[2]) + self.leap_s * 1000.0
                    lines[number] = f"se.exec_start : {later_ms:f}"
            return "\n".join(lines).encode()
        return raw


def with_pidfds(_: pytest.MonkeyPatch) -> Sender:
    return Sender.of_this_system()


def with_pidfds_of_an_old_python(monkeypatch: pytest.MonkeyPatch) -> Sender:
    monkeypatch.delattr(signal, "pidfd_send_signal", raising=False)
    return Sender.of_this_system()


def without_pidfds(_: pytest.MonkeyPatch) -> Sender:
    return Sender(None)


def where_a_sandbox_forbids_them(_: pytest.MonkeyPatch) -> Sender:
    def forbidden(_descriptor: int, _number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    return Sender(forbidden)


WAYS = [
    (with_pidfds, "pidfd"),
    (with_pidfds_of_an_old_python, "pidfd"),
    (without_pidfds, "pid"),
    (where_a_sandbox_forbids_them, "pid"),
]


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[HostClients]:
    with host_clients(tmp_path) as started:
        yield started


def relieve(tmp_path: Path, tree: OnlyThese, pids: set[int], sender: Sender) -> Report:
    tree.these = pids
    (tmp_path / "sys").mkdir(exist_ok=True)
    place = HostTrees(
        proc=tree,
        sys=Tree(str(tmp_path / "sys")),
        etc=Tree("/etc"),
        run=None,
        sender=sender,
        kill_switch=str(tmp_path / "disabled"),
        journal_directory=str(tmp_path / "run"),
    )
    return Relief(place, STUCK_AFTER_S).relieve(may_act=True)


def outcomes(report: Report) -> dict[int, Outcome]:
    return {
        case.judged.client.identity.pid: case.ending.outcome
        for case in report.cases
        if case.ending is not None
    }


def is_alive(pid: int) -> bool:
    try:
        return Tree("/proc").stat(pid).state not in "ZX"
    except Gone:
        return False


@pytest.mark.parametrize(("way", "through"), WAYS, ids=[way.__name__ for way, _ in WAYS])
def test_exactly_the_stuck_ones_end(
    clients: HostClients,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[pytest.MonkeyPatch], Sender],
    through: str,
) -> None:
    script = tmp_path / "ipmitool.sh"
    script.touch()
    leader = clients.start("mc", "info", group=0)
    stuck = {
        clients.start_orphan("mc", "info"),
        clients.start_orphan("-b", "6", "-t", "0x2c", "raw", "0x4", "0x2d", "0xbe"),
        clients.start("sdr", name="ipmi-sensors"),
        leader,
        clients.start("mc", "info", group=leader),
    }
    innocent = {
        clients.start(name="vim", code=SLEEPS),
        clients.start_other("tail", "-f", str(script)),
        clients.start_other("grep", "ipmitool"),
        clients.start_on_terminal("mc", "info"),
        clients.start("mc", "info", code=PROGRESS, is_waiting=False),
        clients.start("sol", "activate"),
        clients.start("-I", "lanplus", "-H", "192.0.2.1", "mc", "info"),
        clients.start("mc", "info", code=SLEEPS),
        clients.start(name="vim", code=SLEEPS, group=leader),
    }
    sender = way(monkeypatch)

    young = relieve(tmp_path, OnlyThese(leap_s=0.0), stuck | innocent, sender)
    assert outcomes(young) == {}
    assert all(map(is_alive, stuck | innocent))

    report = relieve(tmp_path, OnlyThese(), stuck | innocent, sender)
    assert outcomes(report) == dict.fromkeys(stuck, Outcome.ENDED)
    assert {case.ending.through for case in report.stuck if case.ending} == {through}
    # One whose executable is gone has ended; what is left of it may still wait for a processor.
    eventually(lambda: not any(map(is_alive, stuck)))
    assert all(map(is_alive, innocent))
    groups = {case.group for case in report.stuck if case.group and case.group.number == leader}
    assert groups == {(leader, 3, 2)} or groups == {(leader, 2, 2)}
    assert not report.left(STUCK_AFTER_S)


@pytest.mark.parametrize("code", [IGNORES_SIGTERM, CATCHES_SIGTERM], ids=["ignores", "catches"])
def test_a_client_that_stays_after_sigterm_is_killed(
    clients: HostClients, tmp_path: Path, code: str
) -> None:
    pid = clients.start("mc", "info", code=code)
    report = relieve(tmp_path, OnlyThese(), {pid}, Sender.of_this_system())
    assert outcomes(report) == {pid: Outcome.KILLED}
    eventually(lambda: not is_alive(pid))


def test_a_client_that_works_after_sigterm_is_not_killed(
    clients: HostClients, tmp_path: Path
) -> None:
    pid = clients.start("mc", "info", code=RUNS_AFTER_SIGTERM)
    report = relieve(tmp_path, OnlyThese(), {pid}, Sender.of_this_system())
    assert outcomes(report) == {pid: Outcome.SURVIVED}
    assert is_alive(pid)
    assert report.left(STUCK_AFTER_S)


@pytest.mark.parametrize(("way", "_through"), WAYS, ids=[way.__name__ for way, _ in WAYS])
def test_a_held_process_that_has_ended_is_sent_nothing(
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[pytest.MonkeyPatch], Sender],
    _through: str,
) -> None:
    sender = way(monkeypatch)
    with (
        subprocess.Popen(["sleep", "1000"]) as child,
        Tree("/proc").hold(child.pid) as process,
    ):
        identity = process.stat().identity
        child.kill()
        child.wait()
        with pytest.raises(Gone):
            sender.send(process, identity, signal.SIGTERM)


def test_init_and_ourselves_are_never_sent_a_signal() -> None:
    tree = Tree("/proc")
    sent: list[tuple[int, int]] = []
    sender = Sender(lambda *to: sent.append(to), lambda *to: sent.append(to))
    for pid in (1, os.getpid()):
        with tree.hold(pid) as process, pytest.raises(NotSent):
            sender.send(process, process.stat().identity, signal.SIGTERM)
    assert sent == []


def test_the_pids_of_this_host_are_our_own() -> None:
    assert why_pids_mean_nothing(Tree("/proc")) is None


# ------------------------------------------------------------------- the command, in a world apart

IN_A_NAMESPACE = """
import json, pathlib, subprocess, sys, tempfile, threading, os
from tests.support.host_clients import host_clients
from tests.support.polling import eventually
from bmcmedic.host.kernel.proc import Tree, age_s, uptime_s

tree = Tree("/proc")
with tempfile.TemporaryDirectory() as folder, host_clients(pathlib.Path(folder)) as clients:
    stuck = [clients.start_orphan("mc", "info") for _ in range(3)]
    remote = clients.start("-I", "lanplus", "-H", "192.0.2.1", "mc", "info")
    eventually(lambda: age_s(tree.stat(stuck[-1]), uptime_s(tree)) > 20.0)
    runs = []
    for option in ([], ["--dry-run"], ["--yes"]):
        done = subprocess.run(
            [sys.executable, "-m", "bmcmedic.host", "relieve", "--stuck-after", "5", "--json"]
            + option, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        alive = [pid for pid in stuck if clients.runs(pid)]
        runs.append([done.returncode, json.loads(done.stdout), done.stderr, len(alive)])
    print(json.dumps({"runs": runs, "remote": clients.runs(remote)}))
"""


def test_the_command_ends_them_where_nothing_is_injected() -> None:
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    probe = subprocess.run([*apart, "true"], capture_output=True, check=False, timeout=20)
    if probe.returncode != 0:
        pytest.skip("no pid namespaces here: " + probe.stderr.decode())
    done = subprocess.run(
        [*apart, sys.executable, "-c", IN_A_NAMESPACE],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parents[4],
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (refused, dry, real) = document["runs"]
    assert (refused[0], refused[1]["mode"], refused[3]) == (3, "refused", 3)
    assert "--yes" in refused[2]
    assert (dry[0], dry[1]["mode"], dry[3]) == (1, "dry-run", 3)
    assert dry[1]["outcomes"] == {"would end": 3}
    assert (real[0], real[1]["mode"], real[3]) == (0, "relieve", 0)
    assert real[1]["outcomes"] == {"ended": 3}
    assert (real[1]["stuck_before"], real[1]["stuck_after"]) == (3, 0)
    assert [each["finding"] for each in real[1]["spared"]] == ["left alone"]
    assert document["remote"]
