"""A rack of simulated BMCs: many in one process, each at an address of its own.

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
"""How long the simulated servers have run when the simulation starts, in seconds."""

_HARD_RESET, _SMS_OS = 1, 4


@dataclass(frozen=True, slots=True)
class BmcSpec:
    """The options of one BMC to simulate."""

    name: str = "bmc1"
    address: Address | None = None
    """Address at which its LAN side listens; None: it has no LAN side."""

    faults: FaultSet = NO_FAULTS
    power_on: bool = True
    watchdog_armed_s: float | None = None
    """Time-out of the host's watchdog daemon, in seconds; None: the host runs none.

    The time-out action is a hard reset.
    """

    vm_socket: Address | Path | None = None
    """Socket at which a virtual machine can connect, to have this BMC as its own."""

    kcs_latency_s: float = 0.0
    """How much later than over LAN the machine gets every answer, in seconds."""

    port80: Address | Path | None = None
    """Socket at which the machine's writes to its port 0x80 arrive."""

    memory_bytes: int = MEMORY_BYTES


def host_uuid(name: str, seed: int | None) -> uuid.UUID:
    """Return the product UUID of a BMC's host, which depends on name and seed alone."""
    return uuid.uuid5(_UUID_NAMESPACE, f"{name}/{seed or 0}")


def rack_specs(
    count: int,
    base_address: str = "127.0.1.1",
    port: int = RMCP_PORT,
    faults: Mapping[str, FaultSet] | None = None,
    watchdog_armed_s: Mapping[str, float] | None = None,
) -> list[BmcSpec]:
    """Return the options of a rack: `bmc00001` at the base address, each next one at the next.

    The names in `faults` and `watchdog_armed_s` may be patterns, such as `bmc000?1` or `*`. Where
    several patterns match a BMC, the last counts.

    Raises: ConfigurationError for an invalid count or base address, and for a name that matches no
    BMC.
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
    """The users that can log in, and the keys and cipher suites of the LAN side."""

    users: tuple[User, ...] = DEFAULT_USERS
    kg: bytes = field(default=b"", repr=False)
    cipher_suites: tuple[int, ...] = (3, 17)

    @classmethod
    def single(cls, name: str, password: bytes, kg: bytes = b"") -> Account:
        """Return an account with one administrator."""
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
        """Create the rack; `control`: the control endpoint's address; None: there is none."""
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
            await self._start_machine_front_ends(loop)
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
        """Stop all front ends, and free their ports."""
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

    async def _start_machine_front_ends(self, loop: asyncio.AbstractEventLoop) -> None:
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
        """The address of the control endpoint; None: there is none."""
        return self._control.address if self._control else None

    @property
    def names(self) -> Collection[str]:
        """The names of all BMCs."""
        return self._bmcs.keys()

    def bmc(self, name: str) -> SimBmc | None:
        """Return the BMC of that name; None: there is none."""
        return self._bmcs.get(name)

    def port(self, name: str) -> LanPort:
        """Return the LAN front end of that BMC; raises KeyError when it has none."""
        return self._ports[name]

    def vm(self, name: str) -> VmPort:
        """Return the front end of that BMC for a virtual machine; raises KeyError if none."""
        return self._vms[name]

    def port80(self, name: str) -> Port80Port:
        """Return the port 0x80 front end of that BMC; raises KeyError when it has none."""
        return self._port80s[name]

    def describe(self, name: str, now: float) -> dict[str, Any]:
        """Return what the control endpoint shows of a BMC.

        The counters include the session commands, which its LAN side answers by itself.
        """
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
        """Return what triage would print on that BMC's host; None: the host is not up."""
        return self._bmcs[name].triage(now)

    def set_faults(self, name: str, faults: FaultSet, now: float) -> None:
        """Replace the faults of a BMC while it runs."""
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
