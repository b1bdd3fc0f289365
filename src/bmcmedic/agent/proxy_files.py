"""The files that the loopback proxy publishes under /run, and how the shim reads them.

They hold the proxy's address, its password, the state of the BMC and the shim's settings, and
configurations for FreeIPMI and ipmi_exporter. Only root may read them. They are made anew at each
boot, and each file is replaced as a whole. The shim reads them at every start, so this module
imports nothing that takes time to load.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

RUNTIME_DIR = "/run/bmcmedic"
FOLDER = "door"
"""Name of the folder. It is a contract with other tools, as are the names of the files in it."""
BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"
USER = "bmcmedic"
SHIM_USER = "bmcmedic-shim"
"""The shim's user, with the same password.

It never gets a stale answer, because it could not tell that one from a fresh answer.
"""
PASSWORD_BYTES = 20
"""Length of the password, in bytes: the longest that RMCP+ has room for."""
FILE_BYTES_MAX = 4096
"""Longest part of a file that is read, in bytes."""
ACQUIRE_S_MAX = 1.0
"""Longest wait for the lock of the folder, in seconds."""
ACQUIRE_POLL_S = 0.01
"""Period in which the lock is tried, in seconds."""
STATE_PERIOD_S = 1.0
"""Period in which a live proxy publishes the state of the BMC, in seconds."""
SHIM_DEADLINE_S = 60.0
"""Default of the shim's deadline for one run of ipmitool, in seconds."""
SHIM_LONG_DEADLINE_S = 300.0
"""Default of the shim's deadline for a command that sends many requests, in seconds."""
SHIM_SHARE_S = 1.0
"""Default of the age up to which a finished run is shared with the next caller, in seconds.

The age counts from the end of the run to the start of the caller that asks the same.
"""
SHIM_CACHED_S_MAX = 300.0
"""Default of the greatest age of a cached answer that the shim prints, in seconds."""
STALE_S = 5.0
"""Age above which a state proves that the proxy has stalled, in seconds."""

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PROXY = "door"
_LOCK = "lock"
_PASSWORD = "password"  # noqa: S105 - the name of a file
_STATE = "state"
_FREEIPMI = "freeipmi.conf"
_EXPORTER = "ipmi_exporter.yml"

WELL = "well"
SILENT = "silent"
NO_INTERFACE = "no-interface"
NO_DRIVER = "no-driver"
STALLED = "stalled"
"""No proxy publishes this state: `read_state` returns it for a state that was not renewed."""


class NoProxy(Exception):
    """There is no usable proxy here; the message says why."""


class PublishedProxy:
    """What the files say about a running proxy."""

    __slots__ = ("host", "password_file", "port", "request_s", "settings", "user")

    def __init__(
        self,
        host: str,
        port: int,
        user: str,
        password_file: str,
        request_s: float,
        settings: dict[str, str],
    ) -> None:
        self.host = host
        self.port = port
        self.user = user
        self.password_file = password_file
        self.request_s = request_s
        """How long the proxy waits for one answer of the BMC, in seconds."""
        self.settings = settings
        """The shim's settings: the names and values that the agent published for it."""


class ProxyFiles:
    """The folder, as the proxy sees it; one proxy at a time owns it."""

    def __init__(self, runtime_dir: str = RUNTIME_DIR) -> None:
        self.folder = os.path.join(runtime_dir, FOLDER)
        self._lock_fd = -1

    def acquire(self) -> bool:
        """Make the folder and lock it; return False if another proxy owns it.

        Raises: OSError; PermissionError if the folder belongs to another user.
        """
        os.makedirs(os.path.dirname(self.folder), 0o755, exist_ok=True)
        try:
            os.mkdir(self.folder, 0o700)
        except FileExistsError:
            _check_folder(self.folder)
            os.chmod(self.folder, 0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self._path(_LOCK), flags, 0o600)
        until = time.monotonic() + ACQUIRE_S_MAX
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # A shim takes the lock for a moment to see whether a proxy holds it.
                if time.monotonic() < until:
                    time.sleep(ACQUIRE_POLL_S)
                    continue
                os.close(descriptor)
                return False
            self._lock_fd = descriptor
            return True

    def release(self) -> None:
        """Withdraw address and state. The password stays for the next proxy of this boot."""
        if self._lock_fd < 0:
            return  # another proxy owns the folder
        for name in (_PROXY, _STATE):
            try:
                os.unlink(self._path(name))
            except FileNotFoundError:
                pass
        os.close(self._lock_fd)
        self._lock_fd = -1

    def password(self) -> bytes:
        """Return the password of this boot; make one if there is none."""
        boot_id = _boot_id()
        try:
            stored, _, of_boot = _read(self._path(_PASSWORD)).decode("ascii").partition("\n")
        except (FileNotFoundError, UnicodeDecodeError):
            stored = of_boot = ""
        if of_boot.strip() == boot_id and len(stored) == PASSWORD_BYTES:
            return stored.encode("ascii")
        password = "".join(_ALPHABET[byte & 63] for byte in os.urandom(PASSWORD_BYTES))
        self._write(_PASSWORD, f"{password}\n{boot_id}\n")
        return password.encode("ascii")

    def publish(self, host: str, port: int, request_s: float, settings: dict[str, str]) -> None:
        """Publish the address and the settings of a proxy that is open."""
        password = self.password().decode("ascii")
        lines = {"host": host, "port": str(port), "user": SHIM_USER, "request_s": f"{request_s:g}"}
        text = "".join(f"{key}={value}\n" for key, value in {**lines, **settings}.items())
        self._write(
            _FREEIPMI,
            f"driver-type LAN_2_0\nusername {USER}\n"
            f"password {password}\ncipher-suite-id 17\nprivilege-level ADMIN\n"
            f"session-timeout {int((request_s + 5) * 1000)}\nretransmission-timeout 2000\n",
        )
        self._write(
            _EXPORTER,
            f'modules:\n  default:\n    user: "{USER}"\n    pass: "{password}"\n'
            f'    driver: "LAN_2_0"\n    privilege: "user"\n    timeout: '
            f"{int((request_s + 5) * 1000)}\n    collectors: [bmc, ipmi, chassis, sel]\n",
        )
        self._write(_PROXY, text)

    def publish_state(self, word: str, reason: str = "") -> None:
        """Publish `WELL`, `SILENT`, `NO_INTERFACE` or `NO_DRIVER`, the reason, and the time."""
        reason = " ".join(reason[:500].split())
        self._write(_STATE, f"{word}\n{reason}\n{time.monotonic():.3f}\n")

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _write(self, name: str, text: str) -> None:
        new = self._path(name) + ".new"
        try:
            os.unlink(new)
        except FileNotFoundError:
            pass
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            raw = text.encode("utf-8", "replace")
            while raw:
                raw = raw[os.write(descriptor, raw) :]
        finally:
            os.close(descriptor)
        os.rename(new, self._path(name))


def find_proxy(runtime_dir: str = RUNTIME_DIR) -> PublishedProxy:
    """Return the proxy that is running now. Raises: NoProxy."""
    folder = os.path.join(runtime_dir, FOLDER)
    try:
        _check_folder(folder)
        raw = _read(os.path.join(folder, _PROXY))
        if not _is_held(os.path.join(folder, _LOCK)):
            raise NoProxy("the agent that published the proxy is gone")
        settings = dict(line.partition("=")[::2] for line in raw.decode("utf-8").splitlines())
        return PublishedProxy(
            settings.pop("host"),
            int(settings.pop("port")),
            settings.pop("user"),
            os.path.join(folder, _PASSWORD),
            float(settings.pop("request_s")),
            settings,
        )
    except (OSError, KeyError, ValueError) as error:
        raise NoProxy(f"no usable proxy in {folder}: {error}") from None


def read_state(runtime_dir: str = RUNTIME_DIR) -> tuple[str, str]:
    """Return the state of driver and BMC as the proxy last published it, and the reason.

    If the proxy has stopped publishing, the state is `STALLED`, whatever it said last.
    """
    try:
        raw = _read(os.path.join(runtime_dir, FOLDER, _STATE))
    except OSError:
        return NO_DRIVER, "the proxy publishes no state"
    word, reason, published_at = (*raw.decode("utf-8", "replace").split("\n"), "", "")[:3]
    try:
        age_s = time.monotonic() - float(published_at)
    except ValueError:
        age_s = 0.0  # a proxy that publishes no time
    if age_s > STALE_S and word != NO_DRIVER:
        return STALLED, f"it has published no state for {age_s:.0f} s"
    return word, reason


def check_owner(found: os.stat_result, what: str) -> None:
    """Raise PermissionError unless only root and this user can write to a file or folder."""
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise PermissionError(f"{what} belongs to another user, or others may write to it")


def _check_folder(folder: str) -> None:
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{folder} is not a folder")
    check_owner(found, folder)


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        check_owner(os.fstat(descriptor), path)
        return os.read(descriptor, FILE_BYTES_MAX)
    finally:
        os.close(descriptor)


def _is_held(path: str) -> bool:
    """Return whether a proxy is running: it holds its lock as long as it lives."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _boot_id() -> str:
    try:
        descriptor = os.open(BOOT_ID_FILE, os.O_RDONLY)
    except OSError:
        return "unknown"
    try:
        return os.read(descriptor, 64).decode("ascii").strip()
    finally:
        os.close(descriptor)
