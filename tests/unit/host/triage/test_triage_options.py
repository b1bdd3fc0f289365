"""The options of triage: read without argparse where they are plain, and to the same effect."""

from __future__ import annotations

import argparse

import pytest

from bmcmedic.host.triage import main as triage_main
from bmcmedic.host.triage.main import Options, options_of, parser

PLAIN: list[list[str]] = [
    [],
    ["--json"],
    ["--json", "--json"],
    ["--interval", "0.5", "--stuck-after", "30"],
    ["--interval", "10", "--json", "--interval", "3"],
    ["--stuck-after", "1e1"],
    ["--stuck-after", " 5 "],
    ["--proc-root", "/tmp/x", "--json"],  # noqa: S108 - not opened
    ["--capture", "a.tar.gz", "--interval", "300"],
    ["--proc-root", "two words"],
]
NOT_PLAIN = [
    ["--interval=0.5"],
    ["--int", "5"],
    ["--js"],
    ["--proc-root="],
    ["--proc-root", ""],
    ["--capture=-x"],
    ["--stuck-after", "-0"],
]
WRONG = [
    ["--interval"],
    ["--interval", "x"],
    ["--interval", "0.05"],
    ["--interval", "301"],
    ["--interval", ""],
    ["--stuck-after", "nan"],
    ["--stuck-after", "inf"],
    ["--stuck-after", "-1"],
    ["--capture", "--json"],
    ["--json=1"],
    ["--bogus"],
    ["--bogus", "5"],
    ["--", "--json"],
    ["rest"],
    ["--json", "rest"],
]


def by_argparse(words: list[str]) -> Options:
    return Options(**vars(parser().parse_args(words)))


@pytest.mark.parametrize("words", PLAIN + NOT_PLAIN)
def test_they_mean_what_argparse_makes_of_them(words: list[str]) -> None:
    assert options_of(words) == by_argparse(words)


@pytest.mark.parametrize("words", PLAIN)
def test_plain_ones_need_no_argparse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def parser_made() -> argparse.ArgumentParser:
        raise AssertionError(words)

    expected = by_argparse(words)
    monkeypatch.setattr(triage_main, "parser", parser_made)
    assert options_of(words) == expected


@pytest.mark.parametrize("words", [*WRONG, ["--help"]])
def test_what_is_wrong_is_argparses_to_say(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as theirs:
        by_argparse(words)
    said = capsys.readouterr()
    with pytest.raises(SystemExit) as ours:
        options_of(words)
    assert ours.value.code == theirs.value.code
    assert capsys.readouterr() == said
