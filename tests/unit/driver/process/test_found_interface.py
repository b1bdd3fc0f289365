"""The interface is found when it is there, and found again when it has gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bmcmedic.driver.process.config import InterfaceConfig
from bmcmedic.driver.process.found_interface import DEVICE_AWAITED_S, FoundInterface
from bmcmedic.errors import BmcmedicError, ConfigurationError
from bmcmedic.transport.in_band import InBand, InterfaceClaim, InterfaceGone, Ipmb

GET_DEVICE_ID = b"\x18\x01"
RESPONSE = b"\x1c\x01\x00"


class Always:
    def must_stop(self, *, recovering: bool) -> bool:
        del recovering
        return False


class One:
    """An interface that answers until it has gone."""

    def __init__(self, name: str, exchange_s_max: float) -> None:
        self.name = name
        self.exchange_s_max = exchange_s_max
        self.gone = False
        self.is_missing: str | None = None
        self.closed = False
        self.taken_over = 0

    def attempt(
        self, request: bytes, deadline: float, claim: InterfaceClaim, *, idempotent: bool
    ) -> bytes:
        del request, deadline, claim, idempotent
        if self.gone:
            raise InterfaceGone(f"{self.name} has gone")
        return RESPONSE

    def send_bridged(
        self,
        request: bytes,
        target: Ipmb,
        deadline: float,
        claim: InterfaceClaim,
        done: Callable[[bytes | BmcmedicError], None],
    ) -> None:
        del request, target, deadline, claim
        if self.gone:
            raise InterfaceGone(f"{self.name} has gone")
        done(RESPONSE)

    @property
    def missing(self) -> str | None:
        return self.is_missing

    def take_over(self) -> None:
        self.taken_over += 1

    def close(self) -> None:
        self.closed = True


class Host:
    """A machine with or without a device and ports."""

    device_exchange_s_max = 60.0

    def __init__(self, folder: Path) -> None:
        self.device_path = folder / "ipmi0"
        self.ports_owner: str | None = None
        self.nothing_at_ports: str | None = None
        self.may_open_device = True
        self.made: list[One] = []
        self.said: list[str] = []
        self.found: list[str] = []
        self.now = 0.0

    def device(self, path: str) -> InBand:
        if not self.may_open_device:
            raise ConfigurationError(f"no right to use {path}: run as root")
        return self._make(path, 60.0)

    def ports(self, base: int) -> InBand:
        if self.ports_owner is not None:
            raise ConfigurationError(f"port-io {base:#x} cannot be used: {self.ports_owner}")
        return self._make("port-io", 10.0)

    def _make(self, name: str, exchange_s_max: float) -> InBand:
        one = One(name, exchange_s_max)
        if name == str(self.device_path) and not self.device_path.exists():
            one.is_missing = f"{name} is not there"
        elif name == "port-io":
            one.is_missing = self.nothing_at_ports
        self.made.append(one)
        return one

    def interface(self, kind: str = "auto") -> FoundInterface:
        return FoundInterface(
            InterfaceConfig(kind=kind, device=str(self.device_path)),
            self,
            self.said.append,
            lambda found: self.found.append(found.name),
            lambda: self.now,
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def asked(interface: InBand) -> bytes:
    return interface.attempt(GET_DEVICE_ID, 1.0, Always(), idempotent=True)


def test_the_kernels_device_comes_before_the_ports(host: Host) -> None:
    host.device_path.touch()
    interface = host.interface()
    assert (interface.name, interface.exchange_s_max) == (str(host.device_path), 60.0)
    assert asked(interface) == RESPONSE
    assert host.found == [str(host.device_path)]


def test_without_the_device_the_ports_are_taken(host: Host) -> None:
    interface = host.interface()
    assert (interface.name, interface.exchange_s_max) == ("port-io", 10.0)
    assert asked(interface) == RESPONSE


def test_while_nothing_is_there_it_says_so_once_and_looks_on(host: Host) -> None:
    host.ports_owner = "no right to open /dev/port"
    interface = host.interface()
    assert (interface.name, interface.exchange_s_max) == ("no interface yet", 60.0)
    assert "is not there, and port-io 0xca2 cannot be used" in str(interface.missing)
    for _ in range(3):
        with pytest.raises(InterfaceGone, match="is not there, and port-io 0xca2 cannot be used"):
            asked(interface)
    assert len(host.said) == 1
    host.device_path.touch()
    assert asked(interface) == RESPONSE
    assert host.found == [str(host.device_path)]
    assert interface.missing is None


@pytest.mark.parametrize("kind", ["port-io", "auto"])
def test_ports_that_nobody_answers_at_are_said_to_be_no_interface(host: Host, kind: str) -> None:
    host.nothing_at_ports = "nothing answers at port-io"
    interface = host.interface(kind)
    assert interface.missing == host.nothing_at_ports
    assert host.said == ["no interface to a BMC yet; still looking: nothing answers at port-io"]


@pytest.mark.parametrize("kind", ["dev-ipmi", "port-io", "auto"])
def test_what_is_there_and_may_not_be_used_ends_the_start(host: Host, kind: str) -> None:
    host.device_path.touch()
    host.may_open_device = False
    host.ports_owner = "ipmi_si has them"
    with pytest.raises(ConfigurationError, match=r"no right to use|ipmi_si has them"):
        host.interface(kind)


def test_the_kernels_driver_that_comes_later_gets_the_ports(host: Host) -> None:
    interface = host.interface()
    host.device_path.touch()
    host.made[0].gone = True
    with pytest.raises(InterfaceGone):
        asked(interface)
    assert host.made[0].closed
    assert asked(interface) == RESPONSE
    assert interface.name == str(host.device_path)


def test_the_ports_are_left_alone_while_a_module_may_be_loaded_anew(host: Host) -> None:
    host.device_path.touch()
    interface = host.interface()
    host.device_path.unlink()
    host.made[0].gone = True
    for host.now in (0.0, DEVICE_AWAITED_S - 0.1):
        with pytest.raises(InterfaceGone):
            asked(interface)
    assert len(host.made) == 1
    host.now = DEVICE_AWAITED_S
    assert asked(interface) == RESPONSE
    assert interface.name == "port-io"


def test_a_device_that_was_asked_for_by_name_and_is_not_there_is_missed(host: Host) -> None:
    host.interface("dev-ipmi")
    assert len(host.said) == 1
    assert "no interface to a BMC yet; still looking" in host.said[0]
    host.device_path.touch()
    assert host.interface("dev-ipmi").missing is None
    assert len(host.said) == 1


def test_what_was_asked_for_by_name_comes_back_by_itself(host: Host) -> None:
    interface = host.interface("dev-ipmi")
    host.made[0].gone = True
    with pytest.raises(InterfaceGone):
        asked(interface)
    host.made[0].gone = False
    assert asked(interface) == RESPONSE
    assert len(host.made) == 1


@pytest.mark.parametrize("kind", ["dev-ipmi", "port-io", "auto"])
def test_what_was_let_go_is_taken_again_as_it_was_asked_for(host: Host, kind: str) -> None:
    host.device_path.touch()
    interface = host.interface(kind)
    name = interface.name
    interface.close()
    assert (host.made[0].closed, interface.name) == (True, f"{name}, let go")
    assert asked(interface) == RESPONSE
    assert (len(host.made), interface.name) == (2, name)
    assert name == ("port-io" if kind == "port-io" else str(host.device_path))


def test_a_device_that_vanished_while_it_was_let_go_is_expected_back(host: Host) -> None:
    host.device_path.touch()
    interface = host.interface()
    interface.close()
    host.device_path.unlink()
    for host.now in (1000.0, 1000.0 + DEVICE_AWAITED_S - 0.1):
        with pytest.raises(InterfaceGone, match="expected back"):
            asked(interface)
    host.device_path.touch()
    assert asked(interface) == RESPONSE
    assert interface.name == str(host.device_path)


def test_all_else_goes_to_what_was_found(host: Host) -> None:
    interface = host.interface()
    answers: list[bytes | BmcmedicError] = []
    target = Ipmb(6, 0x2C)
    interface.send_bridged(GET_DEVICE_ID, target, 1.0, Always(), answers.append)
    assert answers == [RESPONSE]
    interface.take_over()
    assert host.made[0].taken_over == 1
    host.made[0].gone = True
    with pytest.raises(InterfaceGone):
        interface.send_bridged(GET_DEVICE_ID, target, 1.0, Always(), answers.append)
    interface.take_over()
    assert asked(interface) == RESPONSE
    interface.close()
    assert host.made[1].closed
