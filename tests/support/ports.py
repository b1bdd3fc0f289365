"""Ports of loopback that nobody has and nobody gets."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_UNPRIVILEGED_FROM = 1024


def _not_handed_out() -> Iterator[int]:
    """Below those that the kernel gives to who asks for any; each process begins elsewhere."""
    ports = range(_UNPRIVILEGED_FROM, int(_RANGE.read_text().split()[0]))
    begin = os.getpid() * 997 % len(ports)
    return itertools.islice(itertools.cycle(ports), begin, None)


_PORTS = _not_handed_out()


def unused_port(host: str = "127.0.0.1", kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """A port where nobody listens, another one each time.

    One that the kernel picked and took back would be handed out again: to the next socket that any
    test opens.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = next(_PORTS)
        with socket.socket(family, kind) as sock:
            try:
                sock.bind((host, port))
            except OSError:
                continue  # somebody's
        return port
