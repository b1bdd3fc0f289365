"""TARGET arguments: what they expand to, and the errors for unreadable ones."""

from __future__ import annotations

import socket
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bmcmedic.errors import ConfigurationError, NameNotResolved
from bmcmedic.fleet.inventory import (
    TARGETS_MAX,
    Target,
    literal_address,
    parse_target,
    parse_targets,
    resolve,
)


def names(*arguments: str) -> list[str]:
    return [target.name for target in parse_targets(arguments)]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("bmc1", [("bmc1", "bmc1", 623)]),
        ("bmc1.oob:6230", [("bmc1.oob:6230", "bmc1.oob", 6230)]),
        ("10.0.0.1", [("10.0.0.1", "10.0.0.1", 623)]),
        ("[::1]:624", [("[::1]:624", "::1", 624)]),
        ("[2001:db8::1]", [("[2001:db8::1]", "2001:db8::1", 623)]),
        ("2001:db8::1", [("2001:db8::1", "2001:db8::1", 623)]),
        ("[fe80::1%lo]:1", [("[fe80::1%lo]:1", "fe80::1%lo", 1)]),
        ("bmc[1-3]", [(f"bmc{n}", f"bmc{n}", 623) for n in (1, 2, 3)]),
        ("bmc[08-10].oob:1", [(f"bmc{n}.oob:1", f"bmc{n}.oob", 1) for n in ("08", "09", "10")]),
        ("b[1,3,5-6]", [(f"b{n}", f"b{n}", 623) for n in (1, 3, 5, 6)]),
        ("b[0-9/4]", [(f"b{n}", f"b{n}", 623) for n in (0, 4, 8)]),
        ("a,b:1", [("a", "a", 623), ("b:1", "b", 1)]),
        (
            "10.0.[0-1].[1-2]",
            [(n, n, 623) for n in ("10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.2")],
        ),
        ("a_b-c", [("a_b-c", "a_b-c", 623)]),
    ],
)
def test_what_it_expands_to(argument: str, expected: list[tuple[str, str, int]]) -> None:
    assert parse_targets([argument]) == [Target(*fields) for fields in expected]


def test_each_target_comes_once_in_the_order_given() -> None:
    assert names("b2", "b[1-3]", "b2,b1", "b2:623") == ["b2", "b1", "b3", "b2:623"]


@pytest.mark.parametrize(
    "argument",
    [
        "",
        ",",
        " ",
        "a b",
        "bmc[1-",
        "bmc1]",
        "bmc[]",
        "bmc[3-1]",
        "bmc[1-x]",
        "bmc[-1-5]",
        "bmc[1-5/0]",
        "bmc[1[2]]",
        "bmc[1-2][3-4]",
        "bmc*",
        "bmc?",
        "@group",
        "a!b",
        "a&b",
        "a^b",
        "host:",
        "host:0",
        "host:65536",
        "host:99999999999999999999",
        "host:6x3",
        ":623",
        "[::1]:0",
        "[::1",
        "::g",
        "[1.2.3.4]:623",
        "1.2.3",
        "1.2.3.4.5",
        "10.0.0.256",
        "10.0.0.[255-256]",
        "010.0.0.1",
        "-host",
        "a..b",
        "a/b",
        "h" * 300,
        "[1-3]",
        "http://bmc1",
        "bmc1\n",
        "bmc\u0661",
        "\udcff",
        "b" + "[0-1]" * 17,
    ],
)
def test_an_unreadable_target_is_a_one_line_error(argument: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_targets([argument])
    message = str(raised.value)
    assert "\n" not in message
    assert message.isprintable()


@pytest.mark.parametrize(
    "argument",
    [
        "b[1-131073]",
        "b[1-1000000000000]",
        "b[1-999999999999999999]",
        "b[1-1000][1-1000]",
        "b[0-999]c[0-999]",
        "b[-1-999999999]",
        "b[1-9999999999999999999999]",
        "10.[0-255].[0-255].[0-255]",
    ],
)
def test_sets_that_are_too_large_are_never_built(argument: str) -> None:
    started_at = time.process_time()
    with pytest.raises(ConfigurationError):
        parse_targets([argument])
    assert time.process_time() - started_at < 1


def test_the_limit_is_that_of_all_arguments_together() -> None:
    assert len(parse_targets([f"b[1-{TARGETS_MAX}]"])) == TARGETS_MAX
    for arguments in (
        [f"b[1-{TARGETS_MAX}]", "c1"],
        [f"b[1-{TARGETS_MAX}]", "c[1-2]"],
        [f"h{number}" for number in range(TARGETS_MAX + 1)],
    ):
        with pytest.raises(ConfigurationError, match=str(TARGETS_MAX)):
            parse_targets(arguments)


def test_no_argument_is_an_empty_set() -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        parse_targets([])


def test_a_command_for_one_target_takes_no_more() -> None:
    assert parse_target("bmc1") == Target("bmc1", "bmc1")
    with pytest.raises(ConfigurationError, match="2 targets"):
        parse_target("bmc[1-2]")


@given(st.text(alphabet="ab01.,[]-/:%_ 9\n\u0661", max_size=24))
@example("a[1,")
@example("[[]]")
@example("a]1,2[")
@example("%:[::1]")
def test_any_text_is_a_set_of_targets_or_a_configuration_error(text: str) -> None:
    try:
        targets = parse_targets([text])
    except ConfigurationError:
        return
    assert 0 < len(targets) <= TARGETS_MAX
    assert len({target.name for target in targets}) == len(targets)
    for target in targets:
        assert 1 <= target.port <= 65535
        assert parse_targets([target.name]) == [target], "a name is a TARGET again"


@pytest.mark.parametrize(
    ("argument", "address"),
    [
        ("127.0.0.1", ("127.0.0.1", 623)),
        ("[::1]:1", ("::1", 1, 0, 0)),
        ("[0:0:0:0:0:0:0:1]", ("::1", 623, 0, 0)),
        ("[::ffff:127.0.0.1]", ("::ffff:127.0.0.1", 623, 0, 0)),
        ("[::FFFF:7f00:1]", ("::ffff:127.0.0.1", 623, 0, 0)),
        ("bmc1", None),
    ],
)
def test_addresses_are_spelled_as_the_kernel_spells_them(
    argument: str, address: tuple[object, ...] | None
) -> None:
    assert literal_address(parse_target(argument)) == address


def test_a_zone_is_an_interface() -> None:
    assert literal_address(parse_target("[fe80::1%lo]")) == (
        "fe80::1",
        623,
        0,
        socket.if_nametoindex("lo"),
    )
    with pytest.raises(NameNotResolved, match="nosuch0"):
        literal_address(parse_target("[fe80::1%nosuch0]"))


def test_names_are_looked_up() -> None:
    assert resolve(parse_target("127.0.0.1:7")) == ("127.0.0.1", 7)
    assert resolve(parse_target("localhost:7"))[0] in ("127.0.0.1", "::1")
    with pytest.raises(NameNotResolved, match="check the name") as raised:
        resolve(parse_target("no-such-host.invalid"))
    assert "no-such-host.invalid" in str(raised.value)
    with pytest.raises(NameNotResolved):
        resolve(parse_target("a" * 200))
