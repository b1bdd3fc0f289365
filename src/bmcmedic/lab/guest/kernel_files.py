"""A kernel that `tools/setup-kernel` has unpacked, and its modules."""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bmcmedic.errors import ConfigurationError
from bmcmedic.lab.guest.build_cache import cached, version

KERNEL_FILES = ("vmlinuz", "package", "modules")
_ELF_MAGIC = b"\x7fELF"
_XZ_MAGIC = b"\xfd7zXZ\x00"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that `tools/setup-kernel` has unpacked."""

    folder: Path

    @classmethod
    def find(cls, folder: Path) -> Kernel:
        """Return the kernel in a folder.

        Raises: ConfigurationError when a part of it is missing.
        """
        missing = [name for name in KERNEL_FILES if not (folder / name).exists()]
        if missing:
            raise ConfigurationError(
                f"no kernel in {folder}: {', '.join(missing)} missing; run `make setup`, or "
                "tools/setup-kernel DIRECTORY"
            )
        return cls(folder)

    def image(self, cache: Path) -> Path:
        """Return the image that QEMU boots: the kernel, unpacked by this machine.

        This saves three of the five seconds that the emulated processor would take. A kernel that
        cannot be unpacked is returned as it is.
        """
        compressed = self.folder / "vmlinuz"

        def build() -> bytes:
            _, found, rest = compressed.read_bytes().partition(_XZ_MAGIC)
            try:
                kernel = lzma.LZMADecompressor().decompress(found + rest)
            except lzma.LZMAError:
                return b""
            return kernel if kernel.startswith(_ELF_MAGIC) else b""

        unpacked = cached(cache, "vmlinux", version(compressed), build)
        return unpacked if unpacked.stat().st_size else compressed

    def modules(self) -> dict[str, bytes]:
        """Return the modules by their names, decompressed."""
        found = {}
        for path in sorted((self.folder / "modules").iterdir()):
            name, _, suffixes = path.name.partition(".")
            content = path.read_bytes()
            found[name] = lzma.decompress(content) if suffixes == "ko.xz" else content
        return found


def module_order(wanted: Iterable[str], modules: Mapping[str, bytes]) -> list[str]:
    """Return these modules and their dependencies, in an order in which they can be loaded."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in order:
            return
        if name not in modules:
            raise ConfigurationError(f"no module {name}; there are {', '.join(modules)}")
        for needed in _depends(modules[name]):
            add(needed)
        order.append(name)

    for name in wanted:
        add(name)
    return order


def _depends(module: bytes) -> list[str]:
    """Return a module's dependencies, from its section .modinfo."""
    _, found, rest = module.partition(b"\0depends=")
    if not found:
        return []
    return [
        name.decode().replace("-", "_") for name in rest.partition(b"\0")[0].split(b",") if name
    ]
