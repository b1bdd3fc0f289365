"""Simulated BMCs for tests: in virtual time, or on loopback in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.dispatch import execute
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.handler_call import HandlerAnswer, Interface
from bmcmedic.sim.profile import server_profile
from bmcmedic.sim.rack import Account, BmcSpec, Rack
from bmcmedic.sim.watchdog_timer import SimTimerSettings
from bmcmedic.transport.addresses import Address

R = TypeVar("R")
Json = dict[str, Any]

START = 1_000.0
EPOCH_OFFSET_S = 1_700_000_000.0
START_TIMEOUT_S = 60.0


def sim_bmc(
    *faults: str, power_on: bool = True, watchdog_daemon: SimTimerSettings | None = None
) -> SimBmc:
    """A BMC at `START`."""
    return SimBmc(
        "bmc1",
        server_profile(int(START + EPOCH_OFFSET_S)),
        now=START,
        epoch_offset_s=EPOCH_OFFSET_S,
        host_uuid=uuid.UUID("12345678-9abc-def0-1234-56789abcdef0"),
        power_on=power_on,
        faults=FaultSet.parse(faults),
        watchdog_daemon=watchdog_daemon,
    )


def send_command(
    bmc: SimBmc, request: Command[Any], now: float, interface: Interface = Interface.LAN
) -> HandlerAnswer | None:
    """Send the BMC a request; return its answer, or None for silence."""
    message = RequestMessage(int(request.netfn), request.command, request.encode())
    return execute(bmc, message, interface, now)


def ask(bmc: SimBmc, request: Command[R], now: float, interface: Interface = Interface.LAN) -> R:
    """Send the BMC a request and return its decoded response.

    Raises: CompletionCodeError, and AssertionError for silence.
    """
    answer = send_command(bmc, request, now, interface)
    assert answer is not None, "the BMC is silent"
    return request.decode_response(answer.completion_code, answer.data)


class RunningRack:
    """A rack that runs in a thread of its own."""

    def __init__(self, rack: Rack) -> None:
        self._rack = rack

    def bmc(self, name: str = "bmc1") -> SimBmc:
        """The BMC itself, which runs in another thread."""
        found = self._rack.bmc(name)
        assert found is not None
        return found

    def address(self, name: str = "bmc1") -> Address:
        """Return the address of that BMC's LAN side."""
        return self._rack.port(name).address

    @property
    def control(self) -> Address:
        """The address of the control endpoint."""
        assert self._rack.control is not None
        return self._rack.control

    def get(self, path: str) -> tuple[int, Json]:
        """GET a path from the control endpoint."""
        return self.request("GET", path)

    def status(self, name: str = "bmc1") -> Json:
        """Return what the control endpoint shows of that BMC."""
        status, body = self.get(f"/bmcs/{name}")
        assert status == http.client.OK
        return body

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Json]:
        """Send a request to the control endpoint; return its status and JSON."""
        connection = http.client.HTTPConnection(*self.control, timeout=START_TIMEOUT_S)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def set_faults(self, *specs: str, name: str = "bmc1") -> Json:
        """Replace a BMC's faults over the control endpoint."""
        body = json.dumps({"faults": specs}).encode()
        status, answer = self.request("POST", f"/bmcs/{name}/faults", body)
        assert status == http.client.OK, answer
        return answer


@contextlib.contextmanager
def running_rack(
    specs: Sequence[BmcSpec],
    *,
    account: Account | None = None,
    control: Address = ("127.0.0.1", 0),
    seed: int | None = None,
) -> Iterator[RunningRack]:
    """Run a rack with a control endpoint until the block ends."""
    rack = Rack(specs, account=account, control=control, seed=seed)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ready = threading.Event()
    failure: list[BaseException] = []

    async def run() -> None:
        async with rack:
            ready.set()
            await stop.wait()

    def thread() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the test's thread
            failure.append(error)
        finally:
            ready.set()
            loop.close()

    runner = threading.Thread(target=thread, name="running-rack")
    runner.start()
    try:
        assert ready.wait(START_TIMEOUT_S)
        if failure:
            raise failure[0]
        yield RunningRack(rack)
    finally:
        if not failure:
            loop.call_soon_threadsafe(stop.set)
        runner.join()


@contextlib.contextmanager
def running_bmc(*faults: str, account: Account | None = None) -> Iterator[RunningRack]:
    """Run one BMC, `bmc1`, on a free port of 127.0.0.1."""
    spec = BmcSpec("bmc1", ("127.0.0.1", 0), FaultSet.parse(faults))
    with running_rack([spec], account=account) as rack:
        yield rack
