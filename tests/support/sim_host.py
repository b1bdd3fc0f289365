"""A host with bmcmedic's driver on real threads and a simulated BMC, and its loopback proxy."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmcmedic.agent.loopback.server import LoopbackServer, LoopbackSettings
from bmcmedic.driver.breaker import BreakerLimits
from bmcmedic.driver.driver import Driver
from bmcmedic.driver.requests import DriverLimits
from bmcmedic.driver.socket.listener import listen
from bmcmedic.driver.socket.server import SocketServer
from bmcmedic.errors import BmcmedicError, NoAnswer
from bmcmedic.ipmi.bridge import Bridge
from bmcmedic.ipmi.kcs_host import KcsLimits
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.service.runtime import ThreadRuntime
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.dispatch import execute
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.front_ends.kcs import ServedRegisters
from bmcmedic.sim.handler_call import Interface
from bmcmedic.sim.profile import server_profile
from bmcmedic.transport.in_band import InterfaceClaim, Ipmb
from bmcmedic.transport.port_io import PortIo

WAIT_S_MAX = 60.0
LIMITS = DriverLimits(breaker=BreakerLimits(failures_max=2, probe_s_min=0.2, probe_s_max=0.5))
KCS_LIMITS = KcsLimits(recoveries_max=1, exchange_s=10.0)
"""Limits for a BMC that answers: on a busy machine an exchange of two threads takes a second."""
HANG_LIMITS = KcsLimits(recoveries_max=1, exchange_s=2.0)
"""Limits for a BMC that hangs: with those that ship, each test would take half a minute."""


class SimHost:
    """A simulated BMC, its driver and the driver's socket."""

    def __init__(self, directory: Path, kcs_limits: KcsLimits = KCS_LIMITS) -> None:
        now = time.monotonic()
        self.bmc = SimBmc(
            "bmc1",
            server_profile(int(time.time())),
            now=now,
            epoch_offset_s=time.time() - now,
            host_uuid=uuid.UUID("12345678-9abc-def0-1234-56789abcdef0"),
        )
        self.socket_path = str(directory / "driver.sock")
        self.registers = ServedRegisters(self.bmc, time.monotonic)
        self._interface = BridgingPortIo(self, kcs_limits)
        self._firmware = threading.Thread(target=self.registers.serve, name="firmware")
        self._threads: list[threading.Thread] = []
        self._firmware.start()
        self.start_driver()

    def start_driver(self) -> None:
        runtime = ThreadRuntime()
        self.driver = Driver(self._interface, runtime, LIMITS)
        self._server = SocketServer(listen(self.socket_path), self.driver, None, runtime)
        self._threads = [
            threading.Thread(target=self.driver.kcs_loop, name="worker"),
            threading.Thread(target=self._server.run, name="socket"),
        ]
        for thread in self._threads:
            thread.start()

    def stop_driver(self) -> None:
        self._server.stop()
        self.driver.stop()
        for thread in self._threads:
            thread.join(WAIT_S_MAX)
            assert not thread.is_alive()
        self._server.close()

    def close(self) -> None:
        self.stop_driver()
        self.registers.stop()
        self._firmware.join(WAIT_S_MAX)

    def set_faults(self, *faults: str) -> None:
        with self.registers.lock:
            self.bmc.set_faults(FaultSet.parse(faults), time.monotonic())
            self.registers.changed()

    def requests(self, key: str | None = None) -> int:
        """Return how many requests reached the BMC: all, or those of one command (`06/01`)."""
        with self.registers.lock:
            counts: dict[str, int] = self.bmc.describe(time.monotonic())["requests"]
        return sum(counts.values()) if key is None else counts.get(key, 0)


class BridgingPortIo(PortIo):
    """Port I/O that also reaches the controllers behind the BMC, as /dev/ipmi0 does."""

    def __init__(self, host: SimHost, limits: KcsLimits) -> None:
        super().__init__(host.registers, limits=limits)
        self._sim = host

    def send_bridged(
        self,
        request: bytes,
        target: Ipmb,
        deadline: float,
        claim: InterfaceClaim,
        done: Callable[[bytes | BmcmedicError], None],
    ) -> None:
        del deadline, claim
        host = self._sim
        if host.bmc.faults.silences_kcs:
            raise NoAnswer("silent")
        message = RequestMessage(request[0] >> 2, request[1], request[2:], sequence=5)
        wrapped = Bridge(target.channel, target.address, target.lun).wrap(message)
        with host.registers.lock:
            answer = execute(host.bmc, wrapped, Interface.LAN, time.monotonic())
        result: bytes | BmcmedicError
        if answer is None or answer.follow_up is None:
            result = NoAnswer("nobody at that address")
        else:
            inner = answer.follow_up
            result = bytes((request[0] | 4, inner.command, inner.completion_code)) + inner.data
        threading.Thread(target=done, args=(result,)).start()


@dataclass
class RunningProxy:
    """A loopback proxy in a thread of its own."""

    server: LoopbackServer
    runtime_dir: Path
    loop: asyncio.AbstractEventLoop
    reports: list[str]

    @property
    def port(self) -> int:
        return self.server.address[1]

    @property
    def password(self) -> str:
        text = (self.runtime_dir / "door" / "password").read_text(encoding="ascii")
        return text.splitlines()[0]

    @property
    def password_file(self) -> str:
        return str(self.runtime_dir / "door" / "password")

    def state(self) -> str:
        text = (self.runtime_dir / "door" / "state").read_text(encoding="utf-8")
        return text.splitlines()[0]

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.call(self.server.status)
        return status

    def call(self, function: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever it returns
        """Call a function in the thread of the proxy."""

        async def called() -> Any:  # noqa: ANN401
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(WAIT_S_MAX)


@contextlib.contextmanager
def sim_host(directory: Path, kcs_limits: KcsLimits = KCS_LIMITS) -> Iterator[SimHost]:
    host = SimHost(directory, kcs_limits)
    try:
        yield host
    finally:
        host.close()


@contextlib.contextmanager
def running_proxy(
    driver_path: str, runtime_dir: Path, settings: LoopbackSettings | None = None
) -> Iterator[RunningProxy]:
    reports: list[str] = []
    settings = settings or LoopbackSettings(port=0, request_s=5.0)
    started: list[RunningProxy] = []
    failures: list[BaseException] = []
    ready, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        proxy = LoopbackServer(
            settings, driver_path=driver_path, runtime_dir=str(runtime_dir), report=reports.append
        )
        async with proxy:
            loop = asyncio.get_running_loop()
            started.append(RunningProxy(proxy, runtime_dir, loop, reports))
            ready.set()
            await stop.wait()

    def thread() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            failures.append(error)
        finally:
            ready.set()

    runner = threading.Thread(target=thread, name="loopback")
    runner.start()
    try:
        assert ready.wait(WAIT_S_MAX)
        if failures:
            raise failures[0]
        yield started[0]
    finally:
        if started:
            started[0].loop.call_soon_threadsafe(stop.set)
        runner.join(WAIT_S_MAX)
    if failures:
        raise failures[0]
