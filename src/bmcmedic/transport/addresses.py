"""Parse and format `host:port`, and bind sockets to such an address."""

from __future__ import annotations

import errno
import socket

from bmcmedic.errors import ConfigurationError

PORT_MAX = 65_535

Address = tuple[str, int]


def format_address(address: Address) -> str:
    """Return `host:port`, with an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> Address:
    """Parse `host:port`, with an IPv6 host in brackets; raises ConfigurationError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host) != bracketed:
        raise ConfigurationError(
            f"{text!r} is no address; write ADDR:PORT, such as 127.0.0.1:6230 or [::1]:6230"
        )
    if not (port.isascii() and port.isdigit() and int(port[:6]) <= PORT_MAX):
        raise ConfigurationError(f"{text!r}: the port must be 0 to {PORT_MAX}, 0 for any")
    return host, int(port)


def bind_udp(address: Address) -> socket.socket:
    """Return a non-blocking UDP socket bound to the address; raises ConfigurationError."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigurationError(
            f"cannot listen at {format_address(address)}/udp: {bind_advice(error)}"
        ) from None
    return bound


def bind_advice(error: OSError) -> str:
    """Return why an address could not be bound, and what to try."""
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; use one of 127.0.0.0/8, or add it first"
    if error.errno == errno.EACCES:
        return "ports below 1024 need root; use another port, such as 6230"
    if error.errno == errno.EADDRINUSE:
        return "something listens there already; use another port, or 0 for any"
    return error.strerror or str(error)
