"""The simulator's LAN front end, driven in memory by datagrams and in virtual time."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.ipmi.commands.device import ColdResetReq, GetDeviceIdReq
from bmcmedic.ipmi.commands.session import SetSessionPrivilegeLevelReq
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.packet import PresencePing
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.lan import LanFront, LanPort
from bmcmedic.sim.rack import DEFAULT_USERS, BmcSpec, Rack
from bmcmedic.transport.lanplus import LanPlus
from tests.support.sim import START, sim_bmc

PEER = ("192.0.2.7", 50_000)
CREDENTIALS = Credentials("admin", b"secret")


class Wire:
    """A LAN port whose datagrams end here instead of in a socket."""

    def __init__(self, *faults: str, seed: int = 1) -> None:
        self.sent: list[bytes] = []
        self.bmc: SimBmc = sim_bmc(*faults)
        self.front = LanFront(users=DEFAULT_USERS, seed=seed)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: LanPort = self.front.add(self.bmc, self._socket)
        self.port.send = self._catch  # type: ignore[method-assign]

    def _catch(self, datagram: bytes | None, peer: Any) -> None:
        assert peer == PEER
        if datagram is not None:
            self.sent.append(datagram)

    def close(self) -> None:
        self.front.close()


class LossyWire(Wire):
    """The same, with what the faults do to sent datagrams."""

    def _catch(self, datagram: bytes | None, peer: Any) -> None:
        faults = self.bmc.faults
        if datagram is not None:
            datagram = self.front.spoil(faults.lan_loss, faults.garbage, datagram)
        super()._catch(datagram, peer)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setattr(LanPort, "__slots__", (), raising=False)
    built = Wire()
    yield built
    built.close()
