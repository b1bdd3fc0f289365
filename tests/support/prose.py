"""The prose of a page: its lines, its sentences, and the words that the project does not use."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

COLUMNS_MAX: Final = 100
"""Widest line of a page outside of tables and code, in columns."""
WORDS_MAX: Final = 40
"""Longest sentence of an English page, in words."""

_FENCE = re.compile(r"\s*(```|~~~)")
_LIST_ITEM = re.compile(r"\s*(?:[-*+]|\d+\.)\s+")
_CODE_SPAN = re.compile(r"(`+)(?:(?!\1).)+\1")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
_BARE_URL = re.compile(r"<?https?://[^\s>)]+>?")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')*_]*\s+(?=[\"'(*_]*[A-Z0-9`])")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|No|approx)\.$")
_CODE_WORD: Final = "`code`"
"""Stands in a text for a code span, and counts as one word."""

REFUSED_WORDS: Final[dict[str, str]] = {
    r"\bdoors?\b": "endpoint, proxy or front end",
    r"\b(?:a|an|the|each|every|one|two|its|first|last|second|next|quick|whole) looks?\b(?!-)": (
        "sample, scan or poll"
    ),
    r"\btold\b": "reported, logged or returned",
    r"\bdesks?\b": "order queue",
    r"\b(?:kept|old) answers?\b": "cached answer",
    r"\bold output\b": "cached output",
    r"\bnoise\b": "flood filter",
    r"\ballowances?\b": "CPU budget",
    r"\bmask(?:s|ed|ing)?\b": "redact",
    r"\bunrest\b": "complaints",
    r"\bodd\b": "anomaly",
    r"\bstarters?\b": "launcher",
    r"\bleft alone\b": "excluded, or what is not done",
    r"\baftermaths?\b": "host verdict",
    r"\btreatments?\b": "remediation",
    r"\bstands? for another\b": "is a proxy",
}
"""Words that crept into the pages, as patterns, and the word of the field for each."""


def wide_lines(page: str) -> list[str]:
    """Return the lines wider than COLUMNS_MAX; table rows and code blocks may be wider."""
    return [
        line
        for line in _outside_of_code(page)
        if not _is_table_row(line) and _columns(line) > COLUMNS_MAX
    ]


def sentences(page: str) -> Iterator[str]:
    """Yield the sentences of a page: of paragraphs, list items and table cells, not of headings.

    A list item or a cell is a text of its own, even when it does not end with a full stop. A code
    span counts as one word, and a link as its text.
    """
    for text in texts(page):
        begin = 0
        for end in _SENTENCE_END.finditer(text):
            if not _ABBREVIATION.search(text[: end.start()]):
                yield text[begin : end.start()]
                begin = end.end()
        yield text[begin:]


def word_count(sentence: str) -> int:
    """Return the number of words, which have a letter or a digit."""
    return sum(any(c.isalnum() for c in word) for word in sentence.split())


def refused(page: str) -> set[str]:
    """Return the words on a page that the project does not use, with the word to use instead."""
    prose = "\n".join([*texts(page), *_headings(page)])
    return {
        f"{found.group()!r}: write {instead}"
        for pattern, instead in REFUSED_WORDS.items()
        for found in re.finditer(pattern, prose, re.IGNORECASE)
    }


def texts(page: str) -> Iterator[str]:
    """Yield each paragraph, list item and table cell in one line, code spans and links replaced."""
    paragraph: list[str] = []
    for line in [*_outside_of_code(_without_comments(page)), ""]:
        begins = _LIST_ITEM.match(line)
        is_alone = not line.strip() or line.startswith("#") or _is_table_row(line)
        if (begins or is_alone) and paragraph:
            yield _plain(" ".join(paragraph))
            paragraph = []
        if _is_table_row(line):
            yield from filter(_has_word, map(_plain, _cells(line)))
        elif not is_alone:
            paragraph.append(line[begins.end() :] if begins else line.strip())


def _outside_of_code(page: str) -> Iterator[str]:
    """Yield the lines of a page that belong to no fenced or indented code block."""
    is_fenced = is_list = False
    before = ""
    for line in page.splitlines():
        if _FENCE.match(line):
            is_fenced = not is_fenced
        elif not is_fenced:
            is_indented = line.startswith("    ") and not (is_list and before.strip())
            if not is_indented or _LIST_ITEM.match(line):
                yield line
            if line.strip() and not line.startswith(" "):
                is_list = _LIST_ITEM.match(line) is not None
        before = line


def _headings(page: str) -> Iterator[str]:
    return (_plain(line) for line in _outside_of_code(page) if line.startswith("#"))


def _without_comments(page: str) -> str:
    return re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL)


def _plain(text: str) -> str:
    text = _CODE_SPAN.sub(_CODE_WORD, text)
    return _BARE_URL.sub(_CODE_WORD, _LINK.sub(r"\1", text)).strip()


def _is_table_row(line: str) -> bool:
    return line.lstrip().startswith("|")


def _cells(row: str) -> list[str]:
    return re.split(r"(?<!\\)\|", row.strip().strip("|"))


def _has_word(text: str) -> bool:
    return word_count(text) > 0


def _columns(line: str) -> int:
    """Return the width of a line on a terminal: a Chinese character takes two columns."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)
