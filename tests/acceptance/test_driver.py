"""`bmcmedic driver` as a process of its own, on a host without a BMC: what an operator meets."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.driver.socket.errors import DriverUnavailable
from bmcmedic.errors import BmcmedicError
from tests.support.polling import eventually
from tests.support.programs import bmcmedic, run
from tests.support.running import DEADLINE_S, Running


class RunningDriver(Running):
    """A driver, which can be asked."""

    @property
    def socket_path(self) -> str:
        return str(self.folder / "driver.sock")

    def status(self) -> dict[str, Any]:
        with self.client() as client:
            return client.status()

    def client(self) -> DriverClient:
        return DriverClient(self.socket_path, DEADLINE_S)

    def is_served(self) -> bool:
        """Whether its socket is there and answers: it is there a moment before that."""
        try:
            return bool(self.status())
        except DriverUnavailable:
            return False


@contextlib.contextmanager
def driver(
    folder: Path, *options: str, environment: dict[str, str] | None = None
) -> Iterator[RunningDriver]:
    words = (
        "driver",
        *("--runtime-dir", str(folder), "--real-time-priority", "0", "--lock-memory", "no"),
        *("--oom-score-adj", "0"),
        *options,
    )
    process = subprocess.Popen(
        bmcmedic(*words), stderr=subprocess.PIPE, env=os.environ | (environment or {})
    )
    try:
        running = RunningDriver(process, folder)
        yield running
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def driver_without_bmc(folder: Path, *options: str) -> Iterator[RunningDriver]:
    device = str(folder / "no-ipmi0")
    with driver(folder, "--interface", "dev-ipmi", "--device", device, *options) as running:
        running.wait_for("looking for an interface")
        yield running


# ---------------------------------------------------------------------------- the command line


def test_it_starts_without_what_only_people_need() -> None:
    """On a sick host it has to be small: neither typer nor asyncio, ssl or cryptography."""
    code = (
        "import sys, bmcmedic.cli, bmcmedic.driver.process.main, bmcmedic.driver.process.service;"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert "bmcmedic" in loaded
    assert not loaded & {"asyncio", "click", "cryptography", "http", "logging", "rich", "ssl"}
    assert not loaded & {"typer", "ClusterShell"}
    # What the interpreter itself brings, Debian's own `sitecustomize` included, is not ours.
    bare = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    brought = {name.partition(".")[0] for name in bare.stdout.split()}
    beyond = loaded - brought - set(sys.stdlib_module_names) - set(sys.builtin_module_names)
    assert beyond == {"bmcmedic"}


def test_the_help_lists_it_and_it_has_its_own() -> None:
    assert "driver" in run("--help").stdout
    own = run("driver", "--help").stdout
    assert "--print-config" in own
    module = subprocess.run(
        [sys.executable, "-m", "bmcmedic.driver", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert module.stdout == own


def test_the_printed_configuration_is_what_it_would_use(tmp_path: Path) -> None:
    shown = run("driver", "--print-config", "--watchdog", "bmc").stdout
    document = tomllib.loads(shown)
    assert document["watchdog"]["mode"] == "bmc"
    file = tmp_path / "driver.toml"
    file.write_text(shown, encoding="utf-8")
    assert run("driver", "--print-config", "--config", str(file)).stdout == shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--interface", "kcs"], "--interface is 'kcs'; give one of auto, dev-ipmi, port-io"),
        (["--config", "/nowhere/driver.toml"], "/nowhere/driver.toml: cannot be read"),
        (["--runtime-dir", "/proc/nowhere"], "cannot make the runtime directory /proc/nowhere"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--watch", "bmc"], "unrecognized arguments: --watch bmc"),
    ],
)
def test_bad_usage_is_one_message_and_status_2(options: list[str], said: str) -> None:
    done = run("driver", *options)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--watchdog-timeout", "30"], "a watchdog time-out of 30 s is too short: a pat is sent"),
        (
            ["--watchdog-timeout", "120", "--watchdog-pretimeout", "120"],
            "is not below the watchdog",
        ),
        (["--pretimeout-limit", "500"], "and below the watchdog time-out of 120 s"),
        (
            ["--check-command", "/bin/true", "--check-deadline", "10", "--pretimeout-limit", "20"],
            "need a software pretimeout of 26 s or more, not 20 s",
        ),
    ],
)
def test_a_watchdog_that_cannot_work_is_refused_with_its_numbers(
    tmp_path: Path, options: list[str], said: str
) -> None:
    device = ["--interface", "dev-ipmi", "--device", str(tmp_path / "none")]
    folder = ["--runtime-dir", str(tmp_path)]
    done = run("driver", *folder, *device, "--watchdog", "bmc", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "driver.sock").exists()


# ------------------------------------------------------------------------------- while it runs


def test_without_an_interface_it_says_so_and_answers_meanwhile(tmp_path: Path) -> None:
    with driver_without_bmc(tmp_path) as running, running.client() as client:
        eventually(
            lambda: "no-ipmi0 is not there" in str(client.status()["driver"]["interface_missing"]),
            client.status,
        )
        assert client.status()["watchdog"] is None
        with pytest.raises(BmcmedicError, match="no-ipmi0"):
            client.raw(0x06, 0x01)
        assert client.status()["driver"]["breaker"]["open"] is True
        assert running.end() == 0
    assert "Traceback" not in running.said
    assert running.said.count("no-ipmi0") == 1
    assert "does not answer" not in running.said
    assert not Path(running.socket_path).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with driver_without_bmc(tmp_path) as running:
        assert running.end(number) == 0
        assert running.said.endswith("bmcmedic driver: ending\n")


def test_two_drivers_are_refused(tmp_path: Path) -> None:
    with driver_without_bmc(tmp_path) as first:
        with driver(tmp_path) as second:
            assert second.process.wait(DEADLINE_S) == 2
            second.wait_for("another driver serves")
        assert first.status()["socket"]["connections"] >= 1
        assert first.end() == 0


def test_the_socket_of_a_killed_driver_is_taken_over(tmp_path: Path) -> None:
    with driver_without_bmc(tmp_path) as first:
        first.end(signal.SIGKILL)
        assert Path(first.socket_path).exists()
        with driver_without_bmc(tmp_path) as second:
            assert second.status()["driver"]["worker_alive"] is True
            assert second.end() == 0


def test_a_reload_takes_what_it_can_and_names_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "driver.toml"
    file.write_text("[process]\nlog_level = 'warning'\n", encoding="utf-8")
    with driver(
        tmp_path, "--interface", "auto", "--device", "/x", "--config", str(file)
    ) as running:
        eventually(running.is_served, lambda: running.said)  # so signals are handled
        assert running.status()["watchdog"] is None
        file.write_text(
            "[process]\nlog_level = 'info'\n[socket]\nread_users = [5]\n[check]\nperiod_s = 3\n",
            encoding="utf-8",
        )
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("warning: check.period_s has changed; a restart applies it")
        running.wait_for("the configuration was read again: socket.read_users, process.log_level")
        running.process.send_signal(signal.SIGHUP)  # the file is the same, and so is what it says
        running.wait_for("the configuration was read again: nothing that a reload can change")
        file.write_text("[process]\nlog_level = 5\n", encoding="utf-8")
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("the configuration was not read again: ")
        assert running.end() == 0
    assert f"{file}: line 2: process.log_level is 5; give one of" in running.said


def test_systemd_hears_of_its_beginning_and_its_end(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(DEADLINE_S)
        environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1500000"}
        device = ("--interface", "dev-ipmi", "--device", "/nowhere/ipmi0")
        with driver(tmp_path, *device, environment=environment) as running:
            assert manager.recv(4096) == b"READY=1\nSTATUS=looking for an interface to a BMC"
            assert manager.recv(4096) == b"WATCHDOG=1"
            assert running.end() == 0
            told = [b""]
            while told[-1] != b"STOPPING=1":
                told.append(manager.recv(4096))
    assert set(told) <= {b"", b"WATCHDOG=1", b"STOPPING=1"}
