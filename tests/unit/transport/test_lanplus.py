"""LanPlus over real UDP on loopback, against managed systems that can be bent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest

from bmcmedic.errors import (
    AuthenticationFailed,
    BmcRefusal,
    CompletionCodeError,
    LocalProtocolError,
    NameNotResolved,
    NoAnswer,
    PortClosed,
    RemoteProtocolError,
    RmcpPlusStatusError,
    TransportError,
    Unreachable,
)
from bmcmedic.ipmi import managed_system
from bmcmedic.ipmi.bridge import Bridge
from bmcmedic.ipmi.commands.chassis import GetChassisStatusReq
from bmcmedic.ipmi.commands.device import ColdResetReq, GetDeviceIdReq
from bmcmedic.ipmi.commands.session import (
    GetChannelAuthenticationCapabilitiesReq,
    SetSessionPrivilegeLevelReq,
)
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.transport import lanplus
from bmcmedic.transport.lan_engine import transport_error
from bmcmedic.transport.lanplus import LanPlus, resolve, sessionless_exchange
from tests.support.polling import eventually_in_loop
from tests.support.udp_bmc import (
    CREDENTIALS,
    Address,
    UdpBmc,
    UdpBmcs,
    closed_address,
    silent_address,
    udp_bmcs,
)

CAPABILITIES = GetChannelAuthenticationCapabilitiesReq()
PATIENCE_S = 30.0
"""Of who is to be answered, on a machine that is busy besides."""


@pytest.fixture
def server() -> Iterator[UdpBmcs]:
    with udp_bmcs() as running:
        yield running


@pytest.fixture
def bmc(server: UdpBmcs) -> UdpBmc:
    return server.add()


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def deadline(seconds: float = PATIENCE_S) -> float:
    return asyncio.get_running_loop().time() + seconds


async def connect(bmc: UdpBmc, **options: Any) -> LanPlus:  # noqa: ANN401
    return await LanPlus.connect(
        bmc.address, options.pop("credentials", CREDENTIALS), deadline=deadline(), **options
    )


def test_a_session_is_opened_used_and_closed(bmc: UdpBmc) -> None:
    async def story() -> None:
        async with await connect(bmc) as session:
            assert session.cipher_suite == 17
            status = await session.exchange(GetChassisStatusReq(), deadline())
            assert status.power_on
            raw = await session.raw(0x00, 0x01, b"", deadline())
            assert (raw.completion_code, raw.data) == (0, b"\x21\x10\x40")
            raw = await session.raw(0x30, 0x01, b"", deadline(), lun=2)
            assert raw.completion_code == 0xC1
            assert bmc.sessions() == 1
        assert bmc.lets_all_sessions_go()
        await session.close()

    run(story())


def test_a_level_that_the_bmc_grants_in_words_only_is_refused(
    bmc: UdpBmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set Session Privilege Level answers 0x00 and stays at User: the reset would get 0xD4."""
    numbers = SetSessionPrivilegeLevelReq.netfn, SetSessionPrivilegeLevelReq.command
    monkeypatch.setitem(managed_system._SESSION_COMMANDS, numbers, lambda *_: (0, b"\x02"))

    async def story() -> None:
        with pytest.raises(BmcRefusal, match="requested ADMINISTRATOR, granted USER"):
            await connect(bmc, privilege=PrivilegeLevel.ADMINISTRATOR)
        await eventually_in_loop(lambda: bmc.sessions() == 0)

    run(story())


def test_over_ipv6(server: UdpBmcs) -> None:
    bmc = server.add("::1")

    async def story() -> None:
        for address in (bmc.address, bmc.address[:2], await resolve("::1", bmc.address[1])):
            async with await LanPlus.connect(address, CREDENTIALS, deadline=deadline()) as session:
                assert (await session.exchange(GetChassisStatusReq(), deadline())).power_on
            answer = await sessionless_exchange(address, CAPABILITIES, deadline=deadline())
            assert answer.ipmi_2_0

    run(story())


def test_suite_17_is_followed_by_3_and_nothing_else_where_one_is_named(server: UdpBmcs) -> None:
    bmc = server.add(cipher_suites=(3,))

    async def story() -> None:
        async with await connect(bmc) as session:
            assert session.cipher_suite == 3
        with pytest.raises(RmcpPlusStatusError, match="cipher suite"):
            await connect(bmc, cipher_suites=(17,))

    run(story())


def test_a_higher_privilege_is_taken_at_once(bmc: UdpBmc) -> None:
    async def story() -> None:
        async with await connect(bmc) as session:
            with pytest.raises(CompletionCodeError) as refused:
                await session.exchange(ColdResetReq(), deadline())
            assert refused.value.code == 0xD4
        bmc.execute = lambda _incoming: (0, b"")
        async with await connect(bmc, privilege=PrivilegeLevel.ADMINISTRATOR) as session:
            await session.exchange(ColdResetReq(), deadline())
        assert bmc.executed[6, 2] == 1

    run(story())


@pytest.mark.parametrize(
    ("credentials", "error", "said"),
    [
        (Credentials("admin", b"wrong"), AuthenticationFailed, "wrong password"),
        (Credentials("nobody", b"secret"), RmcpPlusStatusError, "user name"),
        (Credentials("admin", b"secret", b"kg"), AuthenticationFailed, "K_g"),
    ],
)
def test_wrong_credentials(
    bmc: UdpBmc, credentials: Credentials, error: type[Exception], said: str
) -> None:
    async def story() -> None:
        with pytest.raises(error, match=said):
            await connect(bmc, credentials=credentials)

    run(story())


def test_no_free_slot(server: UdpBmcs) -> None:
    bmc = server.add(session_slots=1)

    async def story() -> None:
        async with await connect(bmc):
            with pytest.raises(RmcpPlusStatusError, match="no free session slot"):
                await connect(bmc)
        async with await connect(bmc):
            pass

    run(story())


def test_a_closed_port_is_known_at_once() -> None:
    async def story() -> None:
        for address in (closed_address(), closed_address("::1")):
            started_at = time.monotonic()
            with pytest.raises(PortClosed, match="nothing listens"):
                await LanPlus.connect(address, CREDENTIALS, deadline=deadline())
            with pytest.raises(PortClosed):
                await sessionless_exchange(address, CAPABILITIES, deadline=deadline())
            assert time.monotonic() - started_at < PATIENCE_S, "not at a deadline"

    run(story())


def test_no_way_to_an_address() -> None:
    async def story() -> None:
        # Broadcast, which no socket of ours may send to.
        with pytest.raises(Unreachable):
            await LanPlus.connect(("255.255.255.255", 623), CREDENTIALS, deadline=deadline())
        with pytest.raises(Unreachable):
            await sessionless_exchange(("255.255.255.255", 623), CAPABILITIES, deadline=deadline())

    run(story())


def test_each_network_error_is_called_by_its_name() -> None:
    assert isinstance(transport_error(errno.ECONNREFUSED), PortClosed)
    for number in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.EACCES):
        assert isinstance(transport_error(number), Unreachable)
    assert type(transport_error(errno.ENETDOWN)) is TransportError
    assert "network error" in str(transport_error(errno.ENETDOWN))


def test_silence_ends_at_the_deadline() -> None:
    async def story() -> None:
        with silent_address() as address:
            ways: list[Callable[[], Awaitable[object]]] = [
                lambda: LanPlus.connect(address, CREDENTIALS, deadline=deadline(0.4)),
                lambda: sessionless_exchange(address, CAPABILITIES, deadline=deadline(0.4)),
            ]
            for ask in ways:
                started_at = time.monotonic()
                with pytest.raises(NoAnswer):
                    await ask()
                assert 0.3 < time.monotonic() - started_at < PATIENCE_S / 2

    run(story())


def test_a_deadline_that_has_passed_is_no_answer() -> None:
    async def story() -> None:
        with silent_address() as address:
            with pytest.raises(NoAnswer):
                await LanPlus.connect(address, CREDENTIALS, deadline=deadline(-1))
            with pytest.raises(NoAnswer):
                await sessionless_exchange(address, CAPABILITIES, deadline=deadline(-1))

    run(story())


def test_a_request_without_an_answer_leaves_the_session_usable(bmc: UdpBmc) -> None:
    async def story() -> None:
        async with await connect(bmc) as session:
            power = bmc.execute
            bmc.execute = lambda _incoming: None
            with pytest.raises(NoAnswer, match="00/01"):
                await session.exchange(GetChassisStatusReq(), deadline(0.3))
            await eventually_in_loop(lambda: bmc.executed[0, 1] > 0)
            assert bmc.executed[0, 1] == 1, "repeats of a request in work are not executed"
            bmc.execute = power
            assert (await session.exchange(GetChassisStatusReq(), deadline())).power_on
        assert bmc.lets_all_sessions_go()

    run(story())


def test_a_cold_reset_whose_answer_is_lost_was_sent_once(bmc: UdpBmc) -> None:
    async def story() -> None:
        session = await connect(bmc, privilege=PrivilegeLevel.ADMINISTRATOR)
        bmc.execute = lambda _incoming: None
        before = bmc.datagrams
        with pytest.raises(NoAnswer):
            await session.exchange(ColdResetReq(), deadline(1.0))
        await eventually_in_loop(lambda: bmc.executed[6, 2] > 0)
        assert bmc.datagrams == before + 1
        assert bmc.executed[6, 2] == 1
        session.abandon()

    run(story())


def test_an_answer_that_cannot_be_read_is_the_bmcs_fault(bmc: UdpBmc) -> None:
    async def story() -> None:
        bmc.execute = lambda _incoming: (0, b"\x01")
        async with await connect(bmc) as session:
            with pytest.raises(RemoteProtocolError):
                await session.exchange(GetDeviceIdReq(), deadline())

    run(story())


def test_a_bmc_that_stops_listening_is_a_closed_port_each_time_it_is_asked(bmc: UdpBmc) -> None:
    async def story() -> None:
        session = await connect(bmc)
        bmc.close_port()
        for _ in range(3):
            with pytest.raises(PortClosed):
                await session.exchange(GetChassisStatusReq(), deadline())
        await session.close()

    run(story())


def test_a_cancelled_exchange_still_lets_the_session_be_closed(bmc: UdpBmc) -> None:
    async def story() -> None:
        session = await connect(bmc)
        power = bmc.execute
        bmc.execute = lambda _incoming: None
        asking = asyncio.create_task(session.exchange(GetChassisStatusReq(), deadline(60)))
        await eventually_in_loop(lambda: bmc.executed[0, 1] == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        bmc.execute = power
        assert (await session.exchange(GetChassisStatusReq(), deadline())).power_on
        await session.close()
        assert bmc.lets_all_sessions_go()

    run(story())


def test_a_cancelled_connect_leaves_nothing_open() -> None:
    async def story() -> None:
        with silent_address() as address:
            connecting = asyncio.create_task(
                LanPlus.connect(address, CREDENTIALS, deadline=deadline(60))
            )
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting

    run(story())


def test_two_exchanges_at_once_are_our_own_mistake_and_the_first_goes_on(bmc: UdpBmc) -> None:
    async def story() -> None:
        async with await connect(bmc) as session:
            first = asyncio.create_task(session.exchange(GetChassisStatusReq(), deadline()))
            await asyncio.sleep(0)
            with pytest.raises(LocalProtocolError):
                await session.exchange(GetChassisStatusReq(), deadline())
            assert (await first).power_on

    run(story())


def test_after_close_nothing_can_be_asked(bmc: UdpBmc) -> None:
    async def story() -> None:
        session = await connect(bmc)
        await session.close()
        with pytest.raises(LocalProtocolError):
            await session.exchange(GetChassisStatusReq(), deadline())

    run(story())


def test_a_bmc_that_does_not_confirm_the_close_holds_nobody_up(
    bmc: UdpBmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanplus, "CLOSE_TIMEOUT_S", 0.2)

    async def story() -> None:
        session = await connect(bmc)
        bmc.restart()
        await asyncio.wait_for(session.close(), PATIENCE_S)

    run(story())


def test_a_bridge_that_is_refused(bmc: UdpBmc) -> None:
    async def story() -> None:
        bmc.execute = lambda _incoming: (0x83, b"")
        async with await connect(bmc, privilege=PrivilegeLevel.OPERATOR) as session:
            with pytest.raises(CompletionCodeError) as refused:
                await session.exchange(GetDeviceIdReq(), deadline(), bridge=Bridge(6, 0x2C))
            assert refused.value.code == 0x83
            assert refused.value.request_name == "SendMessage"

    run(story())


def test_one_in_five_lost_each_way_is_no_hindrance(bmc: UdpBmc) -> None:
    bmc.loss = 0.2

    async def story() -> None:
        async with await LanPlus.connect(
            bmc.address, CREDENTIALS, deadline=deadline(), retransmit_first_s=0.02
        ) as session:
            for _ in range(20):
                assert (await session.exchange(GetChassisStatusReq(), deadline())).power_on
        answer = await sessionless_exchange(
            bmc.address, CAPABILITIES, deadline=deadline(), retransmit_first_s=0.02
        )
        assert answer.ipmi_2_0

    run(story())


def test_a_flood_of_garbage_cannot_hold_a_deadline_up() -> None:
    """The flooder answers each turn of the loop with more garbage than it takes."""

    async def story() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flooder:
            flooder.bind(("127.0.0.1", 0))
            flooder.setblocking(False)
            connecting = asyncio.create_task(
                LanPlus.connect(flooder.getsockname(), CREDENTIALS, deadline=deadline(0.5))
            )
            peer: Address | None = None
            while not connecting.done():
                with contextlib.suppress(BlockingIOError):
                    _, peer = flooder.recvfrom(2048)
                for _ in range(300):
                    if peer is not None:
                        flooder.sendto(b"\x06\x00\xff\x07garbage", peer)
                await asyncio.sleep(0)
            with pytest.raises(NoAnswer, match="discarded"):
                connecting.result()

    run(story())


def test_what_needs_a_session_is_not_asked_without_one() -> None:
    async def story() -> None:
        with pytest.raises(LocalProtocolError, match="needs a session"):
            await sessionless_exchange(("127.0.0.1", 1), GetDeviceIdReq(), deadline=deadline())

    run(story())


def test_strangers_answers_to_a_sessionless_question_are_passed_over() -> None:
    async def story() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as odd:
            odd.bind(("127.0.0.1", 0))
            odd.setblocking(False)
            asking = asyncio.create_task(
                sessionless_exchange(odd.getsockname(), CAPABILITIES, deadline=deadline(0.5))
            )
            question, peer = await asyncio.get_running_loop().sock_recvfrom(odd, 2048)
            for answer in (b"", b"noise", question, question[:-1], bytes(40)):
                odd.sendto(answer, peer)
            with pytest.raises(NoAnswer):
                await asking

    run(story())


def test_a_name_without_an_address() -> None:
    async def story() -> None:
        with pytest.raises(NameNotResolved, match="not resolved"):
            await resolve("no-such-host.invalid", 623)
        assert await resolve("127.0.0.1", 623) == ("127.0.0.1", 623)

    run(story())
