"""Ports of loopback that no process uses and the kernel hands out to none."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_UNPRIVILEGED_FROM = 1024


def _not_handed_out() -> Iterator[int]:
    """Yield ports below the kernel's ephemeral ones; each process begins at another one."""
    ports = range(_UNPRIVILEGED_FROM, int(_RANGE.read_text().split()[0]))
    begin = os.getpid() * 997 % len(ports)
    return itertools.islice(itertools.cycle(ports), begin, None)


_PORTS = _not_handed_out()


def unused_port(host: str = "127.0.0.1", kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """Return a port on which nothing listens, another one each time.

    The kernel would hand out a port that it picked itself again, to the next socket of any test.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = next(_PORTS)
        with socket.socket(family, kind) as sock:
            try:
                sock.bind((host, port))
            except OSError:
                continue  # in use
        return port
