"""The packages that bmcmedic's agent needs in a guest besides the standard library."""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from bmcmedic.errors import ConfigurationError
from bmcmedic.lab.guest.build_cache import cached, version
from bmcmedic.lab.guest.cpio import Archive
from bmcmedic.lab.guest.initramfs import SITE, add_libraries, compiled

PACKAGES = ("cryptography", "prometheus_client")
MODULES = ("_cffi_backend", "_ssl", "_hashlib")
"""Shared objects: a dependency of cryptography, and those of Python that the base archive lacks."""


def agent_archive(cache: Path) -> Path:
    """Return the archive of these packages, from the cache if it is current."""
    files = [*_package_files(), *((path, path.name) for path in map(_shared_object, MODULES))]
    stamp = "\n".join([version(Path(__file__)), *(version(path) for path, _ in files)])

    def build() -> bytes:
        archive = Archive()
        libraries = []
        for path, inside in files:
            if path.suffix == ".py":
                target = f"{SITE}/{inside}c"
                archive.file(target, compiled(path, f"/{SITE}/{inside}"))
            else:
                archive.file(f"{SITE}/{inside}", path.read_bytes())
                libraries.append(path)
        add_libraries(archive, libraries)
        return archive.encode()

    return cached(cache, "agent", stamp, build)


def _package_files() -> Iterator[tuple[Path, str]]:
    for name in PACKAGES:
        root = _found(name).parent
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(each for each in folders if each != "__pycache__")
            for each in sorted(names):
                path = Path(folder, each)
                if path.suffix in (".py", ".so"):
                    yield path, str(path.relative_to(root.parent))


def _shared_object(name: str) -> Path:
    folder = sysconfig.get_config_var("DESTSHARED")
    for path in sorted(Path(folder).glob(f"{name}.*.so")) if folder else ():
        return path
    return _found(name)


def _found(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            f"the guest needs the Python package {name}, which is not installed"
        )
    return Path(spec.origin)
