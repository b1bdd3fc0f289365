"""The grammar of ipmitool's arguments, which triage and the shim share."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.host.client.ipmitool_arguments import (
    FLAGS,
    SECRET,
    WITH_VALUE,
    parse,
    prompts_for_password,
)

ARGUMENTS = st.lists(
    st.one_of(
        st.sampled_from(["-I", "open", "-v", "-H", "--", "-vHbmc1", "-b6", "--long", "-x", "mc"]),
        st.text(max_size=6),
    ),
    max_size=8,
)


def test_options_stand_anywhere_among_the_words_until_a_double_dash() -> None:
    parsed = parse(["-vI", "lan", "mc", "-Hbmc1", "info", "--", "-P", "x"])
    assert parsed.error == ""
    assert [(each.letter, each.value) for each in parsed.options] == [
        ("v", None),
        ("I", "lan"),
        ("H", "bmc1"),
    ]
    assert parsed.words == ["mc", "info", "-P", "x"]


@pytest.mark.parametrize("line", ["-x mc info", "--unknown mc info", "mc info -I"])
def test_what_ipmitool_would_refuse_is_an_error(line: str) -> None:
    assert parse(line.split()).error


def test_a_search_for_options_stops_at_nothing() -> None:
    argv = ["ipmitool", "-x", "--long", "--", "-vPsecret", "mc", "-k", "key", "-I"]
    found = [o for o in parse(argv, 1, flags=None).options if o.value is not None]
    assert [(o.letter, o.value, o.position, o.start) for o in found] == [
        ("P", "secret", 4, 3),
        ("k", "key", 7, 0),
    ]


@given(ARGUMENTS)
def test_each_option_stands_where_it_is_reported(arguments: list[str]) -> None:
    for flags in (FLAGS, None):
        for option in parse(arguments, flags=flags).options:
            argument = arguments[option.position]
            if option.value is None:
                assert argument[option.start] == option.letter
            else:
                assert argument[option.start :] == option.value


def test_no_letter_is_both_a_flag_and_an_option_with_a_value() -> None:
    assert not set(WITH_VALUE) & set(FLAGS)
    assert set(SECRET) <= set(WITH_VALUE)


@pytest.mark.parametrize(
    ("line", "prompts"),
    [
        ("user set password 2", True),
        ("user set password 2 secret", False),
        ("user test 2 16", True),
        ("user test 2 16 secret", False),
        ("lan set 1 password", True),
        ("lan set 1 password secret", False),
        ("user set name 2 root", False),
        ("mc info", False),
    ],
)
def test_a_password_that_is_not_given_is_asked_for(line: str, *, prompts: bool) -> None:
    assert prompts_for_password(line.split()) is prompts


def test_the_shim_loads_no_other_module_of_the_host_package() -> None:
    code = (
        "import sys; from bmcmedic.agent.shim import main; "
        "print(*sorted(name for name in sys.modules if name.startswith('bmcmedic.host')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert loaded == [
        "bmcmedic.host",
        "bmcmedic.host.client",
        "bmcmedic.host.client.ipmitool_arguments",
    ]
