"""The one-file triage on a real kernel, with nothing of ours installed: well, busy, slow, hung."""

from __future__ import annotations

import json
from typing import Any

from bmcmedic.fleet.host_evidence.triage_document import parse_host_report
from bmcmedic.lab.guest.guest import Guest
from bmcmedic.lab.sim_process import sim_bmc
from tests.kernel.conftest import BootGuest
from tools import build_pyz

PYZ = "/opt/bmcmedic-triage.pyz"
COPY = "/run/triage.pyz"
CLIENTS = 3
STUCK_AFTER_S = 3
START_S_MAX = 90
RAW = "ipmitool -P s3cret -b 6 -t 0x2c raw 0x4 0x2d 0xbe"
"""The incident's own client; Debian's gives up after its 15 s, so triage runs before that."""


def triage(guest: Guest, *options: str) -> tuple[int, dict[str, Any]]:
    """As over ssh: the program comes through standard input."""
    words = " ".join(["--json", "--interval 2", f"--stuck-after {STUCK_AFTER_S}", *options])
    done = guest.run(f"python3 -I - triage {words} <{PYZ}")
    document: dict[str, Any] = json.loads(done.output)
    assert parse_host_report(done.output.encode(), source="the guest").captured_at > 0
    return done.status, document


def test_triage_tells_a_hang_from_a_slow_bmc_and_a_busy_one(boot_guest: BootGuest) -> None:
    with sim_bmc() as bmc:
        guest = boot_guest(
            bmc=bmc.vm_socket,
            programs=("ipmitool",),
            bmcmedic=False,
            files={PYZ: build_pyz.script().encode()},
        )
        assert guest.run("python3 -I -c 'import bmcmedic'").status != 0
        status, document = triage(guest)
        assert (status, document["symptoms"], document["stuck"]) == (0, [], []), document
        assert [each["name"] for each in document["kipmi"]] == ["kipmi0"]
        assert document["interfaces"][0]["completed"] > 0
        asked = bmc.get()["requests"]

        guest.begin("while sleep 0.2; do ipmitool raw 6 1; done")
        guest.wait_until(lambda: bmc.get()["requests"] != asked, START_S_MAX, "a question")
        status, document = triage(guest)
        assert document["diagnosis"]["kind"] in ("busy", "no-symptom"), document
        assert (status, document["symptoms"]) == (0, []), document

        bmc.set_faults("slow:0.5")
        guest.wait_until(
            lambda: triage(guest)[1]["symptoms"] == ["kipmi-busy", "bmc-slow"],
            START_S_MAX,
            "a slow BMC",
        )

        bmc.set_faults("kcs-stuck:ibf")
        for _ in range(CLIENTS):
            guest.run(f"setsid {RAW} </dev/null >/dev/null 2>&1 &")

        seen: list[tuple[int, dict[str, Any]]] = []

        def are_stuck() -> bool:
            seen.append(triage(guest))
            return len(seen[-1][1]["stuck"]) >= CLIENTS

        guest.wait_until(are_stuck, START_S_MAX, "stuck clients")
        status, document = seen[-1]  # another triage may come after their end
        assert status == 1
        assert document["diagnosis"]["kind"] == "hung", document
        assert document["symptoms"] == ["kipmi-busy", "stuck-clients", "bmc-not-answering"], (
            document
        )
        assert document["kipmi"][0]["cpu_percent"] > 5.0
        assert document["interfaces"][0]["completed_delta"] == 0
        assert document["hung_since"] < document["captured_at"]
        stuck = [
            each for each in document["stuck"] if "raw" in each["argv"] and "-b" in each["argv"]
        ]
        assert len(stuck) >= CLIENTS
        assert {each["parent_pid"] for each in stuck} == {None}
        for each in stuck:
            assert (each["state"], each["devices"]) == ("S", ["/dev/ipmi0"])
            assert each["wchan"] in each["stack"]
            assert "s3cret" not in each["argv"]
        assert {each["pid"] for each in document["direct_openers"]} >= {
            each["pid"] for each in stuck
        }


def test_the_screen_reads_well_on_a_console(shared_guest: Guest) -> None:
    shared_guest.write_file(COPY, build_pyz.script().encode())
    done = shared_guest.run(f"python3 -I {COPY} triage --interval 0.5")
    assert done.status == 0, done.output
    assert "two samples, " in done.output
    assert "Symptoms: none" in done.output
