"""A real kernel and its BMC: floods, missed pats and pretimeouts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bmcmedic.lab.guest.guest import Guest
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.sim_process import SimProcess, sim_bmc

DEADLINE_S = 90
MEMORY_BYTES = 16 << 20
WRITE_BYTES = 256

FLOOD = b"""#!/usr/bin/python3
import itertools
import os
import sys

port = os.open("/dev/port", os.O_WRONLY)
for _ in range(int(sys.argv[1])) if sys.argv[1:] else itertools.count():
    os.pwrite(port, b"*", 0x80)
"""

SET_WATCHDOG = "ipmitool raw 6 0x24"
PAT = "ipmitool raw 6 0x22"


@pytest.fixture(scope="module")
def bmc() -> Iterator[SimProcess]:
    options = ("--port80-chardev", "127.0.0.1:0", "--memory", str(MEMORY_BYTES >> 20))
    with sim_bmc(*options, "--fault", "boot:2") as simulated:
        yield simulated


@pytest.fixture(scope="module")
def guest(kernel: Kernel, bmc: SimProcess) -> Iterator[Guest]:
    with Guest(
        kernel,
        bmc=bmc.vm_socket,
        port80=bmc.port80,
        programs=("ipmitool",),
        files={"/usr/bin/flood": FLOOD},
    ) as machine:
        yield machine


def test_each_write_of_the_machine_leaks_and_the_bmc_gets_slow(
    guest: Guest, bmc: SimProcess
) -> None:
    before = bmc.get()["port80"]["writes"]
    guest.run("flood 1000", check=True)
    guest.wait_until(
        lambda: bmc.get()["port80"]["writes"] >= before + 1000, DEADLINE_S, "a thousand writes"
    )
    assert bmc.get()["port80"]["writes"] < before + 2000
    # Down to a tenth of a fresh BMC's memory: each answer takes 0.4 s.
    left_bytes = (bmc.get()["memory_free_fraction"] - 0.8 / 10) * MEMORY_BYTES
    guest.run(f"flood {int(left_bytes / WRITE_BYTES)}", DEADLINE_S, check=True)
    guest.wait_until(lambda: bmc.get()["answer_latency_s"] > 0.3, DEADLINE_S, "a slow BMC")
    assert bmc.get()["own_watchdog_reboots"] == 0
    began_s = float(guest.run("cut -d' ' -f1 /proc/uptime").output)
    assert guest.run("ipmitool raw 6 1").status == 0
    ended_s = float(guest.run("cut -d' ' -f1 /proc/uptime").output)
    assert ended_s - began_s > 0.3


def test_a_flood_takes_the_bmc_down_again_and_again_but_not_its_host(
    guest: Guest, bmc: SimProcess
) -> None:
    flood = guest.begin("flood")
    guest.wait_until(
        lambda: bmc.get()["own_watchdog_reboots"] >= 2, DEADLINE_S, "two reboots of the BMC"
    )
    flood.kill()
    guest.wait_until(lambda: bmc.get()["state"] == "up", DEADLINE_S, "the BMC")
    assert guest.run("ipmitool raw 6 1", DEADLINE_S).output.startswith(" 20 81")
    described = bmc.get()
    assert (guest.boots, guest.resets) == (1, 0)
    assert (described["host_power_changes"], described["cold_resets"]) == (0, 0)


def test_a_host_that_pats_lives_and_one_that_stops_is_reset(guest: Guest, bmc: SimProcess) -> None:
    boots = guest.boots
    # SMS/OS, hard reset, no pretimeout, 4.0 s.
    guest.run(f"{SET_WATCHDOG} 4 1 0 0 40 0", check=True)
    patting = guest.begin(f"while true; do {PAT}; sleep 1; done")
    guest.wait_until(
        lambda: bmc.requests("06/22") >= 7, DEADLINE_S, "pats for longer than the time-out"
    )
    assert (guest.boots, guest.resets) == (boots, 0)
    assert bmc.get()["watchdog"]["running"]
    patting.kill()
    guest.wait_for_reset(1, DEADLINE_S)
    guest.wait_for_boot(boots + 1)
    described = bmc.get()
    assert described["host_boots"] == 1
    assert not described["watchdog"]["running"]
    assert described["watchdog"]["expiration_flags"] == 1 << 4
    assert "Kernel panic" not in guest.console


def test_a_pretimeout_panics_a_kernel_that_asked_for_it(guest: Guest, bmc: SimProcess) -> None:
    # This is the last test of the module, as it leaves a machine that has panicked.
    guest.run(
        "insmod /mod/ipmi_watchdog.ko timeout=60 pretimeout=57 start_now=1 action=reset "
        "preaction=pre_nmi preop=preop_panic",
        check=True,
    )
    guest.wait_for_console("Kernel panic - not syncing: pre-timeout", DEADLINE_S)
    assert guest.is_running
    assert bmc.get()["host_boots"] == 1
