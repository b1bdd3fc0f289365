"""The HTTPS connection to the controller, which is reused while it works. Standard library only.

Time and sizes are limited, so a controller that is slow, broken or hostile costs the agent a report
and nothing else.
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
"""Longest reply, in bytes."""
TOKEN_BYTES_MAX = 8192
"""Longest token file, in bytes."""
HTTPS_PORT = 443
_OK = range(200, 300)
_READ_BYTES = 16 * 1024
CREDENTIALS = {
    "client_certificate": "controller-certificate",
    "client_key": "controller-key",
    "token_file": "controller-token",
}
"""Settings that name files, and the systemd credentials that replace unset ones."""


class ReportNotAccepted(TransportError):
    """The report did not arrive, or the controller refused it.

    `retry_after_s` is the wait that the controller asked for, in seconds.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of the controller."""

    orders: list[Any]


class ControllerLink:
    """Posts reports to one controller, for one thread."""

    def __init__(
        self, config: ControllerConfig, environment: Mapping[str, str] = os.environ
    ) -> None:
        """The files are read at each new connection, so a renewed certificate is used."""
        assert config.url is not None
        self.config = config
        self._folder = environment.get("CREDENTIALS_DIRECTORY")
        self._parts = urlsplit(config.url)
        self._connection: http.client.HTTPSConnection | None = None

    def close(self) -> None:
        """Close the connection; the next report opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def post(self, report: dict[str, Any]) -> Reply:
        """Post one report. Raises: ReportNotAccepted.

        The controller may have closed a reused connection in the meantime. The report is then
        posted once more on a new one. A report that arrives twice has the same `sequence`.
        """
        body = json.dumps(report, separators=(",", ":"), allow_nan=False).encode()
        is_reused = self._connection is not None
        try:
            with self._deadline():
                return self._post(body)
        except ReportNotAccepted:
            self.close()
            raise
        except (http.client.RemoteDisconnected, ConnectionError, BrokenPipeError) as error:
            self.close()
            if not is_reused:
                raise ReportNotAccepted(f"the connection broke: {error}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise ReportNotAccepted(_message_of(error)) from None
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
            raise ReportNotAccepted(
                f"the controller answered {response.status} {response.reason[:100]}",
                _seconds(response.headers.get("Retry-After")),
            )
        if len(raw) > REPLY_BYTES_MAX:
            raise ReportNotAccepted(f"the reply has more than {REPLY_BYTES_MAX} bytes")
        if response.will_close:
            self.close()
        return _read(raw)

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """Limit the whole exchange, even if bytes trickle in: a timer shuts the connection down."""
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
                # Shut TCP itself down, without waiting for a TLS close_notify.
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
        """Return the file that the configuration names, or else systemd's credential."""
        named: str | None = getattr(self.config, name)
        if named is not None or self._folder is None:
            return named
        passed = Path(self._folder) / CREDENTIALS[name]
        return str(passed) if passed.exists() else None


@contextlib.contextmanager
def _naming(*files: str | None) -> Iterator[None]:
    """Add the names of unusable files to an error: the TLS library's own errors lack them."""
    try:
        yield
    except OSError as error:
        named = " or ".join(filter(None, files)) or "the system's certificates"
        raise ReportNotAccepted(f"{named} cannot be used: {error.strerror or error}") from None


def _token(path: str) -> str:
    with Path(path).open("rb") as opened:
        raw = opened.read(TOKEN_BYTES_MAX + 1)
    token = raw.strip().decode("ascii", errors="replace")
    if len(raw) > TOKEN_BYTES_MAX or not token or not token.isascii() or not token.isprintable():
        raise ReportNotAccepted(f"{path} holds no token: write one line of printable ASCII")
    return token


def _no_password() -> str:
    """Refuse an encrypted key: nobody can type its password."""
    raise ReportNotAccepted("the client's key is encrypted: give a key without a password")


def _read(raw: bytes) -> Reply:
    if not raw.strip():
        return Reply([])
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise ReportNotAccepted("the reply is not JSON") from None
    orders = found.get("orders", []) if isinstance(found, dict) else None
    if not isinstance(orders, list):
        raise ReportNotAccepted('the reply is not an object with a list of "orders"')
    return Reply(orders)


def _seconds(retry_after: str | None) -> float | None:
    """Return the wait that Retry-After asks for, in seconds; a date is ignored."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None


def _message_of(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the controller's certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "the controller did not answer in time"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error}"[:300]
