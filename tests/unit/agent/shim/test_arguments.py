"""The shim's policy for ipmitool's arguments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.agent.shim.arguments import plan_call
from bmcmedic.driver.read_commands import READS


@pytest.mark.parametrize(
    "line",
    [
        "-I lan -H bmc1 mc info",
        "-Ilanplus -H bmc1 -U root mc info",
        "-H bmc1 mc info",
        "-vHbmc1 mc info",
        "mc info -H bmc1",
        "-I imb mc info",
        "-d 1 mc info",
        "-B 0 -T 0x24 -b 6 -t 0x2c raw 6 1",
        "-a mc info",
        "-D /dev/ttyS0 mc info",
        "--unknown mc info",
        "-x mc info",
        "-I",
        "-V",
        "-h",
        "",
        "-v",
        "sol activate",
        "SOL info 1",
        "shell",
        "exec file",
        "set hostname bmc1",
        "hpm upgrade file",
        "fru upgEkey 0 file",
        "fru write 0 file",
        "sdr help",
        "help",
        "user set password 2",
        "user test 2 16",
        "lan set 1 password",
        "delloem vFlash info",
    ],
)
def test_is_left_to_the_real_one(line: str) -> None:
    plan = plan_call(line.split())
    assert plan.reason_excluded
    assert (plan.arguments, plan.may_be_shared) == ([], False)


@pytest.mark.parametrize(
    ("line", "passed_on"),
    [
        ("mc info", "mc info"),
        ("-I open mc info", "mc info"),
        ("-Iopen -d 0 mc info", "mc info"),
        ("-v -c sdr list", "-v -c sdr list"),
        ("-vvc sdr list", "-v -v -c sdr list"),
        ("sdr list -v", "-v sdr list"),
        ("-b 6 -t 0x2c raw 0x4 0x2d 0xbe", "-b 6 -t 0x2c raw 0x4 0x2d 0xbe"),
        ("-b6 -t0x2c -l 1 raw 4 0x2d 0xbe", "-b 6 -t 0x2c -l 1 raw 4 0x2d 0xbe"),
        ("-U root -P secret -L USER -C 3 -N 1 -R 1 -p 623 mc info", "mc info"),
        ("-E -K -4 mc info", "mc info"),
        ("-f /file -k key -y 00 -e ~ -A MD5 mc info", "mc info"),
        ("-Z -o supermicro -S file -O file sel list", "-Z -o supermicro -S file -O file sel list"),
        ("-- raw 6 1", "raw 6 1"),
        ("event -- -x", "-- event -x"),
    ],
)
def test_goes_through_the_proxy(line: str, passed_on: str) -> None:
    plan = plan_call(line.split())
    assert plan.reason_excluded == ""
    assert plan.arguments == passed_on.split()


@pytest.mark.parametrize(
    "line",
    [
        "mc info",
        "bmc info",
        "MC INFO",
        "mc watchdog get",
        "power status",
        "chassis power status",
        "sdr",
        "sdr elist all",
        "sdr type Temperature",
        "sensor",
        "sensor get FAN1",
        "sel elist last 5",
        "fru",
        "lan print 1",
        "user list",
        "channel info 1",
        "dcmi power reading",
        "raw 6 1",
        "raw 0x04 0x2d 0xbe",
        "-b 6 -t 0x2c raw 0x4 0x2d 0xbe",
    ],
)
def test_only_reads(line: str) -> None:
    plan = plan_call(line.split())
    assert (plan.is_read, plan.may_be_shared) == (True, True)


@pytest.mark.parametrize(
    "line",
    [
        "mc reset cold",
        "mc watchdog reset",
        "mc watchdog off",
        "mc setenables oem_0=on",
        "power on",
        "power",
        "chassis power cycle",
        "chassis identify 5",
        "chassis bootdev pxe",
        "sel clear",
        "sel save file",
        "sel time set now",
        "sensor thresh FAN1 lower 1 2 3",
        "sdr fill sensors",
        "sdr dump file",
        "fru read 0 file",
        "lan set 1 ipaddr 10.0.0.1",
        "lan stats clear",
        "user set name 2 root",
        "user set password 2 secret",
        "user enable 2",
        "channel setaccess 1 2",
        "dcmi power set_limit limit 100",
        "raw 6 2",
        "raw 6 0x24 0 0 0 0 0 0",
        "raw",
        "raw x y",
        "event 1",
        "something new",
    ],
)
def test_is_not_taken_for_a_read(line: str) -> None:
    plan = plan_call(line.split())
    assert plan.reason_excluded == ""
    assert (plan.is_read, plan.may_be_shared) == (False, False)


def test_output_that_depends_on_a_file_is_not_shared() -> None:
    assert not plan_call(["-S", "cache", "sdr", "list"]).may_be_shared
    assert plan_call(["-S", "cache", "sdr", "list"]).is_read


def test_raw_reads_are_those_of_the_driver() -> None:
    for netfn in range(0, 64, 2):
        for command in range(256):
            plan = plan_call(["raw", hex(netfn), str(command)])
            assert plan.is_read == ((netfn, command) in READS)


def test_a_command_with_many_requests_has_the_long_deadline() -> None:
    assert plan_call(["sdr"]).is_long
    assert not plan_call(["mc", "info"]).is_long


WORDS = st.lists(
    st.one_of(
        st.sampled_from(["-I", "open", "lanplus", "-v", "-H", "--", "raw", "6", "1", "sdr", "-b6"]),
        st.text(max_size=6),
    ),
    max_size=8,
)


@given(WORDS)
def test_any_command_line_is_either_planned_or_excluded(words: list[str]) -> None:
    plan = plan_call(words)
    assert bool(plan.reason_excluded) != bool(plan.arguments)
    # Planned again it means the same: no word of it has become an option of the session.
    again = plan_call(plan.arguments)
    if not plan.reason_excluded:
        assert (again.reason_excluded, again.arguments) == ("", plan.arguments)
        assert (again.is_read, again.may_be_shared) == (plan.is_read, plan.may_be_shared)
