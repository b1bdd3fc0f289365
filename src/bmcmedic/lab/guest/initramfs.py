"""The guest's first file system: busybox, kernel modules, Python and bmcmedic.

It consists of two cached archives: the base takes a few seconds to build, and bmcmedic's own source
less than one. Each is rebuilt when its inputs change. The files of a single guest follow them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import bmcmedic
from bmcmedic.errors import ConfigurationError
from bmcmedic.lab.guest.build_cache import cached, version
from bmcmedic.lab.guest.cpio import Archive
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.guest.scripts import AGENT, INIT, INITTAB

LDD_TIMEOUT_S = 60.0
PACKAGES_LEFT_OUT = ("fleet", "lab", "sim")
"""Packages of bmcmedic that do not run on a host."""
SOURCE_SUFFIXES = (".py", ".service")

_STDLIB_LEFT_OUT = {
    "config", "curses", "dbm", "distutils", "ensurepip", "idlelib", "lib2to3", "msilib",
    "pydoc_data", "site-packages", "dist-packages", "sqlite3", "test", "tests", "tkinter",
    "turtledemo", "venv", "xml", "xmlrpc", "__pycache__", "__phello__",
}  # fmt: skip
_EXTENSIONS_LEFT_OUT = (
    "_codecs_", "_crypt", "_curses", "_dbm", "_decimal", "_elementtree", "_gdbm", "_hashlib",
    "_sqlite3", "_ssl", "_test", "_tkinter", "_xx", "audioop", "nis", "ossaudiodev", "pyexpat",
    "readline", "xx",
)  # fmt: skip
_ENCODINGS = {
    "__init__",
    "aliases",
    "ascii",
    "idna",
    "latin_1",
    "utf_8",
    "utf_8_sig",
    "raw_unicode_escape",
}
_DATA_OF_PROGRAMS = {"ipmitool": ("/usr/share/misc/enterprise-numbers.txt",)}
_DATA_BYTES_MAX = 65_536
"""Longest data file of a program in the guest, in bytes; a longer one is cut.

With the whole list of manufacturers, each ipmitool in the guest takes 0.25 s longer, of 0.32 s.
"""

SITE = f"usr/lib/python{sys.version_info.major}.{sys.version_info.minor}"
"""Folder of the standard library and of bmcmedic; Python finds it with `-I` and `-S`, too."""


# ---- the base: everything but bmcmedic


def base_archive(kernel: Kernel, programs: Sequence[str], cache: Path) -> Path:
    """Return the archive of busybox, modules, Python and programs, from the cache if current."""
    found = {name: _program(name) for name in ("busybox", *programs)}
    library = list(_standard_library())
    extensions = list(_extensions())
    inputs = [
        Path(__file__),
        kernel.folder / "package",
        *found.values(),
        *(path for path, _ in library),
    ]
    inputs += [Path(sys.executable).resolve(), *extensions]
    stamp = "\n".join([AGENT, INIT, INITTAB, *found, *map(version, inputs)])

    def build() -> bytes:
        archive = Archive()
        archive.character_device("dev/console", 5, 1)
        for folder in ("dev", "proc", "sys", "run", "tmp", "root", "var/run", "usr/bin", "sbin"):
            archive.folder(folder)
        archive.file("init", INIT.encode(), executable=True)
        archive.file("etc/agent", AGENT.encode(), executable=True)
        archive.file("etc/inittab", INITTAB.encode())
        for name, content in kernel.modules().items():
            archive.file(f"mod/{name}.ko", content)
        _add_python(archive, library, extensions)
        for name, path in found.items():
            target = "bin/busybox" if name == "busybox" else f"usr/bin/{name}"
            archive.file(target, path.read_bytes(), executable=True)
            for data in map(Path, _DATA_OF_PROGRAMS.get(name, ())):
                if data.is_file():
                    archive.file(str(data), _first_lines(data))
        add_libraries(archive, [*found.values(), Path(sys.executable).resolve(), *extensions])
        return archive.encode()

    return cached(cache, "base", stamp, build)


def _first_lines(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_DATA_BYTES_MAX).rpartition(b"\n")[0] + b"\n"


def _program(name: str) -> Path:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        package = {"busybox": "busybox-static"}.get(name, name)
        raise ConfigurationError(
            f"the guest needs {name}, which is not installed; install it (Debian: {package}), "
            "or run `make setup`"
        )
    return Path(found).resolve()


def _standard_library() -> Iterator[tuple[Path, str]]:
    """Yield the standard library's modules in Python, and their paths in the guest, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _STDLIB_LEFT_OUT and not name.startswith(("config-", "lib-dynload"))
        )
        inside = Path(folder).relative_to(root)
        for name in sorted(files):
            stem, dot, suffix = name.partition(".")
            if suffix != "py" or (str(inside) == "encodings" and stem not in _ENCODINGS):
                continue
            yield Path(folder, name), f"{SITE}/{inside / stem}{dot}pyc"


def _extensions() -> Iterator[Path]:
    """Yield the standard library's modules in C, sorted."""
    folder = sysconfig.get_config_var("DESTSHARED") or Path(
        sysconfig.get_path("stdlib"), "lib-dynload"
    )
    for path in sorted(Path(folder).glob("*.so")):
        if not path.name.startswith(_EXTENSIONS_LEFT_OUT):
            yield path


def _add_python(
    archive: Archive, library: Iterable[tuple[Path, str]], extensions: Iterable[Path]
) -> None:
    archive.file("usr/bin/python3", Path(sys.executable).resolve().read_bytes(), executable=True)
    for path, target in library:
        archive.file(target, compiled(path, f"/{target.removesuffix('c')}"))
    for path in extensions:
        archive.file(f"{SITE}/lib-dynload/{path.name}", path.read_bytes())


def compiled(path: Path, shown_path: str) -> bytes:
    """Compile to a .pyc file that is never compared with its source (PEP 552: unchecked hash)."""
    source = path.read_bytes()
    code = marshal.dumps(compile(source, shown_path, "exec", dont_inherit=True, optimize=0))
    return b"".join(
        [
            importlib.util.MAGIC_NUMBER,
            struct.pack("<I", 1),
            importlib.util.source_hash(source),
            code,
        ]
    )


def add_libraries(archive: Archive, binaries: Sequence[Path]) -> None:
    """Add the shared libraries that these binaries need, in the loader's default folders."""
    ldd = subprocess.run(  # noqa: S603 - the files are this machine's own programs
        ["ldd", *map(str, binaries)],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=LDD_TIMEOUT_S,
        check=False,  # a static program is an error to ldd
    )
    libraries: dict[str, Path] = {}
    for line in ldd.stdout.splitlines():
        match line.split():
            case [name, "=>", path, _] if path.startswith("/"):
                libraries[name] = Path(path)
            case [loader, address] if loader.startswith("/") and address.startswith("(0x"):
                libraries[loader] = Path(loader)
            case [name, "=>", "not", "found"]:
                raise ConfigurationError(
                    f"the guest needs the library {name}, which is not installed"
                )
    for name, library in sorted(libraries.items()):
        target = name if name.startswith("/") else f"lib/{name}"
        archive.file(target, library.read_bytes(), executable=True)


# ---- bmcmedic


def source_archive(cache: Path) -> Path:
    """Return the archive of bmcmedic for a host, precompiled, from the cache if current."""
    root = Path(bmcmedic.__file__).resolve().parent
    files = sorted(
        path
        for path in root.rglob("*")
        if path.suffix in SOURCE_SUFFIXES
        and path.relative_to(root).parts[0] not in PACKAGES_LEFT_OUT
    )
    digest = hashlib.sha256(sys.version.encode() + Path(__file__).read_bytes())
    for path in files:
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")

    def build() -> bytes:
        archive = Archive()
        for path in files:
            inside = path.relative_to(root)
            target = f"{SITE}/bmcmedic/{inside}"
            archive.file(target, path.read_bytes())
            if path.suffix != ".py":
                continue
            cached = importlib.util.cache_from_source(target, optimization="")
            archive.file(cached, compiled(path, f"/{target}"))
        start = (
            "#!/usr/bin/python3\nimport sys\n\nfrom bmcmedic.cli import main\n\nsys.exit(main())\n"
        )
        archive.file("usr/bin/bmcmedic", start.encode(), executable=True)
        return archive.encode()

    return cached(cache, "source", digest.hexdigest(), build)
