"""Put the shim in ipmitool's place, and ipmitool back: Debian's way, with `dpkg-divert`.

There is a working ipmitool at every moment, because files are replaced by renaming and never moved
away first. The journal records the original file before anything is changed, and each step may be
repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from bmcmedic.agent.shim import start as shim_start
from bmcmedic.agent.shim.main import is_shim
from bmcmedic.errors import BmcmedicError, Refused

PROGRAM: Final = "usr/bin/ipmitool"
DIVERTED_SUFFIX: Final = ".bmcmedic-real"
JOURNAL: Final = "var/lib/bmcmedic/shim.json"
DPKG_STATUS: Final = "var/lib/dpkg/status"
DPKG_S_MAX = 60.0
"""Longest run of dpkg-divert, in seconds."""
JOURNAL_BYTES_MAX = 4096
"""Longest part of the journal that is read, in bytes."""

_SCRIPT = """\
#!/bin/sh
# bmcmedic shim: runs the real ipmitool through the agent's proxy. Undo: `bmcmedic shim remove`.
[ -x {python} ] && [ -r {start} ] && exec {python} -IS {start} {real} "$@"
exec {real} "$@"
"""


class ShimError(BmcmedicError):
    """A step failed. The steps before it can be repeated or undone."""


@dataclass(frozen=True, slots=True)
class OriginalFile:
    """The file that the shim replaced."""

    path: str
    diverted: str
    sha256: str
    at: float
    """Time of the installation, in seconds since the epoch."""


class ShimState(StrEnum):
    """How much of the shim is in place."""

    INSTALLED = "installed"
    ABSENT = "absent"
    HALF = "half"
    """A step of the installation or of the removal is missing."""


@dataclass(frozen=True, slots=True)
class ShimStatus:
    """Whether the shim is in place."""

    state: ShimState
    path: str
    real: str
    sha256: str | None
    """Hash of the real ipmitool."""
    sha256_before: str | None
    """Hash of ipmitool at the installation. A different one now means an upgraded package."""

    def to_json(self) -> dict[str, Any]:
        """Return the object that `shim status --json` prints."""
        return asdict(self)


class ShimInstall:
    """The installation of the shim on one file system."""

    def __init__(self, root: Path = Path("/"), python: str = sys.executable) -> None:
        self.root = root
        self.path = root / PROGRAM
        self.real = self.path.with_name(self.path.name + DIVERTED_SUFFIX)
        self.journal = root / JOURNAL
        self._python = python

    def install(self) -> str:
        """Install the shim, and return a message for the user. Raises: Refused, ShimError."""
        self._refuse_without_dpkg()
        diverted = self._is_diverted()
        is_there = is_shim(str(self.path))
        if is_there and diverted and self.real.exists() and self._is_current():
            return f"{self.path} is the shim already"
        if not is_there and not self.path.exists():
            raise Refused(f"there is no {self.path}: install ipmitool first")
        if is_there and not self.real.exists():
            raise Refused(f"the real ipmitool is gone from {self.real}: reinstall its package")
        if not is_there:
            self._save_original()
        if not diverted:
            self._divert("--add")
        self._write(self.path, self._script().encode(), 0o755)
        return f"{self.path} is the shim now, and the real one is {self.real}"

    def remove(self) -> str:
        """Put back the original, and return a message for the user. Raises: Refused, ShimError."""
        if not self.real.exists() and not is_shim(str(self.path)):
            if self._has_dpkg() and self._is_diverted():
                self._divert("--remove")
            self._delete_journal()
            return f"{self.path} is not the shim"
        self._refuse_without_dpkg()
        diverted = self._is_diverted()
        before = self._read_journal()
        self._put_back(before)
        if diverted:
            self._divert("--remove")
        self._delete_journal()
        if not self.path.exists():
            return f"{self.path} is gone: the shim, and ipmitool, as its package was removed since"
        if before is not None and _sha256(self.path) != before.sha256:
            return f"{self.path} is the real one again, which its package has upgraded since"
        return f"{self.path} is the real one again, as it was"

    def status(self) -> ShimStatus:
        """Return whether the shim is in place."""
        before = self._read_journal()
        parts = (is_shim(str(self.path)), self.real.exists(), self._has_dpkg() and self._is_ours())
        state = ShimState.ABSENT
        if any(parts):
            state = ShimState.INSTALLED if all(parts) else ShimState.HALF
        real = self.real if self.real.exists() else self.path
        sha256 = None if is_shim(str(real)) or not real.exists() else _sha256(real)
        sha256_before = None if before is None else before.sha256
        return ShimStatus(state, str(self.path), str(real), sha256, sha256_before)

    # ------------------------------------------------------------------------------------ steps

    def _save_original(self) -> None:
        """Give the real ipmitool its second name; it keeps the first until the shim takes that."""
        sha256 = _sha256(self.path)
        if self.real.exists() and _sha256(self.real) != sha256:
            raise Refused(
                f"{self.path} and {self.real} both exist and differ: delete the wrong one"
            )
        before = OriginalFile(str(self.path), str(self.real), sha256, time.time())
        try:
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            self._write(self.journal, (json.dumps(asdict(before)) + "\n").encode(), 0o600)
            if self.real.exists():
                return
            try:
                os.link(self.path, self.real, follow_symlinks=False)
            except PermissionError:
                shutil.copy2(self.path, self.real, follow_symlinks=False)
        except OSError as error:
            raise _failed("save the real ipmitool", error) from None

    def _put_back(self, before: OriginalFile | None) -> None:
        try:
            if not self.real.exists():
                self.path.unlink()
            elif is_shim(str(self.path)) or not self.path.exists():
                self.real.rename(self.path)
            elif _sha256(self.path) == _sha256(self.real):
                self.real.unlink()
            elif before is not None and _sha256(self.path) == before.sha256:
                self.real.rename(self.path)  # a newer package wrote it before the shim was in place
            else:
                raise Refused(
                    f"{self.path} is neither the shim nor the original file, and {self.real} "
                    "exists as well: delete the wrong one"
                )
        except OSError as error:
            raise _failed("put ipmitool back", error) from None

    def _delete_journal(self) -> None:
        try:
            self.journal.unlink(missing_ok=True)
        except OSError as error:
            raise _failed("remove the journal", error) from None

    def _read_journal(self) -> OriginalFile | None:
        try:
            with self.journal.open("rb") as file:
                return OriginalFile(**json.loads(file.read(JOURNAL_BYTES_MAX)))
        except (OSError, ValueError, TypeError):
            return None

    def _script(self) -> str:
        return script(self._python, str(Path(shim_start.__file__).resolve()), str(self.real))

    def _is_current(self) -> bool:
        return self.path.read_bytes() == self._script().encode()

    def _write(self, path: Path, content: bytes, mode: int) -> None:
        new = path.with_name(path.name + ".bmcmedic-new")
        try:
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise _failed(f"write {path}", error) from None

    # ------------------------------------------------------------------------------------- dpkg

    def _has_dpkg(self) -> bool:
        return (self.root / DPKG_STATUS).exists() and shutil.which("dpkg-divert") is not None

    def _refuse_without_dpkg(self) -> None:
        if not self._has_dpkg():
            raise Refused(
                "this system does not use dpkg, and its package manager would overwrite the shim; "
                "put a script that runs `bmcmedic ipmitool` first in the PATH of the callers"
            )

    def _is_diverted(self) -> bool:
        """Return whether our diversion is in place. Raises: Refused if it is somebody else's."""
        by = self._dpkg_divert("--listpackage", f"/{PROGRAM}")
        if not by:
            return False
        if not self._is_ours():
            to = self._dpkg_divert("--truename", f"/{PROGRAM}")
            raise Refused(
                f"{self.path} is already diverted to {to}, by {by}: remove that diversion first"
            )
        return True

    def _is_ours(self) -> bool:
        to = self._dpkg_divert("--truename", f"/{PROGRAM}")
        return to == f"/{PROGRAM}{DIVERTED_SUFFIX}"

    def _divert(self, action: str) -> None:
        divert_to = f"/{PROGRAM}{DIVERTED_SUFFIX}"
        self._dpkg_divert(
            "--quiet", "--local", "--no-rename", "--divert", divert_to, action, f"/{PROGRAM}"
        )

    def _dpkg_divert(self, *arguments: str) -> str:
        command = ["dpkg-divert", "--root", str(self.root), *arguments]
        try:
            done = subprocess.run(  # noqa: S603 - no shell, and nothing that came from outside
                command,
                capture_output=True,
                text=True,
                timeout=DPKG_S_MAX,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ShimError(f"cannot run dpkg-divert: {error}") from None
        if done.returncode:
            raise ShimError(f"dpkg-divert {arguments[-2]} failed: {done.stderr.strip()}")
        return done.stdout.strip()


def script(python: str, start: str, real: str) -> str:
    """Return the script that takes ipmitool's place; `start` is the path of `shim/start.py`."""
    quoted = {"python": python, "start": start, "real": real}
    return _SCRIPT.format(**{name: shlex.quote(path) for name, path in quoted.items()})


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise _failed(f"read {path}", error) from None


def _failed(what: str, error: OSError) -> ShimError:
    return ShimError(f"cannot {what}: {error.filename}: {error.strerror} (root can)")
