"""The driver on a real kernel: a pat waits for one exchange, however many clients there are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bmcmedic.ipmi.commands.device import ColdResetReq
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.lab.guest.guest import Guest, Job
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.guest.scripts import JOBS_FOLDER
from bmcmedic.lab.sim_process import SimProcess, sim_bmc
from bmcmedic.transport.lanplus import Credentials, LanPlus

DEADLINE_S = 90
CLIENTS = 50
PATS = 4
PAT_PERIOD_S = 2.0
SLOW_S = 1.0
EMULATION_S = 5.0
"""Longest delay that emulation on a busy machine adds to two exchanges, in seconds.

The exchanges of all clients would take a minute.
"""
KERNEL_EXCHANGES_MAX = 6
"""Most exchanges before a pat of the kernel: the one under way, and its own housekeeping."""
PRETIMEOUT_LIMIT_S = 5.0

STATUS_LOOP = b"""#!/usr/bin/python3
# A new interpreter for each status would cost the guest more than everything else.
import json, os, time
from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.errors import BmcmedicError
while True:
    try:
        with DriverClient(timeout_s=30) as client:
            while True:
                with open("/tmp/status.new", "w") as file:
                    json.dump(client.status(), file)
                os.rename("/tmp/status.new", "/tmp/status")
                time.sleep(0.2)
    except BmcmedicError:
        time.sleep(0.2)
"""

DRIVER_CLIENTS = b"""#!/usr/bin/python3
# Each client asks for another sensor, so that no two requests are merged into one.
import sys, threading
from bmcmedic.driver.socket.client import DriverClient
from bmcmedic.errors import BmcmedicError

def ask(number):
    with DriverClient(timeout_s=120) as client:
        while True:
            try:
                client.raw(0x04, 0x2D, bytes((number,)))
            except BmcmedicError:
                pass

for number in range(int(sys.argv[1])):
    threading.Thread(target=ask, args=(number,)).start()
"""

KERNEL_CLIENTS = b"""#!/usr/bin/python3
# Each client has the device open, and a request in the kernel at any time.
import sys, threading
from bmcmedic.errors import BmcmedicError
from bmcmedic.transport.dev_ipmi_device import IpmiDevice

def ask(number):
    device = IpmiDevice("/dev/ipmi0")
    while True:
        try:
            device.send(number, bytes((0x10, 0x2D, number)))
            while device.receive() is None:
                device.wait(None)
        except BmcmedicError:
            pass

for number in range(int(sys.argv[1])):
    threading.Thread(target=ask, args=(number,)).start()
"""

FILES = {
    "/usr/bin/status-loop": STATUS_LOOP,
    "/usr/bin/driver-clients": DRIVER_CLIENTS,
    "/usr/bin/kernel-clients": KERNEL_CLIENTS,
    "/usr/bin/fired": b"#!/bin/sh\ncut -d' ' -f1 /proc/uptime >>/tmp/fired\n",
}


@pytest.fixture(scope="module")
def bmc() -> Iterator[SimProcess]:
    with sim_bmc("--lan", "127.0.0.1:0") as simulated:
        yield simulated


@pytest.fixture(scope="module")
def bare_guest(kernel: Kernel, bmc: SimProcess) -> Iterator[Guest]:
    """Yield a guest whose kernel does not know its BMC."""
    with Guest(kernel, bmc=bmc.vm_socket, modules=(), files=FILES) as machine:
        machine.begin("status-loop")
        yield machine


@contextlib.contextmanager
def driver(guest: Guest, *options: str) -> Iterator[Job]:
    """Run the driver in the guest, from its first pat until the block ends."""
    words = ("--pat-period", f"{PAT_PERIOD_S:g}", "--pretimeout-limit", f"{PRETIMEOUT_LIMIT_S:g}")
    job = guest.begin(" ".join(("exec", "bmcmedic", "driver", *words, *options)))
    try:
        guest.wait_until(lambda: has_patted(guest, job), DEADLINE_S, "the first pat")
        yield job
    finally:
        job.kill("TERM")
        assert job.wait(DEADLINE_S).status == 0, job.wait().output
        guest.run("rm -f /tmp/status")


def has_patted(guest: Guest, job: Job) -> bool:
    assert job.done is None, job.done
    watchdog = status(guest).get("watchdog")
    return watchdog is not None and bool(watchdog["counts"].get("pats"))


def status(guest: Guest) -> dict[str, Any]:
    """Return the driver's last status."""
    status: dict[str, Any] = json.loads(
        guest.run("cat /tmp/status 2>/dev/null || echo {}").output or "{}"
    )
    return status


def pats(guest: Guest) -> int:
    return int(status(guest)["watchdog"]["counts"]["pats"])


def wait_for_pats(guest: Guest, more: int) -> None:
    wanted = pats(guest) + more
    guest.wait_until(lambda: pats(guest) >= wanted, DEADLINE_S, f"{more} pats")


@contextlib.contextmanager
def slow_bmc_with(guest: Guest, bmc: SimProcess, clients: str) -> Iterator[Job]:
    """Run clients that send requests without a pause, and a slow BMC."""
    job = guest.begin(f"exec {clients} {CLIENTS}")
    try:
        bmc.set_faults(f"slow:{SLOW_S:g}")
        yield job
    finally:
        bmc.set_faults()
        job.kill()
        job.wait(DEADLINE_S)


def test_on_bare_ports_a_pat_waits_for_one_exchange_among_50_clients(
    bare_guest: Guest, bmc: SimProcess
) -> None:
    with driver(bare_guest, "--interface", "port-io", "--watchdog", "bmc") as job:
        with slow_bmc_with(bare_guest, bmc, "driver-clients"):
            bare_guest.wait_until(
                lambda: status(bare_guest)["driver"]["client_requests"] >= CLIENTS // 2,
                DEADLINE_S,
                "the pile-up",
            )
            wait_for_pats(bare_guest, PATS)
            seen = status(bare_guest)
        assert seen["driver"]["interface"] == "port-io 0xca2"
        # The pat waits for the exchange under way, and takes its own.
        assert seen["watchdog"]["pat_latency_max_s"] < 2 * SLOW_S + EMULATION_S
        assert seen["driver"]["client_requests"] >= CLIENTS // 2
        assert seen["watchdog"]["counts"].get("failures", 0) == 0
        assert seen["watchdog"]["pretimeout"]["fired"] == 0
        described = bmc.get()["watchdog"]
        assert described["running"]
        assert job.done is None
    assert not bmc.get()["watchdog"]["running"]


def test_a_wedged_bmc_opens_the_breaker_fires_nothing_and_all_goes_on_after_its_reset(
    bare_guest: Guest, bmc: SimProcess
) -> None:
    with driver(bare_guest, "--interface", "port-io", "--watchdog", "bmc"):
        sets = status(bare_guest)["watchdog"]["counts"]["sets"]
        bmc.set_faults("kcs-stuck:ibf", "boot:2")
        bare_guest.wait_until(
            lambda: status(bare_guest)["driver"]["breaker"]["open"], DEADLINE_S, "the breaker"
        )
        bare_guest.wait_until(
            lambda: status(bare_guest)["watchdog"]["failure"] is not None, DEADLINE_S, "a lost pat"
        )
        wedged = status(bare_guest)
        # The driver tried to pat all the time: the BMC is silent, the host is healthy.
        assert wedged["watchdog"]["last_pat_age_s"] > 2 * PRETIMEOUT_LIMIT_S
        assert wedged["watchdog"]["pretimeout"]["watching"] is True
        assert wedged["watchdog"]["pretimeout"]["fired"] == 0
        refused = bare_guest.run(
            "python3 -c 'from bmcmedic.driver.socket.client import DriverClient;"
            "DriverClient().raw(4, 0x2d, bytes((9,)))'"
        )
        assert "BreakerOpen" in refused.output, "at once, not at its deadline"
        asyncio.run(cold_reset(bmc.target))
        bare_guest.wait_until(
            lambda: status(bare_guest)["watchdog"]["counts"]["sets"] > sets, DEADLINE_S, "the set"
        )
        wait_for_pats(bare_guest, 1)
        healed = status(bare_guest)
        assert healed["driver"]["breaker"]["open"] is False
        assert healed["watchdog"]["failure"] is None
        assert healed["watchdog"]["pretimeout"]["fired"] == 0
        assert bmc.get()["watchdog"]["running"]
    assert "fired" not in bare_guest.run("ls /tmp").output


async def cold_reset(target: str) -> None:
    host, _, port = target.rpartition(":")
    async with await LanPlus.connect(
        (host, int(port)),
        Credentials("admin", b"secret"),
        deadline=time.monotonic() + DEADLINE_S,
        privilege=PrivilegeLevel.ADMINISTRATOR,
    ) as lan:
        await lan.exchange(ColdResetReq(), time.monotonic() + DEADLINE_S)


def test_a_stopped_driver_makes_the_watcher_fire_and_goes_on_afterwards(
    bare_guest: Guest, bmc: SimProcess
) -> None:
    fires = ("--pretimeout-action", "command", "--pretimeout-command", "/usr/bin/fired")
    with driver(bare_guest, "--interface", "port-io", "--watchdog", "bmc", *fires) as job:
        pid = f"$(cat {JOBS_FOLDER}/{job.number}.pid)"
        stop = f"cut -d' ' -f1 /proc/uptime; kill -STOP {pid}"
        stopped_at = float(bare_guest.run(stop, check=True).output)
        bare_guest.wait_until(
            lambda: bare_guest.run("test -s /tmp/fired").status == 0, DEADLINE_S, "it to fire"
        )
        bare_guest.run(f"kill -CONT {pid}", check=True)
        fired_at = float(bare_guest.run("cat /tmp/fired", check=True).output)
        after_s = fired_at - stopped_at
        assert PRETIMEOUT_LIMIT_S - PAT_PERIOD_S - 0.5 < after_s < PRETIMEOUT_LIMIT_S + EMULATION_S
        assert "the host has not patted its watchdog for" in bare_guest.run("dmesg").output
        wait_for_pats(bare_guest, 2)
        seen = status(bare_guest)["watchdog"]["pretimeout"]
        assert (seen["fired"], seen["watching"]) == (1, True)
        assert bmc.get()["watchdog"]["running"]


@pytest.fixture(scope="module")
def ipmi_guest(kernel: Kernel, bmc: SimProcess, bare_guest: Guest) -> Iterator[Guest]:
    """Yield a guest with /dev/ipmi0 for many users and /dev/watchdog; it ends `bare_guest`."""
    bare_guest.stop()  # a BMC can have one machine at a time
    modules = (
        "ipmi_msghandler max_users=200",
        "ipmi_devintf",
        "ipmi_si",
        "ipmi_watchdog action=reset timeout=120 nowayout=0",
    )
    with Guest(kernel, bmc=bmc.vm_socket, modules=modules, files=FILES) as machine:
        machine.begin("status-loop")
        yield machine


def test_around_the_driver_the_kernel_serves_a_pat_through_its_watchdog_first(
    ipmi_guest: Guest, bmc: SimProcess
) -> None:
    with (
        driver(ipmi_guest, "--interface", "dev-ipmi", "--watchdog", "kernel"),
        slow_bmc_with(ipmi_guest, bmc, "kernel-clients") as clients,
    ):
        folder = f"/proc/$(cat {JOBS_FOLDER}/{clients.number}.pid)/fd"
        opened = f"ls -l {folder} | grep -c /dev/ipmi0"
        ipmi_guest.wait_until(
            lambda: ipmi_guest.run(opened).output.strip() == str(CLIENTS), DEADLINE_S, "all clients"
        )
        asked = bmc.requests("04/2d")
        wait_for_pats(ipmi_guest, PATS)
        # Another client was served between any two pats: one always waits.
        assert bmc.requests("04/2d") >= asked + PATS - 1
        seen = status(ipmi_guest)["watchdog"]
    assert seen["path"] == "/dev/watchdog"
    assert seen["pat_latency_max_s"] < KERNEL_EXCHANGES_MAX * SLOW_S + 2 * EMULATION_S
    assert seen["counts"].get("failures", 0) == 0
    assert seen["pretimeout"]["fired"] == 0


def take_the_kernels_watchdog_away(guest: Guest) -> None:
    """Unload the kernel's watchdog driver: with it, bmcmedic's driver would not start."""
    guest.run("! grep -q ^ipmi_watchdog /proc/modules || rmmod ipmi_watchdog", check=True)


def test_on_the_kernels_device_a_pat_waits_for_one_exchange_among_50_clients(
    ipmi_guest: Guest, bmc: SimProcess
) -> None:
    take_the_kernels_watchdog_away(ipmi_guest)
    with driver(ipmi_guest, "--interface", "auto", "--watchdog", "bmc"):
        with slow_bmc_with(ipmi_guest, bmc, "driver-clients"):
            ipmi_guest.wait_until(
                lambda: status(ipmi_guest)["driver"]["client_requests"] >= CLIENTS // 2,
                DEADLINE_S,
                "the pile-up",
            )
            wait_for_pats(ipmi_guest, PATS)
            seen = status(ipmi_guest)
        assert seen["driver"]["interface"] == "/dev/ipmi0"
        assert seen["watchdog"]["pat_latency_max_s"] < 2 * SLOW_S + EMULATION_S
        assert seen["watchdog"]["counts"].get("failures", 0) == 0
        assert seen["watchdog"]["pretimeout"]["fired"] == 0


def test_an_interface_that_vanishes_under_the_driver_is_taken_again(
    ipmi_guest: Guest, bmc: SimProcess
) -> None:
    take_the_kernels_watchdog_away(ipmi_guest)
    hotmod = "kcs,i/o,0xca2 >/sys/module/ipmi_si/parameters/hotmod"
    with driver(ipmi_guest, "--interface", "auto", "--watchdog", "bmc") as job:
        ipmi_guest.run(f"echo remove,{hotmod}", check=True)
        ipmi_guest.wait_until(
            lambda: status(ipmi_guest)["watchdog"]["failure"] is not None, DEADLINE_S, "the loss"
        )
        # The registers would answer, but a module that comes back may be about to probe them.
        assert status(ipmi_guest)["driver"]["interface"] == "no interface yet"
        ipmi_guest.run(f"echo add,{hotmod}", check=True)
        wait_for_pats(ipmi_guest, 2)
        seen = status(ipmi_guest)
        assert seen["driver"]["interface"] == "/dev/ipmi0"
        assert seen["driver"]["breaker"]["open"] is False
        assert seen["watchdog"]["failure"] is None
        assert seen["watchdog"]["pretimeout"]["fired"] == 0
        assert bmc.get()["watchdog"]["running"]
        assert "/dev/ipmi0 has gone; looking for another interface" in job.output_so_far()


ORDER = (
    "python3 -c 'from bmcmedic.driver.socket.client import DriverClient as D\n"
    "from bmcmedic.driver.socket.protocol import WatchdogAction as W\n"
    "from bmcmedic.errors import BmcmedicError\n"
    "try: print(D(timeout_s=30).{0})\n"
    'except BmcmedicError as error: print(f"{{type(error).__name__}}: {{error}}")\' </dev/null'
)
"""A program that makes one call of the client, and prints its result or its error."""


def test_a_parked_device_is_open_no_more_and_is_taken_again(
    ipmi_guest: Guest, bmc: SimProcess
) -> None:
    take_the_kernels_watchdog_away(ipmi_guest)

    def order(call: str) -> str:
        return ipmi_guest.run(ORDER.format(call), check=True).output

    opened = "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c /dev/ipmi0 || true"
    with driver(ipmi_guest, "--interface", "auto", "--watchdog", "bmc"):
        assert ipmi_guest.run(opened).output.strip() == "1"
        assert order("park()").startswith("Refused: the driver's watchdog pats through")
        order("watchdog(W.DISARM)")
        ipmi_guest.wait_until(
            lambda: (
                not status(ipmi_guest)["watchdog"]["in_charge"]
                and status(ipmi_guest)["watchdog"]["settled"]
            ),
            DEADLINE_S,
            "the timer's stop",
        )
        order("park(300)")
        ipmi_guest.wait_until(
            lambda: bool((status(ipmi_guest)["driver"]["parked"] or {}).get("closed")),
            DEADLINE_S,
            "the interface to be let go",
        )
        assert ipmi_guest.run(opened).output.strip() == "0"
        assert status(ipmi_guest)["driver"]["interface"] == "/dev/ipmi0, let go"
        assert order("raw(6, 1)").startswith("Parked: the interface is parked by order for")
        assert "the interface is parked" in order("watchdog(W.RESUME)")
        assert not bmc.get()["watchdog"]["running"]
        assert order("resume()").strip() == "None"
        order("watchdog(W.RESUME)")
        wait_for_pats(ipmi_guest, 2)
        assert status(ipmi_guest)["driver"]["interface"] == "/dev/ipmi0"
        assert status(ipmi_guest)["driver"]["parked"] is None
        assert bmc.get()["watchdog"]["running"]
