"""Measures how late the driver's pats are while 100 processes keep this machine busy.

    make bench-pat_lateness ARGS="[--seconds 20] [--hogs 100]"

The whole driver runs as it ships, every thread under SCHED_RR, over KCS registers in its own memory
that answer at once: what is left is the driver's own lateness and the machine's. A pat is due each
0.1 s: the pat thread is woken late, and the answer is back later. Beside it, in a process of its
own, a bare SCHED_RR thread wakes as often and does nothing. All that with and without clients
that ask through the socket as fast as they are answered. Needs root, or CAP_SYS_NICE.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

COMPARES = "a bare SCHED_RR thread that only wakes up as often, in the same seconds"
FIGURE = "how late a pat is answered, 99 % and maximum, in ms"

PERIOD_S = 0.1
PRIORITY = 10
CLIENTS = 4
START_S = 60.0
SETTLE_S = 2.0
PERCENTILE = 99


class BmcRegisters:
    """The KCS registers of a simulated BMC in this process, which answers at once."""

    def __init__(self) -> None:
        from bmcmedic.ipmi.kcs_bmc import BmcKcs
        from bmcmedic.sim.bmc import SimBmc
        from bmcmedic.sim.profile import server_profile

        now = time.monotonic()
        self._kcs = BmcKcs()
        self._bmc = SimBmc(
            "bmc1", server_profile(0), now=now, epoch_offset_s=0.0, host_uuid=uuid.uuid4()
        )
        self.read_data = self._kcs.read_data

    def read_status(self) -> int:
        return self._kcs.read_status()

    def write_data(self, byte: int) -> None:
        self._kcs.write_data(byte)
        self._serve()

    def write_command(self, byte: int) -> None:
        self._kcs.write_command(byte)
        self._serve()

    def _serve(self) -> None:
        from bmcmedic.ipmi.kcs_bmc import KcsEvent
        from bmcmedic.ipmi.message import RequestMessage
        from bmcmedic.sim.dispatch import execute
        from bmcmedic.sim.handler_call import Interface

        if self._kcs.service() is not KcsEvent.REQUEST:
            return
        raw = self._kcs.request
        request = RequestMessage(netfn=raw[0] >> 2, command=raw[1], data=bytes(raw[2:]))
        answer = execute(self._bmc, request, Interface.SYSTEM_INTERFACE, time.monotonic())
        assert answer is not None
        response = bytes((raw[0] | 4, raw[1], answer.completion_code)) + answer.data
        self._kcs.respond(self._kcs.request_number, response)


# ------------------------------------------------------------------- the processes that are started


def be_driver(folder: str) -> None:
    """The driver, whose pats write down how late they were."""
    from bmcmedic.driver.process import config, realtime
    from bmcmedic.driver.process.service import DriverService
    from bmcmedic.transport.in_band import InBand
    from bmcmedic.transport.port_io import PortIo

    class Makers:
        device_exchange_s_max = 10.0

        def device(self, path: str) -> InBand:
            raise NotImplementedError(path)

        def ports(self, base: int) -> InBand:
            return PortIo(BmcRegisters(), base=base)

    options = {
        "interface.kind": "port-io",
        "watchdog.mode": "bmc",
        "watchdog.pat_period_s": str(PERIOD_S),
        "process.runtime_dir": folder,
        "process.real_time_priority": str(PRIORITY),
        "process.log_level": "error",
    }
    chosen = config.load(None, options)
    realtime.schedule_this_thread(PRIORITY, inherited=True)  # as its `main` does
    service = DriverService(chosen, lambda: chosen, makers=Makers())
    watchdog = service.watchdog
    assert watchdog is not None
    woken: list[float] = []
    patted: list[float] = []
    begin_at = time.monotonic() + SETTLE_S

    def observe(due_at: float, begun_at: float, done_at: float, good: bool) -> None:
        assert good
        if due_at >= begin_at:
            woken.append(begun_at - due_at)
            patted.append(done_at - due_at)

    watchdog.observer = observe
    assert service.run() == 0  # until the parent ends it
    print(json.dumps({"woken": woken, "patted": patted}))


def be_bare(seconds: float) -> None:
    """One thread under SCHED_RR that sleeps until it is time, again and again."""
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
    due_at = time.monotonic() + SETTLE_S
    end_at = due_at + seconds
    late = []
    while due_at < end_at:
        time.sleep(max(0.0, due_at - time.monotonic()))
        late.append(time.monotonic() - due_at)
        due_at += PERIOD_S
    print(json.dumps({"woken": late}))


def be_client(path: str) -> None:
    """Asks as fast as it is answered; each question another one, so that none is answered along."""
    from bmcmedic.driver.socket.client import DriverClient
    from bmcmedic.errors import BmcmedicError

    def ask(number: int) -> None:
        # Until the driver has ended.
        with contextlib.suppress(BmcmedicError), DriverClient(path) as client:
            while True:
                client.raw(0x04, 0x2D, bytes((number,)))

    for number in range(CLIENTS):
        threading.Thread(target=ask, args=(number,)).start()


# ---------------------------------------------------------------------------------- the measuring


@contextlib.contextmanager
def hogs(count: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    busy = [
        subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)
    ]
    try:
        yield
    finally:
        for each in busy:
            each.kill()
        for each in busy:
            each.wait()


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """This program once more, in another role."""
    words = [sys.executable, "-m", "bench.pat_lateness", *map(str, arguments)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def measured(seconds: float, *, busy: int, with_clients: bool) -> dict[str, list[float]]:
    """One run: the driver and the bare thread side by side, started before the machine is busy."""
    with (
        tempfile.TemporaryDirectory(prefix="bmcmedic-bench-") as folder,
        contextlib.ExitStack() as on,
    ):
        path = Path(folder, "driver.sock")
        driver = on.enter_context(started("--be-driver", folder))
        deadline = time.monotonic() + START_S
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(PERIOD_S)
        if with_clients:
            on.enter_context(started("--be-client", path))
        bare = on.enter_context(started("--be-bare", "--seconds", seconds))
        on.enter_context(hogs(busy))
        by_itself = json.loads(bare.communicate(timeout=START_S + seconds)[0])["woken"]
        driver.terminate()
        late: dict[str, list[float]] = json.loads(driver.communicate(timeout=START_S)[0])
        return late | {"bare": by_itself}


def stolen_s() -> float:
    """Time that whoever runs this virtual machine has taken from all its processors together."""
    ticks = int(Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[8])
    return ticks / os.sysconf("SC_CLK_TCK")


def told(name: str, late: list[float]) -> str:
    """One line of figures, in milliseconds."""
    percentile = statistics.quantiles(late, n=100)[PERCENTILE - 1]
    figures = (statistics.median(late), percentile, max(late))
    shown = "".join(f"{1000 * figure:10.2f}" for figure in figures)
    return f"  {name:<24}{shown}{len(late):8}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--hogs", type=int, default=100)
    parser.add_argument("--be-driver", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--be-bare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--be-client", metavar="SOCKET", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.be_driver:
        be_driver(given.be_driver)
    elif given.be_bare:
        be_bare(given.seconds)
    elif given.be_client:
        while not Path(given.be_client).exists():
            time.sleep(PERIOD_S)
        be_client(given.be_client)
    else:
        for busy, with_clients in ((0, True), (given.hogs, False), (given.hogs, True)):
            before_s = stolen_s()
            late = measured(given.seconds, busy=busy, with_clients=with_clients)
            stolen_ms = 1000 * (stolen_s() - before_s)
            asking = CLIENTS if with_clients else 0
            print(f"{busy} busy processes, {asking} clients; stolen from us: {stolen_ms:.0f} ms")
            print(f"  {'late by, in ms':<24}{'median':>10}{'99 %':>10}{'max':>10}{'times':>8}")
            print(told("a bare thread, woken", late["bare"]))
            print(told("the pat thread, woken", late["woken"]))
            print(told("the pat answered", late["patted"]))


if __name__ == "__main__":
    main()
