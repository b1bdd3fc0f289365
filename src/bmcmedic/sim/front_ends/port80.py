"""The port 0x80 front end: QEMU sends what its guest writes to the port, and the BMC leaks.

QEMU is the client (`-chardev socket,…,reconnect=1`, `-device isa-debugcon,iobase=0x80`). Each byte
is one write. The writes are only counted: a BMC's snooping daemon leaks with each, whatever it is.
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
    """The socket for one machine's writes; a second client is disconnected."""

    def __init__(
        self,
        bmc: SimBmc,
        bound: socket.socket,
        loop: asyncio.AbstractEventLoop,
        changed: Callable[[], None],
    ) -> None:
        """Own the bound socket from now on; `changed` is called after a change of `bmc.timer`."""
        self.bmc = bmc
        self.writes = 0
        """Number of writes, including those that a booting or dead BMC ignored."""
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
        """Start accepting writes."""
        self._server = await self._loop.create_server(lambda: _Port80Client(self), sock=self._bound)

    def close(self) -> None:
        """Stop accepting writes, and close the socket."""
        if self._client is not None:
            self._client.abort()
        if self._server is not None:
            self._server.close()
        self._bound.close()
        if isinstance(self.address, Path):
            self.address.unlink(missing_ok=True)

    @property
    def shown_address(self) -> str:
        """The address as `--port80-chardev` takes it."""
        if isinstance(self.address, Path):
            return str(self.address)
        return format_address(self.address)

    def describe(self) -> dict[str, Any]:
        """Return what the control endpoint shows of this socket."""
        return {
            "socket": self.shown_address,
            "connected": self._client is not None,
            "writes": self.writes,
        }

    def accept_client(self, client: _Port80Client) -> bool:
        """Accept a client; return False when there is one already."""
        if self._client is not None:
            return False
        self._client = client
        return True

    def client_gone(self, client: _Port80Client) -> None:
        """Note that a client's connection is gone."""
        if self._client is client:
            self._client = None

    def receive(self, data: bytes) -> None:
        """Count the bytes that the machine wrote to its port."""
        self.writes += len(data)
        timer = self.bmc.timer
        self.bmc.port80_written(len(data), self._loop.time())
        if self.bmc.timer != timer:
            self._changed()


class _Port80Client(asyncio.Protocol):
    """One connection to the socket."""

    def __init__(self, port: Port80Port) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._is_accepted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Become the machine's connection, or close if there is one already."""
        self._transport = cast("asyncio.Transport", transport)
        self._is_accepted = self._port.accept_client(self)
        if not self._is_accepted:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Pass writes on; those of a refused client are ignored."""
        if self._is_accepted:
            self._port.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the client is gone, for whatever reason."""
        del exc
        self._port.client_gone(self)

    def abort(self) -> None:
        """End the connection at once."""
        assert self._transport is not None
        self._transport.abort()
