"""Port 0x80 of a virtual machine: QEMU hands over what its guest writes there, and the BMC leaks.

QEMU is the client (`-chardev socket,…,reconnect=1`, `-device isa-debugcon,iobase=0x80`). Each byte
is one write. They are only counted, as all that a BMC's snooping daemon does wrong is to keep them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from bmcmedic.sim.bmc import SimBmc
from bmcmedic.transport.addresses import Address, format_address


class Port80Port:
    """Where the writes of one machine arrive; a second client is turned away."""

    def __init__(
        self,
        bmc: SimBmc,
        bound: socket.socket,
        loop: asyncio.AbstractEventLoop,
        changed: Callable[[], None],
    ) -> None:
        """The bound socket belongs to the port from now on; `changed`: see `bmc.timer` anew."""
        self.bmc = bmc
        self.writes = 0
        """How many came, those that a BMC which boots or is dead took no notice of included."""
        name = bound.getsockname()
        self.address: Address | Path = (
            Path(name) if bound.family == socket.AF_UNIX else cast("Address", name[:2])
        )
        self._bound = bound
        self._loop = loop
        self._changed = changed
        self._client: _Port80Client | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to take writes."""
        self._server = await self._loop.create_server(lambda: _Port80Client(self), sock=self._bound)

    def close(self) -> None:
        """Stop."""
        if self._client is not None:
            self._client.abort()
        if self._server is not None:
            self._server.close()
        self._bound.close()
        if isinstance(self.address, Path):
            self.address.unlink(missing_ok=True)

    @property
    def shown_address(self) -> str:
        """Where it is, as `--port80-chardev` takes it."""
        if isinstance(self.address, Path):
            return str(self.address)
        return format_address(self.address)

    def describe(self) -> dict[str, Any]:
        """What the control door tells of it."""
        return {
            "socket": self.shown_address,
            "connected": self._client is not None,
            "writes": self.writes,
        }

    def client_came(self, client: _Port80Client) -> bool:
        """A client connected; False when there is one already."""
        if self._client is not None:
            return False
        self._client = client
        return True

    def client_went(self, client: _Port80Client) -> None:
        """A client's connection is gone."""
        if self._client is client:
            self._client = None

    def receive(self, data: bytes) -> None:
        """The machine wrote these bytes to its port."""
        self.writes += len(data)
        timer = self.bmc.timer
        self.bmc.port80_written(len(data), self._loop.time())
        if self.bmc.timer != timer:
            self._changed()


class _Port80Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, port: Port80Port) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._is_taken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the place of the machine, or go."""
        self._transport = cast("asyncio.Transport", transport)
        self._is_taken = self._port.client_came(self)
        if not self._is_taken:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Writes came; a refused client's are nobody's."""
        if self._is_taken:
            self._port.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, for whatever reason."""
        del exc
        self._port.client_went(self)

    def abort(self) -> None:
        """End the connection at once."""
        assert self._transport is not None
        self._transport.abort()
