"""The way to the controller: one HTTPS connection, kept while it is good. Standard library only.

Everything about it has a limit: a controller that is slow, broken or hostile costs the agent a
report, and nothing else.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bmcmedic import __version__
from bmcmedic.agent.config import ControllerConfig
from bmcmedic.errors import TransportError

REPLY_BYTES_MAX = 64 * 1024
TOKEN_BYTES_MAX = 8192
HTTPS_PORT = 443
_OK = range(200, 300)
_READ_BYTES = 16 * 1024
CREDENTIALS = {
    "client_certificate": "controller-certificate",
    "client_key": "controller-key",
    "token_file": "controller-token",
}
"""Settings, and systemd's credentials that take their place."""


class NotTaken(TransportError):
    """The report did not arrive, or was refused; `retry_after_s` is what the controller asked."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Reply:
    """What the controller said."""

    orders: list[Any]


class ControllerLink:
    """Posts reports to one controller; for one thread."""

    def __init__(
        self, config: ControllerConfig, environment: Mapping[str, str] = os.environ
    ) -> None:
        """Files are read when a connection is made, so that a renewed certificate is used."""
        assert config.url is not None
        self.config = config
        self._folder = environment.get("CREDENTIALS_DIRECTORY")
        self._parts = urlsplit(config.url)
        self._connection: http.client.HTTPSConnection | None = None

    def close(self) -> None:
        """Hang up; the next report connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def post(self, report: dict[str, Any]) -> Reply:
        """Post one report. Raises: NotTaken.

        A connection that was kept may have been closed meanwhile: then it is tried once more on a
        new one. A report that arrives twice has the same `sequence`.
        """
        body = json.dumps(report, separators=(",", ":"), allow_nan=False).encode()
        is_kept = self._connection is not None
        try:
            with self._deadline():
                return self._post(body)
        except NotTaken:
            self.close()
            raise
        except (http.client.RemoteDisconnected, ConnectionError, BrokenPipeError) as error:
            self.close()
            if not is_kept:
                raise NotTaken(f"the connection broke: {error}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise NotTaken(_told(error)) from None
        return self.post(report)

    def _post(self, body: bytes) -> Reply:
        connection = self._connect()
        path = self._parts.path or "/"
        if self._parts.query:
            path += f"?{self._parts.query}"
        connection.request("POST", path, body, self._headers())
        response = connection.getresponse()
        raw = b""
        while len(raw) <= REPLY_BYTES_MAX and (piece := response.read(_READ_BYTES)):
            raw += piece
        if response.status not in _OK:
            raise NotTaken(
                f"the controller answered {response.status} {response.reason[:100]}",
                _seconds(response.headers.get("Retry-After")),
            )
        if len(raw) > REPLY_BYTES_MAX:
            raise NotTaken(f"the reply has more than {REPLY_BYTES_MAX} bytes")
        if response.will_close:
            self.close()
        return _read(raw)

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """Whatever drips in, the whole exchange ends: a timer shuts the connection."""
        timer = threading.Timer(self.config.timeout_s, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _cut(self) -> None:
        connection = self._connection
        found = None if connection is None else connection.sock
        if found is not None:
            with contextlib.suppress(OSError):
                # The TCP connection itself: no TLS farewell is waited for.
                socket.socket.shutdown(found, socket.SHUT_RDWR)

    # ---------------------------------------------------------------------------------- connecting

    def _connect(self) -> http.client.HTTPSConnection:
        if self._connection is not None:
            return self._connection
        with _naming(self.config.ca_file):
            context = ssl.create_default_context(cafile=self.config.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        certificate = self._file("client_certificate")
        if certificate is not None:
            key = self._file("client_key")
            with _naming(certificate, key):
                context.load_cert_chain(certificate, key, password=_no_password)
        self._connection = http.client.HTTPSConnection(
            str(self._parts.hostname),
            self._parts.port or HTTPS_PORT,
            timeout=self.config.timeout_s,
            context=context,
        )
        return self._connection

    def _headers(self) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"bmcmedic-agent/{__version__}",
        }
        token_file = self._file("token_file")
        if token_file is not None:
            headers["Authorization"] = f"Bearer {_token(token_file)}"
        return headers

    def _file(self, name: str) -> str | None:
        """A file that the configuration names, or the credential that systemd has put there."""
        named: str | None = getattr(self.config, name)
        if named is not None or self._folder is None:
            return named
        passed = Path(self._folder) / CREDENTIALS[name]
        return str(passed) if passed.exists() else None


@contextlib.contextmanager
def _naming(*files: str | None) -> Iterator[None]:
    """Which files cannot be used: the TLS library's own errors do not say."""
    try:
        yield
    except OSError as error:
        named = " or ".join(filter(None, files)) or "the system's certificates"
        raise NotTaken(f"{named} cannot be used: {error.strerror or error}") from None


def _token(path: str) -> str:
    with Path(path).open("rb") as opened:
        raw = opened.read(TOKEN_BYTES_MAX + 1)
    token = raw.strip().decode("ascii", errors="replace")
    if len(raw) > TOKEN_BYTES_MAX or not token or not token.isascii() or not token.isprintable():
        raise NotTaken(f"{path} holds no token: one line of printable ASCII")
    return token


def _no_password() -> str:
    """Nobody is there to type one."""
    raise NotTaken("the client's key is encrypted: nobody is there to give its password")


def _read(raw: bytes) -> Reply:
    if not raw.strip():
        return Reply([])
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise NotTaken("the reply is no JSON") from None
    orders = found.get("orders", []) if isinstance(found, dict) else None
    if not isinstance(orders, list):
        raise NotTaken('the reply is no object with a list of "orders"')
    return Reply(orders)


def _seconds(retry_after: str | None) -> float | None:
    """What Retry-After asks for; a date is not understood."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None


def _told(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the controller's certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "the controller did not answer in time"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error}"[:300]
