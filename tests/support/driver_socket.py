"""The driver's socket, served by a thread of the test, and both ends played by hand."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmcmedic.driver.parking import Parking
from bmcmedic.driver.requests import Request
from bmcmedic.driver.socket.backend import DriverBackend, WatchdogBackend
from bmcmedic.driver.socket.connection import ServerLimits
from bmcmedic.driver.socket.listener import listen
from bmcmedic.driver.socket.policy import Access, Peer, Rights
from bmcmedic.driver.socket.server import SocketServer
from bmcmedic.errors import BmcmedicError, QueueFull
from bmcmedic.service.runtime import ThreadRuntime
from tests.support.polling import eventually

WAIT_S_MAX = 30.0
GET_DEVICE_ID = {"netfn": 6, "command": 1}


class SetClock(ThreadRuntime):
    """Time that passes when the test says so; waiting for sockets is real."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.monotonic = lambda: self.now
        self.sleep = lambda _seconds: None


@dataclass(frozen=True, slots=True)
class Everybody(Access):
    """The same rights for all."""

    given: Rights = Rights.FULL

    def rights(self, peer: Peer) -> Rights:
        del peer
        return self.given


class FakeDriver:
    """Keeps requests until the test answers them."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.submitted: list[Request] = []
        self.abandoned: list[Request] = []
        self.extra: dict[str, Any] = {}
        runtime = ThreadRuntime()
        self.parking = Parking(runtime, runtime.lock(), runtime.signal())

    def submit(self, request: Request) -> None:
        if len(self.open_requests) >= self.room:
            raise QueueFull(f"{self.room} requests are waiting already")
        self.submitted.append(request)

    def abandon(self, request: Request) -> None:
        request.done = True
        self.abandoned.append(request)

    def expire(self) -> float | None:
        return None

    def status(self) -> dict[str, Any]:
        return {"interface": "fake", "waiting": len(self.open_requests), **self.extra}

    @property
    def open_requests(self) -> list[Request]:
        return [request for request in self.submitted if not request.done]

    def next_request(self) -> Request:
        """The oldest request that waits, once there is one."""
        eventually(lambda: self.open_requests)
        return self.open_requests[0]

    def answer(
        self,
        data: bytes = b"",
        completion_code: int = 0,
        *,
        error: BmcmedicError | None = None,
        age_s: float | None = None,
    ) -> Request:
        """Settle the oldest request, in this thread."""
        request = self.next_request()
        head = bytes((request.data[0] | 4, request.data[1], completion_code))
        request.settle(None if error else head + data, error, age_s)
        return request


class FakeWatchdog:
    """Notes its orders."""

    def __init__(self, *, in_charge: bool = True) -> None:
        self.in_charge = in_charge
        self.orders: list[tuple[str, float | None]] = []

    def status(self) -> dict[str, Any]:
        return {"in_charge": self.in_charge, "settled": True}

    @property
    def needs_interface(self) -> bool:
        return True

    def why_not_parked(self) -> str | None:
        return "it is in charge" if self.in_charge else None

    def order_lengthen(self, timeout_s: float) -> None:
        self.orders.append(("lengthen", timeout_s))

    def order_disarm(self) -> None:
        self.in_charge = False
        self.orders.append(("disarm", None))

    def order_resume(self) -> None:
        self.in_charge = True
        self.orders.append(("resume", None))


class LineClient:
    """A client made by hand: it says what the test wants it to say."""

    def __init__(self, path: str, *, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(WAIT_S_MAX)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        until = time.monotonic() + WAIT_S_MAX
        while True:
            try:
                self.socket.connect(path)
                break
            except BlockingIOError:  # the backlog is full
                assert time.monotonic() < until
                time.sleep(0.001)
        self._held = b""

    def __enter__(self) -> LineClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def say(self, **fields: Any) -> None:  # noqa: ANN401 - JSON
        self.socket.sendall(json.dumps(fields).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """The next line; an empty object when the driver hung up."""
        while b"\n" not in self._held:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                assert not self._held
                return {}
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        heard = json.loads(line)
        assert isinstance(heard, dict)
        return heard

    def ask(self, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        self.say(**fields)
        return self.hear()


@dataclass
class Served:
    """A server that runs, and what it serves."""

    path: str
    server: SocketServer
    thread: threading.Thread
    reports: list[str]

    def client(self) -> LineClient:
        return LineClient(self.path)

    def socket_status(self) -> dict[str, Any]:
        with self.client() as client:
            status = client.ask(id=0, op="status")["status"]["socket"]
        assert isinstance(status, dict)
        return status

    def wake(self) -> None:
        """Let it see that time has passed."""
        self.server._wake()

    def stop(self) -> None:
        self.server.stop()
        self.thread.join(WAIT_S_MAX)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def serving(
    directory: Path,
    driver: DriverBackend,
    watchdog: WatchdogBackend | None = None,
    *,
    clock: ThreadRuntime | None = None,
    access: Access | None = None,
    limits: ServerLimits | None = None,
) -> Iterator[Served]:
    path = str(directory / "driver.sock")
    reports: list[str] = []
    server = SocketServer(
        listen(path),
        driver,
        watchdog,
        clock or ThreadRuntime(),
        access or Everybody(),
        limits,
        reports.append,
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    served = Served(path, server, thread, reports)
    try:
        yield served
    finally:
        served.stop()
        server.close()
        assert not os.path.lexists(path)
