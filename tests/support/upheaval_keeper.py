"""Runs in the guest: keeps driver and agent as systemd keeps our units, and strikes them.

It is told what to do through a pipe, and tells all that happens as lines of JSON (`Guest.reports`).
What is struck, when, and how is the test's to decide; here is what has to be certain: that a
process that is struck is the one that lives now. Only who holds the unit's lock waits for a child,
or strikes it: until it was waited for, its pid is nobody else's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.errors import BmcmedicError

TTY = "/dev/ttyS1"
LAB = Path("/run/lab")
ORDERS = LAB / "orders"
RUNTIME = Path("/run/bmcmedic")
MARK = RUNTIME / "agent.acted"
KIPMID = Path("/sys/module/ipmi_si/parameters/kipmid_max_busy_us")
PROGRAM = "/usr/bin/bmcmedic"
DEVICES = ("/dev/ipmi0", "/dev/port", "/dev/watchdog")
WATCHER = "pretimeout_watcher.py"
CLIENTS = 3
LOOK_S = 0.7
POLL_S = 0.01
MOMENT_S_MAX = 300.0
"""A moment that does not come in this time is told as missed."""
STRIKER_NICE = -10
CREDENTIALS = struct.Struct("iII")


class Teller:
    """Writes what happens, each in one write: the kernel keeps those apart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out = os.open(TTY, os.O_WRONLY | os.O_NOCTTY)

    def __call__(self, **what: Any) -> None:  # noqa: ANN401 - what JSON can say
        line = b"report " + json.dumps({"at": round(time.monotonic(), 3), **what}).encode() + b"\n"
        with self._lock:
            os.write(self._out, line)


def text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def kipmid() -> str:
    """Where nobody has set it yet, the kernel tells nothing, and means 0."""
    return text(KIPMID) or "0"


class Unit:
    """One service: Type=notify, Restart=always, RestartSec=, KillMode=process, ExecStopPost=."""

    def __init__(self, name: str, restart_s: float, tell: Teller, *, has_undo: bool) -> None:
        self.name = name
        self.changed = threading.Condition()
        self.pid: int | None = None
        self.ready_pid: int | None = None
        self.undo_pid: int | None = None
        self.starts = 0
        self.folder = ""
        self.stopping = False
        self._at_once = False
        self._struck: list[str] = []
        self._restart_s = restart_s
        self._has_undo = has_undo
        self._tell = tell
        self._notify = LAB / f"{name}.notify"
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._notified.bind(str(self._notify))

    def _spawn(self, *arguments: str) -> int:
        log = str(LAB / f"{self.name}.log")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        environment = {
            "PATH": os.defpath,
            "HOME": "/root",
            "PYTHONPATH": self.folder,
            "NOTIFY_SOCKET": str(self._notify),
        }
        return os.posix_spawn(
            PROGRAM,
            [PROGRAM, *arguments],
            environment,
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, log, flags, 0o644), (os.POSIX_SPAWN_DUP2, 1, 2)],
            setsid=True,
        )

    def keep(self) -> None:
        """The thread that starts it, again and again."""
        while True:
            with self.changed:
                with (LAB / f"{self.name}.log").open("a") as log:
                    log.write(f"--- start {self.starts + 1}\n")
                self.pid, self._struck = self._spawn(self.name), []
                self.starts += 1
                self._tell(started=self.name, pid=self.pid)
                self.changed.notify_all()
            pid, code = self._reap("pid")
            end = {"ended": self.name, "pid": pid, "code": code, "by": self._struck}
            if self._has_undo:
                end["kipmid_left"] = kipmid()
                with self.changed:
                    self._struck = []
                    self.undo_pid = self._spawn(self.name, "--undo")
                    self.changed.notify_all()
                _, end["undone"] = self._reap("undo_pid")
                end["undo_by"] = self._struck
                end["kipmid"] = kipmid()
            with self.changed:
                self._tell(**end)
                pause_s = 0.0 if self._at_once else self._restart_s
                self.changed.wait_for(lambda: self.stopping or self._at_once, pause_s)
                self._at_once = False
                if self.stopping:
                    return

    def _reap(self, which: str) -> tuple[int, int]:
        pid: int = getattr(self, which)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with self.changed:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            setattr(self, which, None)
            self.ready_pid = None
            self.changed.notify_all()
        return pid, code

    def listen(self) -> None:
        """The thread that takes what it tells its service manager."""
        while True:
            told, ancillary, _, _ = self._notified.recvmsg(4096, 256)
            pid, _, _ = CREDENTIALS.unpack(ancillary[0][2][: CREDENTIALS.size])
            with self.changed:
                if b"READY=1" in told.split() and pid == self.pid:
                    self.ready_pid = pid
                    self._tell(ready=self.name, pid=pid)
                    self.changed.notify_all()

    def strike(self, name: str, which: str = "pid") -> int | None:
        """Send a signal to the process that lives now; None when there is none."""
        with self.changed:
            pid: int | None = getattr(self, which)
            if pid is not None:
                os.kill(pid, getattr(signal, f"SIG{name}"))
                self._struck.append(name)
                if name in ("KILL", "TERM"):
                    self.ready_pid = None
            return pid

    def end(self, *, for_good: bool, folder: str | None = None) -> None:
        """As `systemctl stop` or `restart`."""
        with self.changed:
            self.stopping = for_good
            self._at_once = True
            self.folder = self.folder if folder is None else folder
            self.changed.notify_all()
            self.strike("CONT")
            self.strike("TERM")


class Clients:
    """Monitoring that asks through the driver, and counts the answers."""

    def __init__(self) -> None:
        self.answers = [0] * CLIENTS
        self.asking: set[int] = set()
        self.changed = threading.Condition()
        self.stopping = False

    def ask(self, number: int) -> None:
        while not self.stopping:
            with contextlib.suppress(BmcmedicError), DriverClient(timeout_s=20) as client:
                while not self.stopping:
                    with self._asking(number):
                        client.raw(0x04, 0x2D, bytes((number,)))
                    self.answers[number] += 1
                    time.sleep(0.2)
            time.sleep(0.2)

    @contextlib.contextmanager
    def _asking(self, number: int) -> Iterator[None]:
        with self.changed:
            self.asking.add(number)
            self.changed.notify_all()
        try:
            yield
        finally:
            with self.changed:
                self.asking.discard(number)


def processes() -> tuple[dict[str, list[int]], list[int]]:
    """Those of ours by what they are, and those that have a way to the BMC open."""
    ours: dict[str, list[int]] = {}
    holders = []
    for process in filter(lambda each: each.name.isdigit(), Path("/proc").iterdir()):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            kind = _kind(words)
            if kind is not None:
                ours.setdefault(kind, []).append(int(process.name))
            if words[0] and any(str(each.readlink()) in DEVICES for each in _open(process)):
                holders.append(int(process.name))
        except OSError:
            continue
    return ours, holders


def _open(process: Path) -> Iterator[Path]:
    yield from (process / "fd").iterdir()


def _kind(words: list[str]) -> str | None:
    if words[0].endswith("ipmitool"):
        return "client"
    if not re.search(r"python3?[0-9.]*\Z", words[0]):
        return None
    if any(word.endswith(WATCHER) for word in words):
        return "watcher"
    if len(words) > 2 and words[1] == PROGRAM:
        return "undo" if "--undo" in words else words[2]
    return None


class Look:
    """What is there, told again and again."""

    def __init__(self, units: dict[str, Unit], clients: Clients, tell: Teller) -> None:
        self._units = units
        self._clients = clients
        self._tell = tell
        self._client = DriverClient(timeout_s=5)

    def driver(self) -> dict[str, Any] | None:
        """What the driver says of its watchdog."""
        try:
            told: dict[str, Any] | None = self._client.status()["watchdog"]
        except BmcmedicError:
            return None
        return told

    def run(self) -> None:
        number = 0
        while True:
            number += 1
            begun_at = time.monotonic()
            driver = self.driver()
            ours, holders = processes()
            self._tell(
                look=number,
                begun_at=begun_at,
                driver=driver,
                ours=ours,
                holders=holders,
                runtime=sorted(
                    str(path.relative_to(RUNTIME)) for path in RUNTIME.rglob("*") if path.exists()
                ),
                answers=list(self._clients.answers),
                kipmid=kipmid(),
                ready={name: unit.ready_pid for name, unit in self._units.items()},
            )
            time.sleep(LOOK_S)


class Missed(Exception):
    """The moment has not come, or nobody was there any more."""


class Striker:
    """Carries out strikes, one after the other."""

    def __init__(
        self, units: dict[str, Unit], clients: Clients, driver: Callable[[], Any], tell: Teller
    ) -> None:
        self._units = units
        self._clients = clients
        self._driver = driver
        self._tell = tell

    def run(self, plan: list[dict[str, Any]], number: int) -> None:
        for order in plan:
            try:
                self._wait_for(order["moment"], order["victims"][0])
                time.sleep(order["after_s"])
                for each in order["signals"]:
                    if isinstance(each, float):
                        time.sleep(each)
                        continue
                    for victim in order["victims"]:
                        self._strike(victim, each, order["moment"])
            except Missed as missed:
                self._tell(missed=order, why=str(missed))
        self._tell(plan_done=number)

    def _strike(self, victim: str, name: str, moment: str) -> None:
        if victim == "watcher":
            pid = strike_watcher(self._watching(), name)
        elif victim == "undo":
            pid = self._units["agent"].strike(name, "undo_pid")
        else:
            pid = self._units[victim].strike(name)
        self._tell(struck=victim, pid=pid, signal=name, moment=moment)

    def _wait_for(self, moment: str, victim: str) -> None:
        unit = self._units.get({"undo": "agent", "watcher": "driver"}.get(victim, victim))
        assert unit is not None
        match moment:
            case "alive":
                self._wait(unit.changed, lambda: unit.pid is not None, moment)
            case "ready":
                self._wait(unit.changed, lambda: unit.ready_pid is not None, moment)
            case "start":
                self._kill(unit)
                starts = unit.starts
                self._wait(unit.changed, lambda: unit.starts > starts, moment)
            case "undo":
                self._wait(unit.changed, lambda: unit.ready_pid is not None, "ready")
                self._kill(unit)
                self._wait(unit.changed, lambda: unit.undo_pid is not None, moment)
            case "exchange":
                self._wait(self._clients.changed, lambda: bool(self._clients.asking), moment)
            case "pat":
                self._poll(self._sleep_until_pat, moment)
            case "watching":
                self._poll(lambda: self._watching() is not None, moment)
            case "acted":
                self._poll(MARK.exists, moment)
            case "throttled":
                self._poll(lambda: kipmid().strip("0,") != "", moment)

    def _kill(self, unit: Unit) -> None:
        """What comes next is to be struck."""
        with unit.changed:
            if unit.pid is not None:
                self._strike(unit.name, "KILL", "before")

    def _sleep_until_pat(self) -> bool:
        """False when the driver cannot say when that is."""
        driver = self._driver()
        if driver is None or driver["last_pat_age_s"] is None:
            return False
        period_s, age_s = float(driver["pat_period_s"]), float(driver["last_pat_age_s"])
        due_at = time.monotonic() + period_s - age_s
        while time.monotonic() < due_at:
            time.sleep(POLL_S)
        return age_s < 2 * period_s

    def _watching(self) -> int | None:
        """The watcher that watches, by its driver's word."""
        pretimeout = (self._driver() or {}).get("pretimeout") or {}
        return pretimeout["watcher_pid"] if pretimeout.get("watching") else None

    def _poll(self, has_come: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + MOMENT_S_MAX
        while not has_come():
            if time.monotonic() > until:
                raise Missed(what)
            time.sleep(POLL_S)

    def _wait(self, changed: threading.Condition, has_come: Callable[[], bool], what: str) -> None:
        with changed:
            if not changed.wait_for(has_come, MOMENT_S_MAX):
                raise Missed(what)


def strike_watcher(pid: int | None, name: str) -> int | None:
    """It is no child of ours, so it is held by its descriptor while it is made sure of."""
    if pid is None:
        return None
    with contextlib.suppress(OSError):
        held = os.pidfd_open(pid)
        try:
            if WATCHER.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                signal.pidfd_send_signal(held, getattr(signal, f"SIG{name}"))
                return pid
        finally:
            os.close(held)
    return None


def main() -> None:
    RUNTIME.mkdir(exist_ok=True)
    Path("/var/lib/bmcmedic").mkdir(parents=True, exist_ok=True)
    os.mkfifo(ORDERS)
    tell = Teller()
    units = {
        "driver": Unit("driver", 1.0, tell, has_undo=False),
        # A little sooner than our unit does it.
        "agent": Unit("agent", 2.0, tell, has_undo=True),
    }
    clients = Clients()
    look = Look(units, clients, tell)
    striker = Striker(units, clients, Look(units, clients, tell).driver, tell)
    bodies = [each for unit in units.values() for each in (unit.listen, unit.keep)]
    for body in (*bodies, look.run):
        threading.Thread(target=body).start()
    with os.fdopen(os.open(ORDERS, os.O_RDWR)) as orders:  # with a writer, so that it never ends
        for line in orders:
            match json.loads(line):
                case {"do": "strike", "plan": plan, "number": number}:
                    threading.Thread(target=_strike_soon, args=(striker, plan, number)).start()
                case {"do": "ask"}:
                    for number in range(CLIENTS):
                        threading.Thread(target=clients.ask, args=(number,)).start()
                case {"do": "restart", "folder": folder}:
                    for unit in units.values():
                        unit.end(for_good=False, folder=folder)
                case {"do": "stop"}:
                    clients.stopping = True
                    for unit in units.values():
                        unit.end(for_good=True)


def _strike_soon(striker: Striker, plan: list[dict[str, Any]], number: int) -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), STRIKER_NICE)
    striker.run(plan, number)


if __name__ == "__main__":
    main()
