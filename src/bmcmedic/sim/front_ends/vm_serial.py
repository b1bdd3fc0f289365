"""The front end for one virtual machine: QEMU connects, and this BMC is the machine's own.

QEMU is the client (`-chardev socket,…,reconnect=1` and `-device ipmi-bmc-extern`). One machine at a
time; it may go and come back, and what its interface still waits for is answered then.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
from pathlib import Path
from typing import Any, cast

from bmcmedic.errors import ConfigurationError
from bmcmedic.ipmi.commands.chassis import RestartCause
from bmcmedic.ipmi.commands.messaging import BmcGlobalEnables
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.vm_serial import ANSWER_TIMEOUT_S, DamagedFrame, VmBmc, VmControlCode, VmRequest
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.dispatch import execute
from bmcmedic.sim.handler_call import HandlerAnswer, Interface
from bmcmedic.transport.addresses import Address, bind_advice, format_address, parse_address

HOLD_FROM_S = ANSWER_TIMEOUT_S - 0.5
"""A later answer than this would find that QEMU has answered by itself, if it were let."""

INTRODUCTION_TIMEOUT_S = 5.0
"""QEMU says what it is as it connects; who does not would only keep it out."""

UNREAD_BYTES_MAX = 65_536
"""A client that reads nothing is let go from here on; a machine needs a few hundred bytes."""

BACKLOG = 4

KCS = Interface.SYSTEM_INTERFACE


def parse_vm_socket(text: str) -> Address | Path:
    """Read `ADDR:PORT`, or a path, which has a slash in it; raises ConfigurationError."""
    if "/" in text:
        return Path(text)
    try:
        return parse_address(text)
    except ConfigurationError:
        raise ConfigurationError(
            f"{text!r} is no place for a socket; write ADDR:PORT, such as 127.0.0.1:9002, "
            "or a path, such as ./bmc1.sock"
        ) from None


def bind_stream(place: Address | Path) -> socket.socket:
    """A non-blocking listening socket there; raises ConfigurationError."""
    if isinstance(place, Path):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES_MAX)
        if isinstance(place, Path):
            _remove_stale(place)
            bound.bind(str(place))
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(place)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        shown = str(place) if isinstance(place, Path) else f"{format_address(place)}/tcp"
        raise ConfigurationError(
            f"cannot wait for a virtual machine at {shown}: {_advice(place, error)}"
        ) from None
    return bound


def _advice(place: Address | Path, error: OSError) -> str:
    if isinstance(place, Path):
        return error.strerror or str(error)
    return bind_advice(error)


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens at any more, and nothing else."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        with contextlib.suppress(ConnectionRefusedError):
            probe.connect(str(path))
            return
    path.unlink()


class VmPort:
    """One BMC as the BMC of a virtual machine; what the simulated host does, the machine does."""

    def __init__(
        self,
        bmc: SimBmc,
        bound: socket.socket,
        loop: asyncio.AbstractEventLoop,
        latency_s: float = 0.0,
    ) -> None:
        """The bound socket belongs to the port from now on.

        `latency_s`: how much later than over LAN every answer comes.
        """
        self.bmc = bmc
        self.discarded_frames = 0
        """Frames that could not be read."""
        self.refused_clients = 0
        """Connections while there was a machine already."""
        name = bound.getsockname()
        self.address: Address | Path = (
            Path(name) if bound.family == socket.AF_UNIX else cast("Address", name[:2])
        )
        self._bound = bound
        self._inode = self._path_inode()
        self._loop = loop
        self._latency_s = latency_s
        self._end = VmBmc()
        self._client: _VmClient | None = None
        self._server: asyncio.Server | None = None
        self._answering: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._answers = bmc.answers(KCS)
        self._shown: dict[str, VmControlCode] = {}
        """What the machine was last told of each line: attention and interrupt."""
        bmc.host.machine = self

    async def start(self) -> None:
        """Begin to serve."""
        self._server = await self._loop.create_server(lambda: _VmClient(self), sock=self._bound)
        self.watch_timer()

    def close(self) -> None:
        """Stop serving."""
        self.bmc.host.machine = None
        for handle in (self._alarm, self._answering):
            if handle is not None:
                handle.cancel()
        if self._client is not None:
            self._client.abort()
        if self._server is not None:
            self._server.close()
        self._bound.close()
        if isinstance(self.address, Path) and self._path_inode() == self._inode:
            self.address.unlink(missing_ok=True)

    def _path_inode(self) -> int | None:
        if not isinstance(self.address, Path):
            return None
        with contextlib.suppress(OSError):
            return self.address.stat().st_ino
        return None

    @property
    def is_connected(self) -> bool:
        """Whether a machine is there."""
        return self._client is not None

    @property
    def machine_waits(self) -> bool:
        """Whether the machine's interface waits for the answer to a request."""
        return self._end.unanswered is not None

    @property
    def is_answering(self) -> bool:
        """Whether an answer to the machine is ready to leave at a later time."""
        return self._answering is not None

    def describe(self) -> dict[str, Any]:
        """What the control door tells of it."""
        return {
            "socket": self.shown_address,
            "connected": self.is_connected,
            "refused_clients": self.refused_clients,
            "discarded_frames": self.discarded_frames,
        }

    @property
    def shown_address(self) -> str:
        """Where it is, as `--vm-socket` takes it."""
        if isinstance(self.address, Path):
            return str(self.address)
        return format_address(self.address)

    # ---- what a client does

    def client_came(self, client: _VmClient) -> bool:
        """A client connected; False when there is one already."""
        if self._client is not None:
            self.refused_clients += 1
            return False
        self._client = client
        self._shown = {}
        self._send(self._end.connected())
        if self.bmc.answers(KCS):
            self._send(self._end.release(CompletionCode.INITIALIZING))
        return True

    def client_went(self, client: _VmClient) -> None:
        """A client's connection is gone."""
        if self._client is client:
            self._client = None
            self._end.disconnected()
            self._forget_answer()

    @property
    def client_is_known(self) -> bool:
        """Whether the client has said what it is."""
        return self._end.version is not None

    def receive(self, data: bytes) -> None:
        """Bytes came from the machine."""
        now = self._loop.time()
        self.bmc.handle_timer(now)
        for event in self._end.receive(data):
            if isinstance(event, DamagedFrame):
                self.discarded_frames += 1
            elif isinstance(event, VmRequest):
                self._execute(event, now)
            elif event.code is VmControlCode.CAPABILITIES:
                self._machine_is_there(now)
            elif event.code is VmControlCode.RESET:
                self._forget_answer()
        self.watch_timer()

    def _machine_is_there(self, now: float) -> None:
        if not self.bmc.host.power_on:
            # A machine that runs has power: who started it pressed the button.
            self.bmc.power_on(now, RestartCause.POWER_BUTTON)
        self._show_lines()

    # ---- requests and answers

    def _execute(self, request: VmRequest, now: float) -> None:
        self._forget_answer()
        if self.bmc.faults.kcs_wedge is not None:
            self._send(self._end.hold())
        answer = execute(self.bmc, request.to_message(), KCS, now)
        self._show_lines()
        if answer is None:
            return
        service_time_s = answer.service_time_s + self._latency_s
        if service_time_s > HOLD_FROM_S:
            self._send(self._end.hold())
        if service_time_s > 0:
            when = now + service_time_s
            self._answering = self._loop.call_at(when, self._respond, request, answer)
        else:
            self._respond(request, answer)

    def _respond(self, request: VmRequest, answer: HandlerAnswer) -> None:
        self._answering = None
        if self.bmc.answers(KCS):
            self._send(self._end.answer(request, answer.completion_code, answer.data))

    def _forget_answer(self) -> None:
        if self._answering is not None:
            self._answering.cancel()
            self._answering = None

    # ---- what the BMC does by itself

    def watch_timer(self) -> None:
        """Call the BMC when it next wants to do something by itself."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.bmc.timer is not None:
            self._alarm = self._loop.call_at(self.bmc.timer, self._alarm_rings)

    def _alarm_rings(self) -> None:
        self._alarm = None
        self.bmc.handle_timer(self._loop.time())
        self.watch_timer()

    def bmc_answers(self, answers: bool) -> None:
        """The BMC's faults changed, it went to restart, or it has restarted."""
        returned = answers and not self._answers
        self._answers = answers
        if self.bmc.faults.kcs_wedge is not None:
            self._send(self._end.hold())
        elif returned and self._client is not None:
            self._send(self._end.release(CompletionCode.INITIALIZING))
        self._show_lines()

    def _show_lines(self) -> None:
        """Tell the machine of attention (SMS_ATN) and of the interrupt, where they changed."""
        volatile = self.bmc.volatile
        calls = bool(volatile.message_flags) and self.bmc.answers(KCS)
        interrupts = bool(
            volatile.global_enables & BmcGlobalEnables.RECEIVE_MESSAGE_QUEUE_INTERRUPT
        )
        lines = {
            "interrupt": VmControlCode.ENABLE_IRQ if interrupts else VmControlCode.DISABLE_IRQ,
            "attention": VmControlCode.ATTENTION_IRQ if calls else VmControlCode.NO_ATTENTION,
        }
        for line, code in lines.items():
            if self._shown.get(line) is not code and self._control(code):
                self._shown[line] = code

    # ---- what happens to the host

    def power_off(self, *, comes_back: bool) -> None:
        """The host's power goes; where it comes back at once, QEMU can only be reset."""
        self._control(VmControlCode.RESET if comes_back else VmControlCode.POWER_OFF)

    def reset(self) -> None:
        """The host's reset line is pulled."""
        self._control(VmControlCode.RESET)

    def shut_down(self) -> None:
        """The host's power button is pressed for a moment."""
        self._control(VmControlCode.GRACEFUL_SHUTDOWN)

    def interrupt(self) -> None:
        """The host gets an NMI."""
        self._control(VmControlCode.NMI)

    def pretimeout(self) -> None:
        """The watchdog's pretimeout was reached, which the host's driver is told of."""
        self._show_lines()

    def _control(self, code: VmControlCode) -> bool:
        frame = self._end.control(code) if self._client is not None else None
        self._send(frame)
        return frame is not None

    def _send(self, frame: bytes | None) -> None:
        if frame is not None and self._client is not None:
            self._client.send(frame)


class _VmClient(asyncio.Protocol):
    """One connection."""

    def __init__(self, port: VmPort) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._introduction: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the place of the machine, or go."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._port.client_came(self):
            self._transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._introduction = loop.call_later(INTRODUCTION_TIMEOUT_S, self._introduce_or_go)

    def _introduce_or_go(self) -> None:
        if not self._port.client_is_known:
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes came; a refused client's are nobody's."""
        if self._introduction is not None:
            self._port.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, for whatever reason."""
        del exc
        if self._introduction is not None:
            self._introduction.cancel()
        self._port.client_went(self)

    def send(self, frame: bytes) -> None:
        """Send, or let go who does not read."""
        assert self._transport is not None
        if self._transport.is_closing():
            return
        self._transport.write(frame)
        if self._transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self._transport.abort()

    def abort(self) -> None:
        """End the connection at once."""
        assert self._transport is not None
        self._transport.abort()
