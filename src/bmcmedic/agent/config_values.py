"""Kinds of values that only the agent's settings have: URLs, listening addresses, word lists."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from bmcmedic.service.settings_values import SUN_PATH_BYTES_MAX, PlainText, TextList, UnusableValue

URL_CHARACTERS_MAX = 2048
"""Longest URL, in characters."""
_PORT_MAX = 65535


@dataclass(frozen=True, slots=True)
class HttpsUrl(PlainText):
    """The URL to which reports are posted."""

    metavar: str = "URL"

    def check(self, value: object) -> str | None:
        """Return an https URL that holds no password, or None."""
        if value is None or value == "":
            return None
        if not isinstance(value, str) or len(value) > URL_CHARACTERS_MAX:
            raise UnusableValue(
                'is no URL; give one such as "https://controller.example/api/v1/report"'
            )
        if not value.isascii() or not value.isprintable() or " " in value:
            raise UnusableValue("has characters that a URL cannot have; write them as %xx")
        try:
            parts = urlsplit(value)
            port_is_good = parts.port is None or 0 < parts.port <= _PORT_MAX
        except ValueError as error:
            raise UnusableValue(f"is no URL: {error}") from None
        if parts.scheme != "https":
            raise UnusableValue(f"begins with {parts.scheme or value[:16]!r}; give an https:// URL")
        if not parts.hostname or not port_is_good:
            raise UnusableValue("names no host and port; write https://HOST[:PORT]/PATH")
        if parts.username is not None or parts.password is not None:
            raise UnusableValue("has a user or password in it; give controller.token_file instead")
        if parts.fragment:
            raise UnusableValue("has a #fragment, which is never sent to a server")
        return value


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """The address of the metrics endpoint, which only this host can reach."""

    unix_path: str | None
    address: str | None = None
    port: int = 0

    def __str__(self) -> str:
        if self.unix_path is not None:
            return f"unix:{self.unix_path}"
        host = f"[{self.address}]" if ":" in str(self.address) else self.address
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Listening(PlainText):
    """A Unix socket, a port on a loopback address, or off."""

    metavar: str = "unix:PATH|ADDRESS:PORT|off"

    def check(self, value: object) -> ListenAddress | None:
        """Return the address for `unix:PATH`, `127.0.0.1:PORT` or `[::1]:PORT`; None for `off`."""
        if isinstance(value, ListenAddress):
            return value
        advice = 'give "unix:/PATH", "127.0.0.1:PORT", "[::1]:PORT" or "off"'
        if not isinstance(value, str):
            raise UnusableValue(f"is {value!r}; {advice}")
        if value == "off":
            return None
        if value.startswith("unix:"):
            path = value.removeprefix("unix:")
            if not path.startswith("/") or "\0" in path:
                raise UnusableValue(f"is {value!r}; give an absolute path after unix:")
            if len(path.encode()) > SUN_PATH_BYTES_MAX:
                raise UnusableValue(
                    f"has a path of {len(path.encode())} bytes; {SUN_PATH_BYTES_MAX} fit"
                )
            return ListenAddress(path)
        host, colon, port = value.rpartition(":")
        if not colon or not port.isdecimal() or not 0 <= int(port) <= _PORT_MAX:
            raise UnusableValue(f"is {value!r}; {advice}")
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise UnusableValue(f"is {value!r}, which has no IP address; {advice}") from None
        if not address.is_loopback:
            raise UnusableValue(f"is {value!r}, which other hosts could reach; {advice}")
        return ListenAddress(None, str(address), int(port))


@dataclass(frozen=True, slots=True)
class Words(TextList):
    """A list of words out of a few, each once."""

    words: tuple[str, ...]

    @property
    def metavar(self) -> str:
        """The allowed words, as a help text shows them."""
        return ",".join(self.words)

    def check(self, value: object) -> tuple[str, ...]:
        """Return the words of a list, each once."""
        if not isinstance(value, list | tuple):
            raise UnusableValue(f"is {value!r}; give a list of {', '.join(self.words)}")
        for word in value:
            if word not in self.words:
                raise UnusableValue(f"contains {word!r}; give any of {', '.join(self.words)}")
        return tuple(dict.fromkeys(value))
