"""The driver's settings: file, options, everything that is wrong at once, and the file it shows."""

from __future__ import annotations

import argparse
import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.driver.process import config
from bmcmedic.driver.process.config import SETTINGS, DriverProgramConfig
from bmcmedic.driver.process.main import read_config
from bmcmedic.driver.process.watchdog_config import EXCHANGES_S_MAX, watchdog_settings
from bmcmedic.driver.watchdog.kernel_pats import KERNEL_EXCHANGE_S_MAX
from bmcmedic.errors import ConfigurationError
from bmcmedic.service.settings_conflicts import ConflictingSettings
from bmcmedic.service.settings_values import quoted
from bmcmedic.transport import dev_ipmi
from bmcmedic.transport.port_io import EXCHANGE_SLACK_S, PORT_IO_LIMITS


def written(folder: Path, text: str) -> Path:
    file = folder / "driver.toml"
    file.write_text(text, encoding="utf-8")
    return file


def problems_of(file: Path | None, **options: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_config(file, {name.replace("__", "."): value for name, value in options.items()})
    return str(caught.value)


def test_without_anything_the_watchdog_is_left_alone() -> None:
    plain = read_config(None, {})
    assert plain == DriverProgramConfig()
    assert plain.watchdog.mode == "off"
    assert plain.pretimeout.action == "log"
    assert plain.socket_path == "/run/bmcmedic/driver.sock"


def test_options_overrule_the_file(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        [interface]
        kind = "port-io"
        port_base = 0xca8
        [watchdog]
        mode = "bmc"
        timeout_s = 300
        [check]
        command = ["/bin/true"]
        """,
    )
    options = {"watchdog.timeout_s": "240.5", "check.command": "/bin/test -e '/a b'"}
    both = read_config(file, options)
    assert (both.interface.kind, both.interface.port_base) == ("port-io", 0xCA8)
    assert (both.watchdog.mode, both.watchdog.timeout_s) == ("bmc", 240.5)
    assert both.check.command == ("/bin/test", "-e", "/a b")


def test_all_that_is_wrong_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """[interface]
kind = "kcs"
[watchdog]
timeout_s = 7000
time_out_s = 1
shutdown = "rearm"
[sokcet]
path = "x"
[check]
command = "true"
[process]
real_time_priority = 99
lock_memory = "yes"
""",
    )
    said = problems_of(file, watchdog__pretimeout_s="many").splitlines()
    assert [line.partition(", such as")[0] for line in said] == [
        f"{file}: 9 problems",
        "  line 2: interface.kind is 'kcs'; give one of auto, dev-ipmi, port-io",
        "  line 4: watchdog.timeout_s is 7000 s; give 0.1 to 6553.5 s",
        "  line 5: watchdog.time_out_s: there is no such setting; did you mean timeout_s?",
        "  line 6: watchdog.shutdown is 'rearm'; give disarm, keep, or rearm:SECONDS",
        "  line 7: there is no section [sokcet]; did you mean socket?",
        "  line 10: check.command is 'true'; give a list of words",
        "  line 12: process.real_time_priority is 99; give 0 to 96",
        "  line 13: process.lock_memory is 'yes'; give true or false",
        "  --watchdog-pretimeout is 'many'; give a number of seconds",
    ]


ALL_CONFLICTS = """[watchdog]
mode = "bmc"
timeout_s = 5
pat_period_s = 100
pretimeout_s = 200
shutdown = "rearm:1"
[check]
command = ["/bin/true"]
deadline_s = 600
[pretimeout]
limit_s = 500
action = "command"
"""


def subjects(said: str) -> list[str]:
    """File and number of problems; then of each its place and setting."""
    first, *others = said.splitlines()
    return [first, *(": ".join(line.strip().split(": ")[:2]) for line in others)]


def test_all_that_does_not_go_together_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, ALL_CONFLICTS)
    said = problems_of(file)
    assert subjects(said) == [
        f"{file}: 8 problems",
        "line 12: pretimeout.action",
        "line 3: watchdog.timeout_s",
        "line 6: watchdog.shutdown",
        "line 5: watchdog.pretimeout_s",
        "line 5: watchdog.pretimeout_s",
        "line 4: watchdog.pat_period_s",
        "line 11: pretimeout.limit_s",
        "line 9: check.deadline_s",
    ]
    assert "pats every 100 s: the period is 0.1 s or more and below the watchdog time-out" in said


def test_what_does_not_go_together_is_said_beside_what_is_wrong_by_itself(tmp_path: Path) -> None:
    file = written(tmp_path, '[interface]\nkind = "kcs"\n' + ALL_CONFLICTS)
    assert len(subjects(problems_of(file))) == 10


def test_nothing_is_said_to_follow_from_what_is_wrong_by_itself(tmp_path: Path) -> None:
    file = written(
        tmp_path, '[watchdog]\nmode = "bmc"\ntimeout_s = "5"\npat_period_s = 130\nshutdown = 1\n'
    )
    assert subjects(problems_of(file)) == [
        f"{file}: 2 problems",
        "line 3: watchdog.timeout_s is '5'; give a number of seconds",
        "line 5: watchdog.shutdown is 1; give disarm, keep, or rearm:SECONDS, such as rearm:600",
    ]


def test_what_an_option_overrules_is_said_of_the_option(tmp_path: Path) -> None:
    file = written(tmp_path, '[watchdog]\nmode = "bmc"\ntimeout_s = 120\npat_period_s = 10\n')
    assert problems_of(file, watchdog__pat_period_s="110").startswith(
        f"{file}: line 3: watchdog.timeout_s: a watchdog time-out of 120 s is too short: a pat is"
    )
    assert "--pat-period: pats every 130 s" in problems_of(file, watchdog__pat_period_s="130")
    assert "--watchdog-timeout: a watchdog time-out of 20 s is too short" in problems_of(
        file, watchdog__timeout_s="20"
    )


def test_what_only_the_interface_found_shows_has_its_line_too(tmp_path: Path) -> None:
    file = written(tmp_path, '[watchdog]\nmode = "bmc"\ntimeout_s = 30\n')
    loaded = read_config(file, {})  # the registers would do with it
    with pytest.raises(ConflictingSettings) as caught:
        watchdog_settings(loaded, 60.0)
    located = config.located(file, {}, caught.value)
    assert str(located).startswith(f"{file}: line 3: watchdog.timeout_s: a watchdog time-out of 30")


def test_how_long_an_exchange_takes_is_as_those_have_it_who_make_it() -> None:
    assert {
        "port-io": pytest.approx(PORT_IO_LIMITS.exchange_s + EXCHANGE_SLACK_S),
        "dev-ipmi": dev_ipmi.EXCHANGE_S_MAX,
        "kernel": KERNEL_EXCHANGE_S_MAX,
    } == EXCHANGES_S_MAX


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("check = {period_s = 0,\tdeadline_s = 1}", "line 1: check.period_s is 0 s; give 0.1"),
        ("\n[[check]]\nperiod_s = 1\n", r"line 2: check is a section: write \[check\]"),
        ("\n[[doors]]\nport = 1\n", r"line 2: there is no section \[doors\]"),
        ('check.period_s = 9\ncheck.deadline_s = "x"\n', "line 2: check.deadline_s is 'x'"),
        ('[check]\n"period_s" = 0\n', "line 2: check.period_s is 0 s"),
        ("[check.command]\na = 1\n", "line 1: check.command is {'a': 1}"),
    ],
)
def test_every_way_to_write_a_setting_has_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_config(written(tmp_path, text), {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[watchdog\n", "is not TOML: .*line 1"),
        ("kind = 1\n", r"line 1: there is no section \[kind\]; there are interface, "),
        ("check = 5\n", r"line 1: check is a section: write \[check\]"),
        ("[pretimeout]\naction = 'command'\n", "line 2: .*give pretimeout.command too"),
        ("[pretimeout]\ncommand = ['/bin/true']\n", 'line 2: .*set it to "command"'),
        ("[check]\ncommand = ['/bin/true']\n", "line 2: .*set watchdog.mode to bmc or kernel"),
        ("[check]\ncommand = ['true']\n", "give the program by its absolute path"),
        ("[socket]\npath = 'here.sock'\n", "line 2: socket.path is 'here.sock'; .* absolute path"),
        (f"[socket]\npath = '/{'x' * 107}'\n", "has 108 bytes; 107 is the limit"),
        (f"[process]\nruntime_dir = '/{'x' * 100}'\n", "is longer than 107 bytes: set socket.path"),
        ("[socket]\nread_users = ['nobody-of-that-name']\n", "there is no such user here"),
        ("[socket]\nread_users = [-1]\n", "give users by name or number"),
        ("[socket]\ngroup = 'no-such-group'\n", "there is no such group here"),
        ("[watchdog]\ntimeout_s = nan\n", "is nan s; give 0.1 to 6553.5 s"),
        (
            "[watchdog]\nshutdown = 'rearm:9999'\n",
            "is 'rearm:9999', and 9999 s is too long; give rearm:0.1 to rearm:6553.5",
        ),
        (
            "[watchdog]\nshutdown = 'rearm:0'\n",
            "is 'rearm:0', and 0 s is too short; give rearm:0.1",
        ),
        (
            "[watchdog]\nshutdown = 'rearm:x'\n",
            "is 'rearm:x', and 'x' is not a number of seconds; give disarm, keep, or rearm:SECONDS",
        ),
        ("[watchdog]\nshutdown = 'rearm:nan'\n", "and 'nan' is not a number of seconds"),
        ("[interface]\nport_base = 70000\n", "is 0x11170; give 0x1 to 0xfffe"),
        ("x = " + "[" * 5000, "is not TOML"),
        ("#" * 70000, "has more than 65536 bytes"),
    ],
)
def test_bad_input_is_a_clear_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_config(written(tmp_path, text), {})


def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in problems_of(tmp_path / "nowhere.toml")
    binary = tmp_path / "driver.toml"
    binary.write_bytes(b"\xff\xfe")
    assert problems_of(binary) == f"{binary}: is not UTF-8 text (byte 0)"


def test_users_and_groups_go_by_name_or_number() -> None:
    given = read_config(None, {"socket.read_users": "root, 990,0", "socket.group": "root"})
    assert given.socket.read_users == (0, 990)
    assert given.socket.group == 0


def test_what_it_shows_is_what_it_reads(tmp_path: Path) -> None:
    options = {
        "interface.port_base": "0xca8",
        "watchdog.mode": "bmc",
        "watchdog.timeout_s": "60.5",
        "watchdog.shutdown": "rearm:600",
        "check.command": "/bin/echo 'a \"b\\c'",
        "socket.read_users": "0,5",
    }
    for chosen in (read_config(None, {}), read_config(None, options)):
        assert read_config(written(tmp_path, config.show(chosen)), {}) == chosen


def test_every_setting_stands_in_what_it_shows() -> None:
    shown = config.show(DriverProgramConfig())
    for each in SETTINGS:
        assert f"{each.key} =" in shown
        assert each.doc.split()[0] in shown


def test_every_setting_is_an_option_of_its_own() -> None:
    parser = argparse.ArgumentParser()
    config.add_options(parser)
    assert len({each.option for each in SETTINGS}) == len(SETTINGS)
    words = ["--watchdog", "bmc", "--pat-period", "3"]
    assert vars(parser.parse_args(words)) == {"watchdog.mode": "bmc", "watchdog.pat_period_s": "3"}


def test_a_reload_knows_what_needs_a_restart() -> None:
    old = DriverProgramConfig()
    new = dataclasses.replace(
        old,
        process=dataclasses.replace(old.process, log_level="debug"),
        watchdog=dataclasses.replace(old.watchdog, mode="bmc"),
    )
    now, later = config.changed(old, new)
    assert [each.name for each in now] == ["process.log_level"]
    assert [each.name for each in later] == ["watchdog.mode"]


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_toml(text: str) -> None:
    assert tomllib.loads(f"x = {quoted(text)}") == {"x": text}


@given(st.binary(max_size=200))
def test_garbage_in_a_file_is_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "garbage.toml"
    file.write_bytes(garbage)
    try:
        understood = read_config(file, {})
    except ConfigurationError:
        return
    assert isinstance(understood, DriverProgramConfig)
