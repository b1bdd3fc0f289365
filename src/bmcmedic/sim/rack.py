"""BMCs by the rack: many simulated BMCs in one process, an address each.

async with Rack(rack_specs(12, "127.0.10.1", 6230), seed=1) as rack:
    host, port = rack.port("bmc00001").address
"""

from __future__ import annotations

import asyncio
import fnmatch
import functools
import ipaddress
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bmcmedic.errors import ConfigurationError
from bmcmedic.ipmi.constants import RMCP_PORT, PrivilegeLevel
from bmcmedic.ipmi.managed_system import User
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.faults import NO_FAULTS, FaultSet
from bmcmedic.sim.front_ends.control import ControlEndpoint
from bmcmedic.sim.front_ends.lan import LanFront, LanPort, ensure_descriptors
from bmcmedic.sim.front_ends.port80 import Port80Port
from bmcmedic.sim.front_ends.vm_serial import VmPort, bind_stream
from bmcmedic.sim.leak import MEMORY_BYTES
from bmcmedic.sim.profile import Lan, server_profile
from bmcmedic.sim.watchdog_timer import SimTimerSettings
from bmcmedic.transport.addresses import Address, bind_udp

DEFAULT_USER = "admin"
DEFAULT_PASSWORD = b"secret"
DEFAULT_USERS = (User(2, DEFAULT_USER.encode(), DEFAULT_PASSWORD),)

RACK_BMCS_MAX = 65_536
_UUID_NAMESPACE = uuid.UUID("8a6b1f0e-6f0a-4c8e-9d0c-6b6d63736d31")
_BOOTED_BEFORE_S = 14 * 24 * 3600
"""How long the simulated servers have been running when the simulation starts."""

_HARD_RESET, _SMS_OS = 1, 4


@dataclass(frozen=True, slots=True)
class BmcSpec:
    """One BMC to simulate."""

    name: str = "bmc1"
    address: Address | None = None
    """Where its LAN side listens; None: nowhere."""

    faults: FaultSet = NO_FAULTS
    power_on: bool = True
    watchdog_armed_s: float | None = None
    """The host runs a watchdog daemon with this time-out, which resets it."""

    vm_socket: Address | Path | None = None
    """Where a virtual machine may connect, whose BMC it then is."""

    kcs_latency_s: float = 0.0
    """How much later than over LAN the machine gets every answer."""

    port80: Address | Path | None = None
    """Where what the machine writes to its port 0x80 arrives."""

    memory_bytes: int = MEMORY_BYTES


def host_uuid(name: str, seed: int | None) -> uuid.UUID:
    """The product UUID of that BMC's host: the same for the same name and seed."""
    return uuid.uuid5(_UUID_NAMESPACE, f"{name}/{seed or 0}")


def rack_specs(
    count: int,
    base_address: str = "127.0.1.1",
    port: int = RMCP_PORT,
    faults: Mapping[str, FaultSet] | None = None,
    watchdog_armed_s: Mapping[str, float] | None = None,
) -> list[BmcSpec]:
    """`bmc00001` at the base address, and so on, the next address each.

    The names in `faults` and `watchdog_armed_s` may be patterns, such as `bmc000?1` or `*`; for a
    BMC that several of them name, the last counts.

    Raises: ConfigurationError for a count or an address that does not work out, and for a fault
    of a BMC that there is not.
    """
    if not 1 <= count <= RACK_BMCS_MAX:
        raise ConfigurationError(f"the count must be 1 to {RACK_BMCS_MAX}, not {count}")
    try:
        first = ipaddress.ip_address(base_address)
    except ValueError as error:
        raise ConfigurationError(f"base address {base_address!r}: {error}") from None
    try:
        last = first + (count - 1)
    except ValueError:
        raise ConfigurationError(
            f"{count} BMCs from {first} on go beyond the last address"
        ) from None
    if first.is_loopback != last.is_loopback:
        raise ConfigurationError(
            f"{count} BMCs from {first} on end at {last}, outside of the loopback addresses"
        )
    specs = {
        name: BmcSpec(name, (str(first + index), port))
        for index in range(count)
        for name in (f"bmc{index + 1:05d}",)
    }
    for pattern, faultset in (faults or {}).items():
        for name in _matching(pattern, specs):
            specs[name] = replace(specs[name], faults=faultset)
    for pattern, seconds in (watchdog_armed_s or {}).items():
        for name in _matching(pattern, specs):
            specs[name] = replace(specs[name], watchdog_armed_s=seconds)
    return list(specs.values())


def _matching(pattern: str, specs: Mapping[str, BmcSpec]) -> list[str]:
    names = [pattern] if pattern in specs else fnmatch.filter(specs, pattern)
    if not names:
        first, *_, last = [*specs, *specs]
        raise ConfigurationError(f"there is no BMC {pattern!r}; they are {first} to {last}")
    return names


@dataclass(frozen=True, slots=True)
class Account:
    """Who may log in, and with which keys."""

    users: tuple[User, ...] = DEFAULT_USERS
    kg: bytes = field(default=b"", repr=False)
    cipher_suites: tuple[int, ...] = (3, 17)

    @classmethod
    def single(cls, name: str, password: bytes, kg: bytes = b"") -> Account:
        """One administrator."""
        return cls((User(2, name.encode(), password, PrivilegeLevel.ADMINISTRATOR),), kg)


class Rack:
    """The simulated BMCs of one process; an asynchronous context manager that runs them."""

    def __init__(
        self,
        specs: Sequence[BmcSpec],
        *,
        account: Account | None = None,
        control: Address | None = None,
        seed: int | None = None,
    ) -> None:
        """`control`: where the control door listens; None: no door."""
        self._specs = specs
        self._account = account or Account()
        self._control_address = control
        self._seed = seed
        self._bmcs: dict[str, SimBmc] = {}
        self._ports: dict[str, LanPort] = {}
        self._vms: dict[str, VmPort] = {}
        self._port80s: dict[str, Port80Port] = {}
        self._front: LanFront | None = None
        self._control: ControlEndpoint | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        try:
            self._build(loop.time())
            await self._open_machines(loop)
            if self._control_address is not None:
                self._control = ControlEndpoint(self._control_address, self, loop)
            assert self._front is not None
            self._front.start(loop)
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and free every port."""
        if self._control is not None:
            self._control.close()
            self._control = None
        for vm in self._vms.values():
            vm.close()
        for port80 in self._port80s.values():
            port80.close()
        self._vms.clear()
        self._port80s.clear()
        if self._front is not None:
            self._front.close()
            self._front = None

    async def _open_machines(self, loop: asyncio.AbstractEventLoop) -> None:
        for spec in self._specs:
            if spec.vm_socket is not None:
                bound = bind_stream(spec.vm_socket)
                vm = VmPort(self._bmcs[spec.name], bound, loop, spec.kcs_latency_s)
                self._vms[spec.name] = vm
                await vm.start()
            if spec.port80 is not None:
                bound = bind_stream(spec.port80)
                changed = functools.partial(self._watch_timers, spec.name)
                port80 = Port80Port(self._bmcs[spec.name], bound, loop, changed)
                self._port80s[spec.name] = port80
                await port80.start()

    def _build(self, now: float) -> None:
        ensure_descriptors(sum(spec.address is not None for spec in self._specs))
        epoch_offset_s = time.time() - now
        profile = server_profile(
            int(now + epoch_offset_s) - _BOOTED_BEFORE_S,
            tuple(user.name for user in self._account.users),
        )
        front = self._front = LanFront(
            users=self._account.users,
            kg=self._account.kg,
            cipher_suites=self._account.cipher_suites,
            seed=self._seed,
        )
        for number, spec in enumerate(self._specs, start=1):
            daemon = None
            if spec.watchdog_armed_s is not None:
                daemon = SimTimerSettings(_SMS_OS, _HARD_RESET, 0, 0, spec.watchdog_armed_s)
            bmc = SimBmc(
                spec.name,
                profile,
                now=now,
                epoch_offset_s=epoch_offset_s,
                host_uuid=host_uuid(spec.name, self._seed),
                power_on=spec.power_on,
                faults=spec.faults,
                watchdog_daemon=daemon,
                memory_bytes=spec.memory_bytes,
            )
            self._bmcs[spec.name] = bmc
            if spec.address is not None:
                port = front.add(bmc, bind_udp(spec.address))
                self._ports[spec.name] = port
                bmc.lan = _lan_parameters(port.address[0], number)

    @property
    def control(self) -> Address | None:
        """Where the control door listens."""
        return self._control.address if self._control else None

    @property
    def names(self) -> Collection[str]:
        """The names of all BMCs."""
        return self._bmcs.keys()

    def bmc(self, name: str) -> SimBmc | None:
        """The BMC of that name."""
        return self._bmcs.get(name)

    def port(self, name: str) -> LanPort:
        """The LAN side of that BMC; KeyError when it has none."""
        return self._ports[name]

    def vm(self, name: str) -> VmPort:
        """The door of that BMC for a virtual machine; KeyError when it has none."""
        return self._vms[name]

    def port80(self, name: str) -> Port80Port:
        """Where that BMC's machine writes to port 0x80; KeyError when it cannot."""
        return self._port80s[name]

    def describe(self, name: str, now: float) -> dict[str, Any]:
        """What the control door tells of a BMC, what its LAN side answered by itself included."""
        described = self._bmcs[name].describe(now)
        port = self._ports.get(name)
        vm = self._vms.get(name)
        described["vm"] = None if vm is None else vm.describe()
        port80 = self._port80s.get(name)
        described["port80"] = None if port80 is None else port80.describe()
        described["lan"] = None
        if port is None:
            return described
        port.sync()
        described["lan"] = {
            "address": port.address[0],
            "port": port.address[1],
            "sessions": port.managed_system.session_count,
            "discarded_datagrams": port.managed_system.discarded_count,
        }
        requests = described["requests"]
        for (netfn, command), count in (port.managed_system.session_requests or {}).items():
            key = f"{netfn:02x}/{command:02x}"
            requests[key] = requests.get(key, 0) + count
        return described

    def triage(self, name: str, now: float) -> dict[str, Any] | None:
        """Return what triage would print on that BMC's host; None: nothing runs there."""
        return self._bmcs[name].triage(now)

    def set_faults(self, name: str, faults: FaultSet, now: float) -> None:
        """Replace a BMC's faults while it runs."""
        self._bmcs[name].set_faults(faults, now)
        self._watch_timers(name)

    def _watch_timers(self, name: str) -> None:
        port = self._ports.get(name)
        if port is not None:
            port.watch_timer()
        vm = self._vms.get(name)
        if vm is not None:
            vm.watch_timer()


def _lan_parameters(host: str, number: int) -> Lan:
    address = ipaddress.ip_address(host)
    mac = b"\x02\x00" + number.to_bytes(4, "big")
    if not isinstance(address, ipaddress.IPv4Address):
        return Lan(mac=mac)
    return Lan(address.packed, mac=mac, gateway=address.packed[:3] + b"\xfe")
