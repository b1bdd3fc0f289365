"""The page about the socket says what the socket does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.driver.driver import Driver
from bmcmedic.driver.socket.connection import ServerLimits
from bmcmedic.driver.socket.errors import ErrorKind, to_error
from bmcmedic.driver.socket.policy import DRIVER_ONLY, WATCHDOG_ONLY
from bmcmedic.driver.socket.protocol import (
    ANSWER_LINE_BYTES_MAX,
    DATA_BYTES_MAX,
    DEADLINE_S_DEFAULT,
    DEADLINE_S_MAX,
    LINE_BYTES_MAX,
    decode_answer,
    decode_question,
)
from bmcmedic.service.runtime import ThreadRuntime
from tests.support.driver_socket import serving
from tests.support.scripted_interface import ScriptedInterface

PAGE = (Path(__file__).parents[4] / "docs" / "reference" / "driver-socket.md").read_text(
    encoding="utf-8"
)


def keys(value: Any) -> set[str]:  # noqa: ANN401 - JSON
    if not isinstance(value, dict):
        return set()
    return set(value) | {key for each in value.values() for key in keys(each)}


def test_every_line_shown_is_one() -> None:
    asked = re.findall(r"^    > (.+)$", PAGE, re.MULTILINE)
    answered = re.findall(r"^    < (.+)$", PAGE, re.MULTILINE)
    assert len(asked) >= 5
    assert len(answered) >= 6
    for line in asked:
        decode_question(line.encode())
    for line in answered:
        decode_answer(line.replace("...", "").encode())


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_error_stands_with_what_the_client_raises(kind: ErrorKind) -> None:
    section = PAGE.partition("\n## Errors\n")[2].partition("\n## ")[0]
    rows = [
        row for row in section.splitlines() if row.startswith("| `") and f"`{kind.value}`" in row
    ]
    assert len(rows) == 1
    assert f"`{type(to_error(kind, 'why', {})).__name__}`" in rows[0]


def test_every_limit_stands_with_its_number() -> None:
    not_the_users = {
        "closing_s_max", "sweep_s_min", "accepts_per_turn_max",
        "events_per_turn_max", "rest_s_max", "busy_share_max", "busy_debt_s_max",
    }  # fmt: skip
    numbers = {
        field.name: getattr(ServerLimits(), field.name)
        for field in dataclasses.fields(ServerLimits)
        if field.name not in not_the_users
    }
    numbers |= {"line": LINE_BYTES_MAX, "answer": ANSWER_LINE_BYTES_MAX, "data": DATA_BYTES_MAX}
    numbers |= {"default": DEADLINE_S_DEFAULT, "deadline": DEADLINE_S_MAX}
    for name, number in numbers.items():
        assert re.search(rf"(?<![\d.,]){number:,g}(?!\d|\.\d)", PAGE), name


def test_every_request_kept_back_is_named() -> None:
    for _, command in {*DRIVER_ONLY, *WATCHDOG_ONLY}:
        assert f"0x{command:02X}" in PAGE


def test_every_key_of_the_status_is_named(tmp_path: Path) -> None:
    driver = Driver(ScriptedInterface(), ThreadRuntime())
    with serving(tmp_path, driver) as served:
        status = served.server.status()
    for section in status.values():
        if section is not None:
            section["counts"] = {}
    assert "failures_in_a_row" in keys(status)
    missing = {key for key in keys(status) if f"`{key}`" not in PAGE}
    assert missing == set()
