"""The control endpoint: HTTP, to change faults while the simulation runs, and to see what happened.

GET  /bmcs                 {"bmcs": [{"name", "state", "faults", "address", "port"}, …]}
GET  /bmcs/{name}          the BMC's state and counters
POST /bmcs/{name}/faults   {"faults": [SPEC, …]} replaces all faults; returns the same object
GET  /bmcs/{name}/triage   what `bmcmedic triage --json` would print on its host; 409 when
                           the host is not up
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote

from bmcmedic.errors import ConfigurationError
from bmcmedic.sim.faults import FaultSet
from bmcmedic.transport.addresses import bind_advice

BODY_BYTES_MAX = 65_536
LOOP_ANSWER_TIMEOUT_S = 10.0
CLIENT_TIMEOUT_S = 30.0

T = TypeVar("T")
Json = dict[str, Any]


class _HttpError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class ControlledBmcs(Protocol):
    """The BMCs that the endpoint controls, by their names; `rack.Rack` is one."""

    @property
    def names(self) -> Collection[str]:
        """The names of all BMCs."""

    def describe(self, name: str, now: float) -> Json:
        """Return what the endpoint shows of a BMC."""

    def set_faults(self, name: str, faults: FaultSet, now: float) -> None:
        """Replace the faults of a BMC."""

    def triage(self, name: str, now: float) -> Json | None:
        """Return what triage would print on the host of a BMC; None: the host is not up."""


class ControlEndpoint:
    """The HTTP server, in threads of its own; every command runs in the event loop's thread."""

    def __init__(
        self, address: tuple[str, int], bmcs: ControlledBmcs, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._bmcs = bmcs
        self._loop = loop
        handler = type("_BoundHandler", (_Handler,), {"endpoint": self})
        server_type = _Server6 if ":" in address[0] else _Server
        try:
            self._server = server_type(address, handler)
        except (OSError, OverflowError) as error:
            reason = bind_advice(error) if isinstance(error, OSError) else error
            raise ConfigurationError(
                f"cannot open the control endpoint at {address[0]}:{address[1]}/tcp: {reason}"
            ) from None
        self.address: tuple[str, int] = self._server.server_address[:2]  # type: ignore[assignment]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="sim-control", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving, and close the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def in_loop(self, command: Callable[[float], T]) -> T:
        """Run a command in the event loop's thread, with the loop's time as its argument."""
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(command(self._loop.time()))
            except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
                outcome.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return outcome.result(LOOP_ANSWER_TIMEOUT_S)

    def get(self, path: list[str]) -> Json:
        """Return the answer to a GET."""
        match path:
            case ["bmcs"]:
                return self.in_loop(self._list)
            case ["bmcs", name]:
                return self.in_loop(lambda now: self._bmcs.describe(self._known(name), now))
            case ["bmcs", name, "triage"]:
                triage = self.in_loop(lambda now: self._bmcs.triage(self._known(name), now))
                if triage is None:
                    raise _HttpError(HTTPStatus.CONFLICT, f"nothing runs on the host of {name}")
                return triage
        raise _not_found(path)

    def post(self, path: list[str], body: Any) -> Json:  # noqa: ANN401 - JSON from outside
        """Return the answer to a POST."""
        match path:
            case ["bmcs", name, "faults"]:
                faults = _read_faults(body)

                def replace(now: float) -> Json:
                    self._bmcs.set_faults(self._known(name), faults, now)
                    return self._bmcs.describe(name, now)

                return self.in_loop(replace)
        raise _not_found(path)

    def _known(self, name: str) -> str:
        if name not in self._bmcs.names:
            raise _HttpError(HTTPStatus.NOT_FOUND, f"there is no BMC {name!r}")
        return name

    def _list(self, now: float) -> Json:
        rows = []
        for name in self._bmcs.names:
            described = self._bmcs.describe(name, now)
            lan = described["lan"] or {}
            rows.append(
                {
                    "name": name,
                    "state": described["state"],
                    "faults": described["faults"],
                    "address": lan.get("address"),
                    "port": lan.get("port"),
                }
            )
        return {"bmcs": rows}


def _not_found(path: list[str]) -> _HttpError:
    return _HttpError(
        HTTPStatus.NOT_FOUND,
        f"no such page: /{'/'.join(path)}; there are /bmcs, /bmcs/NAME, /bmcs/NAME/triage, "
        "and POST /bmcs/NAME/faults",
    )


def _read_faults(body: Any) -> FaultSet:  # noqa: ANN401 - JSON from outside
    specs = body.get("faults") if isinstance(body, dict) else None
    if not isinstance(specs, list) or not all(isinstance(spec, str) for spec in specs):
        raise _HttpError(
            HTTPStatus.BAD_REQUEST, 'the body must be {"faults": [SPEC, …]}, each SPEC a string'
        )
    try:
        return FaultSet.parse(specs)
    except ConfigurationError as error:
        raise _HttpError(HTTPStatus.BAD_REQUEST, str(error)) from None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in the base class
        """Ignore a client that went away; show any other error, which is a defect."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    endpoint: ControlEndpoint
    timeout = CLIENT_TIMEOUT_S
    server_version = "bmcmedic-sim"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(self.endpoint.get)

    def do_POST(self) -> None:
        self._answer(lambda path: self.endpoint.post(path, self._body()))

    def _answer(self, command: Callable[[list[str]], Json]) -> None:
        path = [unquote(part) for part in self.path.split("?")[0].strip("/").split("/")]
        status = HTTPStatus.OK
        try:
            answer = command(path)
        except _HttpError as error:
            status, answer = error.status, {"error": str(error)}
        except TimeoutError:
            status = HTTPStatus.SERVICE_UNAVAILABLE
            answer = {"error": "the simulation is too busy to answer"}
        self._send(status, answer)

    def _send(self, status: HTTPStatus, answer: Json) -> None:
        body = json.dumps(answer).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer in JSON, too, what the base class refuses, such as an unknown method."""
        del explain
        self.close_connection = True
        status = HTTPStatus(code)
        self._send(status, {"error": message or status.phrase})

    def _body(self) -> Any:  # noqa: ANN401 - JSON from outside
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            raise _HttpError(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing") from None
        if not 0 <= length <= BODY_BYTES_MAX:
            self.close_connection = True
            raise _HttpError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {BODY_BYTES_MAX} bytes"
            )
        try:
            return json.loads(self.rfile.read(length))
        except (ValueError, RecursionError):
            raise _HttpError(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class has it
        """Log nothing: the simulator's output is for its user."""
