"""The KCS registers of this host, and a guard that finds another owner of their ports.

Two drivers on one KCS interface corrupt each other's transfers. So `PortGuard` checks repeatedly
whether the kernel's own driver has the ports.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

from bmcmedic.errors import ConfigurationError
from bmcmedic.transport.in_band import InterfaceBusy, InterfaceGone, hold_alone

PORT_MAX = 0xFFFF
"""Highest I/O port."""
IOPORTS_BYTES_MAX = 1 << 16
"""Most bytes read of /proc/ioports; it has about 10 KiB on big servers."""

_BYTES = tuple(bytes((byte,)) for byte in range(256))
_IOPORTS_LINE = re.compile(r"\s*([0-9a-f]+)-([0-9a-f]+) : (.*)", re.ASCII)
_NO_DRIVER = re.compile(
    r"PCI |pnp |ACPI |IPMI Address \d|reserved"
    r"|[A-Z]{3}[A-Z0-9]?[0-9A-F]{4}:[0-9a-f]{2}$"
    r"|[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.\d$",
    re.ASCII | re.IGNORECASE,
)
"""Names of buses and of firmware descriptions in /proc/ioports.

They show where ports are, not which driver uses them.
"""

USE_KERNEL_DEVICE = "use /dev/ipmi0 instead"


class DevPort:
    """The registers through /dev/port.

    Raises: ConfigurationError without permission; InterfaceGone when an access fails later.
    """

    def __init__(self, base: int, spacing: int, path: str = "/dev/port") -> None:
        self._data_at = base
        self._command_at = base + spacing
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except PermissionError:
            raise ConfigurationError(
                f"no right to open {path}: it needs root, CAP_SYS_RAWIO and, with Secure Boot, a "
                f"kernel that is not locked down; else load ipmi_si and {USE_KERNEL_DEVICE}"
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be opened ({error.strerror}): this kernel gives no raw ports; load "
                f"ipmi_si and {USE_KERNEL_DEVICE}"
            ) from None
        try:
            hold_alone(self._fd, path)
        except InterfaceBusy as error:
            os.close(self._fd)
            raise ConfigurationError(str(error)) from None

    def read_status(self) -> int:
        """Return the status register."""
        return self._read(self._command_at)

    def read_data(self) -> int:
        """Return the data-out register; reading it clears OBF."""
        return self._read(self._data_at)

    def write_data(self, byte: int) -> None:
        """Write the data-in register."""
        self._write(self._data_at, byte)

    def write_command(self, byte: int) -> None:
        """Write the command register."""
        self._write(self._command_at, byte)

    def close(self) -> None:
        """Release the ports."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _read(self, port: int) -> int:
        try:
            return os.pread(self._fd, 1, port)[0]
        except (OSError, IndexError) as error:
            raise InterfaceGone(f"port {port:#x} cannot be read: {error}") from error

    def _write(self, port: int, byte: int) -> None:
        try:
            os.pwrite(self._fd, _BYTES[byte], port)
        except OSError as error:
            raise InterfaceGone(f"port {port:#x} cannot be written: {error}") from error


class Guard(Protocol):
    """Finds another owner of the ports."""

    def owner(self) -> str | None:
        """Return who has the ports, and what to do about it; None when they are free."""

    def close(self) -> None:
        """Stop checking, and close the files."""


class PortGuard:
    """Finds another owner of the ports in /proc/ioports, or by the existence of /dev/ipmi0.

    A check of a short list takes 6 us. It only compares bytes while the list does not change.

    Raises: ConfigurationError when /proc/ioports cannot be read.
    """

    def __init__(self, base: int, spacing: int, root: str = "/") -> None:
        self._ports = (base, base + spacing)
        self._devices = tuple(
            str(Path(root, device)) for device in ("dev/ipmi0", "dev/ipmi/0", "dev/ipmidev/0")
        )
        self._seen = bytearray()
        self._buffer = bytearray(IOPORTS_BYTES_MAX)
        self._view = memoryview(self._buffer)
        self._owner: str | None = None
        path = Path(root, "proc/ioports")
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be read ({error.strerror}), so it is unknown whether the "
                "kernel's driver has the ports"
            ) from None

    def owner(self) -> str | None:
        """Return who has the ports, and what to do about it; None when they are free."""
        for device in self._devices:
            if os.access(device, os.F_OK):
                return (
                    f"the kernel's IPMI driver is loaded ({device} is there): "
                    f"{USE_KERNEL_DEVICE}, or unload ipmi_si"
                )
        length = self._read()
        if self._view[:length] != self._seen:
            self._seen = self._buffer[:length]
            self._owner = owner_in(self._seen.decode("ascii", "replace"), self._ports)
        return self._owner

    def close(self) -> None:
        """Stop checking, and close the files."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _read(self) -> int:
        """Read all of /proc/ioports, a page at a time, and return its length in bytes."""
        length = 0
        try:
            while length < IOPORTS_BYTES_MAX:
                taken = os.preadv(self._fd, [self._view[length:]], length)
                if not taken:
                    break
                length += taken
        except OSError as error:
            raise InterfaceGone(f"/proc/ioports cannot be read any more: {error}") from error
        return length


def owner_in(ioports: str, ports: tuple[int, ...]) -> str | None:
    """Return which driver has one of the ports, and what to do; None if no driver has one.

    Shape: /proc/ioports. Without permission to see addresses, all of them read as 0; then a
    driver's name alone decides.
    """
    for line in ioports.splitlines():
        match = _IOPORTS_LINE.fullmatch(line)
        if match is None:
            continue
        first, last, name = int(match[1], 16), int(match[2], 16), match[3]
        hidden = first == last == 0
        if hidden and name.startswith("ipmi"):
            return f"the kernel's {name} has ports: {USE_KERNEL_DEVICE}, or unload {name}"
        if hidden or _NO_DRIVER.match(name) or not any(first <= port <= last for port in ports):
            continue
        advice = (
            f"{USE_KERNEL_DEVICE}, or unload {name}"
            if name.startswith("ipmi")
            else "give the base address of the BMC (dmidecode -t 38 names it)"
        )
        return f"{name} has the ports {first:#06x} to {last:#06x}: {advice}"
    return None
