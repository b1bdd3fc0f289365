"""The texts of the codes, and which codes are temporary."""

from __future__ import annotations

import pytest

from bmcmedic.ipmi.constants import (
    CompletionCode,
    RmcpPlusStatus,
    completion_code_is_temporary,
    completion_code_text,
    rmcp_plus_status_text,
)


def test_every_completion_code_has_a_text_of_its_own() -> None:
    texts = [completion_code_text(code) for code in CompletionCode]
    assert len(set(texts)) == len(texts)
    assert "reserved completion code" not in texts


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0x00, "command completed normally"),
        (0x01, "OEM completion code"),
        (0x7E, "OEM completion code"),
        (0x7F, "reserved completion code"),
        (0x80, "command-specific completion code"),
        (0xBE, "command-specific completion code"),
        (0xBF, "reserved completion code"),
        (0xC0, "node busy"),
        (0xD4, "insufficient privilege level"),
        (0xD7, "reserved completion code"),
        (0xFF, "unspecified error"),
    ],
)
def test_completion_codes_by_range(code: int, text: str) -> None:
    assert completion_code_text(code) == text


def test_busy_is_temporary_and_a_refusal_is_not() -> None:
    temporary = {code for code in range(256) if completion_code_is_temporary(code)}
    assert temporary == {0xC0, 0xC3, 0xC4, 0xCE, 0xCF, 0xD0, 0xD1, 0xD2, 0xD3}
    assert all(code.is_temporary == (code in temporary) for code in CompletionCode)


def test_every_rmcp_plus_status_has_a_text_of_its_own() -> None:
    texts = [rmcp_plus_status_text(status) for status in RmcpPlusStatus]
    assert len(set(texts)) == len(texts) == 0x13
    assert rmcp_plus_status_text(0x13) == "reserved RMCP+ status"
