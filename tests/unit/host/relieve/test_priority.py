"""The priority of relief on the host, and how long it lasts."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bmcmedic.host.relieve.priority import (
    AUTOGROUP,
    NICE,
    PUT_BACK_S_MAX,
    RAISE_S_MAX,
    RaisedPriority,
)

TIMEOUT_S = 60
SESSION = re.compile(r"/autogroup-\d+ nice (-?\d+)\n")
SHARES_BY_SESSION = Path(AUTOGROUP).exists() and SESSION.fullmatch(Path(AUTOGROUP).read_text())
by_session = pytest.mark.skipif(
    not SHARES_BY_SESSION or os.geteuid() != 0, reason="needs root, and a kernel with autogroup"
)
FIRST = """
import os
from bmcmedic.host.relieve.priority import AUTOGROUP, RaisedPriority
def nice_values():
    with open(AUTOGROUP) as file:
        return int(file.read().split()[-1]), os.getpriority(os.PRIO_PROCESS, 0)
ahead = RaisedPriority()
seen = [nice_values()]
for _ in range(4):
    with ahead:
        with ahead:
            seen.append(nice_values())
        seen.append(nice_values())
    seen.append(nice_values())
print(seen)
"""
BY_HAND = """
import os, signal, sys
from bmcmedic.host.relieve.priority import ahead_until_the_end
child = os.fork()
if child:
    os.waitid(os.P_PID, child, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
    os.write(1, b"over\\n")
    sys.stdin.read()
    os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1])
else:
    os.setpgid(0, 0)  # else nothing would stop it: its group would be an orphan
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with ahead_until_the_end():
        os.write(1, b"%d first\\n" % os.getpid())
        signal.pause()
"""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Kernel:
    """A file that takes what is written to it, or refuses it with an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.path = path
        self.refuses: dict[int, int] = {}
        self.asked = 0
        path.write_text("/autogroup-12 nice 3\n")
        real = os.write

        def write(fd: int, data: bytes) -> int:
            if not os.path.samestat(os.fstat(fd), path.stat()):
                return real(fd, data)
            self.asked += 1
            if int(data) in self.refuses:
                raise OSError(self.refuses[int(data)], "refused")
            path.write_text(f"/autogroup-12 nice {int(data)}\n")
            return len(data)

        monkeypatch.setattr(os, "write", write)

    @property
    def nice(self) -> int:
        return int(self.path.read_text().split()[-1])


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    return Kernel(monkeypatch, tmp_path / "autogroup")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ahead(kernel: Kernel, clock: Clock) -> RaisedPriority:
    return RaisedPriority(str(kernel.path), clock.monotonic, clock.sleep)


def test_thread_and_session_are_as_nice_afterwards_as_before(
    ahead: RaisedPriority, kernel: Kernel
) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    for _ in range(2):
        with ahead:
            with ahead:
                assert os.getpriority(os.PRIO_PROCESS, 0) in (NICE, before)  # only root may
            assert kernel.nice == NICE
        assert os.getpriority(os.PRIO_PROCESS, 0) == before
        assert kernel.nice == 3


def test_a_session_that_comes_first_already_stays_as_it_is(
    ahead: RaisedPriority, kernel: Kernel
) -> None:
    kernel.path.write_text("/autogroup-12 nice -15\n")
    with ahead:
        assert kernel.nice == -15
    assert kernel.asked == 0


@pytest.mark.parametrize("content", [None, "", "nonsense\n"])
def test_a_kernel_that_does_not_share_out_by_session_is_asked_nothing(
    ahead: RaisedPriority, kernel: Kernel, content: str | None
) -> None:
    kernel.path.unlink()
    if content is not None:
        kernel.path.write_text(content)
    with ahead:
        pass
    assert kernel.asked == 0


def test_a_session_that_was_not_raised_is_not_put_back(
    ahead: RaisedPriority, kernel: Kernel, clock: Clock
) -> None:
    kernel.refuses = {NICE: errno.EPERM}
    with ahead:
        pass
    assert (kernel.asked, kernel.nice, clock.now) == (1, 3, 0.0)


def test_a_kernel_that_is_asked_too_often_is_not_waited_for_for_long(
    ahead: RaisedPriority, kernel: Kernel, clock: Clock
) -> None:
    kernel.refuses = {NICE: errno.EAGAIN}
    with ahead:
        assert clock.now == pytest.approx(RAISE_S_MAX, abs=0.1)
    assert kernel.nice == 3


def test_what_could_not_be_put_back_is_put_back_the_next_time(
    ahead: RaisedPriority, kernel: Kernel, clock: Clock
) -> None:
    kernel.refuses = {3: errno.EAGAIN}
    with ahead:
        pass
    assert clock.now == pytest.approx(PUT_BACK_S_MAX, abs=0.1)
    assert kernel.nice == NICE
    kernel.refuses = {}
    with ahead:
        assert kernel.nice == NICE
    assert kernel.nice == 3


@by_session
@pytest.mark.parametrize("without", [(), ("--bounding-set=-sys_admin", "--inh-caps=-sys_admin")])
def test_a_real_kernel_takes_it_and_takes_it_back(without: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", FIRST]
    if without:
        command = ["setpriv", *without, *command]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr
    usual, first = (0, os.getpriority(os.PRIO_PROCESS, 0)), (NICE, NICE)
    assert done.stdout == f"{[usual, *([first, first, usual] * 4)]}\n"


@contextmanager
def called_by_hand() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A program in a person's session, and the pid of the process that runs first there."""
    with subprocess.Popen(
        [sys.executable, "-c", BY_HAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as session:
        assert session.stdout is not None
        pid, ready = session.stdout.readline().split()
        assert ready == "first"
        yield session, int(pid)


def session_nice(pid: int) -> int:
    found = SESSION.fullmatch(Path(f"/proc/{pid}/autogroup").read_text())
    assert found is not None
    return int(found[1])


@by_session
@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGTSTP"])
def test_a_persons_session_is_as_before_when_a_signal_ends_or_stops_the_program(name: str) -> None:
    number = signal.Signals[name]
    with called_by_hand() as (session, pid):
        assert session_nice(session.pid) == NICE
        os.kill(pid, number)
        assert session.stdout is not None
        assert session.stdout.readline() == "over\n"
        assert session_nice(session.pid) == 0
        rest, _ = session.communicate(timeout=TIMEOUT_S)
    ended_by = -os.waitstatus_to_exitcode(int(rest))
    assert ended_by == (signal.SIGKILL if name == "SIGTSTP" else number)
