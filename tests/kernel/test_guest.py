"""The guest itself, which the other tests of this folder rely on."""

from __future__ import annotations

import os
import time

import pytest

from bmcmedic.errors import ConfigurationError
from bmcmedic.lab.guest.guest import Guest, GuestError, GuestTimeout
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.sim_process import SimProcess, sim_bmc
from tests.kernel.conftest import BootGuest

BOOT_S_MAX = 60


def test_a_command_gives_its_status_and_all_of_its_output(shared_guest: Guest) -> None:
    done = shared_guest.run("echo out; echo 'äöü\\' >&2; exit 3")
    assert (done.status, done.output) == (3, "out\näöü\\\n")
    assert shared_guest.run("seq 1 5000").output == "".join(f"{n}\n" for n in range(1, 5001))


def test_commands_run_beside_each_other(shared_guest: Guest) -> None:
    shared_guest.run("mkfifo /tmp/pipe", check=True)
    waiting = shared_guest.begin("echo started; read -r word </tmp/pipe; echo $word")
    assert waiting.done is None
    many = [shared_guest.begin(f"echo {number}") for number in range(20)]
    assert [job.wait().output for job in many] == [f"{number}\n" for number in range(20)]
    assert waiting.output_so_far() == "started\n"
    shared_guest.run("echo word >/tmp/pipe")
    assert waiting.wait().output == "started\nword\n"


def test_output_on_the_console_disturbs_no_answer(shared_guest: Guest) -> None:
    flood = "for i in $(seq 300); do echo '<0>end 1 0 hello console' >/dev/kmsg; done"
    job = shared_guest.begin(flood)
    assert [shared_guest.run(f"echo {n}").output for n in range(10)] == [
        f"{n}\n" for n in range(10)
    ]
    assert job.wait().status == 0
    shared_guest.wait_for_console("hello console", 30)


def test_a_command_that_takes_too_long_is_ended(shared_guest: Guest) -> None:
    with pytest.raises(GuestTimeout, match="sleep 1000"):
        shared_guest.run("sleep 1000; echo never", timeout_s=0.5)
    shared_guest.wait_until(
        lambda: "sleep 1000" not in shared_guest.run("ps").output, 20, "its end"
    )
    job = shared_guest.begin("sleep 2000")
    job.kill("TERM")
    assert job.wait().status == 128 + 15


def test_files_go_in_and_out(shared_guest: Guest) -> None:
    content = bytes(range(256)) * 20
    shared_guest.write_file("/tmp/a file", content)  # noqa: S108 - the guest's
    assert shared_guest.read_file("/tmp/a file") == content  # noqa: S108


def test_it_has_a_bmc_that_its_kernel_and_ipmitool_know(
    shared_guest: Guest, shared_bmc: SimProcess
) -> None:
    before = shared_bmc.requests("06/01")
    done = shared_guest.run("ipmitool raw 6 1")
    assert done.output.split()[:2] == ["20", "81"]
    assert shared_bmc.requests("06/01") > before
    assert "kipmi0" in shared_guest.run("ps").output


def test_it_has_python_and_bmcmedic(shared_guest: Guest) -> None:
    code = "import ctypes, mmap, socket, threading, tomllib; import bmcmedic.driver; print(6 * 7)"
    assert shared_guest.run(f"python3 -I -c '{code}'", check=True).output == "42\n"
    assert "bmcmedic" in shared_guest.run("head -c 300 /usr/bin/bmcmedic").output


def test_orphans_are_reaped(shared_guest: Guest) -> None:
    shared_guest.run("(setsid true & ) ; (sleep 0 &)")
    shared_guest.wait_until(
        lambda: " Z " not in shared_guest.run("ps -o stat,pid,comm").output, 20, "no zombie"
    )


def test_a_reset_a_panic_and_the_end_of_power_are_seen(boot_guest: BootGuest) -> None:
    with sim_bmc("--lan", "127.0.0.1:0") as bmc:
        guest = boot_guest(bmc=bmc.vm_socket, kernel_arguments="panic=1")
        assert (guest.boots, guest.resets) == (1, 0)
        job = guest.begin("sleep 1000")
        guest.begin("echo c >/proc/sysrq-trigger")
        guest.wait_for_console("Kernel panic - not syncing", 30)
        guest.wait_for_boot(2, BOOT_S_MAX)
        assert guest.resets == 1
        assert len(set(guest.boot_ids)) == 2
        with pytest.raises(GuestError, match="ended or restarted"):
            job.wait()
        assert guest.run("echo again").output == "again\n"
        guest.begin("poweroff -f")
        guest.wait_for_end(30)
        assert not guest.is_running
        with pytest.raises(GuestError, match="is not running"):
            guest.run("true")


def test_a_guest_can_be_stopped_and_goes_on(boot_guest: BootGuest) -> None:
    guest = boot_guest(modules=(), files={"/etc/start": b"#!/bin/sh\necho from the start\n"})
    assert guest.run("/etc/start").output == "from the start\n"
    assert "ipmi" not in guest.run("lsmod").output
    guest.qmp.execute("stop")
    assert guest.qmp.execute("query-status")["status"] == "paused"
    with pytest.raises(GuestTimeout):
        guest.run("true", timeout_s=0.2)
    guest.qmp.execute("cont")
    assert guest.run("echo on").output == "on\n"


def test_nothing_is_left_of_a_guest(kernel: Kernel) -> None:
    with Guest(kernel, modules=()) as guest:
        pid, folder = guest.pid, guest.folder
        assert folder is not None
        assert folder.is_dir()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_is_up_in_time(kernel: Kernel) -> None:
    began = time.monotonic()
    with Guest(kernel, modules=()) as guest:
        assert time.monotonic() - began < BOOT_S_MAX
        assert guest.uptimes_s[0] < BOOT_S_MAX


def test_a_guest_that_cannot_start_reports_the_reason(kernel: Kernel) -> None:
    with (
        pytest.raises(GuestError, match="QEMU did not start"),
        Guest(kernel, memory_mib=-1),
    ):
        pass
    with pytest.raises(ConfigurationError, match="no module nonsense; there are ipmi_devintf"):
        Guest(kernel, modules=("nonsense",)).start()
    with pytest.raises(ConfigurationError, match="the guest needs no-such-program"):
        Guest(kernel, programs=("no-such-program",)).start()
