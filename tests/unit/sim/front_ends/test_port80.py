"""A machine's writes to port 0x80, over a real socket, and their effect on its BMC."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.errors import ConfigurationError
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.rack import BmcSpec, Rack
from bmcmedic.transport.addresses import Address
from tests.support.polling import eventually_in_loop
from tests.support.sim import START, sim_bmc

DEADLINE_S = 30.0
SMALL_BYTES = 4 << 20
WRITES_TO_THE_END = 9_011
"""Writes until the BMC reboots: of 4 MiB 80 % are free, 1 MiB stays; a write costs 256 bytes."""


@contextlib.asynccontextmanager
async def rack_of(
    *faults: str, place: Address | Path = ("127.0.0.1", 0)
) -> AsyncIterator[tuple[Rack, Callable[[], dict[str, Any]]]]:
    spec = BmcSpec(
        port80=place, memory_bytes=SMALL_BYTES, faults=FaultSet.parse([*faults, "boot:2"])
    )
    async with Rack([spec]) as rack:
        loop = asyncio.get_running_loop()
        yield rack, lambda: rack.describe("bmc1", loop.time())


async def connected(rack: Rack) -> asyncio.StreamWriter:
    address = rack.port80("bmc1").address
    if isinstance(address, Path):
        return (await asyncio.open_unix_connection(address))[1]
    return (await asyncio.open_connection(*address))[1]


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 2 * DEADLINE_S))


def test_every_byte_is_a_write_and_the_last_one_reboots_the_bmc() -> None:
    async def story() -> None:
        async with rack_of() as (rack, described):
            assert described()["memory_free_fraction"] == 0.8
            machine = await connected(rack)
            machine.write(bytes(WRITES_TO_THE_END))
            await eventually_in_loop(lambda: described()["port80"]["writes"] == WRITES_TO_THE_END)
            assert described()["memory_free_fraction"] == pytest.approx(0.25, abs=1e-4)
            assert described()["own_watchdog_reboots"] == 0
            assert described()["answer_latency_s"] > 0.03
            machine.write(b"*")
            await eventually_in_loop(lambda: described()["own_watchdog_reboots"] == 1)
            # A booting BMC ignores the writes; afterwards all of its memory is free again.
            machine.write(bytes(100))
            await eventually_in_loop(lambda: described()["state"] == "up")
            assert described()["memory_free_fraction"] == 0.8
            assert described()["port80"]["writes"] == WRITES_TO_THE_END + 101
            await closed(machine)
            await eventually_in_loop(lambda: not described()["port80"]["connected"])

    run(story)


def test_a_machine_at_a_time_and_it_may_come_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with rack_of(place=tmp_path / "port80") as (rack, described):
            first = await connected(rack)
            await eventually_in_loop(lambda: described()["port80"]["connected"])
            reader, second = await asyncio.open_unix_connection(tmp_path / "port80")
            with contextlib.suppress(OSError):
                second.write(bytes(50))
                assert await reader.read() == b""
            await closed(second)
            first.write(bytes(5))
            await eventually_in_loop(lambda: described()["port80"]["writes"] == 5)
            await closed(first)
            await eventually_in_loop(lambda: not described()["port80"]["connected"])
            third = await connected(rack)
            third.write(bytes(2))
            await eventually_in_loop(lambda: described()["port80"]["writes"] == 7)
            await closed(third)
        assert not (tmp_path / "port80").exists()

    run(story)


def test_a_dead_bmc_takes_no_notice() -> None:
    bmc = sim_bmc("dead")
    bmc.port80_written(1_000, START + 1)
    assert bmc.memory_free_fraction(START + 1) == 0.8


def test_a_flood_by_fault_and_a_real_one_add_up() -> None:
    bmc = sim_bmc("port80-flood:1000")
    bmc.port80_written(5_000, START + 1)
    free = bmc.memory_free_fraction(START + 1)
    assert 0.8 - free == pytest.approx(6_000 * 256 / (512 << 20))
    assert bmc.timer is not None


def test_an_address_in_use_is_reported(tmp_path: Path) -> None:
    (tmp_path / "port80").write_text("a file of somebody's")

    async def story() -> None:
        async with rack_of(place=tmp_path / "port80"):
            pass

    with pytest.raises(ConfigurationError, match="in use"):
        run(story)
    assert (tmp_path / "port80").exists()
