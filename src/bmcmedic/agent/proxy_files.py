"""What the loopback door leaves for its users under /run: where it is, its secret, how the BMC is.

Root's alone, made anew each boot, each file replaced as a whole. The shim reads them at every
start, so this module loads nothing that takes time.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

RUNTIME_DIR = "/run/bmcmedic"
FOLDER = "door"
BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"
USER = "bmcmedic"
SHIM_USER = "bmcmedic-shim"
"""With the same secret; it never gets an old answer, which it could not tell from a new one."""
PASSWORD_BYTES = 20
"""As much as RMCP+ has room for."""
FILE_BYTES_MAX = 4096
HOLD_S_MAX = 1.0
HOLD_POLL_S = 0.01
STATE_PERIOD_S = 1.0
"""How often a door that lives says anew how the BMC is."""
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
"""A state that is older is that of a door that stands still."""

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_DOOR = "door"
_LOCK = "lock"
_PASSWORD = "password"  # noqa: S105 - the name of a file
_STATE = "state"
_FREEIPMI = "freeipmi.conf"
_EXPORTER = "ipmi_exporter.yml"

WELL = "well"
SILENT = "silent"
NO_INTERFACE = "no-interface"
NO_DRIVER = "no-driver"
STANDS_STILL = "stands-still"
"""No door says so: it is what a state says that was not renewed."""


class NoProxy(Exception):
    """There is no door to be used here; the message says why."""


class PublishedProxy:
    """What is written about an open door."""

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
        """How long the door waits for one answer of the BMC."""
        self.settings = settings
        """The rest, which is the shim's."""


class ProxyFiles:
    """The folder, as the door has it: held by one door at a time."""

    def __init__(self, runtime_dir: str = RUNTIME_DIR) -> None:
        self.folder = os.path.join(runtime_dir, FOLDER)
        self._lock_fd = -1

    def hold(self) -> bool:
        """Make the folder and claim it; False when another door has it.

        Raises: OSError; PermissionError where the folder is another's.
        """
        os.makedirs(os.path.dirname(self.folder), 0o755, exist_ok=True)
        try:
            os.mkdir(self.folder, 0o700)
        except FileExistsError:
            _check_folder(self.folder)
            os.chmod(self.folder, 0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self._path(_LOCK), flags, 0o600)
        until = time.monotonic() + HOLD_S_MAX
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # A shim has it for a moment, to see whether anybody does.
                if time.monotonic() < until:
                    time.sleep(HOLD_POLL_S)
                    continue
                os.close(descriptor)
                return False
            self._lock_fd = descriptor
            return True

    def release(self) -> None:
        """Nobody is told of this door any more; the secret stays, for the next one of this boot."""
        if self._lock_fd < 0:
            return  # it is another's
        for name in (_DOOR, _STATE):
            try:
                os.unlink(self._path(name))
            except FileNotFoundError:
                pass
        os.close(self._lock_fd)
        self._lock_fd = -1

    def secret(self) -> bytes:
        """The password of this boot, made if there is none."""
        boot_id = _boot_id()
        try:
            kept, _, of_boot = _read(self._path(_PASSWORD)).decode("ascii").partition("\n")
        except (FileNotFoundError, UnicodeDecodeError):
            kept = of_boot = ""
        if of_boot.strip() == boot_id and len(kept) == PASSWORD_BYTES:
            return kept.encode("ascii")
        password = "".join(_ALPHABET[byte & 63] for byte in os.urandom(PASSWORD_BYTES))
        self._write(_PASSWORD, f"{password}\n{boot_id}\n")
        return password.encode("ascii")

    def publish(self, host: str, port: int, request_s: float, settings: dict[str, str]) -> None:
        """Tell where the door is, once it is open."""
        password = self.secret().decode("ascii")
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
        self._write(_DOOR, text)

    def tell_state(self, word: str, reason: str = "") -> None:
        """`WELL`, `SILENT`, `NO_INTERFACE` or `NO_DRIVER`, and why; true now."""
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


def find(runtime_dir: str = RUNTIME_DIR) -> PublishedProxy:
    """The door that is open now; raises NoDoor."""
    folder = os.path.join(runtime_dir, FOLDER)
    try:
        _check_folder(folder)
        raw = _read(os.path.join(folder, _DOOR))
        if not _is_held(os.path.join(folder, _LOCK)):
            raise NoProxy("the agent that had the door is gone")
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
        raise NoProxy(f"no door to be used in {folder}: {error}") from None


def state(runtime_dir: str = RUNTIME_DIR) -> tuple[str, str]:
    """How the driver and the BMC are, by the door's last look, and why.

    `STANDS_STILL` instead of what was so before the door stopped to say it.
    """
    try:
        raw = _read(os.path.join(runtime_dir, FOLDER, _STATE))
    except OSError:
        return NO_DRIVER, "the door says nothing"
    word, reason, said_at = (*raw.decode("utf-8", "replace").split("\n"), "", "")[:3]
    try:
        age_s = time.monotonic() - float(said_at)
    except ValueError:
        age_s = 0.0  # a door that does not say when
    if age_s > STALE_S and word != NO_DRIVER:
        return STANDS_STILL, f"it has said nothing for {age_s:.0f} s"
    return word, reason


def check_owner(found: os.stat_result, what: str) -> None:
    """Nobody but root and we may have a say here; raises PermissionError."""
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise PermissionError(f"{what} is another's, or others may write there")


def _check_folder(folder: str) -> None:
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{folder} is no folder")
    check_owner(found, folder)


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        check_owner(os.fstat(descriptor), path)
        return os.read(descriptor, FILE_BYTES_MAX)
    finally:
        os.close(descriptor)


def _is_held(path: str) -> bool:
    """Whether a door lives: it holds its lock as long as it does."""
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
