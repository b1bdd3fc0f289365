from __future__ import annotations

import os
from pathlib import Path

import pytest

from bmcmedic.lab.guest.build_cache import FILES_PER_KIND_MAX, cached, version


def test_a_file_is_built_once_for_each_stamp(tmp_path: Path) -> None:
    built: list[str] = []

    def ask(stamp: str) -> bytes:
        def build() -> bytes:
            built.append(stamp)
            return stamp.encode()

        return cached(tmp_path / "cache", "kind", stamp, build).read_bytes()

    assert [ask("a"), ask("b"), ask("a")] == [b"a", b"b", b"a"]
    assert built == ["a", "b"]


def test_the_oldest_files_are_deleted_and_other_kinds_stay(tmp_path: Path) -> None:
    other = cached(tmp_path, "other", "x", lambda: b"")
    places = []
    for number in range(FILES_PER_KIND_MAX + 3):
        places.append(cached(tmp_path, "kind", str(number), lambda: b""))
        os.utime(places[-1], (number, number))
    assert sorted(tmp_path.glob("kind-*")) == sorted(places[3:])
    assert other.exists()


def test_a_failed_build_leaves_no_file(tmp_path: Path) -> None:
    def build() -> bytes:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        cached(tmp_path, "kind", "x", build)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_written_anew_is_another_version(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    before = version(path)
    assert version(path) == before
    os.utime(path, (1, 1))
    assert version(path) != before
