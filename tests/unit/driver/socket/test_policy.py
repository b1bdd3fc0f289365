"""Who may ask the driver for what."""

from __future__ import annotations

import pytest

from bmcmedic.driver.read_commands import READS
from bmcmedic.driver.socket.policy import (
    DRIVER_ONLY,
    READER_COMMANDS,
    WATCHDOG_ONLY,
    Access,
    Peer,
    Rights,
    refusal,
)
from bmcmedic.ipmi.commands.registry import COMMANDS
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.transport.in_band import Ipmb

SATELLITE = Ipmb(6, 0x2C)
THE_BMC_ITSELF = Ipmb(0, 0x20)


def code(
    netfn: int,
    command: int,
    *,
    target: Ipmb | None = None,
    rights: Rights = Rights.FULL,
    in_charge: bool = True,
) -> int | None:
    refused = refusal(
        netfn, command, target=target, rights=rights, watchdog_in_charge=lambda: in_charge
    )
    return None if refused is None else int(refused.completion_code)


@pytest.mark.parametrize(
    ("peer", "rights"),
    [
        (Peer(1, 0, frozenset({0})), Rights.FULL),
        (Peer(1, 10, frozenset({1})), Rights.FULL),
        (Peer(1, 1, frozenset({1, 20})), Rights.FULL),
        (Peer(1, 30, frozenset({1})), Rights.READ),
        (Peer(1, 1, frozenset({1, 40})), Rights.READ),
        (Peer(1, 10, frozenset({40})), Rights.FULL),
        (Peer(1, 1, frozenset({0, 1})), Rights.NONE),
    ],
)
def test_rights_are_the_best_that_user_or_any_group_has(peer: Peer, rights: Rights) -> None:
    access = Access(frozenset({10}), frozenset({20}), frozenset({30}), frozenset({40}))
    assert access.rights(peer) is rights


def test_without_configuration_only_root_is_served() -> None:
    assert Access().rights(Peer(1, 0, frozenset())) is Rights.FULL
    assert Access().rights(Peer(1, 1000, frozenset({0, 1000}))) is Rights.NONE


def test_the_state_that_all_share_is_the_drivers() -> None:
    for netfn, command in DRIVER_ONLY:
        assert code(netfn, command) == 0xD4
        assert code(netfn, command, target=THE_BMC_ITSELF) == 0xD4
        assert code(netfn, command, in_charge=False) == 0xD4
        assert code(netfn, command, target=SATELLITE) is None
    assert {(6, 0x2E), (6, 0x30), (6, 0x33)} <= set(DRIVER_ONLY)
    assert not set(DRIVER_ONLY) & READS


def test_nobody_touches_the_watchdog_while_it_is_in_charge() -> None:
    assert {(6, 0x22), (6, 0x24)} == WATCHDOG_ONLY
    for netfn, command in WATCHDOG_ONLY:
        assert code(netfn, command) == 0xD5
        assert code(netfn, command, target=THE_BMC_ITSELF) == 0xD5
        assert code(netfn, command, in_charge=False) is None
        assert code(netfn, command, target=SATELLITE) is None
    assert code(6, 0x25) is None


@pytest.mark.parametrize(
    "what", [(6, 0x02), (6, 0x03), (0, 0x02), (6, 0x47), (0x0A, 0x47), (0x2E, 0x01), (0x3A, 0x11)]
)
def test_what_changes_something_is_for_full_rights_only(what: tuple[int, int]) -> None:
    assert code(*what) is None
    assert code(*what, rights=Rights.READ) == 0xD4
    assert code(*what, rights=Rights.READ, target=SATELLITE) == 0xD4
    assert code(*what, rights=Rights.NONE) == 0xD4


def test_a_reader_gets_what_the_specification_gives_a_user_and_no_more() -> None:
    for what, command in COMMANDS.items():
        allowed = code(*what, rights=Rights.READ) is None
        if allowed:
            assert command.privilege <= PrivilegeLevel.USER, command
            assert command.idempotent, command
    for what in READER_COMMANDS:
        assert code(*what, rights=Rights.READ) is None
    assert code(6, 0x01, rights=Rights.READ) is None
    assert code(4, 0x2D, rights=Rights.READ, target=SATELLITE) is None


def test_a_reason_says_what_to_do_instead() -> None:
    for what, told in (((6, 0x24), "op: watchdog"), ((6, 0x34), "use a bridge")):
        refused = refusal(*what, target=None, rights=Rights.FULL, watchdog_in_charge=lambda: True)
        assert refused is not None
        assert told in refused.reason
