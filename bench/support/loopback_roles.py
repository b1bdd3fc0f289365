"""The processes that `bench.loopback` starts: the driver, a bare thread, and the clients.

    python -m bench.support.loopback_roles driver|bare|sockets|sessions|shims FOLDER …

Each prints what happened to it, as JSON, when it is ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bmcmedic.agent import proxy_files
from bmcmedic.agent.shim.install import script
from bmcmedic.errors import BmcmedicError, CompletionCodeError

PAT_PERIOD_S_MIN = 0.1
PAT_PERIOD_ANSWERS = 2.7
"""The period of the pats, in answers of the BMC.

So others ask most of the time, and each pat meets a different moment of an exchange.
"""
PRIORITY = 10
BARE_PERIOD_S = 0.005
LATE_S_MIN = 0.002
ASK_S = 120.0
"""Longest wait of a client, in seconds.

At 1 s an answer clients wait that long; with less time the queue would be short.
"""
REPEAT_S = 5.0
READ_FRU_DATA = (0x0A, 0x11)
PAT = b"\x18\x22"
FIFO = "fifo"


@dataclass(frozen=True)
class Sickness:
    name: str
    answer_s: float
    lost_one_of: int = 0
    times: int = 1
    """Factor on the length of the run, so that all interfaces are answered."""

    @property
    def pat_period_s(self) -> float:
        return max(PAT_PERIOD_S_MIN, PAT_PERIOD_ANSWERS * self.answer_s)


SICKNESSES = (
    Sickness("answers in 5 ms", 0.005),
    Sickness("answers in 0.2 s", 0.2, times=2),
    Sickness("answers in 1 s", 1.0, times=4),
    Sickness("answers in 50 ms, but loses 1 of 30 answers", 0.05, lost_one_of=30, times=2),
)


def byte_of_fru(number: int) -> bytes:
    """Return the data of a read: each client reads a different byte of FRU 0."""
    return bytes((0, number, 0, 1))


# ------------------------------------------------------------------------------- the driver, alone


def be_driver(folder: str, design: str, sickness: Sickness) -> None:
    """Run the driver, and record its exchanges and pats."""
    from bmcmedic.driver.process import config, realtime
    from bmcmedic.driver.process.service import DriverService
    from bmcmedic.driver.requests import Request, RequestQueues
    from bmcmedic.sim.bmc import SimBmc
    from bmcmedic.sim.faults import FaultSet
    from bmcmedic.sim.front_ends.kcs import ServedRegisters
    from bmcmedic.sim.profile import server_profile
    from bmcmedic.transport.in_band import InBand, InterfaceClaim
    from bmcmedic.transport.port_io import PortIo

    exchanges: list[tuple[float, float, str]] = []
    pats: list[tuple[float, float, float, bool]] = []

    class LossyRegisters(ServedRegisters):
        """Registers of a BMC that loses answers to clients."""

        requests = 0

        def _serve_once(self, now: float) -> None:
            waited = len(self._answers)
            super()._serve_once(now)
            if len(self._answers) > waited and self._kcs.request[:2] != PAT:
                self.requests += 1
                if sickness.lost_one_of and not self.requests % sickness.lost_one_of:
                    self._answers.pop()

    class RecordedPortIo(PortIo):
        def attempt(
            self, request: bytes, deadline: float, claim: InterfaceClaim, *, idempotent: bool
        ) -> bytes:
            began = time.monotonic()
            try:
                return super().attempt(request, deadline, claim, idempotent=idempotent)
            finally:
                exchanges.append((began, time.monotonic(), request.hex()))

    class Makers:
        device_exchange_s_max = 10.0

        def device(self, path: str) -> InBand:
            raise NotImplementedError(path)

        def ports(self, base: int) -> InBand:
            now = time.monotonic()
            host = uuid.uuid4()
            bmc = SimBmc("bmc1", server_profile(0), now=now, epoch_offset_s=0.0, host_uuid=host)
            bmc.set_faults(FaultSet.parse([f"slow:{sickness.answer_s}"]), now)
            registers = LossyRegisters(bmc, time.monotonic)
            threading.Thread(target=registers.serve, daemon=True).start()
            return RecordedPortIo(registers, base=base)

    def in_order_of_arrival(self: RequestQueues) -> Request | None:
        queues = [q for q in (self.pending_requests_highpri, self.pending_requests) if q]
        first = min(queues, key=lambda queue: queue[0].enqueued_at, default=None)
        self._active = None if first is None else first.popleft()
        return self._active

    options = {
        "interface.kind": "port-io",
        "watchdog.mode": "bmc",
        "watchdog.pat_period_s": str(sickness.pat_period_s),
        "process.runtime_dir": folder,
        "process.real_time_priority": str(PRIORITY),
        "process.log_level": "error",
    }
    if design == FIFO:
        RequestQueues.dequeue_request = in_order_of_arrival  # type: ignore[method-assign]
    chosen = config.load(None, options)
    realtime.schedule_this_thread(PRIORITY, inherited=True)  # as its `main` does
    service = DriverService(chosen, lambda: chosen, makers=Makers())
    assert service.watchdog is not None
    service.watchdog.observer = lambda *pat: pats.append(pat)
    assert service.run() == 0  # until the parent ends it
    print(json.dumps({"exchanges": exchanges, "pats": pats}))


def be_bare(processor: int) -> None:
    """Run a thread under SCHED_RR that only wakes: if it is late, so is every thread there."""
    os.sched_setaffinity(0, (processor,))
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY + 1))
    counts = Counts()
    late: list[tuple[float, float]] = []

    def wake() -> None:
        due_at = time.monotonic()
        while True:
            time.sleep(max(0.0, due_at - time.monotonic()))
            now = time.monotonic()
            if now > due_at + LATE_S_MIN:
                late.append((due_at, now))
            due_at = max(due_at + BARE_PERIOD_S, now)

    threading.Thread(target=wake, daemon=True).start()
    counts.print_at_the_end(late=late)


# ------------------------------------------------------------------------------------- the clients


class Counts:
    """The counts of one kind of client, in a process of its own; printed when its input ends."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.failed = 0

    def asked(self, ask: Callable[[], object]) -> None:
        try:
            ask()
        except BmcmedicError:
            self.failed += 1
        else:
            self.at.append(time.monotonic())

    def print_at_the_end(
        self, end: Callable[[], object] = lambda: None, late: Sequence[object] = ()
    ) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)  # the processes that it started end first
        sys.stdin.read()
        end()
        print(json.dumps({"at": self.at, "failed": self.failed, "late": late}), flush=True)
        os._exit(0)  # threads that still wait for an answer end with the process


def be_sockets(folder: str, first: int, count: int) -> None:
    from bmcmedic.driver.socket.client import DriverClient

    counts = Counts()

    def ask(number: int) -> None:
        client = DriverClient(f"{folder}/driver.sock", ASK_S)
        while True:
            counts.asked(lambda: client.raw(*READ_FRU_DATA, byte_of_fru(number)))

    for number in range(count):
        threading.Thread(target=ask, args=(first + number,), daemon=True).start()
    counts.print_at_the_end()


def be_sessions(folder: str, first: int, count: int) -> None:
    from bmcmedic.ipmi.commands.fru import ReadFruDataReq
    from bmcmedic.transport.lanplus import Credentials, LanPlus

    counts = Counts()
    proxy = proxy_files.find_proxy(folder)
    password = Path(proxy.password_file).read_bytes().splitlines()[0]
    credentials = Credentials(proxy.user, password)

    async def ask(number: int) -> None:
        bmc = None
        while True:
            deadline = time.monotonic() + ASK_S
            try:
                if bmc is None:
                    address = (proxy.host, proxy.port)
                    bmc = await LanPlus.connect(
                        address, credentials, deadline=deadline, retransmit_first_s=REPEAT_S
                    )
                await bmc.exchange(ReadFruDataReq(number, 1), deadline)
            except CompletionCodeError:
                counts.failed += 1
            except BmcmedicError:
                counts.failed += 1
                bmc = None
            else:
                counts.at.append(time.monotonic())

    async def all_of_them() -> None:
        await asyncio.gather(*(ask(first + number) for number in range(count)))

    threading.Thread(target=lambda: asyncio.run(all_of_them()), daemon=True).start()
    counts.print_at_the_end()


def be_shims(folder: str, first: int, count: int) -> None:
    from bmcmedic.agent.shim import start as shim_start

    counts = Counts()
    real = shutil.which("ipmitool")
    assert real is not None
    installed = Path(folder, "ipmitool")
    installed.write_text(script(sys.executable, shim_start.__file__, real), encoding="utf-8")
    installed.chmod(0o755)
    environment = {**os.environ, "BMCMEDIC_RUNTIME_DIR": folder}

    running: dict[int, subprocess.Popen[bytes]] = {}
    ending = threading.Event()

    def ask(number: int) -> None:
        asked = (*READ_FRU_DATA, *byte_of_fru(number))
        words = [str(installed), "raw", *map(hex, asked)]
        while not ending.is_set():
            running[number] = subprocess.Popen(
                words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            if running[number].wait() == 0:
                counts.at.append(time.monotonic())
            elif not ending.is_set():
                counts.failed += 1

    for number in range(count):
        threading.Thread(target=ask, args=(first + number,), daemon=True).start()

    def end() -> None:
        """End the shims, each of which ends its ipmitool."""
        ending.set()
        for each in list(running.values()):
            each.terminate()
            each.wait()

    counts.print_at_the_end(end)


def main(role: str, folder: str, one: str, two: str) -> None:
    match role:
        case "driver":
            be_driver(folder, one, SICKNESSES[int(two)])
        case "bare":
            be_bare(int(one))
        case "sockets":
            be_sockets(folder, int(one), int(two))
        case "sessions":
            be_sessions(folder, int(one), int(two))
        case "shims":
            be_shims(folder, int(one), int(two))


if __name__ == "__main__":
    main(*sys.argv[1:])
