"""The agent's settings: safe defaults, all errors at once, and what a reload changes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bmcmedic.agent import config
from bmcmedic.agent.config import SETTINGS, AgentConfig, load, with_reloadable
from bmcmedic.agent.config_values import HttpsUrl, ListenAddress, Listening, Words
from bmcmedic.errors import ConfigurationError
from bmcmedic.service.settings_values import UnusableValue


def written(folder: Path, text: str) -> Path:
    file = folder / "agent.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_defaults_change_nothing_and_report_to_nobody() -> None:
    plain = load(None, {})
    assert plain == AgentConfig()
    assert plain.relief.mode == "observe"
    assert plain.controller.orders_allowed == ()
    assert plain.controller.url is None
    assert plain.doors.loopback is False
    assert plain.process.kill_switch == "/etc/bmcmedic/disabled"


def test_what_is_printed_is_what_would_be_read(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        [controller]
        url = "https://controller.example:8443/api/v1/report?site=a"
        orders_allowed = ["resume", "cold-reset", "resume"]
        [metrics]
        listen = "[::1]:9290"
        """,
    )
    loaded = load(file, {})
    shown = config.show(loaded)
    assert load(written(tmp_path, shown), {}) == loaded
    assert loaded.controller.orders_allowed == ("resume", "cold-reset")
    document = tomllib.loads(shown)
    assert document["metrics"]["listen"] == "[::1]:9290"
    for each in SETTINGS:
        assert each.doc.split()[0] in shown
        assert each.option is None


def test_all_errors_are_reported_at_once_with_their_lines(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
[relief]
mode = "kill"
stuck_after_s = 1
[controller]
url = "http://controller.example/"
orders_allowed = ["reboot"]
[metrics]
listen = "0.0.0.0:9290"
[reliefs]
mode = "act"
""",
    )
    with pytest.raises(ConfigurationError) as caught:
        load(file, {})
    said = str(caught.value)
    assert "6 problems" in said
    assert "line 3: relief.mode is 'kill'; give one of observe, act" in said
    assert "line 4: relief.stuck_after_s is 1 s; give 5 to" in said
    assert "line 6: controller.url begins with 'http'; give an https:// URL" in said
    assert "line 7: controller.orders_allowed contains 'reboot'" in said
    assert "line 9: metrics.listen is '0.0.0.0:9290', which other hosts could reach" in said
    assert "line 10: there is no section [reliefs]; did you mean relief?" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[controller]\norders_allowed = ["resume"]', "line 2: .*set controller.url"),
        (
            '[controller]\nurl = "https://c.example"\nclient_key = "/k"',
            "line 3: .*give controller.client_certificate too",
        ),
        (
            '[metrics]\nlisten = "off"\ngroup = 5',
            "line 3: metrics.group: it is for a Unix socket",
        ),
        (
            '[controller]\norders_allowed = ["resume"]\n[relief]\nmode = "x"',
            r"2 problems\n.*line 4: relief.mode.*\n.*line 2: .*set controller.url",
        ),
        ('relief = {mode = "x"}', "line 1: relief.mode is 'x'"),
        ("[[doors]]\nport = 1", r"line 1: doors is a section: write \[doors\]"),
    ],
)
def test_conflicting_settings_are_reported(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load(written(tmp_path, text), {})


@pytest.mark.parametrize(
    "url",
    [
        5,
        "ftp://c.example/",
        "https://",
        "https:///path",
        "https://user:secret@c.example/",
        "https://c.example:0/",
        "https://c.example:99999/",
        "https://c.example/#there",
        "https://c.example/a b",
        "https://[::1/",
        "https://c.example/\r\nX: y",
        "https://c.example/" + "x" * 3000,
    ],
)
def test_an_invalid_url_is_refused(url: object) -> None:
    with pytest.raises(UnusableValue) as caught:
        HttpsUrl().check(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("off", None),
        ("unix:/run/m.sock", ListenAddress("/run/m.sock")),
        ("127.0.0.1:9290", ListenAddress(None, "127.0.0.1", 9290)),
        ("[::1]:0", ListenAddress(None, "::1", 0)),
    ],
)
def test_addresses_that_only_this_host_reaches(value: str, place: ListenAddress | None) -> None:
    assert Listening().check(value) == place
    assert place is None or str(place) == value


@pytest.mark.parametrize(
    "value",
    [7, "", "unix:relative", "unix:/" + "x" * 200, "9290", ":9290", "localhost:9290",
     "10.0.0.1:1", "[::]:9290", "127.0.0.1:x", "127.0.0.1:65536"],
)  # fmt: skip
def test_other_addresses_are_refused(value: object) -> None:
    with pytest.raises(UnusableValue):
        Listening().check(value)


def test_words_are_a_list_of_known_ones() -> None:
    kind = Words(("a", "b"))
    assert kind.check(kind.parse("b, a,b")) == ("b", "a")
    for wrong in ("a", {"a": 1}, ["c"], [["a"]]):
        with pytest.raises(UnusableValue):
            kind.check(wrong)


def test_a_reload_changes_what_it_can_and_nothing_else(tmp_path: Path) -> None:
    new = load(
        written(tmp_path, '[relief]\nmode = "act"\n[process]\nstarts_max = 9\n[doors]\nport = 7'),
        {},
    )
    now, later = config.changed(AgentConfig(), new)
    assert [each.name for each in now] == ["relief.mode"]
    assert {each.name for each in later} == {"process.starts_max", "doors.port"}
    mixed = with_reloadable(AgentConfig(), new)
    assert mixed.relief.mode == "act"
    assert mixed.process == AgentConfig().process
    assert mixed.doors == AgentConfig().doors


def test_a_large_duration_is_named_in_plain_numbers(tmp_path: Path) -> None:
    file = written(tmp_path, "[relief]\nstuck_after_s = 3000000\n")
    with pytest.raises(ConfigurationError) as refused:
        load(file, {})
    assert "is 3000000 s; give 5 to 2592000 s" in str(refused.value)
