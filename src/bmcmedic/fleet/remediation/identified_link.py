"""A link that notes which BMC it reached, while others ask the questions."""

from __future__ import annotations

from typing import TypeVar

from bmcmedic.fleet.link import BmcLink, BmcSession
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.device import GetDeviceIdRsp
from bmcmedic.ipmi.constants import PrivilegeLevel

R = TypeVar("R")


class IdentifiedLink:
    """Passes everything on to a link, and keeps the newest answer to Get Device ID."""

    def __init__(self, link: BmcLink) -> None:
        self._link = link
        self.target = link.target
        self.device: GetDeviceIdRsp | None = None

    async def take_reset_lock(self) -> bool:
        """Take the right to act on the BMC."""
        return await self._link.take_reset_lock()

    def release_reset_lock(self) -> None:
        """Let other runs act on the BMC."""
        self._link.release_reset_lock()

    async def open_session(self, privilege: PrivilegeLevel, deadline: float) -> BmcSession:
        """Set up a session whose answers to Get Device ID are kept."""
        return _IdentifiedSession(await self._link.open_session(privilege, deadline), self)

    async def ask_sessionless(self, request: Command[R], deadline: float) -> R:
        """Ask outside of a session."""
        return await self._link.ask_sessionless(request, deadline)


class _IdentifiedSession:
    def __init__(self, session: BmcSession, link: IdentifiedLink) -> None:
        self._session = session
        self._link = link

    async def exchange(self, request: Command[R], deadline: float) -> R:
        response = await self._session.exchange(request, deadline)
        if isinstance(response, GetDeviceIdRsp):
            self._link.device = response
        return response

    async def close(self) -> None:
        await self._session.close()

    def abandon(self) -> None:
        self._session.abandon()
