"""Real processes that triage must judge: clients that block in select(), and their likes.

The executable behind them is a copy of this interpreter under the client's name, so that
/proc/PID/exe says what it would say of the real one.
"""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bmcmedic.host.client.stuck import ClientSample, Now
from bmcmedic.host.kernel.proc import Tree
from tests.support.polling import eventually

STUCK = "import select; select.select([], [], [])"
"""Waits for ever, as ipmitool up to 1.8.15 does."""
PROGRESS = "import select\nwhile True: select.select([], [], [], 0.05)"
IGNORES_SIGTERM = f"import signal; signal.signal(15, signal.SIG_IGN); {STUCK}"
SLEEPS = "import time; time.sleep(1000)"
READS = "input()"

START_TIMEOUT_S = 60.0
_WAITS = ("select", "poll", "nanosleep", "pipe", "tty", "wait_woken")


class HostClients:
    """Starts such processes, and ends each by its own pid."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._pids: list[int] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._terminals: list[int] = []

    def executable(self, name: str = "ipmitool") -> str:
        """Return the path of a copy of the interpreter under that name."""
        path = self._folder / name
        if not path.exists():
            shutil.copy(Path(sys.executable).resolve(), path)
        return str(path)

    @property
    def environment(self) -> dict[str, str]:
        library = sysconfig.get_config_var("LIBDIR") or ""
        return {"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": library, "PATH": os.defpath}

    def command(self, *words: str, code: str = STUCK, name: str = "ipmitool") -> list[str]:
        """Return the arguments of a client, which have `-c CODE` among them."""
        return [self.executable(name), "-S", "-c", code, *(words or ("mc", "info"))]

    def start(
        self,
        *words: str,
        code: str = STUCK,
        name: str = "ipmitool",
        group: int | None = None,
        is_waiting: bool = True,
    ) -> int:
        """Start one in a session of its own, or in `group` of ours; returns its pid."""
        child = subprocess.Popen(
            self.command(*words, code=code, name=name),
            stdin=subprocess.PIPE if code == READS else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment,
            start_new_session=group is None,
            process_group=group,
        )
        self._children.append(child)
        return self._started(child.pid, is_waiting=is_waiting)

    def start_orphan(self, *words: str, code: str = STUCK, name: str = "ipmitool") -> int:
        """Start one whose launcher is gone, as cron's are: parent 1, its own group and session."""
        script = 'setsid "$@" </dev/null >/dev/null 2>&1 & echo $!'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *self.command(*words, code=code, name=name)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=START_TIMEOUT_S,
        )
        pid = int(done.stdout)
        self._pids.append(pid)
        return self._started(pid)

    def start_on_terminal(self, *words: str, code: str = STUCK) -> int:
        """Start one on a terminal, as a person would."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(self.executable(), self.command(*words, code=code), self.environment)  # noqa: S606 - a copy of ourselves
        self._pids.append(pid)
        self._terminals.append(terminal)
        return self._started(pid)

    def start_other(self, *command: str) -> int:
        """Start any other program."""
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._children.append(child)
        return child.pid

    def _started(self, pid: int, *, is_waiting: bool = True) -> int:
        """Wait until a process runs its code, and return its pid."""
        if is_waiting:
            eventually(lambda: any(how in wchan(pid) for how in _WAITS) and self.runs(pid))
        return pid

    def runs(self, pid: int) -> bool:
        """Whether a pid is still one of ours: its executable is a copy that we made."""
        try:
            return Path(f"/proc/{pid}/exe").readlink().parent == self._folder
        except OSError:
            return False

    def close(self) -> None:
        """End all of them."""
        for child in self._children:
            child.kill()
            child.communicate()
        for pid in self._pids:
            if self.runs(pid):
                os.kill(pid, signal.SIGKILL)
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                eventually(lambda pid=pid: not self.runs(pid))  # type: ignore[misc]
        for terminal in self._terminals:
            os.close(terminal)


def wchan(pid: int) -> str:
    """Return the kernel function that a process waits in."""
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""


def wait_until_still(pid: int, for_s: float = 0.4) -> None:
    """Poll until a process has not run for that long; on a loaded machine it starts slowly."""
    tree = Tree("/proc")

    def is_still() -> bool:
        with tree.hold(pid) as process:
            sample = ClientSample.at(process, Now.of(tree, [process.stat().processor]))
        return min(sample.age_s, sample.age_s if sample.idle_s is None else sample.idle_s) > for_s

    eventually(is_still)


@contextmanager
def host_clients(folder: Path) -> Iterator[HostClients]:
    """Yield clients, and end all of them afterwards."""
    clients = HostClients(folder)
    try:
        yield clients
    finally:
        clients.close()
