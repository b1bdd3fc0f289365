from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.host.client.redact import REDACTED, redacted

if TYPE_CHECKING:
    from types import FrameType

    from _typeshed import TraceFunction

SECRET = "s3cret"

WITH_A_SECRET = [
    "ipmitool|-I|lanplus|-H|h|-p|623|-U|admin|-P|s3cret|mc|info",
    "ipmitool|-Ps3cret|-ks3cret|-vys3cret|mc|info",
    "ipmitool|mc|info|-vP|s3cret",
    "ipmitool|-Uhenry|-P|s3cret",
    "ipmitool|user|set|password|2|s3cret|20",
    "ipmitool|user|test|2|20|s3cret",
    "ipmitool|lan|set|1|password|s3cret",
    "ipmitool|lan|set|1|snmp|s3cret",
    "/usr/bin/ipmitool.real|-P|s3cret",
    "bmc-info|-h|h|-p|s3cret|--password=s3cret|--k-g|s3cret",
    "bmc-info|--password|s3cret|-k|s3cret",
    "ipmi-config|--commit|-e|User2:Password=s3cret",
    "ipmiutil|health|-N|h|-P|s3cret|-R|s3cret",
    "python3|x.py|--bmc-password|s3cret|http://u:s3cret@h/x",
    "python3|-Uhenry|-P|s3cret",
    "sshpass|-p|s3cret|ssh|h|ipmitool -P s3cret mc info",
    "timeout|30|ipmitool|-P|s3cret|mc|info",
    "env|IPMI_PASSWORD=s3cret s3cret|ipmitool|-E|mc|info",
    "sh|-c|IPMI_PASSWORD=s3cret ipmitool -E mc info",
    "sh|-c|X=1 ipmitool -U henry -P 's3cret s3cret' mc info | grep -p s3cret; echo ok",
    'sh|-c|(ipmitool -P"s3cret" mc info)',
    "sh|-c|ipmitool -P my\\ s3cret mc info",
    "sh|-c|ipmitool -P 's3cret mc info",
    "bash|-c|ssh h \"ipmitool -P 's3cret' mc info\"",
    "ipmitool|raw|0x06|0x47|0x02|0x02|s3cret",
    "ipmitool|-b|6|-t|0x2c|raw|6|71|2|2|s3cret",
    "ipmitool|raw|06|0X47|s3cret",
    "ipmitool|raw|Application|0107|s3cret",
    "ipmitool|raw|0x6|0x56|1|s3cret",
    "ipmi-raw|0|06|47|s3cret",
    "ipmi-raw|-D|OPENIPMI|0x00|0x6|0x47|s3cret",
    "sh|-c|ipmitool raw 0x06 0x47 2 2 s3cret",
    "sh|-c|ipmitool \\\n  -U a \\\n-P s3cret \\\n mc info",
    "sh|-c|ipmitool -\\\nP s3cret mc info",
    "sh|-c|ipmitool mc info -P\\\n s3cret",
    "sh|-c|ipmitool -P $(echo s3cret) mc info",
    "sh|-c|ipmitool -P$(echo s3cret) mc info",
    "sh|-c|ipmitool -P `echo s3cret` mc info",
    "sh|-c|IPMI_PASSWORD=`echo s3cret` ipmitool -E mc info",
    "sh|-c|bmc-info --password $(echo s3cret)",
    "qemu-system-x86_64|-object|secret,id=a,data=s3cret|-spice|port=1,password=s3cret",
]


@pytest.mark.parametrize("line", WITH_A_SECRET)
def test_a_secret_does_not_show(line: str) -> None:
    shown = redacted(line.split("|"))
    assert SECRET not in " ".join(shown)
    assert REDACTED in " ".join(shown)
    assert len(shown) == len(line.split("|"))


@pytest.mark.parametrize(
    "line",
    [
        "ipmitool|-b|6|-t|0x2c|raw|0x4|0x2d|0xbe",
        "ipmitool|-I|lanplus|-H|h|-p|623|-U|admin|-E|-K|mc|info",
        "ipmitool|sol|activate",
        "ipmitool|raw|0x6|0x01",
        "ipmitool|raw",
        "ipmi-raw|0|6|1",
        "sh|-c|echo $(ipmitool mc info) `ipmitool -U x sdr`",
        "bmc-info|-P|-K|--password-prompt|--get-device-id",
        "sh|-c|ipmitool  sdr | awk '{ print $1; }'",
        "ipmitool|-c|import select; select.select([], [], [])",
        "",
    ],
)
def test_what_is_no_secret_shows_as_it_is(line: str) -> None:
    argv = line.split("|") if line else []
    assert redacted(argv) == argv


def test_the_words_around_a_secret_stay() -> None:
    assert redacted(["sh", "-c", "cd /x;  ipmitool -U a -P b mc  info"])[2] == (
        "cd /x;  ipmitool -U a -P **** mc  info"
    )
    assert redacted(["ipmitool", "-vPb", "mc"])[1] == "-vP****"


def test_the_executable_counts_and_not_the_name_that_it_was_called_by() -> None:
    assert redacted(["harmless", "-p", "623", "-k", SECRET], "ipmitool")[1:] == [
        "-p",
        "623",
        "-k",
        REDACTED,
    ]


def test_commands_in_other_lines_and_substitutions_are_redacted_each() -> None:
    line = "x=$(ipmitool -P s3cret mc info); echo a\\\\\nipmitool \\\n -P s3cret sdr"
    shown = redacted(["sh", "-c", line])[2]
    assert shown == "x=$(ipmitool -P **** mc info); echo a\\\\\nipmitool  -P **** sdr"


def steps(argv: list[str]) -> int:
    """Return how many lines of Python it takes to redact them."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> TraceFunction:
        nonlocal count
        count += event in ("line", "call", "return")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        redacted(argv)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "word", ["snmp", "password", "user", "-P", "--password", "a;", "'a'", "raw", "$(", "-P `"]
)
@pytest.mark.parametrize("is_in_a_line", [False, True])
def test_twice_as_many_words_take_twice_the_work(word: str, *, is_in_a_line: bool) -> None:
    def argv(count: int) -> list[str]:
        words = [word] * count
        return (
            ["sh", "-c", " ".join(["ipmitool", *words])] if is_in_a_line else ["ipmitool", *words]
        )

    redacted(argv(2))
    assert steps(argv(400)) < 2.5 * steps(argv(200))


@pytest.mark.parametrize("quote", ["'", '"', "'\""])
def test_quotes_in_quotes_are_hidden_as_a_whole(quote: str) -> None:
    word = quote * 3000 + SECRET + quote[::-1] * 3000
    shown = redacted(["sh", "-c", f"ipmitool mc {word} info"])
    assert SECRET not in shown[2]
    assert len(shown[2]) < 6100


def test_of_several_places_the_first_counts() -> None:
    line = ["ipmitool", "user", "set", "password", "2", SECRET, "snmp", SECRET, "user", "test"]
    assert redacted(line) == [*line[:5], *[REDACTED] * 5]


@given(st.lists(st.text(max_size=40), max_size=8))
def test_any_arguments_can_be_redacted(argv: list[str]) -> None:
    assert len(redacted(argv)) == len(argv)


@given(
    st.text(st.characters(blacklist_categories=["Cs"]), min_size=4, max_size=20),
    st.sampled_from(["ipmitool -U x -P {} mc info", "nice ipmitool -P{} mc", "bmc-info -p {}"]),
)
def test_a_quoted_secret_of_any_letters_does_not_show(secret: str, line: str) -> None:
    plain = secret.replace("'", "").replace("\0", "") + "Qzj9"
    assert "Qzj9" not in " ".join(redacted(["sh", "-c", line.format(f"'{plain}'")]))
