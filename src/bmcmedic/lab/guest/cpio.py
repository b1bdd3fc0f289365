"""Archives that the kernel unpacks into its first file system (cpio, `newc`).

Archives may follow one another in one file; a later file replaces an earlier one of that path.
"""

from __future__ import annotations

import stat

_ALIGNMENT = 4
_TRAILER = "TRAILER!!!"


class Archive:
    """One archive under construction; the parent folders of a file are added as needed."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._folders: set[str] = set()
        self._count = 0

    def folder(self, path: str) -> None:
        """Add a folder and its parents."""
        path = path.strip("/")
        if not path or path in self._folders:
            return
        self.folder(path.rpartition("/")[0])
        self._folders.add(path)
        self._entry(path, stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, content: bytes, *, executable: bool = False) -> None:
        """Add a file that belongs to root."""
        self.folder(path.rpartition("/")[0])
        self._entry(path.strip("/"), stat.S_IFREG | (0o755 if executable else 0o644), content)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self.folder(path.rpartition("/")[0])
        self._entry(path.strip("/"), stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int) -> None:
        """Add a character device, for use before the kernel creates its own."""
        self.folder(path.rpartition("/")[0])
        self._entry(path.strip("/"), stat.S_IFCHR | 0o600, b"", device=(major, minor))

    def encode(self) -> bytes:
        """Return the whole archive."""
        end = Archive()
        end._entry(_TRAILER, 0, b"")
        return b"".join([*self._parts, *end._parts])

    def _entry(
        self, path: str, mode: int, content: bytes, *, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._count += 1
        name = path.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device of the file (2), device (2), name, check
        fields = (self._count, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [_padded(header + name), _padded(content)]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
