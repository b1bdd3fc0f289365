"""The driver with a BMC behind it: whom it serves, and what it leaves behind when it ends."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.driver.socket.protocol import WatchdogAction
from bmcmedic.errors import BmcmedicError, Refused
from bmcmedic.ipmi.commands.device import GetDeviceIdReq
from bmcmedic.ipmi.commands.watchdog import GetWatchdogTimerReq, ResetWatchdogTimerReq
from tests.support.polling import eventually

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
POLL_S = 0.02


@contextlib.contextmanager
def driver(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.driver_process", str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def driver_client(folder: Path) -> DriverClient:
    return DriverClient(f"{folder}/driver.sock", DEADLINE_S)


def status(folder: Path) -> dict[str, Any]:
    """What the driver says; nothing while it does not answer."""
    with contextlib.suppress(BmcmedicError), driver_client(folder) as client:
        return client.status()
    return {}


def pats(folder: Path) -> int:
    return int(status(folder).get("watchdog", {}).get("counts", {}).get("pats", 0))


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Its exit status, how the timer stands, and what it said."""
    out, said = process.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in said or process.returncode == 1
    return process.returncode, json.loads(out), said


def test_it_pats_and_serves_and_keeps_the_timer_to_itself(tmp_path: Path) -> None:
    with driver(tmp_path, "disarm"):
        eventually(lambda: pats(tmp_path) >= 3)
        with driver_client(tmp_path) as client:
            assert client.exchange(GetDeviceIdReq()).manufacturer_id == 7154
            timer = client.exchange(GetWatchdogTimerReq())
            assert timer.running
            assert timer.initial_countdown_s == 120
            with pytest.raises(Refused, match="send it an order"):
                client.exchange(ResetWatchdogTimerReq())
        told = status(tmp_path)
        assert told["watchdog"]["pretimeout"]["fired"] == 0
        assert told["watchdog"]["failure"] is None


def test_an_order_stops_the_timer_and_another_starts_it_again(tmp_path: Path) -> None:
    with driver(tmp_path, "disarm"):
        eventually(lambda: pats(tmp_path) >= 1)
        with driver_client(tmp_path) as client:
            client.watchdog(WatchdogAction.DISARM)
            eventually(lambda: client.watchdog()["settled"] and not client.watchdog()["in_charge"])
            assert not client.exchange(GetWatchdogTimerReq()).running
            client.watchdog(WatchdogAction.RESUME)
            eventually(lambda: client.watchdog()["settled"] and client.watchdog()["in_charge"])
            assert client.exchange(GetWatchdogTimerReq()).running


@pytest.mark.parametrize(
    ("shutdown", "running", "countdown_s"),
    [("disarm", False, None), ("keep", True, 120), ("rearm:600", True, 600)],
)
def test_its_end_leaves_the_timer_as_configured(
    tmp_path: Path, shutdown: str, running: bool, countdown_s: float | None
) -> None:
    with driver(tmp_path, shutdown) as process:
        eventually(lambda: pats(tmp_path) >= 2)
        watcher = status(tmp_path)["watchdog"]["pretimeout"]["watcher_pid"]
        process.terminate()
        code, timer, _ = ended(process)
    assert code == 0
    assert timer["running"] is running
    if countdown_s is not None:
        assert countdown_s - DEADLINE_S < timer["present_countdown_s"] <= countdown_s
    if watcher is not None:
        eventually(lambda: not Path(f"/proc/{watcher}/exe").exists())
    assert not (tmp_path / "driver.sock").exists()


def test_a_part_that_dies_ends_it_and_leaves_the_timer_to_the_next(tmp_path: Path) -> None:
    with driver(tmp_path, "disarm") as process:
        eventually(lambda: pats(tmp_path) >= 1)
        (tmp_path / "die").touch()
        code, timer, said = ended(process)
        assert code == 1
        assert timer["running"]  # a driver that does not come back is noticed
        assert "error: the one-more thread died:" in said
        assert "RuntimeError: a defect" in said
        (tmp_path / "die").unlink()
        with driver(tmp_path, "disarm") as following:
            eventually(lambda: pats(tmp_path) >= 1)
            following.terminate()
            assert ended(following)[0] == 0
