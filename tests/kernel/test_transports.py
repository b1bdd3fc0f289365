"""The transports from a host to its BMC, on a real kernel with real registers."""

from __future__ import annotations

import asyncio
import json
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bmcmedic.ipmi.commands.device import ColdResetReq
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.lab.guest.guest import Guest, Job
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.sim_process import SimProcess, sim_bmc
from bmcmedic.transport.lanplus import LanPlus

LAN_S = 20.0
BOOT_S = 2
HOTMOD = "/sys/module/ipmi_si/parameters/hotmod"

PRELUDE = """\
import json, os, sys, threading, time

class Claim:
    lost = False

    def must_stop(self, *, recovering):
        return self.lost

claim = Claim()

def take(call, *arguments, **named):
    began = time.monotonic()
    try:
        result = call(*arguments, **named)
        result = result.hex() if isinstance(result, bytes) else result
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    return result, time.monotonic() - began

def ask(interface, request, s=20.0):
    deadline = time.monotonic() + s
    return take(interface.attempt, bytes.fromhex(request), deadline, claim, idempotent=True)
"""

DEVICE_ID = "1801"
SET_60_S = "182444010000" + "5802"
PAT = "1822"


def begin(guest: Guest, code: str) -> Job:
    """Start Python code in the guest; `emit(...)` in it prints what `emitted` returns."""
    program = f"{PRELUDE}\nemit = lambda *what: print(json.dumps(what))\n{textwrap.dedent(code)}"
    name = f"/tmp/{time.monotonic_ns()}.py"  # noqa: S108 - the guest's
    guest.write_file(name, program.encode())
    return guest.begin(f"python3 -I {name}")


def emitted(job: Job) -> list[Any]:
    done = job.wait()
    assert done.status == 0, done.output
    what: list[Any] = json.loads(done.output.splitlines()[-1])
    return what


def run(guest: Guest, code: str) -> list[Any]:
    return emitted(begin(guest, code))


def cold_reset(bmc: SimProcess) -> None:
    """Reset the BMC over LAN, and wait until it is back."""

    async def reset() -> None:
        host, _, port = bmc.target.rpartition(":")
        deadline = time.monotonic() + LAN_S
        async with await LanPlus.connect(
            (host, int(port)),
            Credentials("admin", b"secret"),
            deadline=deadline,
            privilege=PrivilegeLevel.ADMINISTRATOR,
        ) as lan:
            await lan.exchange(ColdResetReq(), deadline)

    before = bmc.get()["cold_resets"]
    asyncio.run(reset())
    deadline = time.monotonic() + LAN_S
    while (found := bmc.get())["cold_resets"] == before or found["state"] != "up":
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.fixture(scope="module")
def bmc() -> Iterator[SimProcess]:
    with sim_bmc("--lan", "127.0.0.1:0") as bmc:
        yield bmc


@pytest.fixture(scope="module")
def machine(kernel: Kernel, bmc: SimProcess) -> Iterator[Guest]:
    """Yield a guest without ipmi_si; the tests load and unload the modules that they need."""
    with Guest(kernel, bmc=bmc.vm_socket, modules=("ipmi_devintf", "watchdog")) as guest:
        yield guest


@pytest.fixture
def guest(machine: Guest, bmc: SimProcess) -> Iterator[Guest]:
    """Yield the guest as it was booted: no driver but ipmi_devintf, and a healthy BMC."""
    bmc.set_faults(f"boot:{BOOT_S}")
    yield machine
    bmc.set_faults(f"boot:{BOOT_S}")
    machine.run("rmmod softdog; rmmod ipmi_watchdog; rmmod ipmi_si")
    assert "ipmi_si" not in machine.run("cat /proc/ioports").output


def load(guest: Guest, module: str) -> None:
    guest.run(f"insmod /mod/{module.partition(' ')[0]}.ko {module.partition(' ')[2]}", check=True)


# ------------------------------------------------------------------------------ port I/O


def test_port_io_reads_the_device_id_and_pats(guest: Guest, bmc: SimProcess) -> None:
    pats = bmc.requests("06/22")
    name, device_id, unset, was_set, pat = run(
        guest,
        f"""
        from bmcmedic.transport.port_io import PortIo
        ports = PortIo()
        emit(ports.name, *(ask(ports, what) for what in
            ("{DEVICE_ID}", "{PAT}", "{SET_60_S}", "{PAT}")))
        """,
    )
    assert name == "port-io 0xca2"
    assert device_id[0].startswith("1c01002081")
    assert (unset[0], was_set[0], pat[0]) == ("1c2280", "1c2400", "1c2200")
    assert pat[1] < 1.0
    watchdog = bmc.get()["watchdog"]
    assert watchdog["running"]
    assert 50 < watchdog["present_countdown_s"] <= 60
    assert bmc.requests("06/22") == pats + 2


def test_port_io_gets_over_a_wedged_bmc_that_is_reset_over_lan(
    guest: Guest, bmc: SimProcess
) -> None:
    job = begin(
        guest,
        f"""
        from bmcmedic.transport.port_io import PortIo
        ports = PortIo()
        well = ask(ports, "{DEVICE_ID}")
        open("/tmp/well", "w").close()
        while not os.path.exists("/tmp/wedged"): time.sleep(0.05)
        sick = ask(ports, "{DEVICE_ID}", 1.0)
        open("/tmp/sick", "w").close()
        while not os.path.exists("/tmp/reset"): time.sleep(0.05)
        emit(well, sick, ask(ports, "{DEVICE_ID}"), ask(ports, "{DEVICE_ID}"), ports.exchange_s_max)
        """,
    )
    _await_file(guest, "/tmp/well")  # noqa: S108 - the guest's
    bmc.set_faults("kcs-stuck:ibf", f"boot:{BOOT_S}")
    guest.run("touch /tmp/wedged")
    _await_file(guest, "/tmp/sick")  # noqa: S108
    cold_reset(bmc)
    guest.run("touch /tmp/reset")
    well, sick, first, second, exchange_s_max = emitted(job)
    assert well[0].startswith("1c0100")
    assert sick[0].startswith("KcsTimeout: ")
    assert 1.0 <= sick[1] < 2.0
    assert first[1] < exchange_s_max + 1
    assert second[0].startswith("1c0100")


def test_port_io_keeps_off_ports_that_the_kernel_takes(guest: Guest, bmc: SimProcess) -> None:
    bmc.set_faults("hang")
    in_flight, later, anew = run(
        guest,
        f"""
        from bmcmedic.transport.port_io import PortIo
        ports = PortIo()
        threading.Timer(0.5, lambda: os.system("insmod /mod/ipmi_si.ko &")).start()
        emit(ask(ports, "{DEVICE_ID}"), ask(ports, "{DEVICE_ID}"), take(PortIo)[0])
        """,
    )
    bmc.set_faults()
    assert in_flight[0].startswith("InterfaceGone: port-io 0xca2: ")
    assert "ipmi_si has the ports 0x0ca2 to 0x0ca2" in in_flight[0]
    assert 0.5 < in_flight[1] < 3.0  # QEMU answers for a BMC that hangs after 4 s
    assert later[0] == in_flight[0]
    assert later[1] < 0.1
    assert anew.startswith("ConfigurationError: port-io 0xca2 cannot be used: ")
    assert "use /dev/ipmi0 instead" in anew
    guest.run("until [ -e /dev/ipmi0 ]; do usleep 20000; done", check=True)


def _await_file(guest: Guest, path: str) -> None:
    guest.run(f"until [ -e {path} ]; do usleep 20000; done; rm {path}", check=True)


# ----------------------------------------------------------------------------- /dev/ipmi0


def test_dev_ipmi_reads_the_device_id_and_pats(guest: Guest, bmc: SimProcess) -> None:
    load(guest, "ipmi_si")
    pats = bmc.requests("06/22")
    name, device_id, was_set, pat, kept = run(
        guest,
        f"""
        from bmcmedic.transport.dev_ipmi import DevIpmi
        device = DevIpmi()
        emit(device.name, *(ask(device, what) for what in
            ("{DEVICE_ID}", "{SET_60_S}", "{PAT}", "1833")))
        """,
    )
    assert name == "/dev/ipmi0"
    assert device_id[0].startswith("1c01002081")
    assert (was_set[0], pat[0]) == ("1c2400", "1c2200")
    assert kept[0].startswith("Refused: /dev/ipmi0: ")
    assert bmc.get()["watchdog"]["running"]
    assert bmc.requests("06/22") == pats + 1


def test_dev_ipmi_reaches_behind_the_bmc(guest: Guest, bmc: SimProcess) -> None:
    load(guest, "ipmi_si")
    sent = bmc.requests("06/34")
    returned, beside, results, no_ipmb = run(
        guest,
        f"""
        from bmcmedic.transport.dev_ipmi import DevIpmi
        from bmcmedic.transport.in_band import Ipmb
        device = DevIpmi()
        results, both = [], threading.Semaphore(0)
        def bridged(target):
            def done(result):
                results.append([target.address, result.hex()])
                both.release()
            request, deadline = bytes((0x10, 0x2d, 0xbe)), time.monotonic() + 3
            return take(device.send_bridged, request, target, deadline, claim, done)
        nobody, me = bridged(Ipmb(6, 0x2e)), bridged(Ipmb(6, 0x2c))
        beside = ask(device, "{DEVICE_ID}")
        both.acquire(), both.acquire()
        returned = max(nobody[1], me[1])
        emit(returned, beside, sorted(results), bridged(Ipmb(3, 0x2c))[0])
        device.close()
        """,
    )
    # No controller has address 0x2e, and the interface is free long before that is known.
    assert returned < 2.0
    assert beside[0].startswith("1c0100")
    assert beside[1] < 1.0
    assert results[0][0] == 0x2C
    assert results[0][1].startswith("142d00")
    assert results[1] == [0x2E, "142dc3"]
    assert no_ipmb.startswith("Refused: /dev/ipmi0: the kernel cannot reach 0x2c: ")
    assert bmc.requests("06/34") == sent + 2


def test_dev_ipmi_vanishes_in_an_exchange_and_comes_back(guest: Guest, bmc: SimProcess) -> None:
    load(guest, "ipmi_si")
    bmc.set_faults("hang")
    job = begin(
        guest,
        f"""
        from bmcmedic.transport.dev_ipmi import DevIpmi
        device = DevIpmi()
        threading.Timer(
            0.3, lambda: open("{HOTMOD}", "w").write("remove,kcs,i/o,0xca2")
        ).start()
        gone = ask(device, "{DEVICE_ID}"), ask(device, "{DEVICE_ID}")
        open("/tmp/gone", "w").close()
        while not os.path.exists("/dev/ipmi0"): time.sleep(0.05)
        emit(*gone, ask(device, "{DEVICE_ID}"))
        """,
    )
    _await_file(guest, "/tmp/gone")  # noqa: S108
    bmc.set_faults()
    guest.run("rmmod ipmi_si", check=True)
    load(guest, "ipmi_si")
    vanished, absent, back = emitted(job)
    assert vanished[0].startswith("InterfaceGone: /dev/ipmi0: No such device")
    assert vanished[1] < 3.0
    assert absent[0].startswith("InterfaceGone: /dev/ipmi0: No such file")
    assert back[0].startswith("1c0100")


def test_dev_ipmi_gets_over_a_wedged_bmc_that_is_reset_over_lan(
    guest: Guest, bmc: SimProcess
) -> None:
    load(guest, "ipmi_si")
    bmc.set_faults("kcs-stuck:ibf", f"boot:{BOOT_S}")
    reset_before = bmc.requests("06/22")
    job = begin(
        guest,
        f"""
        from bmcmedic.transport.dev_ipmi import DevIpmi
        device = DevIpmi()
        sick = ask(device, "{DEVICE_ID}", 1.0), ask(device, "{PAT}", 1.0)
        open("/tmp/sick", "w").close()
        while not os.path.exists("/tmp/reset"): time.sleep(0.05)
        emit(*sick, ask(device, "{PAT}", 60.0), ask(device, "{DEVICE_ID}"))
        """,
    )
    _await_file(guest, "/tmp/sick")  # noqa: S108
    cold_reset(bmc)
    guest.run("touch /tmp/reset")
    sick, waits, pat, device_id = emitted(job)
    assert sick[0].startswith("NoAnswer: /dev/ipmi0: no answer in time")
    assert waits[0].startswith("InterfaceBusy: /dev/ipmi0: the kernel still has an earlier")
    assert 1.0 <= waits[1] < 1.5
    # The reset lost the timer's setting, and the pat that failed was not sent later.
    assert pat[0] == "1c2280"
    assert device_id[0].startswith("1c0100")
    assert bmc.requests("06/22") == reset_before + 1


def test_dev_ipmi_reports_that_the_kernel_refuses_users(guest: Guest) -> None:
    load(guest, "ipmi_si")
    first, last, freed = run(
        guest,
        f"""
        from bmcmedic.transport.dev_ipmi import DevIpmi
        device, others = DevIpmi(), []
        first = ask(device, "{DEVICE_ID}")
        device.close()  # an open one would keep the next out
        try:
            while True: others.append(os.open("/dev/ipmi0", os.O_RDWR))
        except OSError:
            pass
        late = DevIpmi()
        last = ask(late, "{DEVICE_ID}")
        os.close(others.pop())
        emit(first, last, ask(late, "{DEVICE_ID}"))
        """,
    )
    assert first[0].startswith("1c0100")
    assert last[0].startswith("InterfaceBusy: /dev/ipmi0: the kernel lets no more programs in")
    assert freed[0].startswith("1c0100")


# --------------------------------------------------------------------------- /dev/watchdog


def test_dev_watchdog_really_pats_the_bmc(guest: Guest, bmc: SimProcess) -> None:
    load(guest, "ipmi_si")
    load(guest, "ipmi_watchdog action=reset")
    job = begin(
        guest,
        """
        from bmcmedic.transport.dev_watchdog import DevWatchdog
        def step(name, call, *arguments, **named):
            results.append(take(call, *arguments, **named)[0])
            open("/tmp/" + name, "w").close()
            while os.path.exists("/tmp/" + name): time.sleep(0.02)
        results = []
        watchdog = DevWatchdog()
        watchdog.set(90)
        step("started", watchdog.pat)
        step("patted", watchdog.pat)
        second = take(DevWatchdog)[0]
        step("stopped", watchdog.disarm)
        step("again", watchdog.pat)
        watchdog.close(disarm=True)
        watchdog = DevWatchdog()
        watchdog.close(disarm=False)
        step("unused", os.getpid)
        watchdog = DevWatchdog()
        watchdog.pat()
        watchdog.close(disarm=False)
        step("left", os.getpid)
        DevWatchdog().close(disarm=True)
        emit(watchdog.name, results[:4], second)
        """,
    )
    seen = {}
    for step in ("started", "patted", "stopped", "again", "unused", "left"):
        guest.run(f"until [ -e /tmp/{step} ]; do usleep 20000; done", check=True)
        found = bmc.get()
        seen[step] = found["watchdog"]["running"], found["requests"].get("06/22", 0)
        if step not in ("stopped", "unused"):
            assert 80 < found["watchdog"]["present_countdown_s"] <= 90
            assert found["watchdog"]["timeout_action"] == 1
        guest.run(f"rm /tmp/{step}", check=True)
    name, results, second = emitted(job)
    assert name == "/dev/watchdog"
    assert results == [None] * 4
    assert "has /dev/watchdog. Only one may be in charge" in second
    assert [running for running, _ in seen.values()] == [
        True, True, False, True, False, True,
    ]  # fmt: skip
    pats = [count for _, count in seen.values()]
    assert pats[0] < pats[1] == pats[2] < pats[3] == pats[4] < pats[5]
    assert not bmc.get()["watchdog"]["running"]


def test_dev_watchdog_of_another_driver_is_recognised(guest: Guest) -> None:
    def refusal() -> str:
        (found,) = run(
            guest,
            """
            from bmcmedic.transport.dev_watchdog import DevWatchdog
            emit(take(DevWatchdog)[0])
            """,
        )
        assert isinstance(found, str)
        return found

    load(guest, "ipmi_si")
    load(guest, "softdog")
    assert "there is watchdog0 (Software Watchdog), which is not the BMC's" in refusal()
    guest.run("insmod /mod/ipmi_watchdog.ko action=reset")
    assert "/dev/watchdog is that of watchdog0 (Software Watchdog)" in refusal()
    guest.run("rmmod softdog; rmmod ipmi_watchdog")
    load(guest, "ipmi_watchdog action=none")
    load(guest, "softdog")
    assert "ipmi_watchdog has action=none" in refusal()
