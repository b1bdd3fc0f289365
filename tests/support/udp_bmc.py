"""Managed systems on real UDP sockets of loopback, served by one thread."""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.managed_system import IncomingRequest, ManagedSystem, User
from bmcmedic.transport.aes import aes_cbc
from tests.support.ports import unused_port

PASSWORD = b"secret"
CREDENTIALS = Credentials("admin", PASSWORD)
STOP_TIMEOUT_S = 30.0

Address = tuple[Any, ...]
Answer = tuple[int, bytes] | None
"""Completion code and data, or None for silence."""


def chassis_on(incoming: IncomingRequest) -> Answer:
    """Answer that power is on; no other command is supported."""
    key = incoming.message.netfn, incoming.message.command
    return (0, b"\x21\x10\x40") if key == (0, 1) else (0xC1, b"")


@dataclass
class UdpBmc:
    """One BMC and its socket; a test may change its attributes while it runs."""

    sock: socket.socket
    managed: ManagedSystem
    execute: Callable[[IncomingRequest], Answer] = chassis_on
    loss: float = 0.0
    executed: Counter[tuple[int, int]] = field(default_factory=Counter)
    datagrams: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> Address:
        """The address at which it listens, or listened before its port was closed."""
        return self._address

    def __post_init__(self) -> None:
        self._address: Address = self.sock.getsockname()

    @property
    def target(self) -> str:
        host, port = self.address[:2]
        return f"[{host}]:{port}" if len(self.address) == 4 else f"{host}:{port}"

    def close_port(self) -> None:
        """Close the port: from now on the kernel answers with ICMP port unreachable."""
        with self.lock:
            self.sock.close()

    def restart(self) -> None:
        """Restart the BMC, which forgets every session."""
        with self.lock:
            self.managed.forget_sessions()

    def sessions(self) -> int:
        with self.lock:
            return self.managed.session_count

    def lets_all_sessions_go(self) -> bool:
        """Return whether all sessions are closed once the datagrams on their way are handled."""
        until = time.monotonic() + STOP_TIMEOUT_S
        while self.sessions() and time.monotonic() < until:
            time.sleep(0.001)
        return self.sessions() == 0

    def serve(self) -> None:
        with self.lock:
            if self.sock.fileno() < 0:
                return
            with contextlib.suppress(OSError):
                while True:
                    data, peer = self.sock.recvfrom(2048)
                    answer = self._answer(data, peer)
                    if answer is not None and self.rng.random() >= self.loss:
                        self.sock.sendto(answer, peer)

    def _answer(self, data: bytes, peer: Address) -> bytes | None:
        self.datagrams += 1
        if self.rng.random() < self.loss:
            return None
        now = time.monotonic()
        received = self.managed.receive_datagram(data, peer, now)
        if not isinstance(received, IncomingRequest):
            return received
        self.executed[received.message.netfn, received.message.command] += 1
        answer = self.execute(received)
        return None if answer is None else self.managed.respond(received, *answer, now)


class UdpBmcs:
    """Many BMCs, and the thread that serves them."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._bmcs: list[UdpBmc] = []
        self._thread = threading.Thread(target=self._run, name="udp-bmcs")

    def add(self, host: str = "127.0.0.1", port: int = 0, **options: Any) -> UdpBmc:  # noqa: ANN401
        """Start one more BMC, on a free port unless one is given."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((host, port))
        sock.setblocking(False)
        settings: dict[str, Any] = {
            "guid": bytes(range(16)),
            "users": (User(2, b"admin", PASSWORD, PrivilegeLevel.ADMINISTRATOR),),
            "random_bytes": os.urandom,
            "aes": aes_cbc,
        }
        bmc = UdpBmc(sock, ManagedSystem(**(settings | options)))
        self._bmcs.append(bmc)
        self._selector.register(sock, selectors.EVENT_READ, bmc)
        return bmc

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        os.write(self._wake_write, b"x")
        self._thread.join(STOP_TIMEOUT_S)
        assert not self._thread.is_alive()
        self._selector.close()
        for bmc in self._bmcs:
            bmc.sock.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                key.data.serve()


@contextlib.contextmanager
def udp_bmcs() -> Iterator[UdpBmcs]:
    """Run a server for BMCs until the block ends."""
    server = UdpBmcs()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def closed_address(host: str = "127.0.0.1") -> Address:
    """Return an address of loopback at which nothing listens, another one each time."""
    port = unused_port(host)
    return (host, port, 0, 0) if ":" in host else (host, port)


@contextlib.contextmanager
def silent_address(host: str = "127.0.0.1") -> Iterator[Address]:
    """Yield an address that receives datagrams and never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        yield sock.getsockname()
