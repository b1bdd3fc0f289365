"""The process around the driver: a thread that dies, signals, and what systemd is told."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from bmcmedic.service.log import Log
from bmcmedic.service.runtime import ThreadRuntime
from bmcmedic.service.supervisor import ServiceManager, Supervisor

DEADLINE_S = 30.0


def supervised() -> tuple[Supervisor, Log, int]:
    reading, writing = os.pipe()
    log = Log(ThreadRuntime(), fd=writing)
    return Supervisor(log, lambda _urgency: None), log, reading


def written(log: Log, reading: int) -> str:
    log.write_waiting()
    return os.read(reading, 65536).decode()


def nothing() -> None:
    pass


def test_a_thread_that_dies_ends_the_process_and_says_why() -> None:
    supervisor, log, reading = supervised()

    def die() -> None:
        raise RuntimeError("no more")

    with supervisor.signals_handled():
        supervisor.start("worker", die)
        assert supervisor.wait(None, nothing, nothing) == "worker"
    said = written(log, reading)
    assert "the worker thread died:" in said
    assert "RuntimeError: no more" in said


def test_a_thread_that_ends_unasked_is_no_better() -> None:
    supervisor, log, reading = supervised()
    with supervisor.signals_handled():
        supervisor.start("pat", nothing)
        assert supervisor.wait(None, nothing, nothing) == "pat"
    assert "the pat thread ended without having been asked to" in written(log, reading)


def test_a_thread_that_was_asked_to_end_is_waited_for() -> None:
    supervisor, _, _ = supervised()
    ended = threading.Event()
    with supervisor.signals_handled():
        supervisor.start("worker", ended.wait)
        supervisor.expect_ends()
        ended.set()
        assert supervisor.join("worker", DEADLINE_S)
        assert supervisor.join("nobody of that name")


def test_a_priority_that_is_too_high_for_one_thread_is_said() -> None:
    reading, writing = os.pipe()
    log = Log(ThreadRuntime(), fd=writing)
    supervisor = Supervisor(log, lambda urgency: "the limit is 10" if urgency else None)
    with supervisor.signals_handled():
        supervisor.expect_ends()
        supervisor.start("pat", nothing, urgency=2)
        supervisor.start("socket", nothing)
        assert supervisor.join("pat", DEADLINE_S)
        assert supervisor.join("socket", DEADLINE_S)
    assert written(log, reading) == (
        "bmcmedic driver: warning: the pat thread has no priority over others: the limit is 10\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_wake_the_main_thread(number: signal.Signals) -> None:
    supervisor, _, _ = supervised()
    reloads: list[int] = []

    def reloaded() -> None:
        reloads.append(1)
        os.kill(os.getpid(), number)

    with supervisor.signals_handled():
        os.kill(os.getpid(), signal.SIGHUP)
        assert supervisor.wait(None, nothing, reloaded) is None
    assert reloads == [1]


def test_it_looks_again_and_again() -> None:
    supervisor, _, _ = supervised()
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with supervisor.signals_handled():
        assert supervisor.wait(0.001, look, nothing) is None
    assert len(looks) >= 3


def test_systemd_is_told_where_it_asked(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(DEADLINE_S)
        environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "9000000"}
        service = ServiceManager(environment)
        assert service.alive_every_s == 3.0
        service.ready("serving /dev/ipmi0")
        service.alive()
        service.stopping()
        told = [manager.recv(4096).decode() for _ in range(3)]
    assert told == ["READY=1\nSTATUS=serving /dev/ipmi0", "WATCHDOG=1", "STOPPING=1"]
    service.stopping()  # nobody listens any more: nothing happens


def test_an_abstract_address_is_understood() -> None:
    name = f"bmcmedic-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(DEADLINE_S)
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).stopping()
        assert manager.recv(4096) == b"STOPPING=1"


def test_another_process_is_kept_alive_by_itself() -> None:
    assert ServiceManager({}).alive_every_s is None
    other = {"WATCHDOG_USEC": "9000000", "WATCHDOG_PID": str(os.getpid() + 1)}
    assert ServiceManager(other).alive_every_s is None
    ServiceManager(other).alive()
