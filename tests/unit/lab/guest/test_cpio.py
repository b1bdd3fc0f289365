from __future__ import annotations

import stat
from collections.abc import Iterator

from bmcmedic.lab.guest.cpio import Archive

HEADER_BYTES = 110


def entries(data: bytes) -> Iterator[tuple[str, int, bytes, tuple[int, int]]]:
    """Yield name, mode, content and device of each entry, decoded as the kernel documents it."""
    at = 0
    while at < len(data):
        assert data[at : at + 6] == b"070701"
        assert at % 4 == 0
        fields = [int(data[start : start + 8], 16) for start in range(at + 6, at + HEADER_BYTES, 8)]
        size, name_size = fields[6], fields[11]
        name = data[at + HEADER_BYTES : at + HEADER_BYTES + name_size]
        assert name.endswith(b"\0")
        start = at + (HEADER_BYTES + name_size + 3) // 4 * 4
        yield name[:-1].decode(), fields[1], data[start : start + size], (fields[9], fields[10])
        at = start + (size + 3) // 4 * 4


def test_an_archive_has_its_files_after_their_folders() -> None:
    archive = Archive()
    archive.file("/usr/bin/program", b"#!/bin/sh\n", executable=True)
    archive.file("usr/bin/data", b"12345")
    archive.folder("proc")
    archive.link("bin", "usr/bin")
    archive.character_device("dev/console", 5, 1)
    found = list(entries(archive.encode()))
    assert [(name, content) for name, _, content, _ in found] == [
        ("usr", b""),
        ("usr/bin", b""),
        ("usr/bin/program", b"#!/bin/sh\n"),
        ("usr/bin/data", b"12345"),
        ("proc", b""),
        ("bin", b"usr/bin"),
        ("dev", b""),
        ("dev/console", b""),
        ("TRAILER!!!", b""),
    ]
    modes = {name: mode for name, mode, _, _ in found}
    assert modes["usr/bin/program"] == stat.S_IFREG | 0o755
    assert modes["usr/bin/data"] == stat.S_IFREG | 0o644
    assert stat.S_ISDIR(modes["proc"])
    assert stat.S_ISLNK(modes["bin"])
    assert stat.S_ISCHR(modes["dev/console"])
    assert found[-2][3] == (5, 1)
    assert len(archive.encode()) % 4 == 0
