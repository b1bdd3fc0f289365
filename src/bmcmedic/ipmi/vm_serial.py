"""The OpenIPMI VM protocol, which connects a virtual machine's KCS registers to an external BMC.

Shape: a message is sequence | netFn<<2 | LUN | command | [completion code] | data … | checksum,
then 0xA0. The bytes before 0xA0 add up to 0 modulo 256. A control message is a code and for some
codes a value, then 0xA1. A byte 0xA0, 0xA1 or 0xAA inside of either is escaped: it becomes 0xAA and
the byte with bit 4 set. The checksum covers the unescaped bytes, and may itself need an escape.

`VmBmc` is the BMC's end. `VmHost` is the machine's end, with the behaviour of QEMU's
`ipmi-bmc-extern` that a BMC must allow for.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import NamedTuple

from bmcmedic.errors import LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.message import RequestMessage, checksum

PROTOCOL_VERSION = 1
"""The version that either end announces first."""
END_OF_MESSAGE = 0xA0
END_OF_CONTROL = 0xA1
ESCAPE = 0xAA
ESCAPED_BIT = 0x10
SPECIAL_BYTES = frozenset((END_OF_MESSAGE, END_OF_CONTROL, ESCAPE))

FRAME_BYTES_MAX = 302
"""Longest frame without escapes, in bytes, sequence number and checksum included; QEMU's limit."""

ANSWER_TIMEOUT_S = 4.0
"""Time after which QEMU itself answers the machine with completion code 0xC3, in seconds."""

_REQUEST_BYTES_MIN = 4
_RESPONSE_BYTES_MIN = 5
_SECTION = "none: OpenIPMI's VM protocol"


class VmControlCode(IntEnum):
    """The codes of control messages; the machine sends only 0x04, 0x08 and 0xFF."""

    NO_ATTENTION = 0x00
    ATTENTION = 0x01
    ATTENTION_IRQ = 0x02
    POWER_OFF = 0x03
    RESET = 0x04
    """From the BMC: reset the machine. From the machine: its interface was reset."""
    ENABLE_IRQ = 0x05
    DISABLE_IRQ = 0x06
    NMI = 0x07
    CAPABILITIES = 0x08
    GRACEFUL_SHUTDOWN = 0x09
    VERSION = 0xFF


_CODES_WITH_VALUE = frozenset((VmControlCode.CAPABILITIES, VmControlCode.VERSION))


class VmCapability(IntFlag):
    """What the BMC can make the machine do."""

    POWER = 0x01
    RESET = 0x02
    IRQ = 0x04
    NMI = 0x08
    ATTENTION = 0x10
    GRACEFUL_SHUTDOWN = 0x20


ALL_CAPABILITIES = VmCapability(0x3F)

_REQUIRED_CAPABILITY = {
    VmControlCode.NO_ATTENTION: VmCapability.ATTENTION,
    VmControlCode.ATTENTION: VmCapability.ATTENTION,
    VmControlCode.ATTENTION_IRQ: VmCapability.ATTENTION,
    VmControlCode.POWER_OFF: VmCapability.POWER,
    VmControlCode.RESET: VmCapability.RESET,
    VmControlCode.ENABLE_IRQ: VmCapability.IRQ,
    VmControlCode.DISABLE_IRQ: VmCapability.IRQ,
    VmControlCode.NMI: VmCapability.NMI,
    VmControlCode.GRACEFUL_SHUTDOWN: VmCapability.GRACEFUL_SHUTDOWN,
}


class VmRequest(NamedTuple):
    """A request of the machine; `netfn` is even."""

    sequence: int
    netfn: int
    command: int
    data: bytes = b""
    lun: int = 0

    def encode(self) -> bytes:
        """Return the frame; raises LocalProtocolError for a field out of range."""
        _check_fields((self.sequence, self.command), self.netfn, self.lun, is_response=False)
        head = bytes((self.sequence, self.netfn << 2 | self.lun, self.command))
        return _message_frame(head + self.data)

    @classmethod
    def decode(cls, payload: bytes) -> VmRequest:
        """Decode the unescaped bytes before 0xA0; raises RemoteProtocolError."""
        _check_payload(payload, _REQUEST_BYTES_MIN, is_response=False)
        sequence, network, command = payload[:3]
        return cls(sequence, network >> 2, command, payload[3:-1], network & 3)

    def to_message(self) -> RequestMessage:
        """Return the request in the form that the BMC's command handlers take."""
        return RequestMessage(self.netfn, self.command, self.data, responder_lun=self.lun)


class VmResponse(NamedTuple):
    """A response of the BMC; `netfn` is odd."""

    sequence: int
    netfn: int
    command: int
    completion_code: int
    data: bytes = b""
    lun: int = 0

    @classmethod
    def to(cls, request: VmRequest, completion_code: int, data: bytes = b"") -> VmResponse:
        """Return the response to a request."""
        return cls(
            request.sequence,
            request.netfn | 1,
            request.command,
            completion_code,
            data,
            request.lun,
        )

    def encode(self) -> bytes:
        """Return the frame; raises LocalProtocolError for a field out of range."""
        numbers = (self.sequence, self.command, self.completion_code)
        _check_fields(numbers, self.netfn, self.lun, is_response=True)
        network = self.netfn << 2 | self.lun
        head = bytes((self.sequence, network, self.command, self.completion_code))
        return _message_frame(head + self.data)

    @classmethod
    def decode(cls, payload: bytes) -> VmResponse:
        """Decode the unescaped bytes before 0xA0; raises RemoteProtocolError."""
        _check_payload(payload, _RESPONSE_BYTES_MIN, is_response=True)
        sequence, network, command, completion_code = payload[:4]
        return cls(sequence, network >> 2, command, completion_code, payload[4:-1], network & 3)


class ControlMessage(NamedTuple):
    """A control message; `value` is the version or the capabilities, and None for other codes."""

    code: VmControlCode
    value: int | None = None

    def encode(self) -> bytes:
        """Return the frame; raises LocalProtocolError for a missing, superfluous or wrong value."""
        if (self.value is not None) != (self.code in _CODES_WITH_VALUE):
            raise LocalProtocolError(f"{self.code.name} with value {self.value}")
        if self.value is not None and not 0 <= self.value <= 0xFF:
            raise LocalProtocolError(f"a value has 8 bits: {self.value}")
        payload = bytes((self.code,) if self.value is None else (self.code, self.value))
        return escape(payload) + bytes((END_OF_CONTROL,))

    @classmethod
    def decode(cls, payload: bytes) -> ControlMessage:
        """Decode the unescaped bytes before 0xA1; raises RemoteProtocolError."""
        try:
            code = VmControlCode(payload[0])
        except (IndexError, ValueError):
            raise RemoteProtocolError("unknown control code", section=_SECTION, raw=payload) from (
                None
            )
        expected = 2 if code in _CODES_WITH_VALUE else 1
        if len(payload) != expected:
            raise RemoteProtocolError(
                f"{code.name}: expected {expected} bytes, got {len(payload)}",
                section=_SECTION,
                raw=payload,
            )
        return cls(code, payload[1] if expected > 1 else None)


class DamagedFrame(NamedTuple):
    """A frame that could not be decoded and was skipped."""

    error: RemoteProtocolError


def escape(payload: bytes) -> bytes:
    """Return the bytes with escapes, without the end mark."""
    escaped = bytearray()
    for byte in payload:
        if byte in SPECIAL_BYTES:
            escaped += bytes((ESCAPE, byte | ESCAPED_BIT))
        else:
            escaped.append(byte)
    return bytes(escaped)


class FrameReader:
    """Splits a stream of bytes into frames; it buffers one unfinished frame at most."""

    __slots__ = ("_fault", "_is_escaped", "_payload")

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._payload = bytearray()
        self._is_escaped = False
        self._fault = ""

    @property
    def buffered_bytes(self) -> int:
        """Number of buffered bytes of the unfinished frame."""
        return len(self._payload)

    def receive(self, data: bytes) -> Iterator[tuple[int, bytes] | DamagedFrame]:
        """Yield the end mark and the unescaped bytes of each frame that ends in `data`."""
        for byte in data:
            if byte in (END_OF_MESSAGE, END_OF_CONTROL):
                yield self._end(byte)
            elif byte == ESCAPE:
                if self._is_escaped:
                    self._fault = "an escaped escape byte"
                self._is_escaped = True
            else:
                self._take(byte)

    def _take(self, byte: int) -> None:
        if self._is_escaped:
            self._is_escaped = False
            if byte & ~ESCAPED_BIT not in SPECIAL_BYTES:
                self._fault = f"an escape before 0x{byte:02x}"
            byte &= ~ESCAPED_BIT
        if len(self._payload) < FRAME_BYTES_MAX:
            self._payload.append(byte)
        else:
            self._fault = f"a frame of more than {FRAME_BYTES_MAX} bytes"

    def _end(self, mark: int) -> tuple[int, bytes] | DamagedFrame:
        fault = "a frame that ends in an escape" if self._is_escaped else self._fault
        payload = bytes(self._payload)
        self._start()
        if fault:
            return DamagedFrame(RemoteProtocolError(fault, section=_SECTION, raw=payload))
        return mark, payload


class VmBmc:
    """The BMC's end for one machine, across all connections of that machine.

    A machine has one request at a time: when it sends another, it has given up the one before.
    """

    __slots__ = ("_is_held", "_reader", "capabilities", "unanswered", "version")

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._is_held = False
        self.unanswered: VmRequest | None = None
        """The request that the machine may still wait for, even after a lost connection."""
        self.version: int | None = None
        self.capabilities = VmCapability(0)

    def connected(self) -> bytes:
        """Handle a new connection; return the bytes to send first."""
        self._reader = FrameReader()
        self.version = None
        self.capabilities = VmCapability(0)
        return ControlMessage(VmControlCode.VERSION, PROTOCOL_VERSION).encode()

    def disconnected(self) -> None:
        """Handle the loss of the connection.

        QEMU then answers an unanswered request with 0xD2, with two exceptions: a request that was
        held, and a request whose sequence number needs an escape. QEMU reads that number from the
        escaped frame.
        """
        self.capabilities = VmCapability(0)
        if not self._is_held and self.unanswered and self.unanswered.sequence not in SPECIAL_BYTES:
            self.unanswered = None

    def receive(self, data: bytes) -> Iterator[VmRequest | ControlMessage | DamagedFrame]:
        """Yield the machine's messages; each changes the state here before it is yielded."""
        for frame in self._reader.receive(data):
            if isinstance(frame, DamagedFrame):
                yield frame
                continue
            mark, payload = frame
            event: VmRequest | ControlMessage
            try:
                if mark == END_OF_MESSAGE:
                    event = self.unanswered = VmRequest.decode(payload)
                    self._is_held = False
                else:
                    event = ControlMessage.decode(payload)
            except RemoteProtocolError as error:
                yield DamagedFrame(error)
                continue
            if isinstance(event, ControlMessage):
                self._receive_control(event)
            yield event

    def _receive_control(self, message: ControlMessage) -> None:
        if message.code is VmControlCode.VERSION:
            self.version = message.value
        elif message.code is VmControlCode.CAPABILITIES:
            self.capabilities = VmCapability(message.value or 0)
        elif message.code is VmControlCode.RESET:
            self.unanswered = None

    def answer(self, request: VmRequest, completion_code: int, data: bytes = b"") -> bytes | None:
        """Return the response as a frame; None if the machine no longer waits for it.

        A late response would do harm: QEMU ignores it, but stops its timer for the request that the
        machine waits for now.
        """
        if request is not self.unanswered:
            return None
        self.unanswered = None
        return VmResponse.to(request, completion_code, data).encode()

    def hold(self) -> bytes | None:
        """Return a frame that makes the machine wait for ever, with IBF set.

        Return None if no request is unanswered, or if it is held already.

        The frame is a response to another request. QEMU ignores it, but stops the timer after which
        it would answer by itself.
        """
        if self.unanswered is None or self._is_held:
            return None
        self._is_held = True
        other = self.unanswered._replace(sequence=self.unanswered.sequence ^ 0x80)
        return VmResponse.to(other, CompletionCode.TIMEOUT).encode()

    def release(self, completion_code: int) -> bytes | None:
        """Return a response to the unanswered request, which frees the machine's interface."""
        if self.unanswered is None:
            return None
        return self.answer(self.unanswered, completion_code)

    def control(self, code: VmControlCode) -> bytes | None:
        """Return a control message as a frame; None if the machine lacks the capability."""
        if not self.capabilities & _REQUIRED_CAPABILITY[code]:
            return None
        return ControlMessage(code).encode()


class VmHost:
    """The machine's end as QEMU implements it, with its KCS interface.

    The interface accepts only the response to its own request. The timer that answers in the BMC's
    place is separate: any response of the BMC stops it, even one to another request.
    """

    __slots__ = ("_reader", "capabilities", "sequence", "timer", "waiting")

    def __init__(self, capabilities: VmCapability = ALL_CAPABILITIES) -> None:
        self.capabilities = capabilities
        self.sequence = 0
        """Sequence number of the next request."""
        self.timer: float | None = None
        """When to call `handle_timer`; None while no timer runs."""
        self.waiting: VmRequest | None = None
        """The request that the interface waits for, with IBF set."""
        self._reader = FrameReader()

    def connected(self) -> bytes:
        """Handle a new connection; return the bytes to send first."""
        self._reader = FrameReader()
        version = ControlMessage(VmControlCode.VERSION, PROTOCOL_VERSION)
        return (
            version.encode()
            + ControlMessage(VmControlCode.CAPABILITIES, self.capabilities).encode()
        )

    def disconnected(self) -> VmResponse | None:
        """Handle the loss of the connection; return the response that QEMU makes up, if any."""
        return self._answer_itself(CompletionCode.INITIALIZING)

    def request(self, netfn: int, command: int, data: bytes, now: float, *, lun: int = 0) -> bytes:
        """Return a request as a frame; raises LocalProtocolError while another one waits."""
        if self.waiting is not None:
            raise LocalProtocolError("another request is still unanswered")
        request = VmRequest(self.sequence, netfn, command, data, lun)
        frame = request.encode()
        self.sequence = (self.sequence + 1) & 0xFF
        self.waiting = request
        self.timer = now + ANSWER_TIMEOUT_S
        return frame

    def receive(self, data: bytes) -> Iterator[VmResponse | ControlMessage | DamagedFrame]:
        """Yield the BMC's messages, without responses to other requests."""
        for frame in self._reader.receive(data):
            if isinstance(frame, DamagedFrame):
                yield frame
                continue
            mark, payload = frame
            try:
                if mark == END_OF_CONTROL:
                    yield ControlMessage.decode(payload)
                    continue
                response = VmResponse.decode(payload)
            except RemoteProtocolError as error:
                yield DamagedFrame(error)
                continue
            self.timer = None
            if self.waiting is not None and response.sequence == self.waiting.sequence:
                self.waiting = None
                yield response

    def handle_timer(self, now: float) -> VmResponse | None:
        """Return the response that QEMU makes up once the BMC has taken too long, if any."""
        if self.timer is None or now < self.timer:
            return None
        return self._answer_itself(CompletionCode.TIMEOUT)

    def _answer_itself(self, completion_code: int) -> VmResponse | None:
        if self.timer is None or self.waiting is None:
            return None
        self.timer = None
        request = self.waiting
        if request.sequence in SPECIAL_BYTES:
            return None  # QEMU takes the escape byte for the number; the interface ignores that
        self.waiting = None
        return VmResponse.to(request, completion_code)


def _check_fields(numbers: tuple[int, ...], netfn: int, lun: int, *, is_response: bool) -> None:
    if not all(0 <= number <= 0xFF for number in numbers):
        raise LocalProtocolError(f"sequence number, command and code have 8 bits: {numbers}")
    if not 0 <= netfn <= 0x3F or bool(netfn & 1) != is_response:
        raise LocalProtocolError(f"a netFn has 6 bits, even in requests: {netfn:#x}")
    if not 0 <= lun <= 3:
        raise LocalProtocolError(f"a LUN has 2 bits: {lun}")


def _message_frame(payload: bytes) -> bytes:
    if len(payload) + 1 > FRAME_BYTES_MAX:
        raise LocalProtocolError(f"a message of {len(payload)} bytes is too long")
    return escape(payload + bytes((checksum(payload),))) + bytes((END_OF_MESSAGE,))


def _check_payload(payload: bytes, bytes_min: int, *, is_response: bool) -> None:
    if len(payload) < bytes_min:
        raise RemoteProtocolError(
            f"expected {bytes_min} bytes or more, got {len(payload)}", section=_SECTION, raw=payload
        )
    if sum(payload) & 0xFF:
        raise RemoteProtocolError("wrong checksum", section=_SECTION, raw=payload)
    if bool(payload[1] & 0x04) != is_response:
        wrong, right = ("request", "response") if is_response else ("response", "request")
        raise RemoteProtocolError(f"a {wrong} instead of a {right}", section=_SECTION, raw=payload)
