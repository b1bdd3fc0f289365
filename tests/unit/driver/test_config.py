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
from bmcmedic.driver.process.config import SETTINGS, Config, load
from bmcmedic.driver.process.config_values import quoted
from bmcmedic.errors import ConfigurationError


def written(folder: Path, text: str) -> Path:
    file = folder / "driver.toml"
    file.write_text(text, encoding="utf-8")
    return file


def problems_of(file: Path | None, **options: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(file, {name.replace("__", "."): value for name, value in options.items()})
    return str(caught.value)


def test_without_anything_the_watchdog_is_left_alone() -> None:
    plain = load(None, {})
    assert plain == Config()
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
    both = load(file, {"watchdog.timeout_s": "240.5", "check.command": "/bin/test -e '/a b'"})
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[watchdog\n", "is not TOML: .*line 1"),
        ("kind = 1\n", r"line 1: there is no section \[kind\]; there are interface, "),
        ("check = 5\n", r"line 1: check is a section: write \[check\]"),
        ("[pretimeout]\naction = 'command'\n", "give pretimeout.command too"),
        ("[pretimeout]\ncommand = ['/bin/true']\n", 'set it to "command"'),
        ("[check]\ncommand = ['/bin/true']\n", "set watchdog.mode to bmc or kernel"),
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
            "is 'rearm:x', and 'x' is no number of seconds; give disarm, keep, or rearm:SECONDS",
        ),
        ("[watchdog]\nshutdown = 'rearm:nan'\n", "and 'nan' is no number of seconds"),
        ("[interface]\nport_base = 70000\n", "is 0x11170; give 0x1 to 0xfffe"),
        ("x = " + "[" * 5000, "is not TOML"),
        ("#" * 70000, "has more than 65536 bytes"),
    ],
)
def test_bad_input_is_a_clear_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load(written(tmp_path, text), {})


def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in problems_of(tmp_path / "nowhere.toml")
    binary = tmp_path / "driver.toml"
    binary.write_bytes(b"\xff\xfe")
    assert problems_of(binary) == f"{binary}: is not UTF-8 text (byte 0)"


def test_users_and_groups_go_by_name_or_number() -> None:
    given = load(None, {"socket.read_users": "root, 990,0", "socket.group": "root"})
    assert given.socket.read_users == (0, 990)
    assert given.socket.group == 0


def test_what_it_shows_is_what_it_reads(tmp_path: Path) -> None:
    options = {
        "interface.port_base": "0xca8",
        "watchdog.mode": "bmc",
        "watchdog.timeout_s": "0.5",
        "watchdog.shutdown": "rearm:600",
        "check.command": "/bin/echo 'a \"b\\c'",
        "socket.read_users": "0,5",
    }
    for chosen in (load(None, {}), load(None, options)):
        assert load(written(tmp_path, config.show(chosen)), {}) == chosen


def test_every_setting_stands_in_what_it_shows() -> None:
    shown = config.show(Config())
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
    old = Config()
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
        understood = load(file, {})
    except ConfigurationError:
        return
    assert isinstance(understood, Config)
