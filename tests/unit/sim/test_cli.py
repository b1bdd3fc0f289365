"""`bmcmedic sim` as a process, started as its users do."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TIMEOUT_S = 90
BMCMEDIC = (sys.executable, "-m", "bmcmedic")


@contextlib.contextmanager
def sim(*words: str) -> Iterator[tuple[dict[str, tuple[str, int]], subprocess.Popen[str]]]:
    """Yield the addresses that a simulator printed, and its process, once it is ready."""
    process = subprocess.Popen([*BMCMEDIC, "sim", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        addresses = {}
        for line in process.stdout:
            if line == "ready\n":
                break
            name, address = line.rsplit(maxsplit=1)
            host, _, port = address.rpartition(":")
            addresses[name.removesuffix(" lan")] = (host, int(port))
        else:
            pytest.fail("the simulator ended before it was ready")
        yield addresses, process
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BMCMEDIC, "sim", *words],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def get(address: tuple[str, int], path: str) -> dict[str, object]:
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer: dict[str, object] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_bmc_says_ready_and_ends_with_0(number: signal.Signals) -> None:
    words = ("--lan", "127.0.0.1:0", "--control", "127.0.0.1:0", "--power", "off")
    with sim("bmc", *words, "--fault", "slow:1", "--fault", "boot:3") as (addresses, process):
        status = get(addresses["control"], "/bmcs/bmc1")
        assert status["faults"] == ["slow:1", "boot:3"]
        assert status["host_power"] == "off"
        assert status["lan"] == {
            "address": "127.0.0.1",
            "port": addresses["bmc1"][1],
            "sessions": 0,
            "discarded_datagrams": 0,
        }
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == 0


def test_a_bmc_waits_for_a_virtual_machine(tmp_path: Path) -> None:
    path = tmp_path / "bmc1.sock"
    with sim("bmc", "--vm-socket", "127.0.0.1:0", "--control", "127.0.0.1:0") as (addresses, _):
        host, port = addresses["bmc1 vm"]
        status = get(addresses["control"], "/bmcs/bmc1")
        assert status["vm"] == {
            "socket": f"{host}:{port}",
            "connected": False,
            "refused_clients": 0,
            "discarded_frames": 0,
        }
        taken = run("bmc", "--vm-socket", f"{host}:{port}")
        assert taken.returncode == 2
        assert "something listens there already" in taken.stderr
    bmc = (*BMCMEDIC, "sim", "bmc", "--vm-socket", str(path))
    with subprocess.Popen(bmc, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"bmc1 vm {path}\n"
        assert process.stdout.readline() == "ready\n"
        assert path.is_socket()
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
    assert not path.exists()


def test_a_bmc_takes_what_a_machine_writes_to_port_0x80() -> None:
    machine = ("--vm-socket", "127.0.0.1:0", "--port80-chardev", "127.0.0.1:0", "--memory", "4")
    words = (*machine, "--kcs-latency", "0.1", "--control", "127.0.0.1:0")
    with sim("bmc", *words) as (addresses, _):
        host, port = addresses["bmc1 port80"]
        status = get(addresses["control"], "/bmcs/bmc1")
        assert status["port80"] == {"socket": f"{host}:{port}", "connected": False, "writes": 0}
        with socket.create_connection((host, port)) as qemu:
            qemu.sendall(bytes(1024))
            deadline = time.monotonic() + TIMEOUT_S
            while status["memory_free_fraction"] == 0.8 and time.monotonic() < deadline:
                status = get(addresses["control"], "/bmcs/bmc1")
        assert status["memory_free_fraction"] == pytest.approx(0.8 - 1024 * 256 / (4 << 20))


def test_triage_of_a_rack_distinguishes_sick_from_healthy() -> None:
    words = ("--count", "2", "--base-address", "127.0.88.1", "--port", "0")
    more = ("--control", "127.0.0.1:0", "--fault", "bmc00002=hang", "--watchdog-armed", "*=60")
    with sim("rack", *words, *more) as (addresses, _):
        host, port = addresses["control"]
        control = f"{host}:{port}"
        assert get(addresses["control"], "/bmcs/bmc00001")["watchdog"] is not None
        well = run("triage", "bmc00001", "--control", control, "--json")
        assert well.returncode == 0
        assert json.loads(well.stdout)["symptoms"] == []
        sick = run("triage", "--control", control, "bmc00002", "--json")
        assert sick.returncode == 1
        assert "bmc-not-answering" in json.loads(sick.stdout)["symptoms"]
        people = run("triage", "--control", control, "bmc00002")
        assert people.returncode == 1
        assert "kipmi0: 100 % of a core" in people.stdout
        unknown = run("triage", "--control", control, "bmc00003")
        assert unknown.returncode == 2
        assert "there is no BMC 'bmc00003'" in unknown.stderr


def test_triage_of_a_host_that_is_off_is_what_ssh_would_give() -> None:
    with sim("bmc", "--control", "127.0.0.1:0", "--power", "off") as (addresses, _):
        host, port = addresses["control"]
        gone = run("triage", "bmc1", "--control", f"{host}:{port}", "--json")
        assert (gone.returncode, gone.stdout) == (255, "")


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b"{}", b'{"symptoms": 1}', b'{"error": "x"}', b"<html>"]
)
def test_another_program_at_the_control_address_is_reported(body: bytes) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        done = run("triage", "bmc1", "--control", f"127.0.0.1:{server.server_port}")
        thread.join()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bmcmedic sim: no control endpoint answers at 127.0.0.1:")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bmc"], "no front end to open"),
        (["bmc", "--lan", "nowhere"], "write ADDR:PORT"),
        (["bmc", "--vm-socket", "nowhere"], "or a path, such as ./bmc1.sock"),
        (["bmc", "--vm-socket", "/no/folder/x"], "cannot listen for a virtual machine at"),
        (["bmc", "--vm-socket", "127.0.0.1:0", "--watchdog-armed", "60"], "runs its own"),
        (["bmc", "--lan", "127.0.0.1:0", "--kcs-latency", "1"], "machine: give --vm-socket"),
        (["bmc", "--vm-socket", "127.0.0.1:0", "--kcs-latency", "nan"], "0 to 3600 seconds"),
        (["bmc", "--control", "127.0.0.1:0", "--port80-chardev", "nowhere"], "or a path"),
        (["bmc", "--lan", "192.0.2.1:6230"], "this machine has no such address"),
        (["bmc", "--lan", "127.0.0.1:0", "--fault", "slow"], "such as slow:2.5"),
        (["bmc", "--lan", "127.0.0.1:0", "--fault", "ded"], "the models are port80-flood"),
        (["bmc", "--lan", "127.0.0.1:0", "--power", "maybe"], "on or off"),
        (["bmc", "--lan", "127.0.0.1:0", "--name", "a/b"], "without a slash"),
        (["bmc", "--lan", "127.0.0.1:0", "--user", "u" * 17], "at most 16 bytes"),
        (["bmc", "--lan", "127.0.0.1:0", "--watchdog-armed", "0"], "1 to 6553.5"),
        (["bmc", "--lan", "127.0.0.1:0", "--password-file", "/nowhere"], "/nowhere: No such file"),
        (["rack", "--count", "0"], "the count must be 1 to 65536"),
        (["rack", "--count", "2", "--fault", "dead"], "write NAME=SPEC"),
        (["rack", "--count", "2", "--fault", "bmc00003=dead"], "no BMC 'bmc00003'"),
        (["rack", "--count", "2", "--watchdog-armed", "bmc00001=x"], "not a number of seconds"),
        (["triage", "bmc1", "--control", "127.0.0.1:1"], "127.0.0.1:1: Connection refused; start"),
    ],
)
def test_wrong_usage_is_one_clear_line_and_2(words: list[str], said: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_password_that_is_too_long_is_not_shown(tmp_path: Path) -> None:
    secret = "correct-horse-battery"
    file = tmp_path / "password"
    file.write_text(secret)
    done = run("bmc", "--lan", "127.0.0.1:0", "--password-file", str(file))
    assert done.returncode == 2
    assert "at most 20 bytes" in done.stderr
    assert secret not in done.stderr + done.stdout
