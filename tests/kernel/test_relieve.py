"""Relief on a real kernel: its `kipmi0`, the limit of it, and clients that hang in /dev/ipmi0."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from bmcmedic.lab.guest.guest import Guest
from bmcmedic.lab.sim_process import SimProcess, sim_bmc
from tests.kernel.conftest import BootGuest
from tests.support.programs import PASSWORD

PARAMETER = "/sys/module/ipmi_si/parameters/kipmid_max_busy_us"
CLIENTS = 5
STUCK_AFTER_S = 5
HANG_S_MAX = 80
RECOVERY_S_MAX = 120
RESET_S_MAX = 30

# What ipmitool up to 1.8.15 does: ask, and wait in select() for ever.
CLIENT = """\
import select
from bmcmedic.transport.dev_ipmi_device import IpmiDevice
device = IpmiDevice("/dev/ipmi0")
device.send(1, bytes.fromhex("1801"))
select.select([], [], [])
"""
START = """\
mkdir -p /tmp/bin && cp $(readlink -f $(which python3)) /tmp/bin/ipmitool
for i in $(seq {count}); do
  PYTHONHOME=/usr setsid /tmp/bin/ipmitool -S /tmp/client.py mc info </dev/null >/dev/null 2>&1 &
done
"""


def relieve(guest: Guest, *options: str) -> tuple[int, dict[str, Any]]:
    words = " ".join(["relieve", "--json", "--stuck-after", str(STUCK_AFTER_S), *options])
    done = guest.run(f"bmcmedic {words} 2>/dev/null </dev/null")
    document: dict[str, Any] = json.loads(done.output)
    return done.status, document


def cold_reset(bmc: SimProcess) -> None:
    """Over LAN, by the real ipmitool: the kernel knows nothing of it."""
    host, _, port = bmc.target.rpartition(":")
    command = ["ipmitool", "-I", "lanplus", "-H", host, "-p", port, "-U", "admin", "-E"]
    subprocess.run(
        [*command, "-C", "3", "mc", "reset", "cold"],
        env={**os.environ, "IPMI_PASSWORD": PASSWORD},
        check=True,
        capture_output=True,
        timeout=RESET_S_MAX,
    )


def shown(guest: Guest) -> str:
    return guest.run(f"cat {PARAMETER}").output.strip()


def test_a_hang_is_relieved_and_its_end_is_seen(boot_guest: BootGuest) -> None:
    with sim_bmc("--lan", "127.0.0.1:0") as bmc:
        guest = boot_guest(bmc=bmc.vm_socket, programs=("ipmitool",))
        assert shown(guest) == ""
        guest.write_file("/tmp/client.py", CLIENT.encode())  # noqa: S108 - the guest's
        bmc.set_faults("kcs-stuck:ibf", "boot:2")
        guest.run(START.format(count=CLIENTS), check=True)

        def is_seen() -> bool:
            document = relieve(guest, "--dry-run")[1]
            return bool(
                document["stuck_before"] == CLIENTS
                and document["kipmid_max_busy_us"]["action"] == "set"
            )

        guest.wait_until(is_seen, HANG_S_MAX, "a hang with stuck clients")
        assert shown(guest) == ""

        status, document = relieve(guest, "--yes")
        assert (status, document["outcomes"], document["stuck_after"]) == (
            0,
            {"ended": CLIENTS},
            0,
        ), document
        assert {each["through"] for each in document["clients"]} == {"pidfd"}
        assert all("/dev/ipmi0 open" in each["evidence"][-1] for each in document["clients"])
        assert shown(guest) == "100"
        assert (
            document["kipmi"][0]["cpu_percent_after"] < document["kipmi"][0]["cpu_percent_before"]
        )

        # Nothing completes yet: it stays, whoever asks.
        assert relieve(guest, "--yes")[1]["kipmid_max_busy_us"]["action"] == "keep"

        cold_reset(bmc)

        def is_put_back() -> bool:
            guest.begin("ipmitool raw 6 1")
            return bool(relieve(guest, "--yes")[1]["kipmid_max_busy_us"]["action"] == "put back")

        guest.wait_until(is_put_back, RECOVERY_S_MAX, "the former limit")
        assert shown(guest) == "0"
        assert guest.run("ls /run/bmcmedic").output == "undo.lock\n"
        assert guest.run("ipmitool raw 6 1").status == 0
