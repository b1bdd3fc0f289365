"""One heal or reset of a BMC at a time on this machine: two would send two resets."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys

from bmcmedic.transport.lan_engine import Address


class ResetLock:
    """The right to act on one BMC; it ends with `release`, or with the process."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def take(self, address: Address) -> bool:
        """Whether nobody else on this machine acts on that BMC; it is ours from now on.

        Linux's abstract socket names need no directory and leave nothing behind after a crash.
        """
        if self._socket is not None or not sys.platform.startswith("linux"):
            return True
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0bmcmedic-acts-on/{address[0]}/{address[1]}")
        except OSError as error:
            mark.close()
            return error.errno != errno.EADDRINUSE
        self._socket = mark
        return True

    def release(self) -> None:
        """Let others act on it."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None
