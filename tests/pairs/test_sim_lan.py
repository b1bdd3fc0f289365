"""The simulator's LAN front end with the real client, and with any other UDP datagram."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmcmedic.errors import (
    AuthenticationFailed,
    BmcRefusal,
    CompletionCodeError,
    NoAnswer,
    RmcpPlusStatusError,
    TransportError,
)
from bmcmedic.ipmi.bridge import Bridge
from bmcmedic.ipmi.commands.chassis import GetChassisStatusReq
from bmcmedic.ipmi.commands.device import ColdResetReq, GetDeviceIdReq
from bmcmedic.ipmi.commands.sensor import GetSensorReadingReq
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.managed_system import IncomingRequest, ManagedSystem
from bmcmedic.ipmi.packet import PresencePing
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.front_ends.lan import LanFront, LanPort
from bmcmedic.sim.rack import DEFAULT_USERS, BmcSpec, Rack
from bmcmedic.transport.addresses import Address
from bmcmedic.transport.lanplus import LanPlus
from tests.support.sim import START, sim_bmc

PEER = ("192.0.2.7", 50_000)
CREDENTIALS = Credentials("admin", b"secret")
TIMEOUT_S = 30.0
ALL_DISTURBANCES = ["lan-loss:0.2", "garbage:0.3", "slow:0.001", "sessions:2", "reset-lost-reply"]


class CatchingSocket(socket.socket):
    """A socket that collects what is sent."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.bind(("127.0.0.1", 0))
        self.sent: list[bytes] = []

    def sendto(self, data: bytes, *_where: object) -> int:  # type: ignore[override]
        self.sent.append(data)
        return len(data)


class Wire:
    """One LAN port, in memory and in virtual time."""

    def __init__(self, *faults: str, seed: int = 1) -> None:
        self.socket = CatchingSocket()
        self.bmc = sim_bmc(*faults)
        self.front = LanFront(users=DEFAULT_USERS, seed=seed)
        self.port: LanPort = self.front.add(self.bmc, self.socket)

    def send(self, datagram: bytes, now: float = START) -> list[bytes]:
        """Send a datagram; return the answers that come at once."""
        before = len(self.socket.sent)
        self.port.receive(datagram, PEER, now)
        return self.socket.sent[before:]

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_error: object) -> None:
        self.front.close()


def with_bmc(
    story: Callable[[Address, Rack], Awaitable[None]], *faults: str, seed: int | None = None
) -> None:
    """Run a coroutine of a test against one BMC on loopback."""

    async def run() -> None:
        spec = BmcSpec("bmc1", ("127.0.0.1", 0), FaultSet.parse(faults))
        async with Rack([spec], seed=seed) as rack:
            await story(rack.port("bmc1").address, rack)

    asyncio.run(run())


async def connect(
    address: Address,
    privilege: PrivilegeLevel = PrivilegeLevel.ADMINISTRATOR,
    credentials: Credentials = CREDENTIALS,
    timeout_s: float = TIMEOUT_S,
) -> LanPlus:
    deadline = time.monotonic() + timeout_s
    return await LanPlus.connect(address, credentials, deadline=deadline, privilege=privilege)


def soon(timeout_s: float = TIMEOUT_S) -> float:
    return time.monotonic() + timeout_s


async def until_reset(rack: Rack) -> None:
    """Wait for the BMC's restart, which follows its answer."""
    deadline = soon()
    while rack.describe("bmc1", time.monotonic())["cold_resets"] == 0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# ---- anything may come in


@given(st.lists(st.binary(max_size=400), max_size=8))
def test_random_datagrams_are_answered_or_dropped_and_never_raise(datagrams: list[bytes]) -> None:
    with Wire(*ALL_DISTURBANCES) as wire:
        for number, datagram in enumerate(datagrams):
            wire.send(datagram, START + number)
        wire.front.handle_timers(START + 1_000)
        assert len(wire.socket.sent) <= len(datagrams)
        assert wire.bmc.cold_resets == 0


IPMI_HEADER = bytes.fromhex("0600ff07")


@given(
    st.sampled_from([0x00, 0x10, 0x12, 0x14, 0xC0, 0x40, 0x02]),
    st.binary(max_size=8),
    st.binary(max_size=64),
)
def test_session_packets_with_random_contents_never_raise(
    payload_type: int, ids: bytes, payload: bytes
) -> None:
    head = IPMI_HEADER + bytes((0x06, payload_type)) + ids.ljust(8, b"\0")
    datagram = head + len(payload).to_bytes(2, "little") + payload
    with Wire() as wire:
        assert len(wire.send(datagram)) <= 1
        assert wire.bmc.requests == {}


@settings(max_examples=25)
@given(st.data())
def test_a_damaged_or_replayed_session_datagram_is_dropped(data: st.DataObject) -> None:
    """Send a session copies of one of its datagrams, some with one bit changed."""

    async def story(address: Address, rack: Rack) -> None:
        port = rack.port("bmc1")
        tap = Tap(port.managed_system)
        async with await connect(address) as bmc:
            port.managed_system = tap  # type: ignore[assignment]
            await bmc.exchange(GetDeviceIdReq(), soon())
            port.managed_system = tap.tapped
            raw, peer = tap.taken[0]
            executed = dict(port.bmc.requests)
            bit = data.draw(st.integers(0, 8 * len(raw) - 1))
            damaged = bytearray(raw)
            damaged[bit // 8] ^= 1 << bit % 8
            port.receive(bytes(damaged), peer, time.monotonic())
            port.receive(raw, peer, time.monotonic())
            assert port.bmc.requests == executed

    with_bmc(story)


class Tap:
    """Records what a managed system receives."""

    def __init__(self, tapped: ManagedSystem) -> None:
        self.tapped = tapped
        self.taken: list[tuple[bytes, Address]] = []
        self.session_slots = tapped.session_slots
        self.respond = tapped.respond

    def receive_datagram(
        self, raw: bytes, peer: Address, now: float
    ) -> bytes | IncomingRequest | None:
        self.taken.append((raw, peer))
        return self.tapped.receive_datagram(raw, peer, now)


def test_a_presence_ping_is_answered_and_a_dead_bmc_is_silent() -> None:
    with Wire() as wire:
        assert len(wire.send(PresencePing(7).encode())) == 1
    with Wire("dead") as wire:
        assert wire.send(PresencePing(7).encode()) == []


def test_a_slow_bmc_is_slow_from_the_first_datagram_on() -> None:
    with Wire("slow:2") as wire:
        assert wire.send(PresencePing(1).encode(), START) == []
        assert wire.send(PresencePing(2).encode(), START + 0.25) == []
        wire.front.handle_timers(START + 1.9)
        assert len(wire.socket.sent) == 0
        wire.front.handle_timers(START + 2.0)
        assert len(wire.socket.sent) == 1
        wire.front.handle_timers(START + 2.25)
        assert len(wire.socket.sent) == 2


def test_a_restart_swallows_the_answers_that_were_still_to_come() -> None:
    with Wire("slow:2", "port80-flood:1000000", "boot:1") as wire:
        wire.send(PresencePing(1).encode())
        wire.front.handle_timers(START + 1.9)
        assert wire.bmc.own_watchdog_reboots == 1
        wire.front.handle_timers(START + 2.0)
        assert wire.socket.sent == []


def test_loss_and_garbage_repeat_with_the_seed() -> None:
    def sent(seed: int) -> list[bytes]:
        with Wire("lan-loss:0.4", "garbage:0.4", seed=seed) as wire:
            for tag in range(50):
                wire.send(PresencePing(tag).encode())
            return wire.socket.sent

    assert sent(3) == sent(3)
    assert sent(3) != sent(4)
    assert 0 < len(sent(3)) < 50


# ---- the real client


def test_a_session_and_what_was_counted() -> None:
    async def story(address: Address, rack: Rack) -> None:
        async with await connect(address) as bmc:
            assert (await bmc.exchange(GetDeviceIdReq(), soon())).available
            assert (await bmc.exchange(GetChassisStatusReq(), soon())).power_on
        requests = rack.describe("bmc1", time.monotonic())["requests"]
        assert requests["06/01"] == 1
        assert requests["00/01"] == 1
        assert requests["06/3b"] == 1, "Set Session Privilege Level, answered by the channel"

    with_bmc(story)


def test_the_bridged_satellite() -> None:
    async def story(address: Address, _rack: Rack) -> None:
        async with await connect(address) as bmc:
            reading = GetSensorReadingReq(0xBE)
            answer = await bmc.exchange(reading, soon(), bridge=Bridge(6, 0x2C))
            assert answer.reading == 51
            with pytest.raises(CompletionCodeError) as caught:
                await bmc.exchange(reading, soon(), bridge=Bridge(6, 0x2E))
            assert caught.value.code == 0x83

    with_bmc(story)


def test_slow_is_slow_for_every_exchange() -> None:
    async def story(address: Address, rack: Rack) -> None:
        async with await connect(address) as bmc:
            rack.set_faults("bmc1", FaultSet.parse(["slow:0.3"]), time.monotonic())
            begun = time.monotonic()
            await bmc.exchange(GetDeviceIdReq(), soon())
            assert time.monotonic() - begun >= 0.3
            rack.set_faults("bmc1", FaultSet.parse([]), time.monotonic())

    with_bmc(story)


def test_a_dead_bmc_gives_no_answer_and_a_hung_one_does() -> None:
    async def dead(address: Address, _rack: Rack) -> None:
        with pytest.raises(NoAnswer):
            await connect(address, timeout_s=0.5)

    async def hung(address: Address, _rack: Rack) -> None:
        async with await connect(address) as bmc:
            assert (await bmc.exchange(GetDeviceIdReq(), soon())).available

    with_bmc(dead, "dead")
    with_bmc(hung, "hang", "kcs-stuck:ibf")


def test_no_free_session_slot_is_refused_by_its_name() -> None:
    async def story(address: Address, rack: Rack) -> None:
        async with await connect(address):
            with pytest.raises(RmcpPlusStatusError) as caught:
                await connect(address)
            assert caught.value.status == 0x01
            rack.set_faults("bmc1", FaultSet.parse(["sessions:2"]), time.monotonic())
            async with await connect(address) as second:
                assert (await second.exchange(GetDeviceIdReq(), soon())).available

    with_bmc(story, "sessions:1")


def test_wrong_secrets_are_refused() -> None:
    async def story(address: Address, _rack: Rack) -> None:
        with pytest.raises(AuthenticationFailed):
            await connect(address, credentials=Credentials("admin", b"wrong"))
        with pytest.raises(BmcRefusal):
            await connect(address, credentials=Credentials("nobody", b"secret"))

    with_bmc(story)


def test_a_cold_reset_ends_the_session_and_is_counted_once() -> None:
    async def story(address: Address, rack: Rack) -> None:
        old = await connect(address)
        await old.exchange(ColdResetReq(), soon())
        await until_reset(rack)
        described = rack.describe("bmc1", time.monotonic())
        assert described["lan"]["sessions"] == 0, "those of before the restart are gone"
        async with await connect(address) as new:
            assert (await new.exchange(GetDeviceIdReq(), soon())).available
        with pytest.raises(TransportError):
            await old.exchange(GetDeviceIdReq(), soon(0.5))
        old.abandon()
        described = rack.describe("bmc1", time.monotonic())
        assert (described["cold_resets"], described["state"]) == (1, "up")

    with_bmc(story, "boot:0.3")


def test_a_lost_reply_is_silence_and_one_reset() -> None:
    async def story(address: Address, rack: Rack) -> None:
        bmc = await connect(address)
        with pytest.raises(NoAnswer):
            await bmc.exchange(ColdResetReq(), soon(0.5))
        bmc.abandon()
        await until_reset(rack)
        assert rack.describe("bmc1", time.monotonic())["cold_resets"] == 1

    with_bmc(story, "reset-lost-reply", "boot:0.2")


@pytest.mark.parametrize("fault", ["lan-loss:0.2", "garbage:0.2"])
def test_the_client_gets_through_a_bad_network(fault: str) -> None:
    async def story(address: Address, _rack: Rack) -> None:
        async with await connect(address) as bmc:
            for _ in range(5):
                assert (await bmc.exchange(GetDeviceIdReq(), soon())).available

    with_bmc(story, fault, seed=11)
