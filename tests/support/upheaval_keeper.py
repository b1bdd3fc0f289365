"""A program for the guest: it runs driver and agent as systemd runs their units, and strikes them.

It takes orders through a pipe, and reports every event as a line of JSON (`Guest.reports`). The
test decides what is struck, when, and how. This program makes sure that a strike hits the process
that lives now: only the holder of the unit's lock waits for a child or strikes it. Until a child
was waited for, no other process can get its pid.
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
SCAN_PERIOD_S = 0.7
POLL_S = 0.01
MOMENT_S_MAX = 300.0
"""A moment that has not come in this time, in seconds, is reported as missed."""
STRIKER_NICE = -10
CREDENTIALS = struct.Struct("iII")


class Reporter:
    """Writes each event in one write, as the kernel does not mix single writes."""

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
    """Return kipmid_max_busy_us; the kernel shows nothing, and means 0, before it was set."""
    return text(KIPMID) or "0"


class Unit:
    """One service: Type=notify, Restart=always, RestartSec=, KillMode=process, ExecStopPost=."""

    def __init__(self, name: str, restart_s: float, report: Reporter, *, has_undo: bool) -> None:
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
        self._report = report
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
        """Start the service again and again; this is the body of a thread."""
        while True:
            with self.changed:
                with (LAB / f"{self.name}.log").open("a") as log:
                    log.write(f"--- start {self.starts + 1}\n")
                self.pid, self._struck = self._spawn(self.name), []
                self.starts += 1
                self._report(started=self.name, pid=self.pid)
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
                self._report(**end)
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
        """Receive the service's notifications; this is the body of a thread."""
        while True:
            message, ancillary, _, _ = self._notified.recvmsg(4096, 256)
            pid, _, _ = CREDENTIALS.unpack(ancillary[0][2][: CREDENTIALS.size])
            with self.changed:
                if b"READY=1" in message.split() and pid == self.pid:
                    self.ready_pid = pid
                    self._report(ready=self.name, pid=pid)
                    self.changed.notify_all()

    def strike(self, name: str, which: str = "pid") -> int | None:
        """Send a signal to the present process; return its pid, or None when there is none."""
        with self.changed:
            pid: int | None = getattr(self, which)
            if pid is not None:
                os.kill(pid, getattr(signal, f"SIG{name}"))
                self._struck.append(name)
                if name in ("KILL", "TERM"):
                    self.ready_pid = None
            return pid

    def end(self, *, for_good: bool, folder: str | None = None) -> None:
        """Stop or restart the service, as `systemctl` does."""
        with self.changed:
            self.stopping = for_good
            self._at_once = True
            self.folder = self.folder if folder is None else folder
            self.changed.notify_all()
            self.strike("CONT")
            self.strike("TERM")


class Clients:
    """Monitoring that sends requests through the driver, and counts the answers."""

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
    """Return bmcmedic's processes by kind, and the processes that hold a device of the BMC."""
    found: dict[str, list[int]] = {}
    holders = []
    for process in filter(lambda each: each.name.isdigit(), Path("/proc").iterdir()):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            kind = _kind(words)
            if kind is not None:
                found.setdefault(kind, []).append(int(process.name))
            if words[0] and any(str(each.readlink()) in DEVICES for each in _open(process)):
                holders.append(int(process.name))
        except OSError:
            continue
    return found, holders


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


class Scanner:
    """Scans processes, files and the driver, and reports each scan."""

    def __init__(self, units: dict[str, Unit], clients: Clients, report: Reporter) -> None:
        self._units = units
        self._clients = clients
        self._report = report
        self._client = DriverClient(timeout_s=5)

    def driver(self) -> dict[str, Any] | None:
        """Return the driver's status of its watchdog, or None when it does not answer."""
        try:
            watchdog: dict[str, Any] | None = self._client.status()["watchdog"]
        except BmcmedicError:
            return None
        return watchdog

    def run(self) -> None:
        number = 0
        while True:
            number += 1
            begun_at = time.monotonic()
            driver = self.driver()
            found, holders = processes()
            self._report(
                scan=number,
                begun_at=begun_at,
                driver=driver,
                processes=found,
                holders=holders,
                runtime=sorted(
                    str(path.relative_to(RUNTIME)) for path in RUNTIME.rglob("*") if path.exists()
                ),
                answers=list(self._clients.answers),
                kipmid=kipmid(),
                ready={name: unit.ready_pid for name, unit in self._units.items()},
            )
            time.sleep(SCAN_PERIOD_S)


class Missed(Exception):
    """The moment has not come, or the process was gone."""


class Striker:
    """Carries out strikes, one after the other."""

    def __init__(
        self, units: dict[str, Unit], clients: Clients, driver: Callable[[], Any], report: Reporter
    ) -> None:
        self._units = units
        self._clients = clients
        self._driver = driver
        self._report = report

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
                self._report(missed=order, why=str(missed))
        self._report(plan_done=number)

    def _strike(self, victim: str, name: str, moment: str) -> None:
        if victim == "watcher":
            pid = strike_watcher(self._watching(), name)
        elif victim == "undo":
            pid = self._units["agent"].strike(name, "undo_pid")
        else:
            pid = self._units[victim].strike(name)
        self._report(struck=victim, pid=pid, signal=name, moment=moment)

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
        """Kill the present process: the strike is for its successor."""
        with unit.changed:
            if unit.pid is not None:
                self._strike(unit.name, "KILL", "before")

    def _sleep_until_pat(self) -> bool:
        """Sleep until the next pat; return False when the driver does not know its time."""
        driver = self._driver()
        if driver is None or driver["last_pat_age_s"] is None:
            return False
        period_s, age_s = float(driver["pat_period_s"]), float(driver["last_pat_age_s"])
        due_at = time.monotonic() + period_s - age_s
        while time.monotonic() < due_at:
            time.sleep(POLL_S)
        return age_s < 2 * period_s

    def _watching(self) -> int | None:
        """Return the pid of the watcher that its driver reports as watching, or None."""
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
    """Strike the watcher. It is not a child, so a pidfd holds it while its identity is checked."""
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
    report = Reporter()
    units = {
        "driver": Unit("driver", 1.0, report, has_undo=False),
        # This is a little sooner than the shipped unit restarts it.
        "agent": Unit("agent", 2.0, report, has_undo=True),
    }
    clients = Clients()
    scanner = Scanner(units, clients, report)
    striker = Striker(units, clients, Scanner(units, clients, report).driver, report)
    bodies = [each for unit in units.values() for each in (unit.listen, unit.keep)]
    for body in (*bodies, scanner.run):
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
