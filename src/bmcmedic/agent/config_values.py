"""What a setting of the agent may be, beyond what the driver has: URLs, listening places, words."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from bmcmedic.service.settings_values import SUN_PATH_BYTES_MAX, PlainText, TextList, UnusableValue

URL_CHARACTERS_MAX = 2048
_PORT_MAX = 65535


@dataclass(frozen=True, slots=True)
class HttpsUrl(PlainText):
    """Where a controller takes reports."""

    metavar: str = "URL"

    def check(self, value: object) -> str | None:
        """An https URL without a password in it."""
        if value is None or value == "":
            return None
        if not isinstance(value, str) or len(value) > URL_CHARACTERS_MAX:
            raise UnusableValue(
                'is no URL; give one such as "https://controller.example/api/v1/report"'
            )
        if not value.isascii() or not value.isprintable() or " " in value:
            raise UnusableValue("has characters in it that no URL has; write them as %xx")
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
            raise UnusableValue("has a #fragment, which no server is ever told")
        return value


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where metrics are served: one that is read from this host alone."""

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
    """A Unix socket, a port on a loopback address, or nowhere."""

    metavar: str = "unix:PATH|ADDRESS:PORT|off"

    def check(self, value: object) -> ListenAddress | None:
        """`unix:PATH`, `127.0.0.1:PORT`, `[::1]:PORT` or `off`."""
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
            raise UnusableValue(f"is {value!r}, which names no address; {advice}") from None
        if not address.is_loopback:
            raise UnusableValue(f"is {value!r}, which other hosts could reach; {advice}")
        return ListenAddress(None, str(address), int(port))


@dataclass(frozen=True, slots=True)
class Words(TextList):
    """Any of a few words, each once."""

    words: tuple[str, ...]

    @property
    def metavar(self) -> str:
        """The words, as a help text shows them."""
        return ",".join(self.words)

    def check(self, value: object) -> tuple[str, ...]:
        """A list of the words."""
        if not isinstance(value, list | tuple):
            raise UnusableValue(f"is {value!r}; give a list of {', '.join(self.words)}")
        for word in value:
            if word not in self.words:
                raise UnusableValue(f"has {word!r} in it; give any of {', '.join(self.words)}")
        return tuple(dict.fromkeys(value))
