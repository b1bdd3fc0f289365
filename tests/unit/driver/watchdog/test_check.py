"""The check command: in virtual time what comes of it, and real commands that misbehave."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bmcmedic.driver.watchdog.check import (
    KILLED_S_MAX,
    OUTPUT_SHOWN_CHARACTERS,
    START_LATE_S_MAX,
    CheckLoop,
    CheckResult,
    NoCheck,
    ProcessCheck,
)
from bmcmedic.driver.watchdog.settings import CHECK_OUTPUT_BYTES_MAX, CheckSettings
from tests.support.polling import eventually
from tests.support.virtual_runtime import VirtualRuntime

SETTINGS = CheckSettings(("/check",), period_s=10.0, deadline_s=5.0)
DEADLINE_S = 30.0
FAILED = CheckResult("ended with 1", b"no disk\n")


class Command:
    """Takes as long, and says what, the test wants."""

    def __init__(self, runtime: VirtualRuntime) -> None:
        self.runtime = runtime
        self.takes_s = 0.5
        self.result = CheckResult(None)
        self.begun_at: list[float] = []

    def run(self, deadline_s: float) -> CheckResult:
        self.begun_at.append(self.runtime.now)
        if self.takes_s >= deadline_s:
            self.runtime.advance_to(self.runtime.now + deadline_s)
            return CheckResult(f"did not end within {deadline_s:g} s")
        self.runtime.advance_to(self.runtime.now + self.takes_s)
        return self.result


class Bench:
    def __init__(self) -> None:
        self.runtime = VirtualRuntime()
        self.command = Command(self.runtime)
        self.said: list[str] = []
        self.checks = CheckLoop(SETTINGS, self.command, self.runtime, self.said.append)
        self.begun_at = self.runtime.now
        self.asked: dict[float, tuple[str | None, float]] = {}

    def ask_at(self, seconds: float) -> None:
        def ask() -> None:
            now = self.runtime.now
            good_s = self.checks.good_until(now) - self.begun_at
            self.asked[seconds] = (self.checks.failure(now), good_s)

        self.runtime.at(self.begun_at + seconds, ask)

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self.runtime.at(self.begun_at + seconds, event)

    def run(self, seconds: float) -> None:
        self.after(seconds, self.checks.stop)
        self.checks.run()


def test_it_runs_each_period_and_the_host_is_well_up_to_now() -> None:
    bench = Bench()
    bench.ask_at(5.0)
    bench.run(35.0)
    assert [at - bench.begun_at for at in bench.command.begun_at] == [0.0, 10.0, 20.0, 30.0]
    assert bench.asked == {5.0: (None, 5.0)}
    assert bench.said == []


def test_while_it_runs_the_host_is_known_well_only_up_to_its_start() -> None:
    bench = Bench()
    bench.command.takes_s = 4.0
    for seconds in (1.0, 3.5, 4.5, 11.0):
        bench.ask_at(seconds)
    bench.run(12.0)
    assert bench.asked == {
        1.0: (None, 0.0),
        3.5: (None, 0.0),
        4.5: (None, 4.5),
        11.0: (None, 10.0),
    }


def test_a_failure_is_told_once_holds_until_a_good_one_and_is_told_again() -> None:
    bench = Bench()

    def fail() -> None:
        bench.command.result = FAILED

    def recover() -> None:
        bench.command.result = CheckResult(None)

    bench.after(5.0, fail)
    bench.after(35.0, recover)
    for seconds in (10.2, 12.0, 30.2, 40.2, 41.0):
        bench.ask_at(seconds)
    bench.run(45.0)
    assert bench.asked == {
        10.2: (None, 10.0),
        12.0: ("ended with 1", 10.0),
        30.2: ("ended with 1", 10.0),
        40.2: ("ended with 1", 10.0),
        41.0: (None, 41.0),
    }
    assert bench.said == [
        "the check command ended with 1: no disk; no pat is sent until it succeeds",
        "the check command succeeds again; the pats go on",
    ]
    assert bench.checks.failures == 3


def test_one_that_hangs_fails_at_its_deadline_and_vouches_for_nothing_since_its_start() -> None:
    bench = Bench()

    def hang() -> None:
        bench.command.takes_s = 1e6

    bench.after(5.0, hang)
    for seconds in (14.0, 16.0, 60.0):
        bench.ask_at(seconds)
    bench.run(61.0)
    assert bench.asked == {
        14.0: (None, 10.0),
        16.0: ("did not end within 5 s", 10.0),
        60.0: ("did not end within 5 s", 10.0),
    }


def test_a_thread_that_does_not_come_back_from_it_is_a_failure_too() -> None:
    runtime = VirtualRuntime()
    begun_at = runtime.now

    class Stuck(Command):
        def run(self, deadline_s: float) -> CheckResult:
            late = begun_at + deadline_s + KILLED_S_MAX + 0.5
            assert checks.failure(late - 1.0) is None
            assert checks.failure(late) == "has not answered for 6.5 s"
            assert checks.good_until(late) == begun_at
            checks.stop()
            return CheckResult(None)

    checks = CheckLoop(SETTINGS, Stuck(runtime), runtime, lambda _: None)
    checks.run()
    assert checks.failure(runtime.now) is None


def test_a_host_that_no_longer_starts_it_is_not_well() -> None:
    bench = Bench()
    bench.run(5.0)  # the thread is gone then; the next one is due at 10
    due_at = bench.begun_at + 10.0
    assert bench.checks.failure(due_at + START_LATE_S_MAX) is None
    late = due_at + START_LATE_S_MAX + 0.1
    assert bench.checks.failure(late) == "could not be started for 2.1 s"
    assert bench.checks.good_until(late) == due_at


def test_what_it_shows() -> None:
    bench = Bench()
    bench.command.result = FAILED
    bench.run(5.0)
    bench.runtime.now = bench.begun_at + 7.0
    assert bench.checks.status() == {
        "command": ["/check"],
        "failure": "ended with 1",
        "failures": 1,
        "well_age_s": 7.0,
    }


def test_without_a_check_the_host_is_well() -> None:
    assert NoCheck().failure(5.0) is None
    assert NoCheck().good_until(5.0) == 5.0


# --------------------------------------------------------------------------------- real commands


def shell(script: str) -> ProcessCheck:
    return ProcessCheck(("/bin/sh", "-c", script))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state != b"Z"


def test_a_command_that_ends_with_0_is_well() -> None:
    assert shell("echo fine").run(DEADLINE_S) == CheckResult(None, b"fine\n")


def test_a_command_that_fails_says_how() -> None:
    result = shell("echo no disk >&2; exit 3").run(DEADLINE_S)
    assert result == CheckResult("ended with 3", b"no disk\n")
    assert result.text == "ended with 3: no disk"


def test_a_command_that_is_killed_says_by_what() -> None:
    assert shell("kill -9 $$").run(DEADLINE_S).failure == "was ended by signal 9 (Killed)"


def test_a_command_that_is_not_there_is_a_failure() -> None:
    failure = ProcessCheck(("/nowhere/check",)).run(DEADLINE_S).failure
    assert failure is not None
    assert "cannot be started: " in failure
    assert "No such file" in failure


def test_it_runs_apart_at_normal_priority_and_with_little_around_it(tmp_path: Path) -> None:
    file = tmp_path / "facts"
    script = f"(ps -o sid=,pid=,cls= -p $$; cat /proc/$$/oom_score_adj; env) > {file}; read x"
    assert shell(script).run(DEADLINE_S).failure == "ended with 1", "its input is empty"
    first, oom_score_adj, *environment = file.read_text().splitlines()
    session, pid, scheduling = first.split()
    assert session == pid
    assert scheduling == "TS"
    assert oom_score_adj == "0"
    names = {line.partition("=")[0] for line in environment}
    assert names <= {"PATH", "LANG", "PWD", "SHLVL", "_", "OLDPWD"}


@pytest.mark.parametrize("pidfds", [True, False])
def test_a_command_that_hangs_is_killed_with_all_it_started(
    tmp_path: Path, pidfds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pidfds:
        monkeypatch.setattr("bmcmedic.driver.watchdog.check._pidfd", lambda _: None)
    file = tmp_path / "pids"
    check = shell(f"trap '' TERM; sleep 1000 & echo $$ $! > {file}; echo begun; wait")
    result, deadline_s = CheckResult(None), 0.0
    for deadline_s in (0.5, 5.0, DEADLINE_S):  # a busy machine may not have begun it in time
        result = check.run(deadline_s)
        if result.output:
            break
    assert result == CheckResult(f"did not end within {deadline_s:g} s", b"begun\n")
    pids = [int(pid) for pid in file.read_text().split()]
    assert len(pids) == 2
    eventually(lambda: not any(map(is_running, pids)))
    assert shell("true").run(DEADLINE_S).failure is None


def test_a_command_that_talks_without_end_neither_blocks_nor_fills_the_memory() -> None:
    result = shell("head -c 3000000 /dev/zero | tr '\\0' x; echo the end; exit 1").run(DEADLINE_S)
    assert len(result.output) <= CHECK_OUTPUT_BYTES_MAX
    assert result.output.endswith(b"xthe end\n")
    assert len(result.text) < OUTPUT_SHOWN_CHARACTERS + 50


def test_who_inherits_its_output_is_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    begun = time.monotonic()
    assert shell(f"sleep 1000 & echo $! > {file}").run(DEADLINE_S).failure is None
    assert time.monotonic() - begun < DEADLINE_S
    os.kill(int(file.read_text()), signal.SIGKILL)


def test_one_that_cannot_even_be_killed_is_not_joined_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bmcmedic.driver.watchdog.check.KILLED_S_MAX", 0.1)
    killed: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", lambda pid, _: killed.append(pid))
        check = shell("sleep 1000 & wait")
        assert check.run(0.1).failure == "did not end within 0.1 s"
    assert check.run(0.1).failure == "still hangs in the kernel, although it was killed"
    (pid,) = killed
    os.killpg(pid, signal.SIGKILL)
    eventually(lambda: check.run(0.1).failure == "did not end within 0.1 s")


def test_no_descriptor_and_no_zombie_is_left() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    for script in ("true", "exit 1", "sleep 1000"):
        shell(script).run(0.2)
    ProcessCheck(("/nowhere/check",)).run(0.2)
    assert descriptors() == before
    with contextlib.suppress(ChildProcessError):
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)


def test_without_file_descriptors_left_the_check_fails_and_its_thread_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more() -> tuple[int, int]:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "pipe", no_more)
    assert "cannot be started" in str(ProcessCheck(("/bin/true",)).run(DEADLINE_S).failure)


def test_a_check_that_may_not_be_killed_is_left_behind_and_its_thread_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[int] = []

    def forbidden(pid: int, _: int) -> None:
        killed.append(pid)
        raise PermissionError(errno.EPERM, "another user's")

    monkeypatch.setattr(os, "killpg", forbidden)
    monkeypatch.setattr("bmcmedic.driver.watchdog.check.KILLED_S_MAX", 0.01)
    check = ProcessCheck(("/bin/sleep", "60"))
    assert "did not end within" in str(check.run(0.01).failure)
    assert "still hangs" in str(check.run(0.01).failure)
    os.kill(killed[0], signal.SIGKILL)
    os.waitpid(killed[0], 0)
