"""A lock for each BMC on this machine: two runs of `heal` or `reset` would send two resets."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys

from bmcmedic.transport.lan_engine import Address


class ResetLock:
    """The right to act on one BMC, until `release` or the end of the process."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def take(self, address: Address) -> bool:
        """Take the lock of the BMC at `address`; False while another process has it.

        The lock is an abstract socket name of Linux. It needs no directory, and a crash leaves
        nothing behind.
        """
        if self._socket is not None or not sys.platform.startswith("linux"):
            return True
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0bmcmedic-acts-on/{address[0]}/{address[1]}")
        except OSError as error:
            lock.close()
            return error.errno != errno.EADDRINUSE
        self._socket = lock
        return True

    def release(self) -> None:
        """Let other processes act on the BMC."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None
