"""The front end for one virtual machine: QEMU connects, and the BMC becomes the machine's own.

QEMU is the client (`-chardev socket,…,reconnect=1` and `-device ipmi-bmc-extern`). One machine can
connect at a time. It may disconnect and come back; a request that its interface still waits for is
answered then.
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
"""An answer that takes longer is held, or QEMU would answer in its place; in seconds."""

INTRODUCTION_TIMEOUT_S = 5.0
"""A client that has not introduced itself by then is disconnected, in seconds.

QEMU introduces itself at once. Any other client would only keep it out.
"""

UNREAD_BYTES_MAX = 65_536
"""A client with more unread bytes than this is disconnected; a machine needs a few hundred."""

BACKLOG = 4

KCS = Interface.SYSTEM_INTERFACE


def parse_vm_socket(text: str) -> Address | Path:
    """Parse `ADDR:PORT`, or a path, which has a slash in it.

    Raises: ConfigurationError.
    """
    if "/" in text:
        return Path(text)
    try:
        return parse_address(text)
    except ConfigurationError:
        raise ConfigurationError(
            f"{text!r} is no address of a socket; write ADDR:PORT, such as 127.0.0.1:9002, "
            "or a path, such as ./bmc1.sock"
        ) from None


def bind_stream(address: Address | Path) -> socket.socket:
    """Return a non-blocking socket that listens at that address.

    Raises: ConfigurationError.
    """
    if isinstance(address, Path):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES_MAX)
        if isinstance(address, Path):
            _remove_stale(address)
            bound.bind(str(address))
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        shown = str(address) if isinstance(address, Path) else f"{format_address(address)}/tcp"
        raise ConfigurationError(
            f"cannot listen for a virtual machine at {shown}: {_advice(address, error)}"
        ) from None
    return bound


def _advice(address: Address | Path, error: OSError) -> str:
    if isinstance(address, Path):
        return error.strerror or str(error)
    return bind_advice(error)


def _remove_stale(path: Path) -> None:
    """Remove a socket that no process listens at any more, and no other file."""
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
    """One BMC as the BMC of a virtual machine, which does what the simulated host does."""

    def __init__(
        self,
        bmc: SimBmc,
        bound: socket.socket,
        loop: asyncio.AbstractEventLoop,
        latency_s: float = 0.0,
    ) -> None:
        """Own the bound socket from now on.

        `latency_s`: how much later than over LAN every answer comes, in seconds.
        """
        self.bmc = bmc
        self.discarded_frames = 0
        """Number of frames that could not be decoded."""
        self.refused_clients = 0
        """Number of connections that were refused, as a machine was connected already."""
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
        """The state of each line, attention and interrupt, that was last sent to the machine."""
        bmc.host.machine = self

    async def start(self) -> None:
        """Start serving."""
        self._server = await self._loop.create_server(lambda: _VmClient(self), sock=self._bound)
        self.watch_timer()

    def close(self) -> None:
        """Stop serving, and close the socket."""
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
        """Whether a machine is connected."""
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
        """Return what the control endpoint shows of this socket."""
        return {
            "socket": self.shown_address,
            "connected": self.is_connected,
            "refused_clients": self.refused_clients,
            "discarded_frames": self.discarded_frames,
        }

    @property
    def shown_address(self) -> str:
        """The address as `--vm-socket` takes it."""
        if isinstance(self.address, Path):
            return str(self.address)
        return format_address(self.address)

    # ---- the client

    def accept_client(self, client: _VmClient) -> bool:
        """Accept a client; return False when there is one already."""
        if self._client is not None:
            self.refused_clients += 1
            return False
        self._client = client
        self._shown = {}
        self._send(self._end.connected())
        if self.bmc.answers(KCS):
            self._send(self._end.release(CompletionCode.INITIALIZING))
        return True

    def client_gone(self, client: _VmClient) -> None:
        """Note that a client's connection is gone."""
        if self._client is client:
            self._client = None
            self._end.disconnected()
            self._forget_answer()

    @property
    def is_introduced(self) -> bool:
        """Whether the client has introduced itself."""
        return self._end.version is not None

    def receive(self, data: bytes) -> None:
        """Handle bytes from the machine."""
        now = self._loop.time()
        self.bmc.handle_timer(now)
        for event in self._end.receive(data):
            if isinstance(event, DamagedFrame):
                self.discarded_frames += 1
            elif isinstance(event, VmRequest):
                self._execute(event, now)
            elif event.code is VmControlCode.CAPABILITIES:
                self._machine_connected(now)
            elif event.code is VmControlCode.RESET:
                self._forget_answer()
        self.watch_timer()

    def _machine_connected(self, now: float) -> None:
        if not self.bmc.host.power_on:
            # A machine that runs has power: starting QEMU is pressing the power button.
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

    # ---- the BMC's own events

    def watch_timer(self) -> None:
        """Set the alarm for the BMC's next own event."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.bmc.timer is not None:
            self._alarm = self._loop.call_at(self.bmc.timer, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        self.bmc.handle_timer(self._loop.time())
        self.watch_timer()

    def bmc_answers(self, answers: bool) -> None:
        """Handle a change of the BMC's faults, or the start or end of its restart."""
        returned = answers and not self._answers
        self._answers = answers
        if self.bmc.faults.kcs_wedge is not None:
            self._send(self._end.hold())
        elif returned and self._client is not None:
            self._send(self._end.release(CompletionCode.INITIALIZING))
        self._show_lines()

    def _show_lines(self) -> None:
        """Send the state of attention (SMS_ATN) and interrupt, where it changed."""
        volatile = self.bmc.volatile
        attention = bool(volatile.message_flags) and self.bmc.answers(KCS)
        interrupts = bool(
            volatile.global_enables & BmcGlobalEnables.RECEIVE_MESSAGE_QUEUE_INTERRUPT
        )
        lines = {
            "interrupt": VmControlCode.ENABLE_IRQ if interrupts else VmControlCode.DISABLE_IRQ,
            "attention": VmControlCode.ATTENTION_IRQ if attention else VmControlCode.NO_ATTENTION,
        }
        for line, code in lines.items():
            if self._shown.get(line) is not code and self._control(code):
                self._shown[line] = code

    # ---- events of the host (`VirtualMachine`)

    def power_off(self, *, comes_back: bool) -> None:
        """Turn the machine off; for a power cycle QEMU can only be reset."""
        self._control(VmControlCode.RESET if comes_back else VmControlCode.POWER_OFF)

    def reset(self) -> None:
        """Reset the machine."""
        self._control(VmControlCode.RESET)

    def shut_down(self) -> None:
        """Press the machine's power button for a moment."""
        self._control(VmControlCode.GRACEFUL_SHUTDOWN)

    def interrupt(self) -> None:
        """Send the machine an NMI."""
        self._control(VmControlCode.NMI)

    def pretimeout(self) -> None:
        """Show the pretimeout to the machine's driver, by the attention line."""
        self._show_lines()

    def _control(self, code: VmControlCode) -> bool:
        frame = self._end.control(code) if self._client is not None else None
        self._send(frame)
        return frame is not None

    def _send(self, frame: bytes | None) -> None:
        if frame is not None and self._client is not None:
            self._client.send(frame)


class _VmClient(asyncio.Protocol):
    """One connection to the socket."""

    def __init__(self, port: VmPort) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._introduction: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Become the machine's connection, or close if there is one already."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._port.accept_client(self):
            self._transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._introduction = loop.call_later(INTRODUCTION_TIMEOUT_S, self._close_unless_introduced)

    def _close_unless_introduced(self) -> None:
        if not self._port.is_introduced:
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Pass bytes on; those of a refused client are ignored."""
        if self._introduction is not None:
            self._port.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the client is gone, for whatever reason."""
        del exc
        if self._introduction is not None:
            self._introduction.cancel()
        self._port.client_gone(self)

    def send(self, frame: bytes) -> None:
        """Send a frame; disconnect a client that does not read."""
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
