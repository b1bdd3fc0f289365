"""`heal` against BMCs that we did not write: OpenIPMI's `ipmi_sim` and pyghmi's `Bmc`."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import run

TIMES = ("--quiet-time", "2", "--return-time", "20", "--steady-time", "2")
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0

_LAN = """name "bmcsim"
set_working_mc 0x20
startlan 1
  addr 127.0.0.1 {port}
  priv_limit admin
  allowed_auths_callback none md2 md5 straight
  allowed_auths_user none md2 md5 straight
  allowed_auths_operator none md2 md5 straight
  allowed_auths_admin none md2 md5 straight
  guid a123456789abcdefa123456789abcdef
endlan
user 2 true "admin" "secret" admin 10 none md2 md5 straight
"""
_EMULATED = """mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
"""


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def started(arguments: list[str], directory: Path, port: int) -> Iterator[str]:
    """Run a foreign BMC until the end of the block, from the time when it answers."""
    process = subprocess.Popen(
        arguments,
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    target = f"127.0.0.1:{port}"
    try:
        until = time.monotonic() + READY_TIMEOUT_S
        while run("probe", target, "--timeout", "1", "--cipher-suite", "3").returncode:
            assert process.poll() is None
            assert time.monotonic() < until
        yield target
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def ipmi_sim(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    (tmp_path / "state").mkdir()
    (tmp_path / "lan.conf").write_text(_LAN.format(port=port))
    (tmp_path / "sim.emu").write_text(_EMULATED)
    arguments = ["ipmi_sim", "-c", "lan.conf", "-f", "sim.emu", "-s", "state", "-n"]
    with started(arguments, tmp_path, port) as target:
        yield target


@contextlib.contextmanager
def pyghmi_bmc(tmp_path: Path, how: str) -> Iterator[str]:
    port = free_port()
    program = Path(__file__).parent.parent / "support" / "pyghmi_bmc.py"
    arguments = [sys.executable, str(program), "127.0.0.1", str(port), how]
    with started(arguments, tmp_path, port) as target:
        yield target


def test_ipmi_sim_is_healthy_and_refuses_to_restart(ipmi_sim: str) -> None:
    done = run("heal", ipmi_sim)
    assert (done.returncode, "healthy" in done.stdout) == (0, True), done.stdout
    done = run("heal", ipmi_sim, "--in-band-hung", "--yes", *TIMES)
    assert done.returncode == 1
    assert "needs-repair" in done.stdout
    assert "0xc1" in done.stdout


def test_a_pyghmi_bmc_that_restarts_is_healed(tmp_path: Path) -> None:
    with pyghmi_bmc(tmp_path, "restarts") as target:
        done = run("heal", target)
        assert (done.returncode, "healthy" in done.stdout) == (0, True), done.stdout
        done = run("heal", target, "--in-band-hung", "--yes", *TIMES)
        assert done.returncode == 0, done.stdout
        assert "healed-lan-only" in done.stdout


def test_a_pyghmi_bmc_that_only_says_so_is_for_repair(tmp_path: Path) -> None:
    with pyghmi_bmc(tmp_path, "stays") as target:
        done = run("heal", target, "--in-band-hung", "--yes", *TIMES)
        assert done.returncode == 1, done.stdout
        assert "did not restart" in done.stdout
