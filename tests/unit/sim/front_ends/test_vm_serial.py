"""The simulator as the BMC of a virtual machine, which is modelled here, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from bmcmedic.errors import ConfigurationError
from bmcmedic.ipmi.commands.chassis import ChassisControlAction, ChassisControlReq
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.device import ColdResetReq, GetDeviceIdReq
from bmcmedic.ipmi.commands.messaging import (
    BmcGlobalEnables,
    ClearMessageFlagsReq,
    MessageFlags,
    SetBmcGlobalEnablesReq,
)
from bmcmedic.ipmi.commands.watchdog import (
    PretimeoutInterrupt,
    ResetWatchdogTimerReq,
    SetWatchdogTimerReq,
    TimeoutAction,
    TimerUse,
)
from bmcmedic.ipmi.vm_serial import (
    SPECIAL_BYTES,
    ControlMessage,
    DamagedFrame,
    VmCapability,
    VmControlCode,
    VmHost,
    VmResponse,
)
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.front_ends import vm_serial as vm
from bmcmedic.sim.front_ends.vm_serial import VmPort, parse_vm_socket
from bmcmedic.sim.profile import server_profile
from bmcmedic.sim.rack import BmcSpec, Rack
from bmcmedic.transport.addresses import Address
from tests.support.polling import eventually_in_loop
from tests.support.sim import EPOCH_OFFSET_S, send_command

DEADLINE_S = 30.0
Code = VmControlCode


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 3 * DEADLINE_S))


class Machine:
    """A virtual machine: QEMU's end of the protocol on a socket."""

    def __init__(self, host: VmHost) -> None:
        self.host = host
        self.answers: list[VmResponse] = []
        self.codes_received: list[VmControlCode] = []
        self.damaged = 0
        self.is_gone = False
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def connect(self, place: Address | Path) -> None:
        if isinstance(place, Path):
            reader, self._writer = await asyncio.open_unix_connection(str(place))
        else:
            reader, self._writer = await asyncio.open_connection(*place)
        self.is_gone = False
        self._reading = asyncio.create_task(self._read(reader))
        self._writer.write(self.host.connected())

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                for event in self.host.receive(data):
                    if isinstance(event, VmResponse):
                        self.answers.append(event)
                    elif isinstance(event, ControlMessage):
                        self.codes_received.append(event.code)
                    else:
                        assert isinstance(event, DamagedFrame)
                        self.damaged += 1
        self.is_gone = True

    async def close(self) -> None:
        assert self._writer is not None
        assert self._reading is not None
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        self.host.disconnected()

    def send(self, request: Command[Any]) -> None:
        assert self._writer is not None
        now = asyncio.get_running_loop().time()
        frame = self.host.request(int(request.netfn), request.command, request.encode(), now)
        self._writer.write(frame)

    def send_raw(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    async def answer(self) -> VmResponse:
        await eventually_in_loop(lambda: bool(self.answers))
        return self.answers.pop(0)

    async def ask(self, request: Command[Any]) -> VmResponse:
        self.send(request)
        return await self.answer()

    async def is_told(self, *codes: VmControlCode) -> None:
        await eventually_in_loop(lambda: set(codes) <= set(self.codes_received))
        self.codes_received.clear()


@contextlib.asynccontextmanager
async def port_of(bmc: SimBmc) -> AsyncIterator[VmPort]:
    port = VmPort(bmc, vm.bind_stream(("127.0.0.1", 0)), asyncio.get_running_loop())
    await port.start()
    try:
        yield port
    finally:
        port.close()


def fresh(*faults: str, power_on: bool = True) -> SimBmc:
    """Return a BMC that uses the clock of the running event loop."""
    now = asyncio.get_running_loop().time()
    return SimBmc(
        "bmc1",
        server_profile(int(now + EPOCH_OFFSET_S)),
        now=now,
        epoch_offset_s=EPOCH_OFFSET_S,
        host_uuid=uuid.UUID("12345678-9abc-def0-1234-56789abcdef0"),
        power_on=power_on,
        faults=FaultSet.parse(faults),
    )


@contextlib.asynccontextmanager
async def machine_at(
    *faults: str, power_on: bool = True, host: VmHost | None = None
) -> AsyncIterator[tuple[Machine, VmPort]]:
    """Yield a machine and its BMC after their introduction."""
    async with port_of(fresh(*faults, power_on=power_on)) as port:
        machine = Machine(host or VmHost())
        await machine.connect(port.address)
        if (host or VmHost()).capabilities & VmCapability.ATTENTION:
            await machine.is_told(Code.VERSION, Code.NO_ATTENTION, Code.DISABLE_IRQ)
        else:
            await machine.is_told(Code.VERSION)
        try:
            yield machine, port
        finally:
            await machine.close()


def set_faults(port: VmPort, *faults: str) -> None:
    port.bmc.set_faults(FaultSet.parse(faults), asyncio.get_running_loop().time())
    port.watch_timer()


def over_lan(port: VmPort, request: Command[Any]) -> None:
    assert send_command(port.bmc, request, asyncio.get_running_loop().time()) is not None
    port.watch_timer()


# ------------------------------------------------------------------------------------- requests


def test_a_machine_asks_its_bmc() -> None:
    async def story() -> None:
        async with machine_at() as (machine, port):
            for _ in range(260):  # every sequence number, those that need an escape included
                answer = await machine.ask(GetDeviceIdReq())
                assert answer.completion_code == 0
                assert answer.data == port.bmc.profile.device_id
            assert port.bmc.requests == {0x0601: 260}
            machine.send_raw(machine.host.request(0x3E, 0x77, b"", 0.0))
            assert (await machine.answer()).completion_code == 0xC1

    run(story)


def test_a_slow_bmc_answers_later() -> None:
    async def story() -> None:
        async with machine_at("slow:0.05") as (machine, _):
            loop = asyncio.get_running_loop()
            started = loop.time()
            assert (await machine.ask(GetDeviceIdReq())).completion_code == 0
            assert loop.time() - started >= 0.05

    run(story)


def test_an_interface_may_be_slow_by_itself_while_lan_is_not() -> None:
    async def story() -> None:
        bmc = fresh()
        loop = asyncio.get_running_loop()
        port = VmPort(bmc, vm.bind_stream(("127.0.0.1", 0)), loop, latency_s=0.05)
        await port.start()
        machine = Machine(VmHost())
        await machine.connect(port.address)
        try:
            started = loop.time()
            assert (await machine.ask(GetDeviceIdReq())).completion_code == 0
            assert loop.time() - started >= 0.05
            over_lan_s = send_command(bmc, GetDeviceIdReq(), loop.time())
            assert over_lan_s is not None
            assert over_lan_s.service_time_s == 0
        finally:
            await machine.close()
            port.close()

    run(story)


def test_an_answer_that_qemu_would_not_wait_for_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vm, "HOLD_FROM_S", 0.01)

    async def story() -> None:
        async with machine_at("slow:1") as (machine, _):
            machine.send(GetDeviceIdReq())
            await eventually_in_loop(lambda: machine.host.timer is None)
            assert machine.answers == []
            assert (await machine.answer()).completion_code == 0

    run(story)


def test_garbage_is_skipped_and_counted() -> None:
    async def story() -> None:
        async with machine_at() as (machine, port):
            machine.send_raw(b"\x00\xff\xaa\xaa\xa0" + bytes(5000) + b"\xa1\x77\xa1\xa0")
            assert (await machine.ask(GetDeviceIdReq())).completion_code == 0
            assert port.discarded_frames == 4
            assert port.describe()["discarded_frames"] == 4

    run(story)


# --------------------------------------------------------------------------------------- faults


def test_a_hung_bmc_is_silent_and_answers_the_last_request_when_it_is_back() -> None:
    async def story() -> None:
        async with machine_at("hang") as (machine, port):
            machine.send(GetDeviceIdReq())
            await eventually_in_loop(lambda: port.machine_waits)
            assert machine.host.timer is not None
            set_faults(port)
            assert (await machine.answer()).completion_code == 0xD2
            assert (await machine.ask(GetDeviceIdReq())).completion_code == 0

    run(story)


@pytest.mark.parametrize("wedge", ["ibf", "obf", "error"])
def test_a_wedged_interface_waits_for_ever_and_a_reset_over_lan_frees_it(wedge: str) -> None:
    async def story() -> None:
        async with machine_at(f"kcs-stuck:{wedge}", "boot:0.05") as (machine, port):
            machine.send(GetDeviceIdReq())
            await eventually_in_loop(lambda: machine.host.timer is None)
            assert machine.host.waiting is not None
            over_lan(port, ColdResetReq())
            assert (await machine.answer()).completion_code == 0xD2
            assert port.bmc.cold_resets == 1
            assert (await machine.ask(GetDeviceIdReq())).completion_code == 0

    run(story)


def test_an_interface_is_wedged_in_the_middle_of_a_request() -> None:
    async def story() -> None:
        async with machine_at("slow:1") as (machine, port):
            machine.send(GetDeviceIdReq())
            await eventually_in_loop(lambda: port.machine_waits)
            set_faults(port, "kcs-stuck:ibf")
            await eventually_in_loop(lambda: machine.host.timer is None)
            await eventually_in_loop(lambda: not port.is_answering)
            assert machine.answers == []
            set_faults(port)
            assert (await machine.answer()).completion_code == 0xD2

    run(story)


@pytest.mark.parametrize("sequence", sorted(SPECIAL_BYTES))
def test_a_request_that_qemu_forgot_is_answered_when_the_bmc_is_back(sequence: int) -> None:
    async def story() -> None:
        async with machine_at("hang", "boot:0.05") as (machine, port):
            machine.host.sequence = sequence
            machine.send(GetDeviceIdReq())
            await eventually_in_loop(lambda: port.machine_waits)
            assert machine.host.handle_timer(float("inf")) is None
            over_lan(port, ColdResetReq())
            answer = await machine.answer()
            assert (answer.sequence, answer.completion_code) == (sequence, 0xD2)

    run(story)


def test_a_machine_resets_its_own_bmc_and_gets_the_answer_first() -> None:
    async def story() -> None:
        async with machine_at("boot:0.05") as (machine, port):
            assert (await machine.ask(ColdResetReq())).completion_code == 0
            await eventually_in_loop(lambda: port.bmc.cold_resets == 1 and port.bmc.state == "up")
            assert (await machine.ask(GetDeviceIdReq())).completion_code == 0

    run(story)


# --------------------------------------------------------------------------- the BMC to the host


def watchdog(
    action: TimeoutAction, interrupt: PretimeoutInterrupt = PretimeoutInterrupt.NONE
) -> SetWatchdogTimerReq:
    return SetWatchdogTimerReq(
        TimerUse.SMS_OS,
        action,
        1.1 if interrupt else 0.1,
        pretimeout_interrupt=interrupt,
        pretimeout_interval_s=1 if interrupt else 0,
    )


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (TimeoutAction.HARD_RESET, Code.RESET),
        (TimeoutAction.POWER_DOWN, Code.POWER_OFF),
        (TimeoutAction.POWER_CYCLE, Code.RESET),
    ],
)
def test_the_watchdog_acts_on_the_machine(action: TimeoutAction, code: VmControlCode) -> None:
    async def story() -> None:
        async with machine_at() as (machine, port):
            await machine.ask(watchdog(action))
            await machine.ask(ResetWatchdogTimerReq())
            assert machine.codes_received == []
            await machine.is_told(code)
            assert port.bmc.host.power_on is (action is TimeoutAction.HARD_RESET)

    run(story)


def test_a_watchdog_that_nobody_started_leaves_the_machine_alone() -> None:
    async def story() -> None:
        async with machine_at() as (machine, port):
            await machine.ask(watchdog(TimeoutAction.HARD_RESET))
            assert port.bmc.timer is None
            assert machine.codes_received == []

    run(story)


def test_a_pretimeout_is_an_nmi_and_calls_for_attention_until_it_is_cleared() -> None:
    async def story() -> None:
        async with machine_at() as (machine, _):
            await machine.ask(watchdog(TimeoutAction.NONE, PretimeoutInterrupt.NMI))
            await machine.ask(ResetWatchdogTimerReq())
            await machine.is_told(Code.NMI, Code.ATTENTION_IRQ)
            await machine.ask(ClearMessageFlagsReq(MessageFlags.WATCHDOG_PRETIMEOUT))
            await machine.is_told(Code.NO_ATTENTION)

    run(story)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (ChassisControlAction.POWER_DOWN, Code.POWER_OFF),
        (ChassisControlAction.HARD_RESET, Code.RESET),
        (ChassisControlAction.POWER_CYCLE, Code.RESET),
        (ChassisControlAction.DIAGNOSTIC_INTERRUPT, Code.NMI),
        (ChassisControlAction.SOFT_SHUTDOWN, Code.GRACEFUL_SHUTDOWN),
    ],
)
def test_chassis_control_over_lan_acts_on_the_machine(
    action: ChassisControlAction, code: VmControlCode
) -> None:
    async def story() -> None:
        async with machine_at() as (machine, port):
            over_lan(port, ChassisControlReq(action))
            await eventually_in_loop(lambda: bool(machine.codes_received))
            assert machine.codes_received == [code]

    run(story)


def test_a_machine_that_can_do_little_is_not_asked_for_more() -> None:
    async def story() -> None:
        async with machine_at(host=VmHost(VmCapability.RESET)) as (machine, port):
            over_lan(port, ChassisControlReq(ChassisControlAction.DIAGNOSTIC_INTERRUPT))
            over_lan(port, ChassisControlReq(ChassisControlAction.HARD_RESET))
            await eventually_in_loop(lambda: bool(machine.codes_received))
            assert machine.codes_received == [Code.RESET]

    run(story)


def test_the_interrupt_follows_the_global_enables() -> None:
    async def story() -> None:
        async with machine_at("boot:0.05") as (machine, port):
            enables = BmcGlobalEnables.RECEIVE_MESSAGE_QUEUE_INTERRUPT
            await machine.ask(SetBmcGlobalEnablesReq(enables))
            await machine.is_told(Code.ENABLE_IRQ)
            over_lan(port, ColdResetReq())
            await machine.is_told(Code.DISABLE_IRQ)

    run(story)


def test_a_bmc_that_takes_its_host_along_resets_the_machine() -> None:
    async def story() -> None:
        async with machine_at("reset-reboots-host", "boot:0.2") as (machine, port):
            over_lan(port, ColdResetReq())
            await machine.is_told(Code.RESET)
            await eventually_in_loop(lambda: port.bmc.host.power_changes == 2)
            assert Code.POWER_OFF not in machine.codes_received

    run(story)


# ----------------------------------------------------------------------------------- connections


def test_a_machine_that_connects_has_power() -> None:
    async def story() -> None:
        async with machine_at(power_on=False) as (_, port):
            assert port.bmc.host.power_on
            assert port.bmc.host.boots == 1

    run(story)


def test_one_machine_at_a_time() -> None:
    async def story() -> None:
        async with machine_at() as (machine, port):
            second = Machine(VmHost())
            await second.connect(port.address)
            await eventually_in_loop(lambda: second.is_gone)
            assert second.codes_received == []
            await second.close()
            assert port.refused_clients == 1
            assert (await machine.ask(GetDeviceIdReq())).completion_code == 0

    run(story)


def test_a_wedged_machine_that_went_and_came_back_is_freed_by_the_reset() -> None:
    async def story() -> None:
        async with machine_at("kcs-stuck:ibf", "boot:0.05") as (machine, port):
            machine.send(GetDeviceIdReq())
            await eventually_in_loop(lambda: machine.host.timer is None)
            await machine.close()
            await eventually_in_loop(lambda: not port.is_connected)
            await machine.connect(port.address)
            await machine.is_told(Code.VERSION)
            assert machine.host.waiting is not None
            over_lan(port, ColdResetReq())
            assert (await machine.answer()).completion_code == 0xD2

    run(story)


def test_a_machine_that_was_away_during_the_reset_is_freed_when_it_comes() -> None:
    async def story() -> None:
        async with machine_at("kcs-stuck:ibf", "boot:0.02") as (machine, port):
            machine.send(GetDeviceIdReq())
            await eventually_in_loop(lambda: machine.host.timer is None)
            await machine.close()
            await eventually_in_loop(lambda: not port.is_connected)
            over_lan(port, ColdResetReq())
            await eventually_in_loop(lambda: port.bmc.cold_resets == 1 and port.bmc.state == "up")
            await machine.connect(port.address)
            assert (await machine.answer()).completion_code == 0xD2
            assert (await machine.ask(GetDeviceIdReq())).completion_code == 0

    run(story)


def test_a_client_without_introduction_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "INTRODUCTION_TIMEOUT_S", 0.05)

    async def story() -> None:
        async with port_of(fresh()) as port:
            reader, writer = await asyncio.open_connection(*cast("Address", port.address))
            with contextlib.suppress(ConnectionError):
                await reader.read()
            await eventually_in_loop(lambda: not port.is_connected)
            writer.close()

    run(story)


async def flooded(client: socket.socket, flood: bytes) -> None:
    """Send without reading, for as long as the other side accepts data."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while loop.time() < deadline:
        await loop.sock_sendall(client, flood)


def test_a_client_that_reads_nothing_is_disconnected() -> None:
    async def story() -> None:
        async with port_of(fresh()) as port:
            host = VmHost()
            flood = (host.connected() + host.request(6, 1, b"", 0.0)) * 100
            with socket.create_connection(cast("Address", port.address)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                with pytest.raises(ConnectionError):
                    await flooded(client, flood)
            assert port.discarded_frames == 0

    run(story)


def test_a_frame_that_a_lost_connection_cut_off_does_not_spoil_the_next() -> None:
    async def story() -> None:
        async with machine_at() as (machine, port):
            machine.send_raw(b"\x05\x18\xaa")
            await machine.close()
            await eventually_in_loop(lambda: not port.is_connected)
            await machine.connect(port.address)
            # QEMU has cleared its lines with the end of the connection.
            await machine.is_told(Code.VERSION, Code.NO_ATTENTION, Code.DISABLE_IRQ)
            assert (await machine.ask(GetDeviceIdReq())).completion_code == 0
            assert port.discarded_frames == 0

    run(story)


def test_a_lost_connection_takes_the_answer_along() -> None:
    async def story() -> None:
        async with machine_at("slow:0.1") as (machine, port):
            machine.send(GetDeviceIdReq())
            await eventually_in_loop(lambda: port.is_answering)
            await machine.close()
            await eventually_in_loop(lambda: not port.is_connected)
            assert not port.is_answering
            assert not port.machine_waits  # QEMU has answered it with 0xD2
            await machine.connect(port.address)
            assert (await machine.ask(GetDeviceIdReq())).sequence == 1
            assert machine.answers == []

    run(story)


def test_a_machine_whose_interface_was_reset_gets_no_answer_to_what_was_before() -> None:
    async def story() -> None:
        async with machine_at("slow:0.05") as (machine, port):
            machine.send(GetDeviceIdReq())
            machine.send_raw(ControlMessage(Code.RESET).encode())
            await eventually_in_loop(lambda: 0x0601 in port.bmc.requests and not port.is_answering)
            machine.host.waiting = None
            assert (await machine.ask(GetDeviceIdReq())).sequence == 1
            assert machine.answers == []

    run(story)


# ---------------------------------------------------------------------------------------- places


def test_a_socket_is_an_address_or_a_path() -> None:
    assert parse_vm_socket("127.0.0.1:9002") == ("127.0.0.1", 9002)
    assert parse_vm_socket("[::1]:0") == ("::1", 0)
    assert parse_vm_socket("./bmc1.sock") == Path("bmc1.sock")
    for text in ("bmc1.sock", "", "127.0.0.1"):
        with pytest.raises(ConfigurationError, match="write ADDR:PORT"):
            parse_vm_socket(text)


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "bmc1.sock"
    dead = vm.bind_stream(path)
    dead.close()
    assert path.is_socket()
    living = vm.bind_stream(path)
    try:
        with pytest.raises(ConfigurationError, match="Address already in use"):
            vm.bind_stream(path)
        assert path.is_socket()
    finally:
        living.close()


@pytest.mark.parametrize("name", ["a file", "no/folder", "x" * 200])
def test_a_path_that_cannot_be_bound_is_reported_with_the_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").write_text("precious")
    with pytest.raises(ConfigurationError, match="cannot listen for a virtual machine at"):
        vm.bind_stream(tmp_path / name)
    assert (tmp_path / "a file").read_text() == "precious"


def test_a_rack_opens_the_socket_and_removes_it_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "bmc1.sock"

    async def story() -> None:
        async with Rack([BmcSpec("bmc1", vm_socket=path, power_on=False)]) as rack:
            machine = Machine(VmHost())
            await machine.connect(path)
            assert (await machine.ask(GetDeviceIdReq())).completion_code == 0
            now = asyncio.get_running_loop().time()
            described = rack.describe("bmc1", now)
            assert described["vm"] == {
                "socket": str(path),
                "connected": True,
                "refused_clients": 0,
                "discarded_frames": 0,
            }
            assert described["host_power"] == "on"
            rack.set_faults("bmc1", FaultSet.parse(["kcs-stuck:ibf"]), now)
            machine.send(GetDeviceIdReq())
            await eventually_in_loop(lambda: machine.host.timer is None)
            await machine.close()
        assert not path.exists()

    run(story)


def test_a_bmc_without_a_machine_is_described_so() -> None:
    async def story() -> None:
        async with Rack([BmcSpec("bmc1")]) as rack:
            assert rack.describe("bmc1", asyncio.get_running_loop().time())["vm"] is None
            with pytest.raises(KeyError):
                rack.vm("bmc1")

    run(story)
