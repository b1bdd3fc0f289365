"""The HTTP endpoint for metrics: GET /metrics on a Unix socket or a loopback port, nothing else.

Clients are served concurrently, each with a deadline. If there are too many, the oldest is closed.
So a client that sends nothing, trickles, or does not read costs the others nothing.
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

from bmcmedic.agent.config_values import ListenAddress
from bmcmedic.errors import ConfigurationError

REQUEST_BYTES_MAX = 8192
"""Longest request, in bytes."""
CLIENT_S_MAX = 2.0
"""Longest time for reading a request, and for sending the answer, in seconds."""
CLIENTS_MAX = 64
"""Clients that are connected at the same time."""
BACKLOG = 64
_END = b"\r\n\r\n"
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _HttpClient:
    """A connected client, and its progress."""

    __slots__ = ("answer", "request", "socket", "until")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.until = time.monotonic() + CLIENT_S_MAX
        self.request = b""
        self.answer = memoryview(b"")


class MetricsEndpoint:
    """Serves the text of the metrics."""

    def __init__(
        self, address: ListenAddress, group: int | None, text: Callable[[], bytes]
    ) -> None:
        """Listen at once. Raises: ConfigurationError."""
        self._address = address
        self._text = text
        self._inode = 0
        try:
            self._listener = self._listen(address, group)
        except OSError as error:
            raise ConfigurationError(
                f"metrics cannot be served at {address}: {error.strerror or error}"
            ) from None
        self._listener.setblocking(False)
        self._wakeup_read, self._wakeup_write = socket.socketpair()

    def _listen(self, address: ListenAddress, group: int | None) -> socket.socket:
        if address.unix_path is None:
            version = ipaddress.ip_address(str(address.address)).version
            made = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET)
        else:
            _remove_stale_socket(Path(address.unix_path))
            made = socket.socket(socket.AF_UNIX)
        try:
            if address.unix_path is None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind((str(address.address), address.port))
            else:
                self._inode = _bind(made, Path(address.unix_path), group)
            made.listen(BACKLOG)
        except OSError:
            made.close()
            raise
        return made

    @property
    def port(self) -> int:
        """The port in use, if the address has port 0."""
        number: int = self._listener.getsockname()[1]
        return number

    def run(self) -> None:
        """Serve until `stop`."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wakeup_read, selectors.EVENT_READ)
            clients: list[_HttpClient] = []
            try:
                while self._serve(selector, clients):
                    pass
            finally:
                for client in clients:
                    client.socket.close()

    def _serve(self, selector: selectors.BaseSelector, clients: list[_HttpClient]) -> bool:
        """Serve what is ready, and return False after `stop`."""
        until = min((each.until for each in clients), default=None)
        left_s = None if until is None else max(0.0, until - time.monotonic())
        over = []
        for key, _ in selector.select(left_s):
            if key.fileobj is self._wakeup_read:
                return False
            client = key.data
            if client is None:
                self._accept(selector, clients)
            elif client in clients and not self._go_on(selector, client):
                over.append(client)
        now = time.monotonic()
        for client in [each for each in clients if each in over or each.until <= now]:
            _disconnect(selector, clients, client)
        return True

    def _accept(self, selector: selectors.BaseSelector, clients: list[_HttpClient]) -> None:
        try:
            connected, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            if clients:  # perhaps no file descriptor is left
                _disconnect(selector, clients, clients[0])
            return
        if len(clients) >= CLIENTS_MAX:
            _disconnect(selector, clients, clients[0])
        connected.setblocking(False)
        client = _HttpClient(connected)
        clients.append(client)
        selector.register(connected, selectors.EVENT_READ, client)

    def _go_on(self, selector: selectors.BaseSelector, client: _HttpClient) -> bool:
        """Read the request or send the answer; return False when the client is done."""
        try:
            if not client.answer:
                piece = client.socket.recv(REQUEST_BYTES_MAX)
                client.request += piece
                if not piece:
                    return False
                if _END not in client.request and len(client.request) < REQUEST_BYTES_MAX:
                    return True
                client.answer = memoryview(self._answer_to(client.request))
                client.until = time.monotonic() + CLIENT_S_MAX  # collecting may have taken long
                selector.modify(client.socket, selectors.EVENT_WRITE, client)
            client.answer = client.answer[client.socket.send(client.answer) :]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return bool(client.answer)

    def stop(self) -> None:
        """Ask the endpoint to end."""
        with contextlib.suppress(OSError):
            self._wakeup_write.send(b"\0")

    def close(self) -> None:
        """Stop listening, and remove the socket if it is still ours."""
        self._listener.close()
        self._wakeup_read.close()
        self._wakeup_write.close()
        if self._address.unix_path is not None:
            with contextlib.suppress(OSError):
                path = Path(self._address.unix_path)
                if path.lstat().st_ino == self._inode:
                    path.unlink()

    def _answer_to(self, request: bytes) -> bytes:
        status, body = self._answer(request)
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        return head.encode() + body

    def _answer(self, request: bytes) -> tuple[str, bytes]:
        words = request.partition(b"\r\n")[0].split()
        if _END not in request or len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return "400 Bad Request", b"this is not an HTTP request\n"
        if words[0] not in (b"GET", b"HEAD"):
            return "405 Method Not Allowed", b"only GET is served here\n"
        if words[1].partition(b"?")[0] != b"/metrics":
            return "404 Not Found", b"only /metrics is served here\n"
        return "200 OK", b"" if words[0] == b"HEAD" else self._text()


def _disconnect(
    selector: selectors.BaseSelector, clients: list[_HttpClient], client: _HttpClient
) -> None:
    clients.remove(client)
    selector.unregister(client.socket)
    client.socket.close()


def _remove_stale_socket(path: Path) -> None:
    """Remove a socket that a former agent left: our lock proves that none serves it now."""
    if os.path.lexists(path):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigurationError(f"{path} exists and is not a socket; it was not changed")
        path.unlink()


def _bind(made: socket.socket, path: Path, group: int | None) -> int:
    """Make the socket, for its owner and `group` only, and return its inode."""
    os.fchmod(made.fileno(), 0o600)  # the mode with which the file is made
    made.bind(str(path))
    if group is not None:
        os.chown(path, -1, group, follow_symlinks=False)
        path.chmod(0o660)
    return path.lstat().st_ino
