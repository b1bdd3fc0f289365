"""The watchdog on a real kernel: its timer after a shutdown, and the panic of a host that hangs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bmcmedic.lab.guest.guest import Guest, Job
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.sim_process import SimProcess, sim_bmc

DEADLINE_S = 60
LIMIT_S = 3.0
CHECK = b"#!/bin/sh\ntest -e /tmp/hang && exec sleep 1000\nexit 0\n"


@pytest.fixture(scope="module")
def bmc() -> Iterator[SimProcess]:
    with sim_bmc() as simulated:
        yield simulated


@pytest.fixture(scope="module")
def guest(kernel: Kernel, bmc: SimProcess) -> Iterator[Guest]:
    files = {"/usr/bin/host-is-well": CHECK}
    with Guest(kernel, bmc=bmc.vm_socket, modules=(), files=files) as machine:
        yield machine


def driver(guest: Guest, *options: str) -> Job:
    """Start the driver in the guest; it pats through the bare ports."""
    words = ("--interface", "port-io", "--watchdog", "bmc", "--pat-period", "1")
    return guest.begin(" ".join(("exec", "bmcmedic", "driver", *words, *options)))


def timer(bmc: SimProcess) -> dict[str, Any]:
    seen: dict[str, Any] = bmc.get()["watchdog"]
    return seen


@pytest.mark.parametrize(
    ("shutdown", "running", "countdown_s"),
    [("rearm:900", True, 900), ("keep", True, 120), ("disarm", False, 120)],
)
def test_a_driver_that_ends_in_order_leaves_the_timer_as_it_was_told(
    guest: Guest, bmc: SimProcess, shutdown: str, running: bool, countdown_s: int
) -> None:
    pats = bmc.requests("06/22")
    job = driver(guest, "--shutdown", shutdown)
    guest.wait_until(lambda: bmc.requests("06/22") >= pats + 3, DEADLINE_S, "pats")
    job.kill("TERM")
    assert job.wait(DEADLINE_S).status == 0, job.output_so_far()
    seen = timer(bmc)
    assert seen["running"] is running, json.dumps(seen)
    if running:
        assert countdown_s - 30 < seen["present_countdown_s"] <= countdown_s
    watcher = "ps -o args | grep [p]retimeout_watcher"
    guest.wait_until(lambda: guest.run(watcher).output == "", DEADLINE_S, "the watcher's end")


def test_a_check_that_hangs_ends_in_a_panic_and_the_timer_runs_out(
    guest: Guest, bmc: SimProcess
) -> None:
    pats = bmc.requests("06/22")
    driver(
        guest,
        *("--check-command", "/usr/bin/host-is-well"),
        *("--check-period", "0.5", "--check-deadline", "0.5"),
        *("--pretimeout-limit", f"{LIMIT_S:g}", "--pretimeout-action", "panic"),
    )
    guest.wait_until(lambda: bmc.requests("06/22") >= pats + 3, DEADLINE_S, "pats")
    guest.run("touch /tmp/hang", check=True)
    guest.wait_for_console("Kernel panic - not syncing: sysrq triggered crash", DEADLINE_S)
    assert "has not patted its watchdog" in guest.console
    assert timer(bmc)["running"], "if the panic hangs, too, the BMC resets the host"
