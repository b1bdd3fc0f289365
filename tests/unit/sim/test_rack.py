from __future__ import annotations

import resource
import socket

import pytest

from bmcmedic.errors import ConfigurationError
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.front_ends.lan import ensure_descriptors
from bmcmedic.sim.rack import host_uuid, rack_specs
from bmcmedic.transport.addresses import bind_udp, format_address, parse_address
from tests.support.sim import running_rack


def test_names_and_addresses_go_up_together() -> None:
    specs = rack_specs(300, "127.0.1.250", 6230, {"bmc00002": FaultSet.parse(["dead"])})
    assert [spec.name for spec in specs[:2]] == ["bmc00001", "bmc00002"]
    assert specs[0].address == ("127.0.1.250", 6230)
    assert specs[10].address == ("127.0.2.4", 6230)
    assert specs[1].faults.dead
    assert not specs[2].faults.dead
    assert specs[-1].name == "bmc00300"


def test_a_name_may_be_a_pattern_and_the_last_one_counts() -> None:
    specs = rack_specs(
        30,
        faults={
            "*": FaultSet.parse(["lan-loss:0.2"]),
            "bmc0002?": FaultSet.parse(["slow:1"]),
            "bmc00025": FaultSet.parse(["dead"]),
        },
    )
    assert [spec.faults.specs for spec in specs[18:20]] == [["lan-loss:0.2"], ["slow:1"]]
    assert specs[24].faults.specs == ["dead"]
    assert specs[29].faults.specs == ["lan-loss:0.2"]


@pytest.mark.parametrize(
    ("count", "base", "said"),
    [
        (0, "127.0.0.1", "the count must be 1 to 65536"),
        (65_537, "127.0.0.1", "the count must be 1 to 65536"),
        (2, "127.255.255.255", "outside of the loopback addresses"),
        (2, "255.255.255.255", "2 BMCs from 255.255.255.255 on go beyond the last address"),
        (2, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "go beyond the last address"),
        (2, "localhost", "base address 'localhost'"),
    ],
)
def test_an_impossible_rack_is_refused_with_the_reason(count: int, base: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        rack_specs(count, base)


def test_a_fault_for_an_unknown_bmc_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="no BMC 'bmc9'; they are bmc00001 to bmc00003"):
        rack_specs(3, faults={"bmc9": FaultSet.parse(["dead"])})
    with pytest.raises(ConfigurationError, match="no BMC 'x'; they are bmc00001 to bmc00001"):
        rack_specs(1, watchdog_armed_s={"x": 60})


def test_guids_differ_within_a_rack_and_repeat_with_the_seed() -> None:
    guids = {host_uuid(spec.name, 7) for spec in rack_specs(100)}
    assert len(guids) == 100
    assert host_uuid("bmc00001", 7) in guids
    assert host_uuid("bmc00001", 8) not in guids


@pytest.mark.parametrize("text", ["127.0.0.1:623", "[::1]:0", "localhost:65535"])
def test_addresses_are_read_and_written_alike(text: str) -> None:
    assert format_address(parse_address(text)) == text


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1", ":623", "::1:623", "[::1]", "a:b", "a:65536", "a:-1", "[a]:1", "a:²"]
)
def test_an_invalid_address_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_address(text)


def test_binding_says_what_is_wrong_and_what_to_try() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigurationError, match="something listens there already"):
            bind_udp(taken.getsockname())
    with pytest.raises(ConfigurationError, match="this machine has no such address"):
        bind_udp(("192.0.2.1", 6230))


def test_too_few_descriptors_are_reported_clearly() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("this machine has no limit")
    with pytest.raises(ConfigurationError, match=f"the hard limit is {hard}"):
        ensure_descriptors(hard)


def test_a_rack_serves_each_bmc_at_its_own_address() -> None:
    specs = rack_specs(3, "127.0.77.1", 0)
    with running_rack(specs, seed=5) as rack:
        hosts = [rack.address(spec.name)[0] for spec in specs]
        guids = {rack.status(spec.name)["guid"] for spec in specs}
    assert hosts == ["127.0.77.1", "127.0.77.2", "127.0.77.3"]
    assert len(guids) == 3


def test_ipv6_is_served_too() -> None:
    try:
        bind_udp(("::1", 0)).close()
    except ConfigurationError:
        pytest.skip("this machine has no IPv6 loopback")
    with running_rack(rack_specs(1, "::1", 0)) as rack:
        host, port = rack.address("bmc00001")
        ping = bytes.fromhex("0600ff06000011be8000 0000")
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.sendto(ping, (host, port))
            assert client.recv(64)[8] == 0x40
