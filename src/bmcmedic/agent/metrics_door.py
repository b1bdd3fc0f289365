"""The HTTP door for metrics: a Unix socket or a loopback port, GET /metrics and nothing else.

One scraper at a time, each with a deadline: a client that drips or does not read costs the others
that long at most.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import selectors
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

from bmcmedic.agent.config_values import Place
from bmcmedic.errors import ConfigurationError

REQUEST_BYTES_MAX = 8192
CLIENT_S_MAX = 2.0
BACKLOG = 16
_END = b"\r\n\r\n"
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsDoor:
    """Serves one text."""

    def __init__(self, place: Place, group: int | None, text: Callable[[], bytes]) -> None:
        """Listens at once. Raises: ConfigurationError."""
        self._place = place
        self._text = text
        self._inode = 0
        try:
            self._listener = self._listen(place, group)
        except OSError as error:
            raise ConfigurationError(
                f"metrics cannot be served at {place}: {error.strerror or error}"
            ) from None
        self._listener.setblocking(False)
        self._wakeup_read, self._wakeup_write = socket.socketpair()

    def _listen(self, place: Place, group: int | None) -> socket.socket:
        if place.unix_path is None:
            version = ipaddress.ip_address(str(place.address)).version
            made = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET)
        else:
            _clear(Path(place.unix_path))
            made = socket.socket(socket.AF_UNIX)
        try:
            if place.unix_path is None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind((str(place.address), place.port))
            else:
                self._inode = _bind(made, Path(place.unix_path), group)
            made.listen(BACKLOG)
        except OSError:
            made.close()
            raise
        return made

    @property
    def port(self) -> int:
        """The port that was taken, for a place with port 0."""
        number: int = self._listener.getsockname()[1]
        return number

    def run(self) -> None:
        """Serve until `stop`."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wakeup_read, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wakeup_read in ready:
                    return
                with contextlib.suppress(OSError):
                    client, _ = self._listener.accept()
                    with client:
                        self._serve(client)

    def stop(self) -> None:
        """End soon."""
        with contextlib.suppress(OSError):
            self._wakeup_write.send(b"\0")

    def close(self) -> None:
        """Stop listening, and take the socket away if it is still ours."""
        self._listener.close()
        self._wakeup_read.close()
        self._wakeup_write.close()
        if self._place.unix_path is not None:
            with contextlib.suppress(OSError):
                path = Path(self._place.unix_path)
                if path.lstat().st_ino == self._inode:
                    path.unlink()

    def _serve(self, client: socket.socket) -> None:
        until = time.monotonic() + CLIENT_S_MAX
        request = b""
        while _END not in request and len(request) < REQUEST_BYTES_MAX:
            client.settimeout(max(0.001, until - time.monotonic()))
            piece = client.recv(REQUEST_BYTES_MAX)
            if not piece:
                return
            request += piece
        status, body = self._answer(request)
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        client.settimeout(max(0.001, until - time.monotonic()))
        client.sendall(head.encode() + body)

    def _answer(self, request: bytes) -> tuple[str, bytes]:
        words = request.partition(b"\r\n")[0].split()
        if _END not in request or len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return "400 Bad Request", b"this is no HTTP request\n"
        if words[0] not in (b"GET", b"HEAD"):
            return "405 Method Not Allowed", b"only GET is served here\n"
        if words[1].partition(b"?")[0] != b"/metrics":
            return "404 Not Found", b"there is /metrics, and nothing else\n"
        return "200 OK", b"" if words[0] == b"HEAD" else self._text()


def _clear(path: Path) -> None:
    """The agent's lock says that no other agent serves it: a socket that is there is left over."""
    if os.path.lexists(path):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigurationError(f"{path} is there and is no socket; it was left alone")
        path.unlink()


def _bind(made: socket.socket, path: Path, group: int | None) -> int:
    """Make the file, for its owner and `group` alone; returns its inode."""
    os.fchmod(made.fileno(), 0o600)  # what the file is made with
    made.bind(str(path))
    if group is not None:
        os.chown(path, -1, group, follow_symlinks=False)
        path.chmod(0o660)
    return path.lstat().st_ino
