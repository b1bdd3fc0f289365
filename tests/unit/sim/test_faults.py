from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.errors import ConfigurationError
from bmcmedic.sim.faults import NO_FAULTS, FaultSet, Hang, KcsStuck, KcsWedge, parse_fault

EVERY_MODEL = [
    "port80-flood:1234567",
    "slow:2.5",
    "hang:timer",
    "dead",
    "kcs-stuck:obf",
    "lan-loss:0.2",
    "garbage:0.1",
    "reset-ignored",
    "reset-reboots-host",
    "reset-lost-reply",
    "boot:12",
    "sessions:4",
    "refuse:06/25:0xc0:1",
    "silent:06/01",
    "cut:06/25:6",
    "flip:06/25:0:0x03:2",
]


@pytest.mark.parametrize("spec", EVERY_MODEL)
def test_every_model_is_read_and_written_alike(spec: str) -> None:
    assert str(parse_fault(spec)) == spec


def test_all_models_can_be_combined() -> None:
    faults = FaultSet.parse(EVERY_MODEL)
    assert faults.specs == EVERY_MODEL
    assert faults.flood_writes_per_s == 1_234_567
    assert faults.slow_s == 2.5
    assert faults.hang
    assert faults.hang_timer_runs
    assert faults.dead
    assert faults.kcs_wedge is KcsWedge.OBF
    assert (faults.lan_loss, faults.garbage) == (0.2, 0.1)
    assert faults.reset_ignored
    assert faults.reset_reboots_host
    assert faults.reset_lost_reply
    assert (faults.boot_s, faults.session_slots) == (12, 4)


def test_defaults_are_those_that_the_design_promises() -> None:
    assert NO_FAULTS.boot_s == 30
    assert NO_FAULTS.session_slots == 16
    assert FaultSet.parse(["port80-flood"]).flood_writes_per_s == 10_000
    assert FaultSet.parse([]) is NO_FAULTS


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("slow", "such as slow:2.5"),
        ("slow:", "such as slow:2.5"),
        ("slow:-1", "seconds must be 0 to 3600"),
        ("slow:nan", "seconds must be 0 to 3600"),
        ("slow:soon", "seconds must be 0 to 3600"),
        ("lan-loss:1.1", "P must be 0 to 1"),
        ("garbage:inf", "P must be 0 to 1"),
        ("boot:3601", "seconds must be 0 to 3600"),
        ("sessions:4.5", "slots must be 0 to 256"),
        ("sessions:257", "slots must be 0 to 256"),
        ("sessions:-1", "slots must be 0 to 256"),
        ("kcs-stuck:sms", "kcs-stuck:ibf, :obf or :error"),
        ("hang:clock", "hang or hang:timer"),
        ("hang:", "hang or hang:timer"),
        ("dead:1", "takes no value"),
        ("port80-flood:0", "writes a second must be 1 to 10000000"),
        ("slow:1_0", "seconds must be 0 to 3600"),
        ("ded", "the models are port80-flood, slow, hang"),
        ("", "the models are"),
        ("refuse", "such as refuse:06/25:0xC0"),
        ("refuse:06/25", "write refuse:06/25:0xC0[:TIMES]"),
        ("refuse:6/25:0xC0", "write refuse:06/25"),
        ("refuse:06/25:256", "write refuse:06/25"),
        ("refuse:06/25:0xC0:0", "write refuse:06/25"),
        ("refuse:06/25:0xC0:1:1", "write refuse:06/25"),
        ("silent:06/25:-1", "write silent:06/25"),
        ("cut:06/25:x", "write cut:06/25"),
        ("flip:06/25:0", "write flip:06/25"),
    ],
)
def test_a_wrong_fault_says_what_is_valid(spec: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_fault(spec)
    assert said in str(caught.value)
    assert spec in str(caught.value)


def test_one_model_twice_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="hang is given twice"):
        FaultSet.parse(["hang", "hang:timer"])


def test_faults_of_two_commands_can_be_combined() -> None:
    specs = ["silent:06/01", "silent:06/25", "cut:06/25:3"]
    assert FaultSet.parse(specs).specs == specs
    with pytest.raises(ConfigurationError, match="silent:06/01 is given twice"):
        FaultSet.parse(["silent:06/01", "silent:06/01:3"])


def test_without_takes_away_what_a_cold_reset_clears() -> None:
    left = FaultSet.parse(["hang", "slow:1", "kcs-stuck:ibf", "boot:2"]).without(Hang, KcsStuck)
    assert left.specs == ["slow:1", "boot:2"]
    assert not left.silences_kcs


@given(st.text(max_size=80))
def test_any_text_is_a_fault_or_a_configuration_error(spec: str) -> None:
    try:
        fault = parse_fault(spec)
    except ConfigurationError:
        return
    assert parse_fault(str(fault)) == fault
