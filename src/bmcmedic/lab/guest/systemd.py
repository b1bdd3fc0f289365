"""A real systemd as the guest's init: a copy of this machine's, which need not run here.

The guest has PID 1, the journal, their two commands and the targets. It has nothing else that
Debian starts: no udev, no D-Bus (root's systemctl works without it) and no login. Commands run in
the guest as always; their agent is a service of the lab (`COMMANDS_UNIT`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bmcmedic.errors import ConfigurationError
from bmcmedic.lab.guest.build_cache import cached, version
from bmcmedic.lab.guest.cpio import Archive
from bmcmedic.lab.guest.initramfs import add_libraries
from bmcmedic.lab.guest.scripts import AGENT_TTY, PREPARE

SYSTEMD_ROOT = Path("/usr/lib/systemd")
COMMANDS_UNIT = "lab-commands.service"
MACHINE_ID = "4e8f1c5b7a2d4d0f9b3e6c1a8d5f2b70"

_DAEMONS = ("systemd", "systemd-journald", "systemd-shutdown")
_DAEMONS_OF_LATER_RELEASES = ("systemd-executor",)
_COMMANDS = ("journalctl", "systemctl")
_LIBRARIES_OPENED_LATER = (
    "libkmod.so.2", "libmount.so.1", "libpcre2-8.so.0", "libseccomp.so.2",
)  # fmt: skip
"""Libraries that `ldd` does not show, as systemd opens some of them only on demand."""
_LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")

_TARGETS = (
    "basic", "final", "local-fs", "local-fs-pre", "multi-user", "network", "paths", "poweroff",
    "reboot", "shutdown", "slices", "sockets", "swap", "sysinit", "timers", "umount",
)  # fmt: skip
_JOURNAL_UNITS = (
    "systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket",
)  # fmt: skip

INIT = f"""\
#!/bin/busybox sh
# The kernel's first file system cannot be replaced by another (pivot_root), which systemd does for
# each hardened service. switch_root wants to see an /init in the file system that it leaves.
{PREPARE}
mkdir /new
mount -t tmpfs -o size=90%,mode=755 root /new
for each in /*; do
    case $each in
        /init | /new | /dev | /proc | /sys) ;;
        *) mv $each /new ;;
    esac
done
for each in dev proc sys; do
    /new/bin/busybox mkdir /new/$each
    /new/bin/busybox mount -o move /$each /new/$each
done
exec /new/bin/busybox switch_root /new /usr/lib/systemd/systemd
"""

COMMANDS = f"""\
[Unit]
Description=Commands of the lab
DefaultDependencies=no
After=basic.target

[Service]
ExecStart=/etc/agent
Restart=always
KillMode=process
StandardOutput=null
StandardError=journal
Slice=lab.slice
OOMScoreAdjust=-1000
# {AGENT_TTY} is opened by the script itself.
"""

JOURNAL = """\
[Journal]
Storage=volatile
RateLimitIntervalSec=0
"""

MANAGER = """\
[Manager]
ShowStatus=no
DefaultTimeoutStopSec=30s
"""


def systemd_archive(cache: Path) -> Path:
    """Return the archive of systemd, from the cache if current; it replaces the base's init.

    Raises: ConfigurationError where this machine has no systemd.
    """
    programs = dict(_programs())
    units = [_existing(SYSTEMD_ROOT / "system" / name) for name in _unit_names()]
    libraries = [*programs.values(), *_libraries()]
    inputs = [Path(__file__), *libraries, *units]
    stamp = "\n".join([INIT, COMMANDS, *map(version, inputs)])

    def build() -> bytes:
        archive = Archive()
        archive.file("init", INIT.encode(), executable=True)
        archive.link("lib/systemd", "/usr/lib/systemd")
        for target, path in programs.items():
            archive.file(target, path.read_bytes(), executable=True)
        for path in units:
            archive.file(f"usr/lib/systemd/system/{path.name}", path.read_bytes())
        add_libraries(archive, libraries)
        for target, content in _own_files().items():
            archive.file(target, content.encode())
        own = "/usr/lib/systemd/system"
        archive.link(f"{own}/default.target", "multi-user.target")
        for wanting, wanted in (
            ("sysinit.target", "systemd-journald.service"),
            ("sockets.target", "systemd-journald.socket"),
            ("sockets.target", "systemd-journald-dev-log.socket"),
            ("multi-user.target", COMMANDS_UNIT),
        ):
            archive.link(f"{own}/{wanting}.wants/{wanted}", f"../{wanted}")
        for folder in ("etc/systemd/system", "var/lib", "var/log"):
            archive.folder(folder)
        return archive.encode()

    return cached(cache, "systemd", stamp, build)


def _own_files() -> dict[str, str]:
    return {
        f"usr/lib/systemd/system/{COMMANDS_UNIT}": COMMANDS,
        "etc/systemd/journald.conf": JOURNAL,
        "etc/systemd/system.conf": MANAGER,
        # Without it this is a first boot, on which systemd enables every unit that it finds.
        "etc/machine-id": f"{MACHINE_ID}\n",
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    }


def _unit_names() -> Iterator[str]:
    yield from (f"{name}.target" for name in _TARGETS)
    yield from _JOURNAL_UNITS


def _programs() -> Iterator[tuple[str, Path]]:
    for name in _DAEMONS:
        yield f"usr/lib/systemd/{name}", _existing(SYSTEMD_ROOT / name)
    for name in _DAEMONS_OF_LATER_RELEASES:
        if (SYSTEMD_ROOT / name).exists():
            yield f"usr/lib/systemd/{name}", SYSTEMD_ROOT / name
    for name in _COMMANDS:
        yield f"usr/bin/{name}", _existing(Path("/usr/bin") / name)


def _libraries() -> Iterator[Path]:
    for name in _LIBRARIES_OPENED_LATER:
        for folder in _LIBRARY_FOLDERS:
            if (found := Path(folder, name)).exists():
                yield found
                break


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ConfigurationError(
            f"the guest needs {path}, which is not installed; install systemd (Debian: systemd), "
            "or run `make setup`: it need not run here"
        )
    return path
