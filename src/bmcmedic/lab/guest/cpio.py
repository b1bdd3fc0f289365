"""Archives as the kernel unpacks them into its first file system (cpio, `newc`).

Archives may follow one another in one file; what comes later replaces what came before.
"""

from __future__ import annotations

import stat

_ALIGNMENT = 4
_TRAILER = "TRAILER!!!"


class Archive:
    """One archive that grows; folders on the way to a file are made by themselves."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._folders: set[str] = set()
        self._count = 0

    def folder(self, path: str) -> None:
        """A folder, and those that it is in."""
        path = path.strip("/")
        if not path or path in self._folders:
            return
        self.folder(path.rpartition("/")[0])
        self._folders.add(path)
        self._entry(path, stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, content: bytes, *, executable: bool = False) -> None:
        """A file of root's."""
        self.folder(path.rpartition("/")[0])
        self._entry(path.strip("/"), stat.S_IFREG | (0o755 if executable else 0o644), content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self.folder(path.rpartition("/")[0])
        self._entry(path.strip("/"), stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int) -> None:
        """A device that has to be there before the kernel makes its own."""
        self.folder(path.rpartition("/")[0])
        self._entry(path.strip("/"), stat.S_IFCHR | 0o600, b"", device=(major, minor))

    def encode(self) -> bytes:
        """The whole archive."""
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
